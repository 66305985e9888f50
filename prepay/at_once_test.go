package prepay_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
	"github.com/tallystick/tallystick/prepay/sqlstore"
)

// A call that comes into a lane with nothing to do is committed as sending with its
// dispatch, and made without a draw.
func TestSentAtOnce(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a", "b")
	w.turn()
	before := w.store.DB().Statements()
	w.apply(dispatch{order: "1", account: "a", op: event.OpPay}, dispatch{order: "2", account: "b", op: event.OpPay})
	statements := w.store.DB().Statements() - before
	for _, o := range []string{"1", "2"} {
		c := w.call(o)
		same(t, "row", fmt.Sprint(c.Status, c.Tries, c.Owner != "", c.NotifyURL, c.SentAtMillis == w.now.UnixMilli(), c.NextAtMillis),
			fmt.Sprint(prepay.Sending, 1, true, w.notify+"sandbox/"+c.Account, true, 0))
	}
	same(t, "out", len(w.queue), 2)
	same(t, "in flight", w.pp.InFlight(), 2)
	same(t, "asked before the executor runs", len(w.psps["a"].requests), 0)
	w.draw()
	same(t, "drawn again", len(w.queue), 2)
	w.run()
	w.record()
	same(t, "told", w.story(), "[pay done pending pay done pending]")
	same(t, "in flight", w.pp.InFlight(), 0)

	w.restart() // in a new process no lane is known to be idle
	before = w.store.DB().Statements()
	w.apply(dispatch{order: "3", account: "a", op: event.OpPay}, dispatch{order: "4", account: "b", op: event.OpPay})
	same(t, "statements for calls that are due", w.store.DB().Statements()-before, statements)
	same(t, "row", w.call("3").Status, prepay.Due)
}

// What may not be sent now, or not before others, is not.
func TestNotSentAtOnce(t *testing.T) {
	for _, c := range []struct {
		name string
		why  func(w *world, d *event.Dispatch)
	}{
		{"later", func(w *world, d *event.Dispatch) { d.NotBeforeMillis = w.now.UnixMilli() + 1 }},
		{"too late", func(w *world, d *event.Dispatch) { d.ExpiresAtMillis = w.now.UnixMilli() }},
		{"no slot", func(w *world, _ *event.Dispatch) { w.limits.ConcurrentMax = 0 }},
		{"account has gone", func(w *world, _ *event.Dispatch) { delete(w.psps, "a") }},
		{"lane not known", func(_ *world, d *event.Dispatch) { d.Account = "new" }},
		{"others are due", func(w *world, _ *event.Dispatch) {
			w.limits.ConcurrentMax = 0
			w.pay("first", "a")
			w.limits.ConcurrentMax = 4
		}},
		{"others became due meanwhile", func(w *world, _ *event.Dispatch) {
			w.apply(dispatch{order: "first", account: "a", op: event.OpPay, edit: func(d *event.Dispatch) { d.NotBeforeMillis = w.now.UnixMilli() + 5 }})
			w.after(5)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, t.TempDir(), "a")
			w.turn()
			w.apply(dispatch{order: "o", account: "a", op: event.OpPay, edit: func(d *event.Dispatch) { c.why(w, d) }})
			same(t, "row", w.call("o").Status, prepay.Due)
			same(t, "out", len(w.queue), 0)
			same(t, "in flight", w.pp.InFlight(), 0)
		})
	}
}

// Calls that come in together take the slots that there are, and no more.
func TestSentAtOnceWithinSlots(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.limits.ConcurrentMax = 2
	w.turn()
	var ds []dispatch
	for i := range 5 {
		ds = append(ds, dispatch{order: fmt.Sprint(i), account: "a", op: event.OpPay})
	}
	w.apply(ds...)
	same(t, "out", len(w.queue), 2)
	w.pay("5", "a")
	same(t, "out", len(w.queue), 2)
	w.turn()
	var order []string
	for _, r := range w.psps["a"].requests {
		order = append(order, r.Number)
	}
	same(t, "in their order", order, []string{no("0"), no("1"), no("2"), no("3"), no("4"), no("5")})
}

// A call of which nobody knows that it is stored is not made, and keeps no slot.
func TestNotStoredIsNotSent(t *testing.T) {
	for _, late := range []bool{false, true} {
		w := newWorld(t, t.TempDir(), "a")
		broken := &brokenStore{Store: w.store, late: late}
		w.reopenOn(broken)
		w.turn()
		broken.err = fault.New(fault.Unavailable, "test", "disk full")
		b := w.batch(dispatch{order: "o", account: "a", op: event.OpPay})
		if err := w.pp.Apply(context.Background(), b); !fault.Is(err, fault.Unavailable) {
			t.Fatalf("have %v, want unavailable", err)
		}
		same(t, "handed out", len(w.queue), 0)
		same(t, "in flight", w.pp.InFlight(), 0)
		broken.err = nil
		w.must(w.pp.Apply(context.Background(), b))
		same(t, "in flight", w.pp.InFlight(), 1)
		w.turn()
		same(t, "asked", w.psps["a"].ops(), "[pay]")
	}
}

// A number that was expected to be new and is not makes the store begin again: its
// neighbours take one slot each, once.
func TestBegunAgainTakesASlotOnce(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.turn()
	w.pay("known", "a")
	w.turn()
	w.restart()
	w.turn()
	w.apply(dispatch{order: "new", account: "a", op: event.OpPay}, dispatch{order: "known", account: "a", op: event.OpPay})
	same(t, "in flight", w.pp.InFlight(), 1)
	same(t, "out", len(w.queue), 1)
	w.turn()
	same(t, "in flight", w.pp.InFlight(), 0)
	same(t, "asked", w.psps["a"].ops(), "[pay pay]")
}

// What comes in while a draw is under way takes none of the slots that were free for it.
func TestNotSentAtOnceDuringADraw(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.limits.ConcurrentMax = 3
	busy := &busyStore{Store: w.store}
	w.reopenOn(busy)
	w.pay("1", "a")
	w.pay("2", "a")
	busy.then = func() {
		busy.then = func() {}
		w.pay("3", "a")
		w.pay("4", "a")
	}
	w.draw()
	same(t, "out", len(w.queue), 2)
	w.draw()
	same(t, "out", len(w.queue), 3)
	w.turn()
	same(t, "asked", w.psps["a"].ops(), "[pay pay pay pay]")
}

// A call that is out and is asked for again is not taken for a new one, though its row is
// not held in memory: it is out once, and since when it was sent.
func TestAskedForAgainWhileOut(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.turn()
	w.pay("o", "a")
	w.after(2 * second)
	w.draw() // the lane is known to be idle
	another, err := sqlstore.Open(t.Context(), sqlstore.Config{Groups: groups, Options: sqldb.Options{Path: w.path, NoSync: true}})
	w.must(err)
	w.must(another.DB().Write(t.Context(), func(tx *sqldb.Tx) error { // after which nothing is held
		_, err := tx.Exec(`UPDATE progress SET tries = tries + 1`)
		return err
	}))
	w.must(another.Close())
	w.pay("o", "a")
	w.sweep()
	same(t, "out", len(w.queue), 1)
	var b strings.Builder
	w.metrics.WritePrometheus(&b)
	for _, line := range []string{`tallystick_prepay_calls_in_flight{account="a"} 1`, `tallystick_prepay_calls_in_flight_oldest_seconds{account="a"} 2`} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("no line %s in:\n%s", line, b.String())
		}
	}
	w.turn()
	same(t, "in flight", w.pp.InFlight(), 0)
	same(t, "asked", w.psps["a"].ops(), "[pay]")
}
