package channeltest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/channeltest"
	"github.com/tallystick/tallystick/channels/sandbox"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/money"
)

const account = "acct"

// desk is the sandbox PSP without HTTP, with a clock that stands still.
type desk struct {
	t    *testing.T
	desk *sim.Desk
	now  time.Time
	down bool
}

func fresh(t *testing.T) channeltest.Harness {
	d := &desk{t: t, now: time.Unix(1_700_000_000, 0)}
	var err error
	d.desk, err = sim.NewDesk(sim.DeskConfig{PublicURL: "http://psp.test", Seed: 1,
		Accounts: []sim.Account{{Name: account, Keys: [][]byte{[]byte("0123456789abcdef")}}}})
	if err != nil {
		t.Fatal(err)
	}
	ch, err := d.desk.Channel(account, d.clock, rand.NewChaCha8([32]byte{}))
	if err != nil {
		t.Fatal(err)
	}
	ch.Pay = &unreachable{ch.Pay, d}
	return channeltest.Harness{Channel: ch, PSP: d, Now: d.clock, NotifyURL: "http://us.test/cb", Currency: "CNY",
		Window: wire.SkewSecondsMax * time.Second, HangMax: time.Second}
}

func (d *desk) clock() time.Time { return d.now }

func (d *desk) With(f channeltest.Fault, call func()) bool {
	var faults sim.Faults
	switch f {
	case channeltest.LostReply:
		faults.LostReplyShare = 1
	case channeltest.Hang:
		faults.HangShare, faults.HangMaxMillis = 1, 1000
	case channeltest.ServerError:
		faults.ServerErrorShare = 1
	case channeltest.Decline:
		faults.DeclineShare = 1
	case channeltest.Early:
		faults.EarlyCallbackShare = 1
	case channeltest.Refuse:
		d.down = true
		defer func() { d.down = false }()
	}
	d.set(faults)
	defer d.set(sim.Faults{})
	call()
	return true
}

func (d *desk) set(f sim.Faults) {
	if err := d.desk.SetFaults(account, f); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) Pays(outTradeNo string, a money.Amount) bool {
	return d.desk.UserPays(account, outTradeNo, a, d.now)
}

func (d *desk) Taken(outTradeNo string) (money.Amount, int) {
	n := 0
	for _, r := range d.desk.Payments() {
		if r.Body.Attach == "a|b|c" || r.OutTradeNo == outTradeNo {
			n++
		}
	}
	r, _ := d.desk.Find(account, outTradeNo)
	return r.Taken, n
}

func (d *desk) Callback(outTradeNo string) (channels.CallbackRequest, bool) {
	for _, v := range d.desk.Due(d.now, 10) {
		if v.OutTradeNo == outTradeNo {
			return d.desk.CallbackRequest(v, d.now), true
		}
	}
	return channels.CallbackRequest{}, false
}

// unreachable is what a refused connection is without a network.
type unreachable struct {
	channels.Payer
	d *desk
}

func (u *unreachable) Prepay(ctx context.Context, r channels.PayRequest) channels.Outcome {
	if u.d.down {
		return channels.Outcome{Result: channels.NotSent, Code: sandbox.CodeDialFailed}
	}
	return u.Payer.Prepay(ctx, r)
}

func (u *unreachable) Query(ctx context.Context, r channels.QueryRequest) channels.Outcome {
	if u.d.down {
		return channels.Outcome{Result: channels.NotSent, Code: sandbox.CodeDialFailed}
	}
	return u.Payer.Query(ctx, r)
}

func TestSandboxWithoutHTTP(t *testing.T) { channeltest.Run(t, fresh) }

// recorder is a T that only remembers.
type recorder struct{ lines []string }

func (r *recorder) Helper()                   {}
func (r *recorder) Errorf(f string, a ...any) { r.lines = append(r.lines, fmt.Sprintf(f, a...)) }
func (r *recorder) Fatalf(f string, a ...any) { r.Errorf(f, a...); runtime.Goexit() }
func (r *recorder) Skipf(string, ...any)      { runtime.Goexit() }

func record(c channeltest.Case, h channeltest.Harness) *recorder {
	r, done := &recorder{}, make(chan struct{})
	go func() {
		defer close(done)
		c.Run(r, h)
	}()
	<-done
	return r
}

// broken is a driver with one mistake.
type broken struct {
	channels.Payer
	channels.CallbackParser
	prepay func(next channels.Payer, ctx context.Context, r channels.PayRequest) channels.Outcome
	after  func(op string, o channels.Outcome) channels.Outcome
	parse  func(next channels.CallbackParser, r channels.CallbackRequest) (channels.CallbackEvent, error)
}

func (b *broken) Prepay(ctx context.Context, r channels.PayRequest) channels.Outcome {
	if b.prepay != nil {
		return b.prepay(b.Payer, ctx, r)
	}
	return b.done("prepay", b.Payer.Prepay(ctx, r))
}

func (b *broken) Query(ctx context.Context, r channels.QueryRequest) channels.Outcome {
	return b.done("query", b.Payer.Query(ctx, r))
}

func (b *broken) Close(ctx context.Context, r channels.QueryRequest) channels.Outcome {
	return b.done("close", b.Payer.Close(ctx, r))
}

func (b *broken) done(op string, o channels.Outcome) channels.Outcome {
	if b.after != nil {
		return b.after(op, o)
	}
	return o
}

func (b *broken) Parse(r channels.CallbackRequest) (channels.CallbackEvent, error) {
	if b.parse != nil {
		return b.parse(b.CallbackParser, r)
	}
	return b.CallbackParser.Parse(r)
}

// result changes one result of one operation ("" for all) into another.
func result(op string, from, to channels.Result) func(string, channels.Outcome) channels.Outcome {
	return func(o string, out channels.Outcome) channels.Outcome {
		if (op == "" || o == op) && out.Result == from {
			out.Result = to
		}
		return out
	}
}

// state changes what one operation says of a payment.
func state(op string, from, to channels.State) func(string, channels.Outcome) channels.Outcome {
	return func(o string, out channels.Outcome) channels.Outcome {
		if o == op && out.State == from {
			out.State = to
		}
		return out
	}
}

type refuseAll struct{ channels.CallbackParser }

func (r refuseAll) Accepted() channels.Ack { return r.Refused("") }

// unverified reads a callback as a driver would that forgets the signature.
func unverified(_ channels.CallbackParser, r channels.CallbackRequest) (channels.CallbackEvent, error) {
	e, err := wire.ParseEvent(r.Body)
	return channels.CallbackEvent{EventID: e.EventID, OutTradeNo: e.OutTradeNo, State: e.State, TransactionID: e.TransactionID,
		Paid: e.Paid, Code: e.Reason, OccurredAt: time.UnixMilli(e.OccurredAtMillis).UTC(), Attach: e.Attach}, err
}

// TestBrokenDrivers proves the suite: each mistake is found by the cases named,
// and each case finds a mistake.
func TestBrokenDrivers(t *testing.T) {
	parsed := func(change func(*channels.CallbackEvent)) *broken {
		return &broken{parse: func(next channels.CallbackParser, r channels.CallbackRequest) (channels.CallbackEvent, error) {
			e, err := next.Parse(r)
			if err == nil {
				change(&e)
			}
			return e, err
		}}
	}
	nth := 0
	mistakes := []struct {
		name    string
		b       *broken
		ack     bool
		foundBy []string
	}{
		{"a time-out is a failure", &broken{after: result("", channels.Unknown, channels.Declined)}, false,
			[]string{"a lost reply", "a hang", "5xx", "a query or close without", "another body"}},
		{"a time-out was never sent", &broken{after: result("", channels.Unknown, channels.NotSent)}, false,
			[]string{"a lost reply", "a hang", "5xx", "a query or close without"}},
		{"a query's time-out is a failure", &broken{after: result("query", channels.Unknown, channels.Declined)}, false,
			[]string{"a query or close without"}},
		{"a close's time-out is a failure", &broken{after: result("close", channels.Unknown, channels.Declined)}, false,
			[]string{"a query or close without"}},
		{"nothing is ever NotSent", &broken{after: result("", channels.NotSent, channels.Unknown)}, false,
			[]string{"a refused connection", "a context that is over"}},
		{"a context that is over is no matter", &broken{prepay: func(next channels.Payer, ctx context.Context, r channels.PayRequest) channels.Outcome {
			return next.Prepay(context.WithoutCancel(ctx), r)
		}}, false, []string{"a context that is over"}},
		{"a decline is pending", &broken{after: result("prepay", channels.Declined, channels.Done)}, false,
			[]string{"a declined payment", "an expired payment", "a closed payment"}},
		{"a new number each time", &broken{prepay: func(next channels.Payer, ctx context.Context, r channels.PayRequest) channels.Outcome {
			nth++
			r.OutTradeNo += fmt.Sprint(nth)
			return next.Prepay(ctx, r)
		}}, false, []string{"a prepay is pending", "the same prepay twice", "a lost reply"}},
		{"an Unknown is repeated under a new number", &broken{prepay: func(next channels.Payer, ctx context.Context, r channels.PayRequest) channels.Outcome {
			o := next.Prepay(ctx, r)
			if o.Result == channels.Unknown {
				r.OutTradeNo += "x"
				next.Prepay(ctx, r)
			}
			return o
		}}, false, []string{"a lost reply"}},
		{"the amount is in major units", &broken{prepay: func(next channels.Payer, ctx context.Context, r channels.PayRequest) channels.Outcome {
			r.Amount.Minor = max(1, r.Amount.Minor/100)
			return next.Prepay(ctx, r)
		}}, false, []string{"another body"}},
		{"the answer's amount is in major units", &broken{after: func(_ string, o channels.Outcome) channels.Outcome {
			o.Paid.Minor /= 100
			return o
		}}, false, []string{"amounts come back", "a prepay is pending", "a paid payment"}},
		{"the expiry is forgotten", &broken{prepay: func(next channels.Payer, ctx context.Context, r channels.PayRequest) channels.Outcome {
			r.ExpiresAt = r.ExpiresAt.Add(24 * time.Hour)
			return next.Prepay(ctx, r)
		}}, false, []string{"an expired payment"}},
		{"not found is closed", &broken{after: state("query", channels.StateNotFound, channels.StateClosed)}, false,
			[]string{"an unknown number", "a refused connection"}},
		{"a close of what isn't there is closed", &broken{after: state("close", channels.StateNotFound, channels.StateClosed)}, false,
			[]string{"an unknown number"}},
		{"a close always succeeds", &broken{after: state("close", channels.StatePaid, channels.StateClosed)}, false,
			[]string{"a paid payment"}},
		{"signatures are not looked at", &broken{parse: unverified}, false,
			[]string{"a tampered callback", "a callback without signature", "an old and a future"}},
		{"the past is not looked at", &broken{parse: func(next channels.CallbackParser, r channels.CallbackRequest) (channels.CallbackEvent, error) {
			if s := r.Header(wire.HeaderTimestamp); s < fmt.Sprint(r.Now.Unix()) {
				return unverified(next, r)
			}
			return next.Parse(r)
		}}, false, []string{"an old and a future"}},
		{"the future is not looked at", &broken{parse: func(next channels.CallbackParser, r channels.CallbackRequest) (channels.CallbackEvent, error) {
			if s := r.Header(wire.HeaderTimestamp); s > fmt.Sprint(r.Now.Unix()) {
				return unverified(next, r)
			}
			return next.Parse(r)
		}}, false, []string{"an old and a future"}},
		{"the amount asked for is believed", parsed(func(e *channels.CallbackEvent) { e.Paid.Minor = 12_345 }), false,
			[]string{"a wrong amount"}},
		{"attach is dropped", parsed(func(e *channels.CallbackEvent) { e.Attach = "" }), false, []string{"attach comes back"}},
		{"a new event id each time", parsed(func(e *channels.CallbackEvent) { nth++; e.EventID = fmt.Sprint(nth) }), false,
			[]string{"a callback keeps"}},
		{"an early callback is another's", parsed(func(e *channels.CallbackEvent) { e.OutTradeNo = "x" }), false,
			[]string{"an early callback", "a prepay is pending"}},
		{"yes is no", &broken{}, true, []string{"yes and no"}},
	}
	found := map[string]bool{}
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			var failed []string
			for _, c := range channeltest.Cases() {
				h := fresh(t)
				b := *m.b
				b.Payer, b.CallbackParser = h.Channel.Pay, h.Channel.Callback
				ch := *h.Channel
				ch.Pay, ch.Callback = &b, &b
				if m.ack {
					ch.Callback = refuseAll{h.Channel.Callback}
				}
				h.Channel = &ch
				if len(record(c, h).lines) > 0 {
					failed, found[c.Name] = append(failed, c.Name), true
				}
			}
			for _, want := range m.foundBy {
				ok := false
				for _, f := range failed {
					ok = ok || strings.HasPrefix(f, want)
				}
				if !ok {
					t.Errorf("not found by %q; found by %q", want, failed)
				}
			}
		})
	}
	for _, c := range channeltest.Cases() {
		if !found[c.Name] {
			t.Errorf("no mistake is found by %q", c.Name)
		}
	}
}
