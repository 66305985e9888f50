package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// Auditor remembers what clients were promised and what the PSP was asked for,
// and says in the end whether every half matches.
type Auditor struct {
	promised map[ids.Code]ask // 202 was answered
	gone     map[ids.Code]ask // certainly not kept, by that ask
	codes    map[ask]ids.Code
	pays     map[string]channels.PayRequest // by out_trade_no: the first body
	found    wrong
	trimmed  int64 // messages that the logs have no more
}

func newAuditor() *Auditor {
	return &Auditor{promised: map[ids.Code]ask{}, gone: map[ids.Code]ask{}, codes: map[ask]ids.Code{}, pays: map[string]channels.PayRequest{}}
}

// accepted is a 202. One body under one key has one voucher, whenever it is asked.
func (a *Auditor) accepted(k ask, y ids.Code) {
	if first, known := a.codes[k]; known && first != y {
		a.found.add("%+v got voucher %s, and %s before", k, y, first)
	}
	a.codes[k], a.promised[y] = y, k
}

// withdrawn is an answer that says: certainly not kept.
func (a *Auditor) withdrawn(k ask, y ids.Code) { a.gone[y] = k }

// refused is a refusal at once. A conflict must be one.
func (a *Auditor) refused(k ask, err error) {
	var e *fault.Error
	if !errors.As(err, &e) || e.Code != "idempotency_conflict" {
		return
	}
	for other := range a.codes {
		if other.Order == k.Order && other.Key == k.Key && other != k {
			return
		}
	}
	a.found.add("%+v was refused as a conflict, and nothing conflicts", k)
}

// asked is a pay request that reached the PSP: a number has one body, for ever.
func (a *Auditor) asked(r channels.PayRequest) {
	first, again := a.pays[r.OutTradeNo]
	if again && first != r {
		a.found.add("number %s was asked for with two bodies: %+v and %+v", r.OutTradeNo, first, r)
	}
	if !again {
		a.pays[r.OutTradeNo] = r
	}
}

// midway verifies stores that are in the middle of their work: what is on its way
// accuses nobody. What was parked may wait for what a crash took with it.
func (a *Auditor) midway(w *World) error {
	v, err := w.app.Stores.Verify(context.Background())
	if err != nil {
		return err
	}
	wrong := slices.DeleteFunc(v.Violations, func(s string) bool { return strings.Contains(s, "parked messages") })
	if len(wrong) > 0 || v.Moved {
		return fmt.Errorf("moved: %t, unread: %+v, accused:\n%s", v.Moved, v.Unread, strings.Join(wrong, "\n"))
	}
	return nil
}

// judge compares everything with everything once all has come to rest.
func (a *Auditor) judge(w *World) error {
	ctx := context.Background()
	v, err := w.app.Stores.Verify(ctx)
	if err != nil {
		return err
	}
	for _, t := range v.Trimmed {
		a.trimmed += t.Messages
	}
	for _, violation := range v.Violations {
		a.found.add("%s", violation)
	}
	if v.Moved {
		a.found.add("something was still at work: whole sums were not compared")
	}
	if err := a.vouchers(ctx, w); err != nil {
		return err
	}
	if err := a.payments(ctx, w); err != nil {
		return err
	}
	if err := a.noNewNumbers(w); err != nil {
		return err
	}
	if len(a.found) == 0 {
		return nil
	}
	return errors.New(strings.Join(a.found, "\n"))
}

// vouchers: none is lost, one key is one payment, and all are final.
func (a *Auditor) vouchers(ctx context.Context, w *World) error {
	q := core.Queries{Store: w.app.Stores.Core}
	for y := range a.promised {
		if _, _, known, err := q.Payment(ctx, y); err != nil {
			return err
		} else if !known {
			a.found.add("voucher %s was promised, and core does not know it", voucher(y))
		}
	}
	for y, k := range a.gone {
		_, promisedSince := a.promised[y]
		if _, _, known, err := q.Payment(ctx, y); err != nil {
			return err
		} else if known && !promisedSince && a.asks(w, k) == 1 {
			a.found.add("voucher %s was certainly not kept, and core knows it", voucher(y))
		}
	}
	trades := map[ids.Code]bool{}
	for y := range a.promised {
		t, ok, err := q.Trade(ctx, y)
		if err != nil {
			return err
		}
		if !ok || trades[t.Context.BizCode] {
			continue
		}
		trades[t.Context.BizCode] = true
		a.trade(&t)
	}
	return nil
}

// noNewNumbers: from the moment that a trade is paid on, core asks for nothing
// more of it. Events are ordered by their ids.
func (a *Auditor) noNewNumbers(w *World) error {
	paidBy := map[ids.Code]string{}
	log := w.app.Stores.Core.Log()
	err := eachEvent(log.Stored(bus.Payments), func(m *bus.Message) error {
		if m.Type != event.TypePaymentChanged {
			return nil
		}
		var c event.PaymentChanged
		err := event.Decode(m.Payload, &c)
		if c.Settled >= 0 {
			paidBy[m.Context.BizCode] = m.ID
		}
		return err
	})
	if err != nil {
		return err
	}
	return eachEvent(log.Stored(bus.Dispatch), func(m *bus.Message) error {
		var d event.Dispatch
		err := event.Decode(m.Payload, &d)
		if settled := paidBy[m.Context.BizCode]; settled != "" && d.Op == event.OpPay && m.ID > settled {
			a.found.add("number %s was asked for after its trade was paid", d.OutTradeNo)
		}
		return err
	})
}

func eachEvent(src bus.Source, f func(*bus.Message) error) error {
	for g := range src.Groups() {
		msgs, err := readAll(src, g)
		if err != nil {
			return err
		}
		for i := range msgs {
			if err := f(&msgs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// asks is how often the very same was asked.
func (a *Auditor) asks(w *World, k ask) (n int) {
	for _, other := range w.clients.asked {
		if other == k {
			n++
		}
	}
	return n
}

func (a *Auditor) trade(t *event.Trade) {
	keys := map[string]ids.Code{}
	paid := money.Of(0, t.Amount.Currency)
	for _, p := range t.Payments {
		if !p.Status.Final() {
			a.found.add("payment order %s is still %s, next %q", p.Y, p.Status, p.NextAction)
		}
		if p.Status == event.Succeeded {
			paid.Minor += p.Amount.Minor
		}
		if p.Status == event.Rejected {
			continue
		}
		if first, twice := keys[p.IdempotencyKey]; twice {
			a.found.add("key %s of order %s has two payment orders: %s and %s", p.IdempotencyKey, t.OrderID, first, p.Y)
		}
		keys[p.IdempotencyKey] = p.Y
	}
	if paid != t.Paid || paid.Minor > t.Amount.Minor {
		a.found.add("order %s of %v: paid %v, by its payment orders %v", t.OrderID, t.Amount, t.Paid, paid)
	}
}

// payments: what the PSP took is what core heard of, number by number; nobody
// was asked for money whom core rejected; and of one payment order at most one
// number is at the PSP, unless the others were declined or closed there.
func (a *Auditor) payments(ctx context.Context, w *World) error {
	q := core.Queries{Store: w.app.Stores.Core}
	takings := map[string]int64{}
	live := map[ids.Code]int{}
	for _, r := range w.desk.Payments() {
		y, _, err := ids.ParseOutTradeNo(r.OutTradeNo)
		if err != nil {
			return err
		}
		p, _, known, err := q.Payment(ctx, y)
		switch {
		case err != nil:
			return err
		case !known || p.Status == event.Rejected:
			a.found.add("the PSP knows %s, which core %s", r.OutTradeNo, map[bool]string{true: "rejected", false: "does not know"}[known])
		}
		if r.State == channels.StatePaid {
			takings[r.Account] += r.Taken.Minor
		}
		if r.State != channels.StateDeclined && r.State != channels.StateClosed {
			live[y]++
		}
	}
	for y, n := range live {
		if n > 1 {
			a.found.add("payment order %s has %d numbers at the PSP that can be, or are, paid", y, n)
		}
	}
	received, err := w.app.Stores.Core.Received(ctx)
	if err != nil {
		return err
	}
	heard := map[string]int64{}
	for _, r := range received {
		heard[r.Account] += r.Settled + r.Surplus
	}
	for _, account := range accounts() {
		if takings[account] != heard[account] {
			a.found.add("%s took %d minor units, core heard of %d", account, takings[account], heard[account])
		}
	}
	slices.Sort(a.found)
	return nil
}
