package core_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

func TestAnIntentWithoutAChannelFixesNothing(t *testing.T) {
	h := newHarness(t)
	h.want(h.accept(order{id: "o", key: "k1", currency: "USD", amount: 500}), event.Rejected, core.ReasonNoChannel)
	y := h.accept(order{id: "o", key: "k2"}) // in the currency that there is an account for
	h.want(y, event.Dispatched, "")
	h.callback(y, 0, "a", paid("t", 10_000))
	h.want(y, event.Succeeded, "")
}

func TestRejectedIntentsUseUpNothing(t *testing.T) {
	h := newHarness(t)
	h.accept(order{id: "o", key: "k1"})
	for i := range core.DefaultConfig().PaymentsMax {
		h.want(h.accept(order{id: "o", key: fmt.Sprint("x", i), amount: 77}), event.Rejected, core.ReasonMismatch)
	}
	h.want(h.accept(order{id: "o", key: "good"}), event.Dispatched, "")
}

// twoOpen has two payment orders of one trade, of which the first is then paid.
func twoOpen(t *testing.T, between func(h *harness, y2 ids.Code)) (h *harness, y2 ids.Code) {
	t.Helper()
	h = newHarness(t)
	y1 := h.accept(order{id: "o", key: "k1"})
	y2 = h.accept(order{id: "o", key: "k2"})
	between(h, y2)
	h.callback(y1, 0, "a", paid("t1", 10_000))
	h.dispatches()
	return h, y2
}

func TestAPaidOrderGetsNoNewNumber(t *testing.T) {
	h, y2 := twoOpen(t, func(*harness, ids.Code) {})
	h.outcome(y2, 0, event.OpPay, channels.Outcome{Result: channels.NotSent, Code: "breaker_open"})
	if p := h.want(y2, event.Closed, core.ReasonOrderPaid); len(p.Attempts) != 1 {
		t.Fatalf("attempts %+v", p.Attempts)
	}
	h.wantOps("")
}

func TestAPaidOrderShowsNoCredential(t *testing.T) {
	h, y2 := twoOpen(t, func(h *harness, y2 ids.Code) {
		h.outcome(y2, 0, event.OpPay, channels.Outcome{Result: channels.Unknown, Code: "timeout"})
	})
	h.outcome(y2, 0, event.OpPay, pendingOutcome())
	if p := h.want(y2, event.Pending, ""); p.Credential.Value != "" {
		t.Fatalf("credential %+v", p.Credential)
	}
}

// A source that names no transaction, and one that does, tell of one payment.
func TestOneTransactionWithAndWithoutItsNumber(t *testing.T) {
	without := paid("", 10_000)
	for name, told := range map[string][]channels.CallbackEvent{
		"the number later": {without, paid("t1", 10_000), without, paid("t1", 10_000)},
		"the number first": {paid("t1", 10_000), without, without},
		"never a number":   {without, without},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			y := h.accept(order{id: "o"})
			for _, e := range told {
				h.callback(y, 0, "a", e)
			}
			h.want(y, event.Succeeded, "")
			if _, s := h.changes(); len(s) != 0 {
				t.Fatalf("surplus %+v", s)
			}
			// Another number after that is other money.
			h.callback(y, 0, "a", paid("t2", 10_000))
			_, s := h.changes()
			if want := map[bool]int{true: 0, false: 1}[name == "never a number"]; len(s) != want {
				t.Fatalf("surplus %+v, want %d", s, want)
			}
		})
	}
}

func TestPaidWithoutAnAmountIsRefused(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o"})
	for _, amount := range []money.Amount{{}, money.Of(0, "CNY"), money.Of(-1, "CNY"), money.Of(5, "")} {
		e := h.outcomeEvent(y, 0, event.OpQuery, channels.Outcome{Result: channels.Done, State: channels.StatePaid, TransactionID: "t", Paid: amount})
		var poison *bus.PoisonError
		b := h.batch(bus.Outcomes, e)
		if err := h.core.ApplyOutcomes(context.Background(), b); !errors.As(err, &poison) {
			t.Fatalf("%v: %v", amount, err)
		}
		h.seq[bus.Outcomes]-- // not applied
	}
	h.want(y, event.Dispatched, "")
}

// What one process holds of a trade is behind what another one wrote: it is
// fenced, and decides on what is there.
func TestHeldTradesDecideNothingOnTheirOwn(t *testing.T) {
	h := newHarness(t)
	other, _ := h.open()
	y1 := h.accept(order{id: "o", key: "k1"}) // held by the first
	e := h.callbackEvent(y1, 0, "a", paid("t1", 10_000))
	h.must(other.ApplyCallbacks(context.Background(), h.batch(bus.Callbacks, e))) // settled by the other
	in, i2 := h.intent(order{id: "o", key: "k2"})
	b := h.batch(bus.Intents, i2)
	if err := h.core.ApplyIntents(context.Background(), b); !fault.Is(err, fault.Fenced) {
		t.Fatalf("an intent on a trade that was settled elsewhere: %v", err)
	}
	h.must(h.core.ApplyIntents(context.Background(), b))
	h.want(in.Y, event.Rejected, core.ReasonOrderPaid)
}

// A number that another process opened is not missing.
func TestHeldTradesMissNoAttempt(t *testing.T) {
	h := newHarness(t)
	other, _ := h.open()
	y := h.accept(order{id: "o"})
	e := h.outcomeEvent(y, 0, event.OpPay, channels.Outcome{Result: channels.NotSent})
	h.must(other.ApplyOutcomes(context.Background(), h.batch(bus.Outcomes, e)))
	h.callback(y, 1, "b", paid("t", 10_000))
	h.want(y, event.Succeeded, "")
}

// The order may come between the transaction that misses it and the one that
// parks what waits for it.
func TestWhatIsParkedTooLateIsReleased(t *testing.T) {
	h := newHarness(t)
	i, e := h.intent(order{id: "o"})
	cb := bus.Event{ID: "evt_c", Type: event.TypeCallback, Version: 1, Context: e.Context, Payload: event.Encode(event.CallbackReceived{
		Channel: "sandbox", Account: "a", Event: channels.CallbackEvent{EventID: "e", OutTradeNo: ids.OutTradeNo(i.Y, 0), State: channels.StatePaid,
			TransactionID: "t", Paid: money.Of(10_000, "CNY")}})}
	b := h.batch(bus.Callbacks, cb)
	var poison *bus.PoisonError
	if err := h.core.ApplyCallbacks(context.Background(), b); !errors.As(err, &poison) {
		t.Fatalf("error %v", err)
	}
	h.must(h.core.ApplyIntents(context.Background(), h.batch(bus.Intents, e)))
	b.Parked = map[int]string{0: poison.Err.Error()}
	h.must(h.core.ApplyCallbacks(context.Background(), b))
	msgs, rows, err := h.store.TakeReplay(context.Background(), bus.Callbacks)
	if err != nil || len(msgs) != 1 {
		t.Fatalf("replay: %v %v", msgs, err)
	}
	h.must(h.core.ApplyCallbacks(context.Background(), &bus.Batch{Topic: bus.Callbacks, Messages: msgs, Replays: rows}))
	h.want(i.Y, event.Succeeded, "")
}
