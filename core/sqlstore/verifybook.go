package sqlstore

import (
	"context"
	"fmt"
	"hash/fnv"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
)

type code = ids.Code

// book is one group as the tables or the log tell it.
type book struct {
	orders     map[code]order
	attempts   map[string]attempt // by number
	exceptions map[moneyKey]exception
	// Of the log alone: how often each order was settled, and the trades.
	settled map[code]int
	trades  map[code]*tradeFold
	changes int64
}

func newBook() book {
	return book{orders: map[code]order{}, attempts: map[string]attempt{}, exceptions: map[moneyKey]exception{},
		settled: map[code]int{}, trades: map[code]*tradeFold{}}
}

// order is a payment order. What never changes is kept as a hash: a group may
// have many.
type order struct {
	x        code
	version  int64
	status   event.Status
	reason   string
	amount   money.Amount
	fee      int64
	terms    uint64
	next     string
	nextAt   int64
	merchant string
}

// attempt is an attempt; tx is the PSP's number of what was paid.
type attempt struct {
	y       code
	account string
	channel string
	status  event.Status
	paid    int64
	fee     int64
	rate    money.Rate
	tx      string
}

type moneyKey struct{ number, tx string }

type exception struct {
	account, why string
	paid         money.Amount
}

// tradeFold is what the payment orders of a trade come to.
type tradeFold struct {
	order     string
	merchant  string
	fixed     bool // an accepted intent fixed the terms: those of the first one
	amount    money.Amount
	accepted  int64
	expires   int64
	paid      int64
	succeeded int
}

type tradeRow struct {
	order, merchant, status string
	amount                  money.Amount
	paid, accepted, expires int64
}

// terms hashes what of a payment order never changes.
func terms(orderID, key string, aliasOf code, method, subject string, rate money.Rate, accepted, expires int64) uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%q %q %q %q %q %d %d %d", orderID, key, aliasOf, method, subject, rate, accepted, expires) // never fails
	return h.Sum64()
}

const selectOrders = `SELECT p.y, p.biz_code, coalesce(t.biz_code, ''), p.merchant, coalesce(t.order_id, ''), p.idempotency_key, p.version, p.status,
	p.reason, p.alias_of, p.currency, p.amount_minor, p.method, p.subject, p.fee_rate_ppm, p.fee_minor, p.accepted_at_millis, p.expires_at_millis,
	p.next_action, p.next_at_millis FROM payment_orders p LEFT JOIN trade_orders t ON t.id = p.trade_id WHERE `

// read reads the tables.
func (v *verification) read(tx *sqldb.Tx, groups int, r *core.Report) error {
	cut, err := embedded.CutIn(tx, v.group)
	if err != nil {
		return err
	}
	v.found.Payments, v.found.Dispatch, v.found.Outcomes = cut.Told[bus.Payments], cut.Told[bus.Dispatch], cut.Read[bus.Outcomes]
	v.found.ParkedKeys = cut.ParkedKeys
	ofOrders, args := ids.InGroup("p.y", v.group, groups)
	err = tx.Query(selectOrders+ofOrders, args, func(scan sqldb.Scan) error {
		var o order
		var y, alias, hangsOn code
		var orderID, key, method, subject string
		var rate money.Rate
		var accepted, expires int64
		err := scan(&y, &o.x, &hangsOn, &o.merchant, &orderID, &key, &o.version, &o.status, &o.reason, &alias, &o.amount.Currency, &o.amount.Minor,
			&method, &subject, &rate, &o.fee, &accepted, &expires, &o.next, &o.nextAt)
		if hangsOn != o.x {
			r.Add(fmt.Sprintf("payment order %s is of trade %s, and hangs on the row of trade %q", y, o.x, hangsOn))
		}
		o.terms = terms(orderID, key, alias, method, subject, rate, accepted, expires)
		v.rows.orders[y] = o
		return err
	})
	if err != nil {
		return err
	}
	err = tx.Query(`SELECT p.y, a.out_trade_no, a.account, a.institution, a.status, a.paid_minor, a.psp_fee_minor, a.psp_fee_rate_ppm, a.transaction_id
		FROM payment_orders p JOIN attempts a ON a.payment_id = p.id WHERE `+ofOrders, args, func(scan sqldb.Scan) error {
		var a attempt
		var number string
		err := scan(&a.y, &number, &a.account, &a.channel, &a.status, &a.paid, &a.fee, &a.rate, &a.tx)
		v.rows.attempts[number] = a
		return err
	})
	if err != nil {
		return err
	}
	err = tx.Query(`SELECT e.out_trade_no, e.transaction_id, e.account, e.why, e.paid_minor, e.currency
		FROM payment_orders p JOIN exceptions e ON e.payment_id = p.id WHERE `+ofOrders, args, func(scan sqldb.Scan) error {
		var k moneyKey
		var e exception
		err := scan(&k.number, &k.tx, &e.account, &e.why, &e.paid.Minor, &e.paid.Currency)
		v.rows.exceptions[k] = e
		return err
	})
	if err != nil {
		return err
	}
	ofTrades, args := ids.InGroup("biz_code", v.group, groups)
	return tx.Query(`SELECT biz_code, order_id, merchant, status, currency, amount_minor, paid_minor, accepted_at_millis, expires_at_millis
		FROM trade_orders WHERE `+ofTrades, args, func(scan sqldb.Scan) error {
		var x code
		var t tradeRow
		err := scan(&x, &t.order, &t.merchant, &t.status, &t.amount.Currency, &t.amount.Minor, &t.paid, &t.accepted, &t.expires)
		v.trades[x] = t
		return err
	})
}

// fold reads topic payments up to the snapshot's cut, and checks that versions
// have no holes and that nothing follows a final state.
func (v *verification) fold(ctx context.Context, src bus.Source, r *core.Report) error {
	hole, err := bus.Fold(ctx, src, v.group, v.found.Payments, func(m *bus.Message) error {
		r.Events++
		switch m.Type {
		case event.TypePaymentChanged:
			var c event.PaymentChanged
			if err := event.Decode(m.Payload, &c); err != nil {
				r.Add(fmt.Sprintf("event %s: %v", m.ID, err))
				return nil
			}
			v.changed(m, &c, r)
		case event.TypeSurplus:
			var s event.Surplus
			if err := event.Decode(m.Payload, &s); err != nil {
				r.Add(fmt.Sprintf("event %s: %v", m.ID, err))
				return nil
			}
			v.surplus(m, &s, r)
		}
		return nil
	})
	if hole != "" {
		r.Add(hole)
	}
	return err
}

func (v *verification) changed(m *bus.Message, c *event.PaymentChanged, r *core.Report) {
	f, known := v.log.orders[c.Y]
	v.log.changes++
	if !known && c.Version > 1 && v.trimmed() {
		v.older[c.Y] = true
	} else if c.Version != f.version+1 {
		r.Add(fmt.Sprintf("payment order %s: version %d follows %d", c.Y, c.Version, f.version))
	}
	if f.status.Final() {
		r.Add(fmt.Sprintf("payment order %s: %s follows %s, which is final", c.Y, c.Status, f.status))
	}
	x := m.Context.BizCode
	t := v.log.trades[x]
	if t == nil {
		t = &tradeFold{order: c.OrderID, merchant: m.Context.Merchant}
		v.log.trades[x] = t
	}
	if !known && !v.older[c.Y] {
		v.found.Accepted[m.Context.Merchant]++
		if !t.fixed && c.Status != event.Rejected {
			t.fixed, t.amount, t.accepted, t.expires = true, c.Amount, c.AcceptedAtMillis, c.ExpiresAtMillis
		}
	}
	v.log.orders[c.Y] = order{x: x, version: c.Version, status: c.Status, reason: c.Reason, amount: c.Amount, fee: c.Fee.Minor, next: c.NextAction,
		nextAt: c.NextAtMillis, merchant: t.merchant,
		terms: terms(c.OrderID, c.IdempotencyKey, c.AliasOf, string(c.Method), c.Subject, c.FeeRate, c.AcceptedAtMillis, c.ExpiresAtMillis)}
	for _, a := range c.Attempts {
		if _, there := v.log.attempts[a.OutTradeNo]; !there && (known || !v.older[c.Y]) {
			v.introduced[a.OutTradeNo] = m.AtMillis
		}
		v.log.attempts[a.OutTradeNo] = attempt{y: c.Y, account: a.Account, channel: a.Channel, status: a.Status, paid: a.Paid.Minor,
			fee: a.PSPFee.Minor, rate: a.PSPFeeRate, tx: a.TransactionID}
	}
	if c.Settled < 0 {
		return
	}
	v.log.settled[c.Y]++
	if c.Settled >= len(c.Attempts) {
		r.Add(fmt.Sprintf("payment order %s: attempt %d settled it, of %d", c.Y, c.Settled, len(c.Attempts)))
		return
	}
	a := c.Attempts[c.Settled]
	t.paid += a.Paid.Minor
	t.succeeded++
	v.found.Money = append(v.found.Money, core.MoneyEvent{EventID: m.ID, Seq: m.Place.Seq, Merchant: t.merchant, Account: a.Account, Paid: a.Paid,
		PSPFee: a.PSPFee.Minor, Fee: c.Fee.Minor})
}

// surplus is money that settled nothing: the attempt shows it if it is the first
// that was paid for it.
func (v *verification) surplus(m *bus.Message, s *event.Surplus, r *core.Report) {
	k := moneyKey{s.OutTradeNo, s.TransactionID}
	if _, twice := v.log.exceptions[k]; twice {
		r.Add(fmt.Sprintf("transaction %s of %s is told as surplus twice", k.tx, k.number))
	}
	v.log.exceptions[k] = exception{account: s.Account, why: s.Why, paid: s.Paid}
	a, known := v.log.attempts[s.OutTradeNo]
	if !known && !v.untold(s.Y) {
		r.Add(fmt.Sprintf("surplus of %s is told, and no event tells of such an attempt", s.OutTradeNo))
	}
	if known && a.tx == "" {
		a.tx, a.paid, a.fee = s.TransactionID, s.Paid.Minor, s.PSPFee.Minor
		v.log.attempts[s.OutTradeNo] = a
	}
	v.found.Money = append(v.found.Money, core.MoneyEvent{EventID: m.ID, Seq: m.Place.Seq, Merchant: m.Context.Merchant, Account: s.Account, Paid: s.Paid,
		PSPFee: s.PSPFee.Minor, Surplus: true})
}
