package sim_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/money"
)

var at = time.Unix(1_700_000_000, 0)

func body(n string) wire.Pay {
	return wire.Pay{OutTradeNo: n, Amount: money.Of(100, "CNY"), Method: channels.MethodQRCode, Subject: "Tea",
		NotifyURL: "http://us.test/cb", ExpiresAtMillis: at.Add(time.Minute).UnixMilli(), Attach: "x"}
}

func TestStateRules(t *testing.T) {
	k := sim.Key{Account: "a", OutTradeNo: "n"}
	s := sim.NewState(1, "http://psp.test", 2)
	step := func(what string, status int, r wire.Reply, wantStatus int, state channels.State, reason string) {
		t.Helper()
		if status != wantStatus || r.State != state || r.Reason != reason {
			t.Errorf("%s: %d %+v, want %d %s %s", what, status, r, wantStatus, state, reason)
		}
	}
	status, r := s.Query("a", "n", at)
	step("query before", status, r, 200, channels.StateNotFound, "")
	status, r = s.Close("a", "n", at)
	step("close before", status, r, 200, channels.StateNotFound, "")
	status, r = s.Pay("a", body("n"), at)
	step("pay after a close of nothing", status, r, 200, channels.StatePending, "")
	if r.Credential.Value != "http://psp.test/pay/a/n" || r.Attach != "x" {
		t.Errorf("%+v", r)
	}
	other := body("n")
	other.Subject = "Coffee"
	if status, r = s.Pay("a", other, at); status != 409 || r.Code != wire.CodeConflict {
		t.Errorf("another body: %d %+v", status, r)
	}
	n, ok := s.UserPays(k, money.Amount{}, at.Add(time.Minute-time.Millisecond))
	if !ok || n.Event.Paid != money.Of(100, "CNY") || n.Event.State != channels.StatePaid || n.URL != "http://us.test/cb" {
		t.Errorf("%+v", n)
	}
	if _, ok := s.UserPays(k, money.Amount{}, at); ok {
		t.Error("paid twice")
	}
	if _, ok := s.Decline(k, "why", at); ok {
		t.Error("declined after it was paid")
	}
	status, r = s.Close("a", "n", at.Add(time.Hour))
	step("close of a paid one, late", status, r, 200, channels.StatePaid, "")

	status, r = s.Pay("b", body("n"), at)
	step("the number of another account", status, r, 200, channels.StatePending, "")
	if status, r = s.Pay("a", body("m"), at); status != 503 || r.Code != wire.CodeFull {
		t.Errorf("a third payment: %d %+v", status, r)
	}
	if _, ok := s.UserPays(sim.Key{Account: "b", OutTradeNo: "n"}, money.Amount{}, at.Add(time.Minute)); ok {
		t.Error("paid at the instant of expiry")
	}
	status, r = s.Pay("b", body("n"), at.Add(time.Minute))
	step("the same pay after expiry", status, r, 200, channels.StateClosed, wire.ReasonExpired)

	s = sim.NewState(1, "", 9)
	status, r = s.Pay("a", body("n"), at.Add(time.Minute))
	step("a first pay at its expiry", status, r, 200, channels.StateDeclined, wire.ReasonExpired)
	status, r = s.Query("a", "n", at)
	step("it stays declined", status, r, 200, channels.StateDeclined, wire.ReasonExpired)
	if status, r = s.Pay("a", wire.Pay{OutTradeNo: "m"}, at); status != 400 || r.Code != wire.CodeInvalid {
		t.Errorf("an invalid pay: %d %+v", status, r)
	}
}

// Whatever comes in whatever order: money is taken at most once, only from what
// was pending, and what is final stays as it is.
func TestStateIsFinal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := sim.NewState(1, "", 100)
		now, last, k := at, sim.Record{}, sim.Key{Account: "a", OutTradeNo: "n"}
		taken := 0
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
			var reply wire.Reply
			switch op := rapid.IntRange(0, 5).Draw(t, "op"); op {
			case 0:
				_, reply = s.Pay("a", body("n"), now)
			case 1:
				b := body("n")
				b.Amount.Minor++
				if status, _ := s.Pay("a", b, now); status == 200 {
					return // the other body came first: another story, the same rules
				}
			case 2:
				_, reply = s.Query("a", "n", now)
			case 3:
				_, reply = s.Close("a", "n", now)
				if reply.State == channels.StatePending {
					t.Fatal("pending after a close")
				}
			case 4:
				if _, ok := s.UserPays(k, money.Amount{}, now); ok {
					taken++
				}
			case 5:
				s.Decline(k, "why", now)
			}
			r, ok := s.Find(k)
			if !ok {
				continue
			}
			if reply.State != "" && reply.State != r.State {
				t.Fatalf("told %s, is %s", reply.State, r.State)
			}
			if last.State != "" && last.State != channels.StatePending && last != r {
				t.Fatalf("was %+v, is %+v", last, r)
			}
			if (r.State == channels.StatePaid) != (taken == 1) || taken > 1 {
				t.Fatalf("%s with money taken %d times", r.State, taken)
			}
			if r.State == channels.StatePending && now.UnixMilli() >= r.Body.ExpiresAtMillis && reply.State != "" {
				t.Fatal("told pending after expiry")
			}
			last = r
		}
	})
}
