package breaker_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/breaker"
	"github.com/tallystick/tallystick/channels/sandbox"
	"github.com/tallystick/tallystick/internal/fault"
)

// psp answers everything with one outcome, and counts.
type psp struct {
	o     channels.Outcome
	calls int
	enter func()
}

func (p *psp) answer() channels.Outcome {
	p.calls++
	if p.enter != nil {
		p.enter()
	}
	return p.o
}
func (p *psp) Prepay(context.Context, channels.PayRequest) channels.Outcome  { return p.answer() }
func (p *psp) Query(context.Context, channels.QueryRequest) channels.Outcome { return p.answer() }
func (p *psp) Close(context.Context, channels.QueryRequest) channels.Outcome { return p.answer() }

func outcome(r channels.Result, code string) channels.Outcome {
	return channels.Outcome{Result: r, Code: code}
}

func wrap(t *testing.T, p *psp, s breaker.Settings) (*channels.Channel, *breaker.Breaker) {
	t.Helper()
	ch, b, err := breaker.Wrap(&channels.Channel{Name: "sandbox", Account: "a", Pay: p, Features: channels.Features{Attach: true}}, s)
	if err != nil {
		t.Fatal(err)
	}
	if ch.Name != "sandbox" || ch.Account != "a" || !ch.Features.Attach {
		t.Errorf("%+v", ch)
	}
	return ch, b
}

func settings() breaker.Settings { return breaker.Settings{Failures: 3, OpenFor: time.Minute} }

func TestWhatCounts(t *testing.T) {
	for _, c := range []struct {
		name  string
		o     channels.Outcome
		opens bool
	}{
		{"unknown", outcome(channels.Unknown, "timeout"), true},
		{"no connection", outcome(channels.NotSent, sandbox.CodeDialFailed), true},
		{"our limiter", outcome(channels.NotSent, "rate_limited"), false},
		{"our connections in use", outcome(channels.NotSent, sandbox.CodeNoConn), false},
		{"our deadline before the call", outcome(channels.NotSent, sandbox.CodeTooLate), false},
		{"declined", outcome(channels.Declined, "no_funds"), false},
		{"done", outcome(channels.Done, ""), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &psp{o: c.o}
			ch, b := wrap(t, p, settings())
			for range 20 {
				ch.Pay.Prepay(t.Context(), channels.PayRequest{})
			}
			if opened := b.State() == breaker.Open; opened != c.opens {
				t.Errorf("state %s", b.State())
			}
			if want := map[bool]int{true: 3, false: 20}[c.opens]; p.calls != want {
				t.Errorf("%d calls, want %d", p.calls, want)
			}
			o := ch.Pay.Prepay(t.Context(), channels.PayRequest{})
			if c.opens && (o.Result != channels.NotSent || o.Code != breaker.Code) || !c.opens && fmt.Sprint(o) != fmt.Sprint(c.o) {
				t.Errorf("%+v", o)
			}
		})
	}
}

// What we cancelled ourselves says nothing of the PSP; our deadline does.
func TestOwnCancellation(t *testing.T) {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancelLate := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer cancelLate()
	for _, c := range []struct {
		ctx  context.Context
		want string
	}{{cancelled, breaker.Closed}, {late, breaker.Open}} {
		ch, b := wrap(t, &psp{o: outcome(channels.Unknown, "timeout")}, settings())
		for range 5 {
			ch.Pay.Prepay(c.ctx, channels.PayRequest{})
		}
		if b.State() != c.want {
			t.Errorf("%v: %s, want %s", c.ctx.Err(), b.State(), c.want)
		}
	}
}

func TestFailuresInARow(t *testing.T) {
	p := &psp{}
	ch, b := wrap(t, p, settings())
	for range 5 {
		for _, r := range []channels.Result{channels.Unknown, channels.Unknown, channels.Declined} {
			p.o = outcome(r, "")
			ch.Pay.Prepay(t.Context(), channels.PayRequest{})
		}
	}
	if b.State() != breaker.Closed {
		t.Error(b.State())
	}
}

// Asking goes on while payments fail, and paying while asking fails.
func TestPayAndAskAreApart(t *testing.T) {
	p := &psp{o: outcome(channels.Unknown, "")}
	ch, b := wrap(t, p, settings())
	q := channels.QueryRequest{}
	for range 3 {
		ch.Pay.Prepay(t.Context(), channels.PayRequest{})
	}
	if b.State() != breaker.Open || b.AskState() != breaker.Closed {
		t.Fatalf("%s, %s", b.State(), b.AskState())
	}
	if o := ch.Pay.Query(t.Context(), q); o.Result != channels.Unknown || p.calls != 4 {
		t.Errorf("query: %+v", o)
	}
	ch.Pay.Close(t.Context(), q)
	ch.Pay.Query(t.Context(), q)
	if b.AskState() != breaker.Open {
		t.Errorf("ask is %s after three failures", b.AskState())
	}
	if o := ch.Pay.Close(t.Context(), q); o.Result != channels.NotSent || o.Code != breaker.Code || p.calls != 6 {
		t.Errorf("close: %+v, %d calls", o, p.calls)
	}
}

func TestOpensTriesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &psp{o: outcome(channels.Unknown, "")}
		var changes []string
		s := settings()
		s.OnChange = func(account, which, from, to string) {
			changes = append(changes, account+" "+which+" "+from+">"+to)
		}
		ch, b := wrap(t, p, s)
		pay := func() channels.Outcome { return ch.Pay.Prepay(context.Background(), channels.PayRequest{}) }
		for range 3 {
			pay()
		}
		time.Sleep(59 * time.Second)
		if o := pay(); o.Code != breaker.Code {
			t.Errorf("before its time: %+v", o)
		}
		time.Sleep(2 * time.Second)
		if b.State() != breaker.HalfOpen {
			t.Error(b.State())
		}
		if o := pay(); o.Result != channels.Unknown || b.State() != breaker.Open {
			t.Errorf("a failed trial: %+v, %s", o, b.State())
		}
		time.Sleep(61 * time.Second)
		p.o = outcome(channels.Done, "")
		// While one call tries, a second one is not let through.
		p.enter = func() {
			p.enter = nil
			if o := pay(); o.Code != breaker.Code {
				t.Errorf("a second trial: %+v", o)
			}
		}
		if o := pay(); o.Result != channels.Done || b.State() != breaker.Closed {
			t.Errorf("a good trial: %+v, %s", o, b.State())
		}
		want := []string{"a pay closed>open", "a pay open>half-open", "a pay half-open>open", "a pay open>half-open", "a pay half-open>closed"}
		if fmt.Sprint(changes) != fmt.Sprint(want) {
			t.Errorf("%v", changes)
		}
	})
}

// A simulation that abandons the app inside a call leaves the breaker usable.
func TestPanicInACall(t *testing.T) {
	p := &psp{o: outcome(channels.Done, ""), enter: func() { panic("crash") }}
	ch, b := wrap(t, p, settings())
	func() {
		defer func() { _ = recover() }()
		ch.Pay.Prepay(t.Context(), channels.PayRequest{})
	}()
	p.enter = nil
	if o := ch.Pay.Prepay(t.Context(), channels.PayRequest{}); o.Result != channels.Done || b.State() != breaker.Closed {
		t.Errorf("%+v %s", o, b.State())
	}
}

func TestSettings(t *testing.T) {
	for _, s := range []breaker.Settings{{}, {Failures: 1}, {Failures: 10_001, OpenFor: time.Second}, {Failures: 1, OpenFor: 2 * time.Hour},
		{Failures: 1, OpenFor: time.Second, TrialsMax: -1}} {
		if _, _, err := breaker.Wrap(&channels.Channel{}, s); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}
