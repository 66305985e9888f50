package prepay_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/prepay"
)

func TestRestart(t *testing.T) {
	for _, c := range []struct {
		name  string
		point string
		do    func(w *world) // up to the crash
		asked string         // by both processes
		told  string
	}{
		{"due", "prepay.before_commit", func(w *world) { w.draw() }, "[pay]", "[pay done pending]"},
		{"sending, not called", "prepay.sending_not_called", func(w *world) { w.draw(); w.run() },
			"[query pay]", "[pay unknown interrupted pay done pending]"},
		{"sending, committed and not handed out", "prepay.after_commit", func(w *world) { w.draw() },
			"[query pay]", "[pay unknown interrupted pay done pending]"},
		{"called, not recorded", "prepay.called_not_recorded", func(w *world) { w.draw(); w.run() },
			"[pay query]", "[pay unknown interrupted query done pending]"},
		{"answered, not committed", "prepay.before_commit", func(w *world) {
			w.points, w.turnPoints = nil, w.points
			w.draw()
			w.run()
			w.points = w.turnPoints
			w.record()
		},
			"[pay query]", "[pay unknown interrupted query done pending]"},
		{"recorded", "prepay.after_commit", func(w *world) {
			w.points, w.turnPoints = nil, w.points
			w.draw()
			w.run()
			w.points = w.turnPoints
			w.record()
		},
			"[pay]", "[pay done pending]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, t.TempDir(), "a")
			known := false
			w.psps["a"].answer = func(r request) channels.Outcome {
				if r.Op == "query" && !known {
					return notFound
				}
				known = true
				return withQR
			}
			w.must(w.pp.Recover(context.Background()))
			w.pay("o", "a")
			w.crash(c.point, func() { c.do(w) })
			w.turn()
			w.after(4 * second)
			w.turn()
			same(t, "asked", w.psps["a"].ops(), c.asked)
			same(t, "told", w.story(), c.told)
		})
	}
}

func TestRestartWhileClosingOrStopped(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.psps["a"].answer = func(r request) channels.Outcome {
		return map[string]channels.Outcome{"pay": withQR, "query": pending, "close": closed}[r.Op]
	}
	w.pay("closing", "a")
	w.pay("stopped", "a")
	w.turn()
	w.ask("closing", "a", event.OpClose)
	w.ask("stopped", "a", event.OpQuery)
	w.pay("to be closed", "a")
	w.draw()
	w.ask("to be closed", "a", event.OpClose)
	w.ask("stopped", "a", event.OpStop)
	w.restart()
	w.psps["a"].requests = nil
	w.turn()
	w.after(4 * second)
	w.turn()
	same(t, "asked", w.psps["a"].ops(), "[query query close close]")
	same(t, "closing", w.call("closing").Standing, prepay.Closed)
	same(t, "to be closed", w.call("to be closed").Standing, prepay.Closed)
	same(t, "stopped", w.call("stopped").Status, prepay.Stopped)
}

// A late answer of a process that was taken for dead changes nothing, whether or
// not its successor has asked meanwhile.
func TestLateAnswerOfAnEarlierProcess(t *testing.T) {
	for _, c := range []struct {
		name   string
		asking bool
		want   prepay.Status
	}{{"before the successor asks", false, prepay.Due}, {"while the successor asks", true, prepay.Sending}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, t.TempDir(), "a")
			w.psps["a"].answer = replies(declined)
			w.pay("o", "a")
			w.draw()
			old, queue, store := w.pp, w.queue, w.store
			w.open()
			w.must(w.pp.Recover(context.Background()))
			if c.asking {
				w.draw()
			}
			for _, f := range queue {
				f()
			}
			_, err := old.StepRecord(context.Background())
			w.must(err)
			same(t, "call", []any{w.call("o").Status, w.call("o").Standing}, []any{c.want, prepay.Unknown})
			same(t, "told", w.story(), "[pay unknown interrupted]")
			same(t, "slots of the old", old.InFlight(), 0)
			same(t, "counted", old.Metrics.GetOrCreateCounter("tallystick_prepay_answers_dropped_total").Get(), 1)
			w.must(store.Close())
		})
	}
}

// A repetition is the same call, although the configuration has changed.
func TestNotifyURLIsFixedByTheFirstCall(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.psps["a"].answer = replies(unknown, notFound, withQR)
	w.pay("o", "a")
	w.turn()
	w.notify = "https://moved.example/"
	w.restart()
	w.after(4 * second)
	w.turn()
	w.after(4 * second)
	w.turn()
	same(t, "asked", w.psps["a"].ops(), "[pay query pay]")
	same(t, "the repetition", w.psps["a"].requests[2].Pay, w.psps["a"].requests[0].Pay)
}

// A draw that failed is drawn again as soon as the store works, and calls nobody
// before.
func TestFailedDraw(t *testing.T) {
	for _, late := range []bool{false, true} {
		w := newWorld(t, t.TempDir(), "a")
		broken := &brokenStore{Store: w.store, late: late}
		w.reopenOn(broken)
		w.pay("o", "a")
		w.must(w.pp.Recover(context.Background()))
		broken.err = fault.New(fault.Unavailable, "test", "disk full")
		if _, err := w.pp.StepLanes(context.Background()); !fault.Is(err, fault.Unavailable) {
			t.Fatalf("have %v, want unavailable", err)
		}
		same(t, "handed out", len(w.queue), 0)
		broken.err = nil
		w.turn()
		same(t, "asked", w.psps["a"].ops(), "[pay]")
	}
}

// The row says sending, on every connection, before the PSP hears of it.
func TestSendingIsCommittedBeforeTheCall(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	seen := ""
	w.psps["a"].answer = func(r request) channels.Outcome {
		other := newWorldOn(t, w)
		c, _, err := other.store.Find(context.Background(), r.Number)
		w.must(err)
		w.must(other.store.Close())
		seen = fmt.Sprint(c.Status, " ", c.Tries, " ", c.NotifyURL != "", " ", c.Owner != "")
		return withQR
	}
	w.pay("o", "a")
	w.turn()
	same(t, "seen by the PSP", seen, "sending 1 true true")
}

func TestDiskFullKeepsAnswersAndSlots(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.psps["a"].answer = replies(withQR)
	broken := &brokenStore{Store: w.store}
	w.reopenOn(broken)
	w.pay("o", "a")
	w.draw()
	w.run()
	broken.err = fault.New(fault.Unavailable, "test", "disk full")
	if _, err := w.pp.StepRecord(context.Background()); !fault.Is(err, fault.Unavailable) {
		t.Fatalf("have %v, want unavailable", err)
	}
	same(t, "slots taken", w.pp.InFlight(), 1)
	broken.err = nil
	w.record()
	same(t, "told", w.story(), "[pay done pending]")
	same(t, "slots taken", w.pp.InFlight(), 0)
}

// However many calls were out, all are taken up.
func TestRestartWithManyOut(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.config.SweepMax = 2
	for i := range 4 {
		w.pay(fmt.Sprint(i), "a")
	}
	w.draw()
	w.restart()
	w.must(w.pp.Recover(context.Background()))
	n, err := countStatus(w, prepay.Sending)
	w.must(err)
	same(t, "left in sending", n, 0)
	w.turn()
	same(t, "asked", w.psps["a"].ops(), "[query query query query]")
}

// Our own restarts are no reason to ask a PSP less often.
func TestRestartsDoNotSlowTheAsking(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.psps["a"].answer = replies(unknown)
	w.pay("o", "a")
	for range 6 {
		w.draw() // out, and never answered
		w.restart()
		w.must(w.pp.Recover(context.Background()))
	}
	same(t, "asks", w.call("o").Asks, 0)
}

// What core wants closed is shown to no payer, and paid without an amount is no
// answer.
func TestAnswersThatMustNotBeBelieved(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.psps["a"].answer = replies(withQR)
	w.pay("closing", "a")
	w.draw()
	w.ask("closing", "a", event.OpClose)
	w.run()
	w.record()
	for _, o := range w.told() {
		if o.Outcome.Credential.Value != "" {
			t.Errorf("core was given a credential: %+v", o)
		}
	}
	for _, amount := range []money.Amount{{}, money.Of(0, "CNY"), money.Of(-1, "CNY"), money.Of(1, "")} {
		w := newWorld(t, t.TempDir(), "a")
		w.psps["a"].answer = replies(channels.Outcome{Result: channels.Done, State: channels.StatePaid, TransactionID: "t", Paid: amount})
		w.pay("o", "a")
		w.turn()
		same(t, "told", w.story(), "[pay unknown answer_senseless]")
	}
}
