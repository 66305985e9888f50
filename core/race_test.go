package core_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	prepay "github.com/tallystick/tallystick/prepay/event"
)

// Two cores, each with a store of its own on one file, as two processes have:
// they get the same intents at the same time, then each hears of the same
// success from another side. Ten thousand orders: each batch is applied by one of
// them, whoever decided on what the other changed meanwhile is fenced and decides
// again, and each order is settled exactly once. Under the race detector, where SQLite is
// ten times slower, it is a thousand.
func TestTwoConsumersRacingSettleOnce(t *testing.T) {
	const orders, perBatch = 10_000 / slower, 20
	h := newHarness(t)
	one := h.core
	two, _ := h.open()
	for i := 0; i < orders; i += perBatch {
		var intents, callbacks, outcomes []bus.Event
		for j := i; j < i+perBatch; j++ {
			in, e := h.intent(order{id: fmt.Sprint("o", j)})
			number, amount := ids.OutTradeNo(in.Y, 0), money.Of(10_000, "CNY")
			intents = append(intents, e)
			callbacks = append(callbacks, bus.Event{ID: "evt_c", Type: event.TypeCallback, Version: 1, Context: e.Context,
				Payload: event.Encode(event.CallbackReceived{Channel: "sandbox", Account: "a", Event: channels.CallbackEvent{EventID: "e",
					OutTradeNo: number, State: channels.StatePaid, TransactionID: "t", Paid: amount}})})
			outcomes = append(outcomes, bus.Event{ID: "evt_o", Type: prepay.TypeOutcome, Version: 1, Context: e.Context,
				Payload: prepay.Outcome{OutTradeNo: number, Account: "a", Op: "query", Outcome: channels.Outcome{Result: channels.Done,
					State: channels.StatePaid, TransactionID: "t", Paid: amount}}.Encode()})
		}
		mine := h.batch(bus.Intents, intents...)
		theirs := *mine // the same places, but messages of its own: they are decoded in place
		theirs.Messages = slices.Clone(mine.Messages)
		fenced := atTheSameTime(t, func() error { return one.ApplyIntents(context.Background(), mine) },
			func() error { return two.ApplyIntents(context.Background(), &theirs) })
		if fenced != 1 {
			t.Fatalf("%d of two that applied one batch were fenced", fenced)
		}
		heard, asked := h.batch(bus.Callbacks, callbacks...), h.batch(bus.Outcomes, outcomes...)
		atTheSameTime(t, untilNotFenced(func() error { return one.ApplyCallbacks(context.Background(), heard) }),
			untilNotFenced(func() error { return two.ApplyOutcomes(context.Background(), asked) }))
	}
	settled := map[ids.Code]int{}
	for msgs := h.news(bus.Payments); len(msgs) > 0; msgs = h.news(bus.Payments) {
		for _, m := range msgs {
			var c event.PaymentChanged
			h.must(event.Decode(m.Payload, &c))
			if m.Type != event.TypePaymentChanged {
				t.Fatalf("%s of %s", m.Type, c.Y)
			}
			if c.Settled >= 0 {
				settled[c.Y]++
			}
		}
	}
	if len(settled) != orders {
		t.Fatalf("%d orders settled, want %d", len(settled), orders)
	}
	for y, n := range settled {
		if n != 1 {
			t.Fatalf("%s settled %d times", y, n)
		}
	}
}

// atTheSameTime runs both and gives how many were fenced; other errors fail.
func atTheSameTime(t *testing.T, fs ...func() error) (fenced int) {
	t.Helper()
	errs := make([]error, len(fs))
	var wg sync.WaitGroup
	for i, f := range fs {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	for _, err := range errs {
		if fault.Is(err, fault.Fenced) {
			fenced++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return fenced
}

// untilNotFenced decides again, as a consumer does.
func untilNotFenced(f func() error) func() error {
	return func() error {
		for {
			if err := f(); !fault.Is(err, fault.Fenced) {
				return err
			}
		}
	}
}

// Whatever a PSP says, in whatever order and however often: an order is settled
// at most once, every transaction has exactly one money effect, a new number
// comes only after its predecessors certainly failed, and what is not final has
// a next action.
func TestAnyEvidenceInAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHarness(t)
		y := h.accept(order{id: "o"})
		attempts := 1
		unknown := map[int]bool{}
		transactions := map[string]bool{}
		for range rapid.IntRange(1, 12).Draw(rt, "n") {
			n := rapid.IntRange(0, attempts-1).Draw(rt, "attempt")
			tx := fmt.Sprint("t", n, rapid.IntRange(0, 1).Draw(rt, "tx"))
			minor := int64(10_000 - rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(rt, "short"))
			account := h.payment(y).Attempts[n].Account
			done := func(s channels.State) channels.Outcome { return channels.Outcome{Result: channels.Done, State: s} }
			wasFinal := h.payment(y).Status.Final()
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0:
				h.outcome(y, n, event.OpPay, pendingOutcome())
			case 1:
				if !wasFinal && h.payment(y).Attempts[n].Status == event.Dispatched {
					unknown[n] = true
				}
				h.outcome(y, n, event.OpPay, channels.Outcome{Result: channels.Unknown})
			case 2:
				h.outcome(y, n, event.OpPay, channels.Outcome{Result: channels.NotSent})
			case 3:
				h.outcome(y, n, event.OpQuery, done(channels.StateNotFound))
			case 4:
				h.outcome(y, n, event.OpClose, done(channels.StateClosed))
			case 5:
				h.outcome(y, n, event.OpPay, channels.Outcome{Result: channels.Declined, Code: "no"})
			case 6:
				h.outcome(y, n, event.OpQuery, channels.Outcome{Result: channels.Done, State: channels.StatePaid, TransactionID: tx, Paid: money.Of(minor, "CNY")})
				transactions[fmt.Sprint(n, tx)] = true
			case 7, 8:
				h.callback(y, n, account, paid(tx, minor))
				transactions[fmt.Sprint(n, tx)] = true
			case 9:
				h.now = h.now.Add(10 * 60 * 1e9)
				_, err := h.core.StepTimers(context.Background())
				h.must(err)
			}
			p := h.payment(y)
			if wasFinal && !p.Status.Final() {
				rt.Fatalf("a final order became %s", p.Status)
			}
			if !p.Status.Final() && (p.NextAction == "" || p.NextAtMillis == 0) {
				rt.Fatalf("%s without a next action", p.Status)
			}
			if len(p.Attempts) > attempts && len(unknown) > 0 {
				rt.Fatalf("a new number after unknown: %+v", p.Attempts)
			}
			attempts = len(p.Attempts)
		}
		settled, effects := 0, 0
		changed, surplus := h.changes()
		for _, c := range changed {
			if c.Settled >= 0 {
				settled++
				effects++
			}
		}
		effects += len(surplus)
		if settled > 1 || effects != len(transactions) {
			rt.Fatalf("%d settlements, %d effects of %d transactions", settled, effects, len(transactions))
		}
	})
}
