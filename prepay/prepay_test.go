package prepay_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/traffic"
	"github.com/tallystick/tallystick/prepay"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.seed"); f != nil && f.Value.String() == "0" {
		_ = flag.Set("rapid.seed", "1") // the same cases in every run; -rapid.seed=N for others
	}
	os.Exit(m.Run())
}

func TestPayAnswered(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.psps["a"].answer = replies(withQR)
	w.pay("o1", "a")
	same(t, "status before the draw", w.call("o1").Status, prepay.Due)
	w.turn()

	c := w.call("o1")
	same(t, "call", []any{c.Status, c.Op, c.Standing, c.Tries}, []any{prepay.Due, event.OpQuery, prepay.Pending, 1})
	if wait := c.NextAtMillis - w.now.UnixMilli(); wait < 8750 || wait > 10_000 {
		t.Errorf("the first poll comes after %d ms, want 10 s less at most an eighth", wait)
	}
	told := w.told()
	same(t, "story", w.story(), "[pay done pending]")
	same(t, "credential", told[0].Outcome.Credential.Value, "QR-SECRET")
	same(t, "try, next", []any{told[0].Try, told[0].NextAtMillis}, []any{1, c.NextAtMillis})

	r := w.psps["a"].requests[0].Pay
	ctx, _, n := number("o1")
	same(t, "request", []any{r.OutTradeNo, r.Amount, r.Method, r.Subject, r.ReturnURL, r.NotifyURL, r.Attach, r.ExpiresAt.UnixMilli()},
		[]any{n, "1999 CNY", "qr_code", "tea", "https://shop.example/back", "https://us.example/v1/callbacks/sandbox/a", ctx.Attach(),
			w.now.UnixMilli() + 900*second})
}

// Each case is one way of a number: what core asks, what the PSP answers, what
// the PSP was asked and what core was told.
func TestWays(t *testing.T) {
	always := func(o channels.Outcome) func(request) channels.Outcome { return replies(o) }
	byOp := func(pay, query, cls channels.Outcome) func(request) channels.Outcome {
		return func(r request) channels.Outcome {
			return map[string]channels.Outcome{"pay": pay, "query": query, "close": cls}[r.Op]
		}
	}
	for _, c := range []struct {
		name   string
		answer func(request) channels.Outcome
		do     func(w *world)
		asked  string
		told   string
		status prepay.Status
	}{
		{"paid at once", always(paid), nil, "[pay]", "[pay done paid]", prepay.Answered},
		{"declined", always(declined), nil, "[pay]", "[pay declined no_funds]", prepay.Answered},
		{"not sent waits for core", always(notSent), func(w *world) { w.after(day); w.turn() }, "[pay]", "[pay not_sent breaker_open]", prepay.Answered},
		{"not sent, sent again by core under the same number", replies(notSent, withQR),
			func(w *world) { w.pay("o", "a"); w.turn() }, "[pay pay]", "[pay not_sent breaker_open pay done pending]", prepay.Due},
		{"unknown, then found paid", replies(unknown, paid), func(w *world) { w.after(second); w.turn() },
			"[pay query]", "[pay unknown timeout query done paid]", prepay.Answered},
		{"unknown, not found, repeated and not sent: still unknown", replies(unknown, notFound, notSent, notFound),
			func(w *world) {
				for range 3 {
					w.after(8 * second)
					w.turn()
				}
			}, "[pay query pay query]", "[pay unknown timeout]", prepay.Due},
		{"polls that tell nothing new are not told", always(withQR), func(w *world) {
			for range 3 {
				w.after(60 * second)
				w.turn()
			}
		}, "[pay query query query]", "[pay done pending]", prepay.Due},
		{"a repeated dispatch changes nothing", always(withQR), func(w *world) { w.pay("o", "a"); w.turn() }, "[pay]", "[pay done pending]", prepay.Due},
		{"a repeated dispatch of what is declined changes nothing", always(declined), func(w *world) { w.pay("o", "a"); w.turn() },
			"[pay]", "[pay declined no_funds]", prepay.Answered},
		{"close", byOp(withQR, pending, closed), func(w *world) { w.ask("o", "a", event.OpClose); w.turn() },
			"[pay close]", "[pay done pending close done closed]", prepay.Answered},
		{"close, but the payer was faster", byOp(withQR, pending, paid), func(w *world) { w.ask("o", "a", event.OpClose); w.turn() },
			"[pay close]", "[pay done pending close done paid]", prepay.Answered},
		{"close that is unknown is queried and asked again", byOp(withQR, pending, unknown), func(w *world) {
			w.ask("o", "a", event.OpClose)
			for range 4 {
				w.turn()
				w.after(16 * second)
			}
		}, "[pay close query close query]", "[pay done pending]", prepay.Due},
		{"a repeated close does not restart the backoff", byOp(withQR, pending, unknown), func(w *world) {
			w.ask("o", "a", event.OpClose)
			w.turn()
			w.ask("o", "a", event.OpClose)
			w.turn()
		}, "[pay close]", "[pay done pending]", prepay.Due},
		{"close finds nothing: paid again, declined as expired", func() func(request) channels.Outcome {
			return replies(withQR, notFound, withCode(channels.Declined, "expired"))
		}(), func(w *world) {
			w.after(900 * second)
			w.ask("o", "a", event.OpClose)
			w.turn()
			w.after(2 * second)
			w.turn()
		}, "[pay close pay]", "[pay done pending pay declined expired]", prepay.Answered},
		{"query now", byOp(withQR, paid, closed), func(w *world) { w.ask("o", "a", event.OpQuery); w.turn() },
			"[pay query]", "[pay done pending query done paid]", prepay.Answered},
		{"stop ends the polls", always(withQR), func(w *world) { w.ask("o", "a", event.OpStop); w.after(day); w.turn() },
			"[pay]", "[pay done pending]", prepay.Stopped},
		{"after a stop nothing moves it", always(withQR), func(w *world) {
			w.apply(dispatch{order: "o", account: "a", op: event.OpStop}, dispatch{order: "o", account: "a", op: event.OpClose},
				dispatch{order: "o", account: "a", op: event.OpQuery}, dispatch{order: "o", account: "a", op: event.OpPay})
			w.after(day)
			w.turn()
		}, "[pay]", "[pay done pending]", prepay.Stopped},
		{"stop after not sent: core may not send it again", always(notSent), func(w *world) {
			w.ask("o", "a", event.OpStop)
			w.pay("o", "a")
			w.turn()
		}, "[pay]", "[pay not_sent breaker_open]", prepay.Stopped},
		{"close after not sent: it never will be sent", always(notSent), func(w *world) {
			w.ask("o", "a", event.OpClose)
			w.pay("o", "a")
			w.turn()
		}, "[pay]", "[pay not_sent breaker_open close done closed closed_before_sending]", prepay.Answered},
		{"an answer without sense is unknown", always(notFound), nil, "[pay]", "[pay unknown answer_senseless]", prepay.Due},
		{"a word that no driver may say is unknown", always(withCode("perhaps", "")), nil, "[pay]", "[pay unknown answer_senseless]", prepay.Due},
		{"done without a state is pending", always(done(channels.StateNone)), nil, "[pay]", "[pay done pending]", prepay.Due},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, t.TempDir(), "a")
			w.psps["a"].answer = c.answer
			w.pay("o", "a")
			w.turn()
			if c.do != nil {
				c.do(w)
			}
			same(t, "asked", w.psps["a"].ops(), c.asked)
			same(t, "told", w.story(), c.told)
			same(t, "status", w.call("o").Status, c.status)
			for _, r := range w.psps["a"].requests {
				same(t, "number", r.Number, no("o"))
				if r.Op == "pay" {
					same(t, "body of a repetition", r.Pay, w.psps["a"].requests[0].Pay)
				}
			}
		})
	}
}

func TestNotRepeatableIsAskedForEver(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.features.PayRepeatable = false
	w.psps["a"].answer = func(r request) channels.Outcome {
		if r.Op == "pay" {
			return unknown
		}
		return notFound
	}
	w.pay("o", "a")
	w.turn()
	for range 60 {
		c := w.call("o")
		if c.Status != prepay.Due || c.NextAtMillis <= w.now.UnixMilli() {
			t.Fatalf("%s at %d, now %d", c.Status, c.NextAtMillis, w.now.UnixMilli())
		}
		w.now = w.now.Add(msec(c.NextAtMillis - w.now.UnixMilli()))
		w.turn()
	}
	reqs := w.psps["a"].requests
	gap := reqs[60].AtMillis - reqs[59].AtMillis
	if lo, hi := backoff.MaxMillis*7/8-1, backoff.MaxMillis; gap < lo || gap > hi {
		t.Errorf("the wait has grown to %d ms, want %d to %d", gap, lo, hi)
	}
	if n := slices.Index(w.psps["a"].ops()[1:], "pay"); n >= 0 {
		t.Errorf("paid again at ask %d", n)
	}
	same(t, "told", w.story(), "[pay unknown timeout]")
}

func TestAskedForWhileOut(t *testing.T) {
	for _, c := range []struct {
		name   string
		ops    []event.Op
		answer channels.Outcome
		told   string
		status prepay.Status
		next   event.Op
		atOnce bool
	}{
		{"stop, then unknown", []event.Op{event.OpStop}, unknown, "[pay unknown timeout]", prepay.Stopped, event.OpPay, false},
		{"stop, then pending", []event.Op{event.OpStop}, withQR, "[pay done pending]", prepay.Stopped, event.OpPay, false},
		{"stop, then not sent", []event.Op{event.OpStop}, notSent, "[pay not_sent breaker_open]", prepay.Stopped, event.OpPay, false},
		{"stop, then paid", []event.Op{event.OpStop}, paid, "[pay done paid]", prepay.Answered, event.OpPay, false},
		{"close, then pending", []event.Op{event.OpClose}, withQR, "[pay done pending]", prepay.Due, event.OpClose, true},
		{"close, then unknown", []event.Op{event.OpClose}, unknown, "[pay unknown timeout]", prepay.Due, event.OpClose, true},
		{"close, then not sent", []event.Op{event.OpClose}, notSent, "[pay done closed closed_before_sending]", prepay.Answered, event.OpPay, false},
		{"close, then declined", []event.Op{event.OpClose}, declined, "[pay declined no_funds]", prepay.Answered, event.OpPay, false},
		{"query, then unknown", []event.Op{event.OpQuery}, unknown, "[pay unknown timeout]", prepay.Due, event.OpQuery, true},
		{"pay again, then unknown", []event.Op{event.OpPay}, unknown, "[pay unknown timeout]", prepay.Due, event.OpQuery, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, t.TempDir(), "a")
			w.psps["a"].answer = replies(c.answer)
			w.pay("o", "a")
			w.draw()
			for _, op := range c.ops {
				w.ask("o", "a", op)
			}
			same(t, "status while out", w.call("o").Status, prepay.Sending)
			w.draw()
			same(t, "calls out", len(w.queue), 1)
			w.run()
			w.record()
			have := w.call("o")
			same(t, "told", w.story(), c.told)
			same(t, "status", have.Status, c.status)
			if c.status == prepay.Due {
				same(t, "next", have.Op, c.next)
				same(t, "at once", have.NextAtMillis == w.now.UnixMilli(), c.atOnce)
			}
		})
	}
}

func TestNeverSentWhenTooLateOrClosed(t *testing.T) {
	for _, c := range []struct {
		name   string
		do     func(w *world)
		told   string
		status prepay.Status
	}{
		{"expired, drawn", func(w *world) { w.after(900 * second); w.turn() }, "[pay not_sent expired]", prepay.Answered},
		{"expired, swept without a lane", func(w *world) {
			delete(w.psps, "a")
			w.after(900 * second)
			if _, err := w.pp.StepSweep(context.Background()); err != nil {
				w.t.Fatalf("%v", err)
			}
		}, "[pay not_sent expired]", prepay.Answered},
		{"closed", func(w *world) { w.ask("o", "a", event.OpClose); w.turn() }, "[close done closed closed_before_sending]", prepay.Answered},
		{"stopped", func(w *world) { w.ask("o", "a", event.OpStop); w.turn() }, "[]", prepay.Stopped},
		{"a query does not send it early", func(w *world) { w.ask("o", "a", event.OpQuery); w.turn() }, "[]", prepay.Due},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, t.TempDir(), "a")
			a := w.psps["a"]
			w.apply(dispatch{order: "o", account: "a", op: event.OpPay, edit: func(d *event.Dispatch) { d.NotBeforeMillis = w.now.UnixMilli() + second }})
			w.turn()
			c.do(w)
			same(t, "asked", len(a.requests), 0)
			same(t, "told", w.story(), c.told)
			same(t, "status", w.call("o").Status, c.status)
			same(t, "tries", w.call("o").Tries, 0)
		})
	}
}

func TestNotBefore(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	at := w.now.UnixMilli() + 5*second
	w.apply(dispatch{order: "o", account: "a", op: event.OpPay, edit: func(d *event.Dispatch) { d.NotBeforeMillis = at }})
	w.after(5*second - 1)
	w.turn()
	same(t, "asked early", len(w.psps["a"].requests), 0)
	w.after(1)
	w.turn()
	same(t, "asked", len(w.psps["a"].requests), 1)
}

func TestHangingAccountHoldsItsOwnSlotsOnly(t *testing.T) {
	w := newWorld(t, t.TempDir(), "good", "hangs")
	for i := range 10 {
		w.pay(fmt.Sprint("h", i), "hangs")
		w.pay(fmt.Sprint("g", i), "good")
	}
	w.draw()
	same(t, "calls out", len(w.queue), 8) // 4 slots each
	// The executor holds back whatever calls the hanging account.
	var held []func()
	for range 5 {
		q := w.queue
		w.queue = nil
		for _, f := range q {
			before := len(w.psps["good"].requests)
			if w.hangs(f) {
				held = append(held, f)
			} else {
				same(t, "requests", len(w.psps["good"].requests), before+1)
			}
		}
		w.record()
		w.draw()
	}
	same(t, "good calls", len(w.psps["good"].requests), 10)
	same(t, "hanging calls", len(held), 4)
	sending, err := countStatus(w, prepay.Sending)
	w.must(err)
	same(t, "sending", sending, 4)
}

func TestDrawOrderAndNewAccounts(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.limits.ConcurrentMax = 1
	w.psps["a"].answer = replies(paid)
	for i, delay := range []int64{3, 1, 2} {
		w.apply(dispatch{order: fmt.Sprint("o", i), account: "a", op: event.OpPay,
			edit: func(d *event.Dispatch) { d.NotBeforeMillis = w.now.UnixMilli() + delay }})
	}
	w.pay("late", "b") // an account that nobody knows yet
	w.after(10)
	w.turn()
	var order []string
	for _, r := range w.psps["a"].requests {
		order = append(order, r.Number)
	}
	same(t, "order", order, []string{no("o1"), no("o2"), no("o0")})
	w.psps["b"] = &psp{w: w, answer: replies(paid)}
	w.turn()
	same(t, "asked of the new account", len(w.psps["b"].requests), 1)
}

// A lane that found nothing is told of what comes next.
func TestNewCallsAreDrawnAtOnce(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.turn()
	w.pay("o", "a")
	w.turn()
	same(t, "asked", w.psps["a"].ops(), "[pay]")
}

func TestPoison(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(m *bus.Message, d *event.Dispatch)
	}{
		{"type", func(m *bus.Message, _ *event.Dispatch) { m.Type = "dispatch.other" }},
		{"payload", func(m *bus.Message, _ *event.Dispatch) { m.Payload = []byte("{") }},
		{"operation", func(_ *bus.Message, d *event.Dispatch) { d.Op = "refund" }},
		{"number", func(_ *bus.Message, d *event.Dispatch) { d.OutTradeNo = "x" }},
		{"number of another intent", func(_ *bus.Message, d *event.Dispatch) { d.OutTradeNo = no("other") }},
		{"intent of another number", func(_ *bus.Message, d *event.Dispatch) { _, d.Y, _ = number("other") }},
		{"trade of another slot", func(m *bus.Message, _ *event.Dispatch) { m.Context, _, _ = number("other") }},
		{"other traffic", func(m *bus.Message, _ *event.Dispatch) { m.Context.Traffic = traffic.Shadow }},
		{"amount", func(_ *bus.Message, d *event.Dispatch) { d.Amount.Minor = 0 }},
		{"currency", func(_ *bus.Message, d *event.Dispatch) { d.Amount.Currency = "cny" }},
		{"no account", func(_ *bus.Message, d *event.Dispatch) { d.Account = "" }},
		{"other amount", func(_ *bus.Message, d *event.Dispatch) { d.Amount.Minor++ }},
		{"other account", func(_ *bus.Message, d *event.Dispatch) { d.Account = "b" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, t.TempDir(), "a", "b")
			w.psps["a"].answer = replies(notSent)
			w.pay("o", "a")
			w.turn()
			before := w.call("o")
			b := w.batch(dispatch{order: "fine", account: "a", op: event.OpPay}, dispatch{order: "o", account: "a", op: event.OpPay})
			var d event.Dispatch
			w.must(event.Decode(b.Messages[1].Payload, &d))
			b.Messages[1].Payload = nil
			c.edit(&b.Messages[1], &d)
			if b.Messages[1].Payload == nil {
				b.Messages[1].Payload = event.Encode(d)
			}
			err := w.pp.Apply(context.Background(), b)
			var poison *bus.PoisonError
			if !errors.As(err, &poison) || poison.Index != 1 {
				t.Fatalf("have %v, want message 1 as poison", err)
			}
			same(t, "call", w.call("o"), before)
			b.Parked = map[int]string{1: "poison"}
			w.must(w.pp.Apply(context.Background(), b))
			same(t, "the rest is applied", w.call("fine").Status, prepay.Sending)
			parked, err := w.store.Places().ParkedKeys(context.Background(), bus.Dispatch)
			w.must(err)
			same(t, "parked keys", len(parked), 1)
		})
	}
}

func TestApplyTwiceIsFenced(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	b := w.batch(dispatch{order: "o", account: "a", op: event.OpPay})
	w.must(w.pp.Apply(context.Background(), b))
	w.psps["a"].answer = replies(notSent)
	w.turn()
	if err := w.pp.Apply(context.Background(), b); !fault.Is(err, fault.Fenced) {
		t.Errorf("have %v, want fenced", err)
	}
	same(t, "status", w.call("o").Status, prepay.Answered)
}

func TestOrphansAreToldAndIgnored(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	for _, op := range []event.Op{event.OpQuery, event.OpClose, event.OpStop} {
		w.ask("nobody", "a", op)
	}
	_, ok, err := w.store.Find(context.Background(), no("nobody"))
	w.must(err)
	same(t, "kept", ok, false)
	same(t, "lines", strings.Count(w.log.String(), "unknown number is ignored"), 3)
	same(t, "counted", w.metrics.GetOrCreateCounter("tallystick_prepay_dispatch_orphans_total").Get(), 3)
}

// TestACodeIsCutBetweenCharacters: half a character is no text, and a database may
// refuse it, with the answers of all lanes.
func TestACodeIsCutBetweenCharacters(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	for order, code := range map[string]string{"o1": "a" + strings.Repeat("é", 60), "o2": "a\x00b\xff"} {
		w.psps["a"].answer = replies(channels.Outcome{Result: channels.Unknown, Code: code, Message: code})
		w.pay(order, "a")
		w.turn()
		if have := w.call(order).LastCode; !utf8.ValidString(have) || strings.Contains(have, "\x00") || !strings.HasPrefix(have, "a") || len(have) > 64 {
			t.Errorf("%q", have)
		}
	}
	for _, o := range w.told() {
		if o.Outcome.Code != channels.Text(o.Outcome.Code) {
			t.Errorf("told %q", o.Outcome.Code)
		}
	}
}
