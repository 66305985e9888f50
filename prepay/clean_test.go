package prepay_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/prepay"
)

// sweepAll sweeps until there is no more.
func (w *world) sweepAll() {
	w.t.Helper()
	w.after(w.config.SweepMillis)
	for {
		worked, err := w.pp.StepSweep(context.Background())
		w.must(err)
		if !worked {
			return
		}
	}
}

// What is final is cleaned when it is old, at any number; and what was cleaned is
// never sent again, even if it is dispatched anew.
func TestOldCallsAreCleaned(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.config.SweepMax, w.config.KeepMillis = 4, 30*day
	w.must(w.store.Close())
	w.open()
	w.psps["a"].answer = replies(withQR)
	expires := w.now.UnixMilli() + 900*second
	stays := func(order string) bool {
		_, ok, err := w.store.Find(context.Background(), no(order))
		w.must(err)
		return ok
	}
	var orders []string
	for i := range 11 {
		orders = append(orders, fmt.Sprint("stopped", i))
		w.pay(orders[i], "a")
		w.turn()
	}
	w.pay("waits", "a")
	w.turn()
	for _, o := range orders {
		w.ask(o, "a", event.OpStop)
	}
	w.sweepAll()
	w.after(30*day - 100*second)
	w.pay("new", "a")
	w.turn()
	w.ask("new", "a", event.OpStop)
	w.sweepAll()
	if slices.ContainsFunc(orders, func(o string) bool { return !stays(o) }) {
		t.Error("a call was cleaned before its time")
	}
	w.after(second * 100)
	w.sweepAll()
	if slices.ContainsFunc(orders, stays) {
		t.Error("an old final call is not cleaned")
	}
	if !stays("waits") || !stays("new") {
		t.Error("an open or a young call is gone")
	}
	before := len(w.psps["a"].requests)
	w.apply(dispatch{order: orders[3], account: "a", op: event.OpPay, edit: func(d *event.Dispatch) { d.ExpiresAtMillis = expires }})
	w.turn()
	for _, r := range w.psps["a"].requests[before:] {
		if r.Number == no(orders[3]) {
			t.Errorf("it was sent again: %+v", r)
		}
	}
	story := w.story()
	if !slices.Contains(story, "pay not_sent expired") {
		t.Errorf("core was told: %s", strings.Join(story, "; "))
	}
	if c := w.call(orders[3]); c.Status != prepay.Answered || c.Standing != prepay.NeverSent {
		t.Errorf("%+v", c)
	}
}
