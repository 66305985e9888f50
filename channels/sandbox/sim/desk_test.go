package sim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
)

func key() []byte { return []byte("0123456789abcdef") }

func mixed() sim.Faults {
	return sim.Faults{LatencyBaseMillis: 50, LatencyTailMillis: 100, LatencyMaxMillis: 3000, LostReplyShare: 0.1, HangShare: 0.1,
		HangMaxMillis: 1000, ServerErrorShare: 0.1, DeclineShare: 0.1, DuplicateCallbackShare: 0.2, EarlyCallbackShare: 0.1,
		ForgedCallbackShare: 0.2, AutoPayShare: 0.8, AutoPayDelayMillis: 10, AutoPayTailMillis: 100, PayerDeclinedShare: 0.1}
}

func newDesk(t *testing.T, f sim.Faults, change func(*sim.DeskConfig)) *sim.Desk {
	t.Helper()
	c := sim.DeskConfig{Seed: 7, PublicURL: "http://psp.test", Accounts: []sim.Account{{Name: "a", Keys: [][]byte{key()}, Faults: f}}}
	if change != nil {
		change(&c)
	}
	d, err := sim.NewDesk(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func channel(t *testing.T, d *sim.Desk, now *time.Time) *channels.Channel {
	t.Helper()
	ch, err := d.Channel("a", func() time.Time { return *now }, rand.NewChaCha8([32]byte{}))
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func request(n string) channels.PayRequest {
	b := body(n)
	return channels.PayRequest{OutTradeNo: n, Amount: b.Amount, Method: b.Method, Subject: b.Subject, NotifyURL: b.NotifyURL,
		ExpiresAt: time.UnixMilli(b.ExpiresAtMillis), Attach: b.Attach}
}

// run pays the numbers in the order given, then lets all callbacks be delivered,
// and writes down what happened to each number.
func run(t *testing.T, numbers []string) map[string]string {
	d, now := newDesk(t, mixed(), nil), at
	ch := channel(t, d, &now)
	story := map[string]string{}
	tell := func(n, format string, a ...any) { story[n] += fmt.Sprintf(format, a...) + "\n" }
	for _, n := range numbers {
		for range 2 {
			o := ch.Pay.Prepay(context.Background(), request(n))
			tell(n, "pay %s %s %s", o.Result, o.State, o.Code)
		}
	}
	for {
		next, ok := d.NextAt()
		if !ok {
			break
		}
		now = next
		for _, v := range d.Due(now, 3) {
			e, err := ch.Callback.Parse(d.CallbackRequest(v, now))
			tell(v.OutTradeNo, "%v %s %s %s %v", now.Sub(at), e.EventID, e.State, e.TransactionID, err)
			d.Delivered(v, err == nil, now)
		}
	}
	for _, r := range d.Payments() {
		tell(r.OutTradeNo, "%+v", r)
	}
	return story
}

func numbers(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("n%03d", i)
	}
	return all
}

// What befalls a payment depends on the seed and its number, not on when it comes
// among others.
func TestFateIsIndependentOfOrder(t *testing.T) {
	forward := numbers(200)
	backward := slices.Clone(forward)
	slices.Reverse(backward)
	a, again, b := run(t, forward), run(t, forward), run(t, backward)
	all := ""
	for _, n := range forward {
		if a[n] != again[n] || a[n] != b[n] {
			t.Fatalf("%s:\n%s\nthen\n%s\nbackward\n%s", n, a[n], again[n], b[n])
		}
		all += a[n]
	}
	for _, want := range []string{"pay declined declined", "pay unknown  timeout", "pay unknown  connection_lost", "pay unknown  psp_error",
		"pay done pending", "pay done paid", "paid sbx", "unauthorized", "declined"} {
		if want == "unauthorized" {
			want = wire.CodeSignature
		}
		if !strings.Contains(all, want) {
			t.Errorf("in 200 payments there is no %q", want)
		}
	}
}

// A number that met a 5xx once must not meet it for ever.
func TestRepetitionMeetsAnotherFate(t *testing.T) {
	d, now := newDesk(t, sim.Faults{ServerErrorShare: 0.5}, nil), at
	ch := channel(t, d, &now)
	for _, n := range numbers(50) {
		ok := false
		for range 30 {
			o := ch.Pay.Prepay(t.Context(), request(n))
			ok = ok || o.Result == channels.Done
		}
		if !ok {
			t.Fatalf("%s: 30 times 5xx at a share of a half", n)
		}
		if r, _ := d.Find("a", n); r.Requests.Pay != 30 {
			t.Errorf("%s: %d requests counted", n, r.Requests.Pay)
		}
	}
}

func TestLostAndHungRequestsMayHaveHadTheirEffect(t *testing.T) {
	d, now := newDesk(t, sim.Faults{HangShare: 1, HangMaxMillis: 1}, nil), at
	ch := channel(t, d, &now)
	done := 0
	for _, n := range numbers(100) {
		if o := ch.Pay.Prepay(t.Context(), request(n)); o.Result != channels.Unknown {
			t.Fatalf("%+v", o)
		}
		if _, ok := d.Find("a", n); ok {
			done++
		}
	}
	if done < 30 || done > 70 {
		t.Errorf("of 100 hangs %d had their effect", done)
	}
	if got := d.Injected("a")["hang"]; got != 100 {
		t.Errorf("%d hangs counted", got)
	}
}

func TestLatencyIsBounded(t *testing.T) {
	d := newDesk(t, mixed(), nil)
	ring, _ := wire.NewRing(key())
	longest := time.Duration(0)
	for _, n := range numbers(500) {
		b, _ := wire.Ask{OutTradeNo: n}.Append(nil)
		a := d.Handle(wire.Request{Path: wire.PathQuery, Body: b, Seal: ring.Sign(wire.KindRequest, wire.PathQuery, "a", "nonce-01", at, b)}, at)
		if a.After < 50*time.Millisecond || a.After > 3*time.Second {
			t.Fatalf("latency %v", a.After)
		}
		longest = max(longest, a.After)
	}
	if longest < 300*time.Millisecond {
		t.Errorf("the longest of 500 is %v: no tail", longest)
	}
}

// A callback is repeated with growing distance until it is accepted, and not for ever.
func TestCallbackRepetition(t *testing.T) {
	d := newDesk(t, sim.Faults{}, func(c *sim.DeskConfig) { c.CallbackBackoffMillis, c.CallbackAttemptsMax = 1000, 9 })
	now := at
	channel(t, d, &now).Pay.Prepay(t.Context(), request("n"))
	if !d.UserPays("a", "n", money.Amount{}, now) {
		t.Fatal("not paid")
	}
	var waits []string
	ids := map[string]bool{}
	for {
		next, ok := d.NextAt()
		if !ok {
			break
		}
		if len(d.Due(next.Add(-time.Millisecond), 9)) > 0 {
			t.Fatal("due before its time")
		}
		waits = append(waits, next.Sub(now).String())
		now = next
		for _, v := range d.Due(now, 9) {
			ids[v.Event.EventID] = true
			d.Delivered(v, false, now)
		}
	}
	if got, want := strings.Join(waits, " "), "0s 1s 2s 4s 8s 16s 32s 1m0s 1m0s"; got != want || len(ids) != 1 {
		t.Errorf("waits %s, want %s; event ids %v", got, want, ids)
	}
}

func TestAcceptedCallbackIsNotRepeated(t *testing.T) {
	d, now := newDesk(t, sim.Faults{CallbackDelayMillis: 100}, nil), at
	channel(t, d, &now).Pay.Prepay(t.Context(), request("n"))
	d.UserDeclined("a", "n", now)
	now = now.Add(100 * time.Millisecond)
	due := d.Due(now, 9)
	if len(due) != 1 || due[0].Event.State != channels.StateDeclined || due[0].Event.Reason != wire.ReasonInsufficient {
		t.Fatalf("%+v", due)
	}
	d.Delivered(due[0], true, now)
	if next, ok := d.NextAt(); ok {
		t.Errorf("due again at %v", next)
	}
}

// A forged callback is refused by a genuine parser, and is not sent again.
func TestForgedCallback(t *testing.T) {
	d, now := newDesk(t, sim.Faults{ForgedCallbackShare: 1}, nil), at
	ch := channel(t, d, &now)
	ch.Pay.Prepay(t.Context(), request("n"))
	due := d.Due(now, 9)
	if len(due) != 1 || !due[0].Forged || due[0].Event.State != channels.StatePaid {
		t.Fatalf("%+v", due)
	}
	if _, err := ch.Callback.Parse(d.CallbackRequest(due[0], now)); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("%v", err)
	}
	d.Delivered(due[0], false, now)
	if _, again := d.NextAt(); again {
		t.Error("sent again")
	}
}

// An early callback is there before the call that it answers has returned.
func TestEarlyCallback(t *testing.T) {
	d, now := newDesk(t, sim.Faults{EarlyCallbackShare: 1}, nil), at
	ch := channel(t, d, &now)
	if o := ch.Pay.Prepay(t.Context(), request("n")); o.State != channels.StatePaid {
		t.Fatalf("%+v", o)
	}
	if due := d.Due(now, 9); len(due) != 1 || due[0].Event.State != channels.StatePaid {
		t.Errorf("%+v", due)
	}
}

// Requests that are not the account's are refused, and are never given a signature.
func TestRequestsAreVerified(t *testing.T) {
	d := newDesk(t, sim.Faults{}, func(c *sim.DeskConfig) { c.CallbackAllowed = func(u string) bool { return u == "http://us.test/cb" } })
	ring, _ := wire.NewRing(key())
	other, _ := wire.NewRing([]byte("fedcba9876543210"))
	p := body("n")
	b, _ := p.Append(nil)
	p.NotifyURL = "http://169.254.169.254/"
	evil, _ := p.Append(nil)
	sign := func(r *wire.Ring, path, account string, when time.Time, b []byte) wire.Request {
		return wire.Request{Path: path, Body: b, Seal: r.Sign(wire.KindRequest, path, account, "nonce-01", when, b)}
	}
	moved := sign(ring, wire.PathQuery, "a", at, b)
	moved.Path = wire.PathPay
	tampered := sign(ring, wire.PathPay, "a", at, b)
	tampered.Body = bytes.Replace(b, []byte("100"), []byte("001"), 1)
	for _, c := range []struct {
		name   string
		r      wire.Request
		status int
	}{
		{"another key", sign(other, wire.PathPay, "a", at, b), 401},
		{"no such account", sign(ring, wire.PathPay, "b", at, b), 401},
		{"signed for another path", moved, 401},
		{"another body", tampered, 401},
		{"old", sign(ring, wire.PathPay, "a", at.Add(-301*time.Second), b), 401},
		{"from the future", sign(ring, wire.PathPay, "a", at.Add(301*time.Second), b), 401},
		{"callback to elsewhere", sign(ring, wire.PathPay, "a", at, evil), 400},
		{"unknown field", sign(ring, wire.PathQuery, "a", at, []byte(`{"out_trade_no":"n","x":1}`)), 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := d.Handle(c.r, at)
			if a.Response.Status != c.status || (a.Response.Seal.Signature != "") != (c.status == 400) {
				t.Errorf("%d, signature %q", a.Response.Status, a.Response.Seal.Signature)
			}
			if len(d.Payments()) != 0 {
				t.Error("it has made a payment")
			}
		})
	}
	if a := d.Handle(sign(ring, wire.PathPay, "a", at, b), at); a.Response.Status != 200 || len(d.Payments()) != 1 {
		t.Errorf("genuine: %+v", a)
	}
}

func TestFaultsAreValidated(t *testing.T) {
	for field, js := range map[string]string{
		"lost_reply_share": `{"lost_reply_share":1.5}`, "hang_share": `{"hang_share":-0.1}`, "hang_max_millis": `{"hang_share":0.1}`,
		"latency_max_millis":               `{"latency_tail_millis":5}`,
		"lost_reply_share + hang_share + ": `{"lost_reply_share":0.6,"server_error_share":0.6}`,
		"callback_delay_millis":            `{"callback_delay_millis":3600001}`,
		"":                                 `{"unknown":1}`,
	} {
		_, err := sim.ParseFaults([]byte(js))
		var f *fault.Error
		if !errors.As(err, &f) || f.Kind != fault.Invalid || !strings.HasPrefix(f.Field, field) {
			t.Errorf("%s: %v", js, err)
		}
	}
	if f := sim.Realistic(); f.Validate() != nil {
		t.Error(f.Validate())
	}
	d := newDesk(t, sim.Faults{}, nil)
	if err := d.SetFaults("a", sim.Faults{HangShare: 2}); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if err := d.SetFaults("b", sim.Faults{}); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
}
