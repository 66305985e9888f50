package app_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
)

// A folder whose process ended in the middle of its work is not accused: what was
// not read is on its way.
func TestAFolderInTheMiddleIsNotAccused(t *testing.T) {
	dir, _ := initialised(t)
	s := &handApp{t: t, dir: dir, psp: &handPSP{asked: map[string]channels.PayRequest{}}}
	s.open()
	var unread int64
	for round := range 12 {
		if round < 8 {
			s.intents(round, 9)
		}
		for i, step := range s.app.Steps() {
			if (i+round)%5 == 0 { // some readers stand still for a while
				continue
			}
			s.psp.answer(i % 3)
			for range 1 + round%3 { // so that readers are at different places
				_, err := step.Run(t.Context())
				must(t, err)
			}
			v := s.verify(step.Name)
			for _, u := range v.Unread {
				unread += u.Count
			}
		}
		if round%4 == 3 { // abandoned, with calls that were out and answers that nobody recorded
			must(t, s.app.Close())
			s.open()
		}
	}
	if unread == 0 || s.psp.calls == 0 {
		t.Errorf("nothing was ever on its way: %d unread, %d calls", unread, s.psp.calls)
	}
	must(t, s.app.Close())
}

// The same after a process that simply ended under load.
func TestAFolderThatWasStoppedIsNotAccused(t *testing.T) {
	s := startSystem(t, sim.Faults{AutoPayShare: 1, LostReplyShare: .2, LatencyBaseMillis: 2, LatencyTailMillis: 20, LatencyMaxMillis: 100, EarlyCallbackShare: .2})
	order := load.Orders(8)
	for i := range 40 {
		if _, status, err := s.client.Pay(order(i)); status != 202 {
			t.Fatalf("pay: %d %v", status, err)
		}
	}
	s.stop()
	deps, err := app.Production(s.app.Dir, nil, io.Discard)
	must(t, err)
	stores, err := app.OpenStores(t.Context(), deps)
	must(t, err)
	defer stores.Close() //nolint:errcheck // only read
	v, err := stores.Verify(t.Context())
	must(t, err)
	if len(v.Violations) > 0 || v.Moved {
		t.Errorf("violations %q, not read %+v", v.Violations, v.Unread)
	}
	t.Logf("orders %+v, not read %+v", v.Orders, v.Unread)
}

// Verify beside a process that works says nothing that is not so.
func TestVerifyBesideARunningSystem(t *testing.T) {
	s := startSystem(t, sim.Faults{AutoPayShare: 1, LostReplyShare: .1, LatencyBaseMillis: 1, LatencyTailMillis: 5, LatencyMaxMillis: 50, EarlyCallbackShare: .2})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		order := load.Orders(9)
		for i := range 300 {
			if _, status, err := s.client.Pay(order(i)); status != 202 {
				t.Errorf("pay: %d %v", status, err)
				return
			}
		}
	}()
	moved, rounds := 0, 0
	for working := true; working; rounds++ {
		select {
		case <-ended:
			working = false
		default:
		}
		v, err := s.app.Stores.Verify(t.Context())
		must(t, err)
		if len(v.Violations) > 0 {
			t.Fatalf("moved %t, not read %+v, violations %q", v.Moved, v.Unread, v.Violations)
		}
		if v.Moved {
			moved++
		}
	}
	if moved == 0 {
		t.Errorf("nothing moved in %d verifications", rounds)
	}
}

// What was parked accuses, unless it is known to be taken up again.
func TestWhatIsParkedAccuses(t *testing.T) {
	f := makeLiesFolder(t)
	park := func(reason, replay string) string {
		return `INSERT INTO parked SELECT 1, 'callbacks', 0, 1, 1, 0, '` + reason + `', 1, ` + replay + `, 'evt_1', 'x', 1, 1, biz_code, merchant, order_type,
			order_scene, institution, trace_id, form, traffic, x'', x'00' FROM trade_orders LIMIT 1`
	}
	const unread = `UPDATE places SET seq = seq - 1 WHERE topic = 'intents'`
	for _, tc := range []struct {
		name    string
		do      []string
		accused bool
	}{
		{"an order that is not there, and all intents are read", []string{park(core.ErrNoPayment.Error(), "0")}, true},
		{"an order that may still come", []string{park(core.ErrNoPayment.Error(), "0"), unread}, false},
		{"another reason", []string{park("poison", "0"), unread}, true},
		{"its replay was asked for", []string{park("poison", "1")}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v, err := f.copied(t, "core", tc.do...).Verify(t.Context())
			must(t, err)
			if accused := len(v.Violations) > 0; accused != tc.accused || v.Parked["core"] != 1 {
				t.Errorf("parked %v, violations %q", v.Parked, v.Violations)
			}
		})
	}
}

// Where roles are apart, a folder is verified for what it has, and says what it
// has not.
func TestVerifySaysWhatIsNotThere(t *testing.T) {
	f := makeLiesFolder(t)
	for _, tc := range []struct {
		missing app.Role
		close   func(*app.Stores) error
	}{
		{app.RoleCore, func(s *app.Stores) error { c := s.Core; s.Core = nil; return c.Close() }},
		{app.RolePrepay, func(s *app.Stores) error { p := s.Prepay; s.Prepay = nil; return p.Close() }},
		{app.RoleAccounting, func(s *app.Stores) error { a := s.Accounting; s.Accounting = nil; return a.Close() }},
	} {
		s := f.copied(t, "core")
		must(t, tc.close(s))
		v, err := s.Verify(t.Context())
		must(t, err)
		if len(v.Violations) > 0 || len(v.Missing) != 1 || v.Missing[0] != tc.missing {
			t.Errorf("without %s: violations %q, missing %v", tc.missing, v.Violations, v.Missing)
		}
	}
}

// handApp is an app that is worked by hand, a step at a time.
type handApp struct {
	t   *testing.T
	dir string
	app *app.App
	psp *handPSP
}

// handPSP answers in all ways, when it is told to.
type handPSP struct {
	app.Channels
	asked map[string]channels.PayRequest
	out   []func()
	calls int
}

// Go keeps a call until it is to be answered.
func (p *handPSP) Go(f func()) { p.out = append(p.out, f) }

func (p *handPSP) answer(n int) {
	for ; n > 0 && len(p.out) > 0; n-- {
		f := p.out[0]
		p.out = p.out[1:]
		f()
	}
}

func (p *handPSP) Channel(account string) (*channels.Channel, bool) {
	return &channels.Channel{Name: "sandbox", Account: account, Pay: p, Features: channels.Features{PayRepeatable: true}}, true
}

func (p *handPSP) Prepay(_ context.Context, r channels.PayRequest) channels.Outcome {
	_, again := p.asked[r.OutTradeNo]
	p.asked[r.OutTradeNo] = r
	p.calls++
	if !again && r.OutTradeNo[20] < '8' { // on no account at first: the first number is dispatched again
		return channels.Outcome{Result: channels.NotSent, Code: "held_back"}
	}
	switch p.calls % 6 {
	case 1:
		return channels.Outcome{Result: channels.Declined, Code: "no_funds"}
	case 2:
		return channels.Outcome{Result: channels.Unknown, Code: "timeout"}
	case 3:
		return p.paid(r.OutTradeNo)
	}
	return channels.Outcome{Result: channels.Done, State: channels.StatePending, Credential: channels.Credential{Method: r.Method, Value: "qr://" + r.OutTradeNo}}
}

func (p *handPSP) paid(number string) channels.Outcome {
	return channels.Outcome{Result: channels.Done, State: channels.StatePaid, TransactionID: "t" + number, Paid: p.asked[number].Amount}
}

func (p *handPSP) Query(_ context.Context, r channels.QueryRequest) channels.Outcome {
	p.calls++
	return p.paid(r.OutTradeNo)
}

func (p *handPSP) Close(_ context.Context, _ channels.QueryRequest) channels.Outcome {
	return channels.Outcome{Result: channels.Done, State: channels.StateClosed}
}

func (s *handApp) open() {
	s.t.Helper()
	deps, err := app.Production(s.dir, nil, io.Discard)
	must(s.t, err)
	s.psp.Channels, s.psp.out = deps.Channels, nil
	deps.NoSync, deps.Channels, deps.Executor = true, s.psp, s.psp
	deps.Config.Consumers.MessagesMax, deps.Config.Prepay.Backoff.AskFirstMillis = 5, 1
	s.app, err = app.New(s.t.Context(), deps)
	must(s.t, err)
}

func (s *handApp) verify(after string) app.Verification {
	s.t.Helper()
	v, err := s.app.Stores.Verify(s.t.Context())
	must(s.t, err)
	if len(v.Violations) > 0 && !v.Moved {
		s.t.Fatalf("after %s: %q, unread %+v", after, v.Violations, v.Unread)
	}
	return v
}

// intents accepts payments as the gateway does.
func (s *handApp) intents(round, n int) {
	s.t.Helper()
	order := load.Orders(uint64(100 + round)) //nolint:gosec // small
	merchant := s.app.Directory.Current().Merchants[0].ID
	var last bus.Ticket
	for i := range n {
		o := order(i)
		x := s.app.Secret.Trade("real", merchant, o.OrderID)
		c := ids.NewCanonical(nil)
		c.Int("amount", o.Amount)
		c.String("currency", o.Currency)
		c.String("order_id", o.OrderID)
		c.String("subject", o.Subject)
		canonical := c.Bytes()
		y := s.app.Secret.Intent(x, merchant, o.OrderID, "deposit", o.Key, ids.FingerprintOf(canonical))
		e := bus.Event{ID: ids.VoucherID.With(y), Type: event.TypeIntent, Version: bus.EnvelopeVersion, AtMillis: 1,
			Context: ids.Context{BizCode: x, Merchant: merchant, OrderType: "general", OrderScene: "online", TraceID: strings.Repeat("5", ids.TraceIDLen), Form: "deposit", Traffic: "real"},
			Payload: event.Encode(event.Intent{Y: y, IdempotencyKey: o.Key, Canonical: canonical, AcceptedAtMillis: time.Now().UnixMilli(), ExpiresAtMillis: time.Now().UnixMilli() + 900_000})}
		ticket, err := s.app.Intake.Append(bus.Intents, &e)
		must(s.t, err)
		last = ticket
	}
	for range 50 {
		_, err := s.app.Intake.Step(s.t.Context())
		must(s.t, err)
		select {
		case <-last.Done():
			must(s.t, last.Err())
			return
		default:
		}
	}
	s.t.Fatal("the intents were not kept")
}
