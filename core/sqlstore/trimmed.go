package sqlstore

import (
	"fmt"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// What is kept of topic payments when it is trimmed: as much as the equations need,
// and counts that the tables must come to as well.
const (
	sumChanges     = "changes"     // of payment orders
	sumAccepted    = "accepted"    // payment orders, by merchant
	sumSettlements = "settlements" // of payment orders
	sumSurpluses   = "surpluses"   // transactions
	sumSettled     = "settled"     // money, by merchant, channel account and currency, as the rest
	sumSurplus     = "surplus"
	sumPSPFees     = "psp_fees"
	sumFees        = "fees"
)

// summarise is the embedded.Summary of topic payments.
func summarise(m *bus.Message) ([]embedded.Sum, error) {
	var sums []embedded.Sum
	add := func(what string, n int64) { sums = append(sums, embedded.Sum{What: what, N: n}) }
	of := func(what, account string, a money.Amount) {
		if a.Minor != 0 {
			sums = append(sums, embedded.Sum{What: what, Merchant: m.Context.Merchant, Account: account, Currency: string(a.Currency), N: a.Minor})
		}
	}
	switch m.Type {
	case event.TypePaymentChanged:
		var c event.PaymentChanged
		if err := event.Decode(m.Payload, &c); err != nil {
			return nil, fault.Wrap("event "+m.ID, err)
		}
		add(sumChanges, 1)
		if c.Version == 1 {
			sums = append(sums, embedded.Sum{What: sumAccepted, Merchant: m.Context.Merchant, N: 1})
		}
		if c.Settled < 0 || c.Settled >= len(c.Attempts) {
			return sums, nil
		}
		a := &c.Attempts[c.Settled]
		add(sumSettlements, 1)
		of(sumSettled, a.Account, a.Paid)
		of(sumPSPFees, a.Account, a.PSPFee)
		of(sumFees, a.Account, money.Of(c.Fee.Minor, a.Paid.Currency))
	case event.TypeSurplus:
		var s event.Surplus
		if err := event.Decode(m.Payload, &s); err != nil {
			return nil, fault.Wrap("event "+m.ID, err)
		}
		add(sumSurpluses, 1)
		of(sumSurplus, s.Account, s.Paid)
		of(sumPSPFees, s.Account, s.PSPFee)
	}
	return sums, nil
}

// readTrimmed reads what was trimmed, and puts it where the equations find it.
func (v *verification) readTrimmed(tx *sqldb.Tx) (err error) {
	if v.payments, err = embedded.CheckpointIn(tx, bus.Payments, v.group); err != nil {
		return err
	}
	if v.dispatch, err = embedded.CheckpointIn(tx, bus.Dispatch, v.group); err != nil {
		return err
	}
	t := &v.found.Trimmed
	t.Payments, t.Dispatch = v.payments.Place, v.dispatch.Place
	t.MoneyEvents = v.payments.Sum(sumSettlements) + v.payments.Sum(sumSurpluses)
	for _, s := range v.payments.Sums {
		m := core.TrimmedMoney{Merchant: s.Merchant, Account: s.Account, Currency: money.Currency(s.Currency)}
		switch s.What {
		case sumAccepted:
			v.found.Accepted[s.Merchant] += s.N
			continue
		case sumSettled:
			m.Settled = s.N
		case sumSurplus:
			m.Surplus = s.N
		case sumPSPFees:
			m.PSPFees = s.N
		case sumFees:
			m.Fees = s.N
		default:
			continue
		}
		t.Money = append(t.Money, m)
	}
	return nil
}

// trimmed reports whether topic payments has lost its beginning.
func (v *verification) trimmed() bool { return v.payments.Place.Seq > 0 }

// untold reports that nothing in the log tells of a payment order, and that nothing
// need: what told of it was trimmed.
func (v *verification) untold(y code) bool {
	_, told := v.log.orders[y]
	return !told && v.trimmed()
}

// compareCounts holds what was trimmed and what is there, together, against the
// tables: so a row that no event tells of any more is still counted.
func (v *verification) compareCounts(r *core.Report) {
	if !v.trimmed() {
		return
	}
	var begun, versions, succeeded, settled int64
	for y, row := range v.rows.orders {
		if v.untold(y) || v.older[y] {
			begun++
		}
		versions += row.version
		if row.status == event.Succeeded {
			succeeded++
		}
	}
	for _, n := range v.log.settled {
		settled += int64(n)
	}
	for _, c := range []struct {
		what       string
		have, want int64
	}{
		{"payment orders that began before the log does", begun, v.payments.Sum(sumAccepted)},
		{"changes of payment orders", versions, v.payments.Sum(sumChanges) + v.log.changes},
		{"payment orders that succeeded", succeeded, v.payments.Sum(sumSettlements) + settled},
		{"transactions that are surplus", int64(len(v.rows.exceptions)), v.payments.Sum(sumSurpluses) + int64(len(v.log.exceptions))},
	} {
		if c.have != c.want {
			r.Add(fmt.Sprintf("group %d: the tables have %d %s; by the log, and what was trimmed of it, there are %d", v.group, c.have, c.what, c.want))
		}
	}
}

// compareOlderTrade holds a trade whose beginning was trimmed against its payment
// orders as the tables have them.
func (v *verification) compareOlderTrade(r *core.Report, x code, row tradeRow, orders []order) {
	var accepted, succeeded int
	want := row
	want.paid = 0
	for _, o := range orders {
		if o.status != event.Rejected {
			accepted++
		}
		if o.status == event.Succeeded {
			succeeded++
			want.paid += o.amount.Minor
		}
		want.merchant = o.merchant
	}
	switch {
	case succeeded > 0:
		want.status = core.TradePaid
	case accepted > 0:
		want.status = core.TradeOpen
	}
	if row != want || len(orders) == 0 || row.status == core.TradePaid && succeeded == 0 {
		r.Add(fmt.Sprintf("trade %s is %+v, its %d payment orders come to %+v", x, row, len(orders), want))
	}
	if succeeded > 1 {
		r.Add(fmt.Sprintf("trade %s was paid by %d payment orders", x, succeeded))
	}
}
