package sqlstore

import (
	"context"
	"fmt"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

func (v *verification) compareOrders(r *core.Report) {
	for y, row := range v.rows.orders {
		r.Payments++
		if open := !row.status.Final(); open != (row.next != "") || open != (row.nextAt > 0) {
			r.Add(fmt.Sprintf("payment order %s is %s, its next action %q is due at %d: an open one has both, a final one neither", y, row.status, row.next, row.nextAt))
		}
		f, told := v.log.orders[y]
		switch {
		case !told && v.trimmed(): // compareCounts counts it
		case !told:
			r.Add(fmt.Sprintf("payment order %s is %s at version %d, and no event tells of it", y, row.status, row.version))
		case f.version != row.version:
			r.Add(fmt.Sprintf("payment order %s is at version %d, the log at %d", y, row.version, f.version))
		case f.terms != row.terms:
			r.Add(fmt.Sprintf("payment order %s has other terms (order, key, alias, method, subject, rate, times) than the log tells of", y))
		case f != row:
			r.Add(fmt.Sprintf("payment order %s is %+v, the log says %+v", y, row, f))
		case row.status == event.Succeeded && v.log.settled[y] != 1 && (!v.older[y] || v.log.settled[y] > 1):
			r.Add(fmt.Sprintf("payment order %s succeeded, and %d events settle it", y, v.log.settled[y]))
		}
	}
	for y := range v.log.orders {
		if _, there := v.rows.orders[y]; !there {
			r.Add(fmt.Sprintf("the log tells of payment order %s, which is gone", y))
		}
	}
	v.compareCounts(r)
}

// compareAttempts also lists the open ones.
func (v *verification) compareAttempts(r *core.Report) {
	for number, row := range v.rows.attempts {
		f, told := v.log.attempts[number]
		if f.tx == number && row.tx != "" {
			f.tx = row.tx // it stood for the PSP's number, which was learned since
		}
		switch {
		case !told && v.untold(row.y):
		case !told:
			r.Add(fmt.Sprintf("attempt %s is %s, and no event tells of it", number, row.status))
		case f != row:
			r.Add(fmt.Sprintf("attempt %s is %+v, the log says %+v", number, row, f))
		}
		switch row.status {
		case event.Dispatched, event.Pending, event.Unknown:
			if o := v.rows.orders[row.y]; !o.status.Final() {
				v.found.Open = append(v.found.Open, core.OpenAttempt{X: o.x, OutTradeNo: number, Account: row.account, Status: row.status})
			}
		}
	}
	for number, f := range v.log.attempts {
		if _, there := v.rows.attempts[number]; !there {
			r.Add(fmt.Sprintf("the log tells of attempt %s of payment order %s, which is gone", number, f.y))
		}
	}
}

func (v *verification) compareExceptions(r *core.Report) {
	for k, row := range v.rows.exceptions {
		if f, told := v.log.exceptions[k]; !told && v.trimmed() {
			continue // compareCounts counts it
		} else if !told {
			r.Add(fmt.Sprintf("surplus of %s, transaction %s, is in the table, and no event tells of it", k.number, k.tx))
		} else if f != row {
			r.Add(fmt.Sprintf("surplus of %s, transaction %s, is %+v, the log says %+v", k.number, k.tx, row, f))
		}
	}
	for k := range v.log.exceptions {
		if _, there := v.rows.exceptions[k]; !there {
			r.Add(fmt.Sprintf("the log tells of surplus of %s, transaction %s, which is gone", k.number, k.tx))
		}
	}
}

// compareTrades holds each trade against what its payment orders come to.
func (v *verification) compareTrades(r *core.Report) {
	orders, partly := map[code][]order{}, map[code]bool{}
	if v.trimmed() {
		for y, o := range v.rows.orders {
			orders[o.x] = append(orders[o.x], o)
			partly[o.x] = partly[o.x] || v.untold(y) || v.older[y]
		}
	}
	for x, row := range v.trades {
		f := v.log.trades[x]
		if partly[x] || f == nil && v.trimmed() {
			v.compareOlderTrade(r, x, row, orders[x])
			continue
		}
		if f == nil {
			r.Add(fmt.Sprintf("trade %s is %s, and no event tells of a payment order of it", x, row.status))
			continue
		}
		want := tradeRow{order: f.order, merchant: f.merchant, status: core.TradeVoid, amount: row.amount}
		want.amount.Minor = 0
		if f.fixed {
			want.status, want.amount, want.accepted, want.expires = core.TradeOpen, f.amount, f.accepted, f.expires
		}
		if f.succeeded > 0 {
			want.status, want.paid = core.TradePaid, f.paid
		}
		if row != want {
			r.Add(fmt.Sprintf("trade %s is %+v, its payment orders come to %+v", x, row, want))
		}
		if f.succeeded > 1 {
			r.Add(fmt.Sprintf("trade %s was paid by %d payment orders", x, f.succeeded))
		}
	}
	for x := range v.log.trades {
		if _, there := v.trades[x]; !there {
			r.Add(fmt.Sprintf("the log tells of payment orders of trade %s, which is gone", x))
		}
	}
}

// verifyDispatches folds topic dispatch: each attempt was sent to be paid, and
// nothing was asked for that does not exist.
func (v *verification) verifyDispatches(ctx context.Context, src bus.Source, r *core.Report) error {
	asked := map[string]bool{}
	hole, err := bus.Fold(ctx, src, v.group, v.found.Dispatch, func(m *bus.Message) error {
		v.found.Dispatches++
		var d event.Dispatch
		if err := event.Decode(m.Payload, &d); err != nil || m.Type != event.TypeDispatch {
			r.Add(fmt.Sprintf("event %s of type %s: %v", m.ID, m.Type, err))
			return nil
		}
		a, there := v.rows.attempts[d.OutTradeNo]
		switch {
		case !there:
			r.Add(fmt.Sprintf("%s of %s was dispatched, and there is no such attempt", d.Op, d.OutTradeNo))
		case a.y != d.Y || a.account != d.Account:
			r.Add(fmt.Sprintf("%s of %s was dispatched for %s at account %s; it is an attempt for %s at %s", d.Op, d.OutTradeNo, d.Y, d.Account, a.y, a.account))
		case d.Op == event.OpPay && d.Amount != v.rows.orders[d.Y].amount:
			r.Add(fmt.Sprintf("pay of %s was dispatched with %s, its payment order is of %s", d.OutTradeNo, d.Amount, v.rows.orders[d.Y].amount))
		}
		if d.Op == event.OpPay {
			asked[d.OutTradeNo] = true
		}
		return nil
	})
	if err != nil {
		return fault.Wrap("core: verify dispatch", err)
	}
	if hole != "" {
		r.Add(hole)
	}
	for number, a := range v.rows.attempts {
		switch at, known := v.introduced[number]; {
		case asked[number]:
		case v.dispatch.Place.Seq > 0 && (!known || at <= v.dispatch.AtMillis):
			// An attempt is dispatched in the transaction that opens it, and that part of
			// the topic is gone. Its call, which prepay has, must be the same.
			v.found.Older[number] = core.OlderAttempt{Account: a.account, Amount: v.rows.orders[a.y].amount}
		default:
			r.Add(fmt.Sprintf("attempt %s is %s, and was never dispatched", number, a.status))
		}
	}
	return nil
}
