package prepay_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/prepay"
)

// model is a PSP with the truth about one number: what it holds is its own, what
// it says may get lost on the way.
type model struct {
	exists, paid, closed bool
	asked                []string // what came back of each call that arrived here
	// mayArrive: a pay was made whose arrival nobody could exclude, and the number
	// was not said to be unknown since.
	mayArrive bool
	confirmed bool // the PSP said that it exists
}

// TestAnyWay plays random answers, losses and crashes and holds prepay to its
// promises after every step.
func TestAnyWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "prepay")
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a test's folder
		repeatable := rapid.Bool().Draw(t, "repeatable")
		w := newWorld(t, dir, "a", "b")
		defer func() { _ = w.store.Close() }()
		w.features.PayRepeatable = repeatable
		w.limits.ConcurrentMax = 2
		models := map[string]*model{}
		for _, a := range []string{"a", "b"} {
			w.psps[a].answer = func(r request) channels.Outcome { return models[r.Number].answer(t, w, a, r, repeatable) }
		}
		account := map[string]string{}
		var orders []string
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				o := fmt.Sprint("o", len(orders))
				orders = append(orders, o)
				account[o] = []string{"a", "b"}[len(orders)%2]
				models[no(o)] = &model{}
				w.pay(o, account[o])
			case 1, 2:
				if len(orders) > 0 {
					o := rapid.SampledFrom(orders).Draw(t, "order")
					op := rapid.SampledFrom([]event.Op{event.OpPay, event.OpPay, event.OpQuery, event.OpClose, event.OpStop}).Draw(t, "op")
					w.ask(o, account[o], op)
				}
			case 3:
				w.after(rapid.Int64Range(1, 20*second).Draw(t, "wait"))
			case 4:
				w.after(rapid.Int64Range(1, day).Draw(t, "long wait"))
			case 5:
				w.restart()
			case 6:
				w.crashAnywhere(t)
			case 7:
				if _, err := w.pp.StepSweep(context.Background()); err != nil {
					t.Fatalf("%v", err)
				}
			default:
				w.turn()
			}
			holds(t, w, orders, models)
		}
	})
}

// crashAnywhere ends the process at the n-th point that it passes.
func (w *world) crashAnywhere(t *rapid.T) {
	type crashed struct{}
	n := rapid.IntRange(1, 12).Draw(t, "point")
	w.points = fault.Points(func(string) {
		if n--; n == 0 {
			panic(crashed{})
		}
	})
	func() {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(crashed); !ok {
					panic(r)
				}
			}
		}()
		w.turn()
	}()
	w.restart()
}

// answer is the PSP's: it does, or does not, what it is asked, and its reply
// arrives or gets lost. It also is the auditor of what it is asked.
func (m *model) answer(t *rapid.T, w *world, account string, r request, repeatable bool) channels.Outcome {
	c, ok, err := w.store.Find(context.Background(), r.Number)
	if err != nil || !ok || c.Status != prepay.Sending || string(c.Op) != r.Op || c.Account != account {
		t.Fatalf("called for %s at %s, but the row says %+v (%v)", r.Op, account, c, err)
	}
	if r.Op == "pay" && m.mayArrive && !repeatable {
		t.Fatalf("paid twice where that is not repeatable: %v", m.asked)
	}
	if r.Op == "pay" && m.mayArrive && !m.confirmed && m.asked[len(m.asked)-1] != "not_found" {
		t.Fatalf("paid again without a not found just before: %v", m.asked)
	}
	how := rapid.SampledFrom([]string{"ok", "ok", "ok", "not_sent", "lost", "reply_lost", "declined"}).Draw(t, "how")
	if how == "not_sent" {
		m.asked = append(m.asked, "not_sent")
		return notSent
	}
	if r.Op == "pay" {
		m.mayArrive = true
	}
	if how == "lost" {
		m.asked = append(m.asked, "unknown")
		return unknown
	}
	o := m.do(t, r, how)
	if how == "reply_lost" {
		m.asked = append(m.asked, "unknown")
		return unknown
	}
	m.confirmed = m.confirmed || o.State == channels.StatePending
	m.asked = append(m.asked, string(o.State))
	return o
}

func (m *model) do(t *rapid.T, r request, how string) channels.Outcome {
	switch {
	case m.paid:
		return paid
	case m.closed:
		return map[string]channels.Outcome{"pay": withCode(channels.Declined, "closed"), "query": closed, "close": closed}[r.Op]
	case r.Op == "pay":
		if how == "declined" && !m.exists {
			m.closed = true
			return declined
		}
		m.exists = true
		if rapid.Bool().Draw(t, "credential") {
			return withQR
		}
		return pending
	case !m.exists:
		return notFound
	case r.Op == "close":
		if how == "declined" {
			return declined
		}
		m.closed = true
		return closed
	}
	m.paid = rapid.Bool().Draw(t, "paid")
	if m.paid {
		return paid
	}
	return pending
}

// holds is what is true between any two steps.
func holds(t *rapid.T, w *world, orders []string, models map[string]*model) {
	final := map[string]bool{}
	for _, o := range w.told() {
		m := models[o.OutTradeNo]
		if m == nil {
			t.Fatalf("an outcome for a second number: %s", o.OutTradeNo)
		}
		if final[o.OutTradeNo] {
			t.Fatalf("an outcome after the final one: %+v", o)
		}
		switch o.Outcome.Result {
		case channels.Declined:
			final[o.OutTradeNo] = true
		case channels.Done:
			final[o.OutTradeNo] = slices.Contains([]channels.State{channels.StatePaid, channels.StateClosed, channels.StateDeclined}, o.Outcome.State)
			if o.Outcome.State == channels.StatePaid && !m.paid || o.Outcome.Code == "closed_before_sending" && m.mayArrive {
				t.Fatalf("told %+v of %+v", o, m)
			}
		}
	}
	for _, o := range orders {
		c, m := w.call(o), models[no(o)]
		switch {
		case c.Status == prepay.Due && c.NextAtMillis <= 0:
			t.Fatalf("due without a time: %+v", c)
		case c.Status == prepay.Answered && !c.Standing.Final() && m.mayArrive:
			t.Fatalf("nobody asks any more about a number that may have arrived: %+v", c)
		case c.Standing == prepay.NeverSent && c.Status != prepay.Sending && m.mayArrive:
			t.Fatalf("taken for never sent: %+v", c)
		case c.Standing.Final() && !final[c.OutTradeNo]:
			t.Fatalf("final, and core was not told: %+v", c)
		}
	}
}
