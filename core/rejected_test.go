package core_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
)

// Any number of rejected intents burdens nobody but its own rows: deciding on the
// order reads those alone that an intent is about. They are known for ever all the
// same, by Y and by natural key.
func TestRejectedIntentsDoNotBurdenTheirOrder(t *testing.T) {
	const many = 600
	h := newHarness(t)
	y := h.accept(order{id: "o", key: "first"})
	h.callback(y, 0, "a", paid("t1", 10_000))
	var last ids.Code
	for from := 0; from < many; from += 200 {
		var events []bus.Event
		for i := from; i < from+200; i++ {
			in, e := h.intent(order{id: "o", key: fmt.Sprint("key ", i)})
			events, last = append(events, e), in.Y
		}
		h.must(h.core.ApplyIntents(context.Background(), h.batch(bus.Intents, events...)))
	}
	x := h.context(y).BizCode
	loaded := func(when string, want int) {
		t.Helper()
		for name, w := range map[string]core.Want{"alone": {Trades: []ids.Code{x}}, "by its payment": {Payments: []ids.Code{y}},
			"with one of them": {Trades: []ids.Code{x}, Payments: []ids.Code{last}}} {
			n := 0
			h.must(h.store.Apply(context.Background(), &bus.Batch{}, w, func(w *core.Work) error {
				if len(w.Trades()) != 1 {
					t.Errorf("%s, %s: %d trades", when, name, len(w.Trades()))
				}
				n = len(w.Trades()[0].Payments)
				return nil
			}))
			if name == "with one of them" && n != want+1 || name != "with one of them" && n != want {
				t.Errorf("%s, %s: %d payment orders are decided on, %d matter", when, name, n, want)
			}
		}
	}
	loaded("held", 1)
	h.core, h.store = h.open()
	loaded("read", 1)

	// The same again, and the same key with another body, in one batch and in one of
	// their own.
	same, e1 := h.intent(order{id: "o", key: "key 7"})
	other, e2 := h.intent(order{id: "o", key: "key 7", subject: "other"})
	for _, events := range [][]bus.Event{{e1, e2}, {e2, e1}, {e1}, {e2}} {
		h.must(h.core.ApplyIntents(context.Background(), h.batch(bus.Intents, events...)))
	}
	h.want(same.Y, event.Rejected, core.ReasonOrderPaid)
	h.want(other.Y, event.Rejected, core.ReasonConflict)
	counts, err := h.store.Counts(context.Background())
	h.must(err)
	total := int64(0)
	for _, c := range counts {
		total += c.Orders
	}
	if total != many+2 {
		t.Errorf("%d rows, want %d: one for each Y", total, many+2)
	}

	shown, ok, err := core.Queries{Store: h.store}.Trade(context.Background(), x)
	h.must(err)
	if !ok || len(shown.Payments) != 1+core.RejectedShownMax || !shown.RejectedMore || shown.Payments[0].Y != y {
		t.Errorf("%d payment orders are shown, more: %t", len(shown.Payments), shown.RejectedMore)
	}
}
