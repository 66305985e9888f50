package core_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	prepay "github.com/tallystick/tallystick/prepay/event"
)

var credential = channels.Credential{Method: channels.MethodQRCode, Value: "qr://x"}

func pendingOutcome() channels.Outcome {
	return channels.Outcome{Result: channels.Done, State: channels.StatePending, Credential: credential}
}

func (h *harness) want(y ids.Code, status event.Status, reason string) event.Payment {
	h.t.Helper()
	p := h.payment(y)
	if p.Status != status || p.Reason != reason {
		h.t.Fatalf("status %s reason %q, want %s %q", p.Status, p.Reason, status, reason)
	}
	if p.Status.Final() != (p.NextAction == "" && p.NextAtMillis == 0) {
		h.t.Fatalf("%s has next action %q at %d", p.Status, p.NextAction, p.NextAtMillis)
	}
	return p
}

func (h *harness) wantOps(want string) []event.Dispatch {
	h.t.Helper()
	d := h.dispatches()
	if got := ops(d); got != want {
		h.t.Fatalf("dispatched %q, want %q", got, want)
	}
	return d
}

func TestAPaymentFromIntentToSuccess(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o1", amount: 10_050})
	p := h.want(y, event.Dispatched, "")
	if p.NextAction != core.ActionClose {
		t.Fatalf("next action %q", p.NextAction)
	}
	d := h.wantOps("pay:a ")[0]
	if d.OutTradeNo != ids.OutTradeNo(y, 0) || d.Amount != money.Of(10_050, "CNY") || d.ExpiresAtMillis != p.ExpiresAtMillis {
		t.Fatalf("dispatch %+v", d)
	}
	h.outcome(y, 0, event.OpPay, pendingOutcome())
	if p := h.want(y, event.Pending, ""); p.Credential != credential {
		t.Fatalf("credential %+v", p.Credential)
	}
	h.callback(y, 0, "a", paid("t1", 10_050))
	p = h.want(y, event.Succeeded, "")
	if p.Credential != (channels.Credential{}) {
		t.Error("the credential of a final payment is kept")
	}
	if p.Fee != money.Of(101, "CNY") || p.Attempts[0].PSPFee != money.Of(60, "CNY") || p.Attempts[0].Paid != money.Of(10_050, "CNY") {
		t.Errorf("fee %v, PSP fee %v, paid %v", p.Fee, p.Attempts[0].PSPFee, p.Attempts[0].Paid)
	}
	h.wantOps("stop:a ")
	changed, surplus := h.changes()
	if len(changed) != 3 || len(surplus) != 0 || changed[2].Settled != 0 || changed[0].Settled != -1 {
		t.Fatalf("changes %+v, surplus %+v", changed, surplus)
	}
	for i := 1; i < len(changed); i++ {
		if changed[i].Version != changed[i-1].Version+1 {
			t.Errorf("versions %d, %d", changed[i-1].Version, changed[i].Version)
		}
	}
	trade, ok, err := core.Queries{Store: h.store}.Trade(context.Background(), y)
	if err != nil || !ok || trade.Status != core.TradePaid || trade.Paid != money.Of(10_050, "CNY") || trade.Context.Institution != "sandbox" {
		t.Fatalf("trade %+v %v %v", trade, ok, err)
	}
}

func TestOneKeyIsOnePayment(t *testing.T) {
	t.Run("the same body again does nothing", func(t *testing.T) {
		h := newHarness(t)
		y := h.accept(order{id: "o", subject: "mug"})
		h.dispatches()
		h.changes()
		if again := h.accept(order{id: "o", subject: "mug"}); again != y {
			t.Fatalf("%s and %s", y, again)
		}
		h.wantOps("")
		if c, _ := h.changes(); len(c) != 0 {
			t.Fatalf("changes %+v", c)
		}
	})
	t.Run("twice in one batch", func(t *testing.T) {
		h := newHarness(t)
		i, e := h.intent(order{id: "o"})
		h.must(h.core.ApplyIntents(context.Background(), h.batch(bus.Intents, e, e)))
		h.want(i.Y, event.Dispatched, "")
		h.wantOps("pay:a ")
	})
	t.Run("another body is a conflict and never reaches a PSP", func(t *testing.T) {
		h := newHarness(t)
		_, e1 := h.intent(order{id: "o", subject: "mug"})
		i2, e2 := h.intent(order{id: "o", subject: "cup"})
		h.must(h.core.ApplyIntents(context.Background(), h.batch(bus.Intents, e1, e2)))
		h.want(i2.Y, event.Rejected, core.ReasonConflict)
		h.wantOps("pay:a ")
		// Also in a later batch, and for ever.
		y3 := h.accept(order{id: "o", subject: "pot"})
		h.want(y3, event.Rejected, core.ReasonConflict)
		h.wantOps("")
	})
	t.Run("an equal body under another code is an alias", func(t *testing.T) {
		h := newHarness(t)
		y := h.accept(order{id: "o", subject: "mug"})
		i, e := h.intent(order{id: "o", subject: "mug"})
		other, _ := ids.NewSecret([]byte("another-secret-another-secret-xx"))
		i.Y = other.Intent(e.Context.BizCode, "m1", "o", "deposit", "o", ids.FingerprintOf(i.Canonical))
		e.Payload = event.Encode(i)
		h.must(h.core.ApplyIntents(context.Background(), h.batch(bus.Intents, e)))
		if p := h.want(i.Y, event.Rejected, core.ReasonAlias); p.AliasOf != y {
			t.Fatalf("alias of %q, want %q", p.AliasOf, y)
		}
		h.wantOps("pay:a ")
	})
}

func TestIntentsThatAreRejected(t *testing.T) {
	for _, tc := range []struct {
		name   string
		first  []order
		second order
		reason string
	}{
		{"another amount", []order{{id: "o", key: "k1"}}, order{id: "o", key: "k2", amount: 9_999}, core.ReasonMismatch},
		{"another currency", []order{{id: "o", key: "k1"}}, order{id: "o", key: "k2", currency: "USD"}, core.ReasonMismatch},
		{"another scene", []order{{id: "o", key: "k1"}}, order{id: "o", key: "k2", sceneOther: true}, core.ReasonMismatch},
		{"merchant off", nil, order{merchant: "off", id: "o"}, core.ReasonMerchant},
		{"merchant gone", nil, order{merchant: "gone", id: "o"}, core.ReasonMerchant},
		{"currency not allowed", nil, order{id: "o", currency: "JPY"}, core.ReasonCurrency},
		{"amount over the bound", nil, order{id: "o", amount: 1_000_001}, core.ReasonAmount},
		{"no channel", nil, order{id: "o", currency: "USD"}, core.ReasonNoChannel},
		{"too many open", []order{{id: "o", key: "1"}, {id: "o", key: "2"}, {id: "o", key: "3"}, {id: "o", key: "4"}, {id: "o", key: "5"},
			{id: "o", key: "6"}, {id: "o", key: "7"}, {id: "o", key: "8"}}, order{id: "o", key: "9"}, core.ReasonTooMany},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHarness(t)
			for _, o := range tc.first {
				h.want(h.accept(o), event.Dispatched, "")
			}
			h.dispatches()
			h.want(h.accept(tc.second), event.Rejected, tc.reason)
			h.wantOps("")
		})
	}
}

func TestARejectedIntentFixesNothing(t *testing.T) {
	h := newHarness(t)
	h.want(h.accept(order{id: "o", key: "k1", amount: 1_000_001}), event.Rejected, core.ReasonAmount)
	y := h.accept(order{id: "o", key: "k2", amount: 500})
	h.want(y, event.Dispatched, "")
	trade, _, _ := core.Queries{Store: h.store}.Trade(context.Background(), y)
	if trade.Amount != money.Of(500, "CNY") || len(trade.Payments) != 2 {
		t.Fatalf("trade %+v", trade)
	}
}

func TestTheFirstIntentFixesTheExpiry(t *testing.T) {
	h := newHarness(t)
	first := h.payment(h.accept(order{id: "o", key: "k1", expires: time.Minute})).ExpiresAtMillis
	second := h.payment(h.accept(order{id: "o", key: "k2", expires: time.Hour})).ExpiresAtMillis
	if first != second {
		t.Fatalf("expiries %d and %d", first, second)
	}
}

func TestWhatExpiredInTheBacklogIsNeverSent(t *testing.T) {
	h := newHarness(t)
	i, e := h.intent(order{id: "o", expires: time.Minute})
	h.now = h.now.Add(time.Minute)
	h.must(h.core.ApplyIntents(context.Background(), h.batch(bus.Intents, e)))
	h.want(i.Y, event.Expired, core.ReasonExpiredBacklog)
	h.wantOps("")
}

func TestCallbacksConverge(t *testing.T) {
	for _, tc := range []struct {
		name string
		run  func(h *harness, y ids.Code)
	}{
		{"callback before the reply", func(h *harness, y ids.Code) {
			h.callback(y, 0, "a", paid("t1", 10_000))
			h.outcome(y, 0, event.OpPay, pendingOutcome())
		}},
		{"callback twice", func(h *harness, y ids.Code) {
			h.outcome(y, 0, event.OpPay, pendingOutcome())
			h.callback(y, 0, "a", paid("t1", 10_000))
			h.callback(y, 0, "a", paid("t1", 10_000))
		}},
		{"twice in one batch", func(h *harness, y ids.Code) {
			e := h.callbackEvent(y, 0, "a", paid("t1", 10_000))
			h.must(h.core.ApplyCallbacks(context.Background(), h.batch(bus.Callbacks, e, e)))
		}},
		{"after unknown", func(h *harness, y ids.Code) {
			h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.Unknown, Code: "timeout"})
			h.want(y, event.Unknown, "timeout")
			h.callback(y, 0, "a", paid("t1", 10_000))
		}},
		{"query says paid, then the callback", func(h *harness, y ids.Code) {
			h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.Unknown, Code: "timeout"})
			h.outcome(y, 0, event.OpQuery, channels.Outcome{Result: channels.Done, State: channels.StatePaid, TransactionID: "t1", Paid: money.Of(10_000, "CNY")})
			h.callback(y, 0, "a", paid("t1", 10_000))
		}},
		{"a late decline", func(h *harness, y ids.Code) {
			h.callback(y, 0, "a", paid("t1", 10_000))
			h.callback(y, 0, "a", channels.CallbackEvent{EventID: "e9", State: channels.StateDeclined, Code: "no_funds"})
			h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.Declined, Code: "no_funds"})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHarness(t)
			y := h.accept(order{id: "o"})
			tc.run(h, y)
			h.want(y, event.Succeeded, "")
			changed, surplus := h.changes()
			settled := 0
			for _, c := range changed {
				if c.Settled >= 0 {
					settled++
				}
			}
			if settled != 1 || len(surplus) != 0 {
				t.Fatalf("%d settlements, surplus %+v", settled, surplus)
			}
		})
	}
}

func TestSurplusIsToldOnce(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before func(h *harness, y ids.Code)
		e      channels.CallbackEvent
		status event.Status
		reason string
		why    string
	}{
		{"a second transaction", func(h *harness, y ids.Code) { h.callback(y, 0, "a", paid("t1", 10_000)) }, paid("t2", 10_000),
			event.Succeeded, "", core.WhySecondSuccess},
		{"paid after a decline", func(h *harness, y ids.Code) {
			h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.Declined, Code: "no_funds"})
		}, paid("t1", 10_000), event.Declined, "no_funds", core.WhyPaidAfterFinal},
		{"less than asked", func(*harness, ids.Code) {}, paid("t1", 9_999), event.Closed, core.ReasonAmountPaid, core.WhyAmountMismatch},
		{"more than asked", func(*harness, ids.Code) {}, paid("t1", 10_001), event.Closed, core.ReasonAmountPaid, core.WhyAmountMismatch},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHarness(t)
			y := h.accept(order{id: "o"})
			tc.before(h, y)
			h.changes()
			for range 3 { // repeated: told once
				h.callback(y, 0, "a", tc.e)
			}
			h.want(y, tc.status, tc.reason)
			_, surplus := h.changes()
			if len(surplus) != 1 || surplus[0].Why != tc.why || surplus[0].Paid != tc.e.Paid || surplus[0].TransactionID != tc.e.TransactionID {
				t.Fatalf("surplus %+v", surplus)
			}
		})
	}
}

func TestASecondPaymentOfAPaidOrderIsClosedOrSurplus(t *testing.T) {
	h := newHarness(t)
	y1 := h.accept(order{id: "o", key: "k1"})
	y2 := h.accept(order{id: "o", key: "k2"})
	h.outcome(y2, 0, event.OpPay, pendingOutcome())
	h.dispatches()
	h.callback(y1, 0, "a", paid("t1", 10_000))
	h.wantOps("close:a stop:a ")
	h.changes()
	h.callback(y2, 0, "a", paid("t2", 10_000))
	h.want(y2, event.Closed, core.ReasonOrderPaid)
	if _, s := h.changes(); len(s) != 1 || s[0].Why != core.WhySecondSuccess {
		t.Fatalf("surplus %+v", s)
	}
	trade, _, _ := core.Queries{Store: h.store}.Trade(context.Background(), y1)
	if trade.Paid != money.Of(10_000, "CNY") {
		t.Fatalf("trade paid %v", trade.Paid)
	}
	h.want(h.accept(order{id: "o", key: "k3"}), event.Rejected, core.ReasonOrderPaid)
}

func TestNotSentGoesToTheOtherAccountUnderAnotherNumber(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o"})
	h.wantOps("pay:a ")
	h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.NotSent, Code: "breaker_open"})
	if d := h.wantOps("pay:b "); d[0].OutTradeNo != ids.OutTradeNo(y, 1) {
		t.Fatalf("number %s", d[0].OutTradeNo)
	}
	h.want(y, event.Dispatched, "")
	// The other one fails too: the first number again, which never reached anyone, after a pause.
	h.outcome(y, 1, event.OpPay, channels.Outcome{Result: channels.NotSent, Code: "connect"})
	d := h.wantOps("pay:a ")
	if d[0].OutTradeNo != ids.OutTradeNo(y, 0) || d[0].NotBeforeMillis <= h.now.UnixMilli() {
		t.Fatalf("dispatch %+v", d[0])
	}
	h.outcome(y, 0, event.OpPay, pendingOutcome())
	h.want(y, event.Pending, "")
	h.callback(y, 0, "a", paid("t", 10_000))
	h.want(y, event.Succeeded, "")
}

func TestNotSentAfterExpiryEnds(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o", expires: time.Minute})
	h.now = h.now.Add(2 * time.Minute)
	h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.NotSent, Code: "expired"})
	h.want(y, event.Expired, core.ReasonExpiredBacklog)
}

func TestUnknownNeverOpensAnotherNumber(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o"})
	h.dispatches()
	h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.Unknown, Code: "timeout"})
	h.outcome(y, 0, event.OpQuery, channels.Outcome{Result: channels.Done, State: channels.StateNotFound})
	h.outcome(y, 0, event.OpQuery, channels.Outcome{Result: channels.Unknown, Code: "timeout"})
	h.outcome(y, 0, event.OpQuery, channels.Outcome{Result: channels.NotSent, Code: "breaker_open"})
	h.want(y, event.Unknown, "timeout")
	h.wantOps("")
}

func TestExpiryClosesAtTheChannelFirst(t *testing.T) {
	step := func(h *harness) {
		h.t.Helper()
		worked, err := h.core.StepTimers(context.Background())
		if err != nil || !worked {
			h.t.Fatalf("timers: %v %v", worked, err)
		}
	}
	for _, tc := range []struct {
		name   string
		answer channels.Outcome
		status event.Status
		reason string
	}{
		{"closed", channels.Outcome{Result: channels.Done, State: channels.StateClosed}, event.Expired, ""},
		{"paid meanwhile", channels.Outcome{Result: channels.Done, State: channels.StatePaid, TransactionID: "t", Paid: money.Of(10_000, "CNY")}, event.Succeeded, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHarness(t)
			y := h.accept(order{id: "o", expires: time.Minute})
			h.outcome(y, 0, event.OpPay, pendingOutcome())
			h.dispatches()
			if worked, err := h.core.StepTimers(context.Background()); worked || err != nil {
				t.Fatalf("something due at once: %v %v", worked, err)
			}
			h.now = h.now.Add(time.Minute + 5*time.Second)
			step(h)
			h.wantOps("close:a ")
			if p := h.want(y, event.Pending, ""); p.NextAction != core.ActionCloseAgain {
				t.Fatalf("next %q", p.NextAction)
			}
			h.outcome(y, 0, event.OpClose, channels.Outcome{Result: channels.Unknown, Code: "timeout"})
			h.outcome(y, 0, event.OpClose, channels.Outcome{Result: channels.Done, State: channels.StateNotFound})
			h.want(y, event.Pending, "")
			h.outcome(y, 0, event.OpClose, tc.answer)
			h.want(y, tc.status, tc.reason)
		})
	}
}

func TestACallbackOfAnotherAccountProvesNothing(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o"})
	h.dispatches()
	h.callback(y, 0, "b", paid("t1", 10_000))
	h.want(y, event.Dispatched, "")
	h.wantOps("query:a ")
}

func TestEvidenceThatComesBeforeItsOrderWaits(t *testing.T) {
	h := newHarness(t)
	i, e := h.intent(order{id: "o"})
	cb := bus.Event{ID: "evt_c", Type: event.TypeCallback, Version: 1, Context: e.Context, Payload: event.Encode(event.CallbackReceived{
		Channel: "sandbox", Account: "a", Event: channels.CallbackEvent{EventID: "e", OutTradeNo: ids.OutTradeNo(i.Y, 0), State: channels.StatePaid,
			TransactionID: "t", Paid: money.Of(10_000, "CNY")}})}
	b := h.batch(bus.Callbacks, cb)
	err := h.core.ApplyCallbacks(context.Background(), b)
	var poison *bus.PoisonError
	if !errors.As(err, &poison) || !errors.Is(err, core.ErrNoPayment) {
		t.Fatalf("error %v", err)
	}
	b.Parked = map[int]string{0: poison.Err.Error()}
	h.must(h.core.ApplyCallbacks(context.Background(), b))
	if msgs, _, err := h.store.TakeReplay(context.Background(), bus.Callbacks); err != nil || len(msgs) != 0 {
		t.Fatalf("replay before the order: %v %v", msgs, err)
	}
	h.must(h.core.ApplyIntents(context.Background(), h.batch(bus.Intents, e)))
	msgs, rows, err := h.store.TakeReplay(context.Background(), bus.Callbacks)
	if err != nil || len(msgs) != 1 {
		t.Fatalf("replay: %v %v", msgs, err)
	}
	h.must(h.core.ApplyCallbacks(context.Background(), &bus.Batch{Topic: bus.Callbacks, Messages: msgs, Replays: rows}))
	h.want(i.Y, event.Succeeded, "")
}

func TestABatchIsAppliedOnce(t *testing.T) {
	h := newHarness(t)
	_, e := h.intent(order{id: "o"})
	b := h.batch(bus.Intents, e)
	h.must(h.core.ApplyIntents(context.Background(), b))
	if err := h.core.ApplyIntents(context.Background(), b); !fault.Is(err, fault.Fenced) {
		t.Fatalf("the same batch again: %v", err)
	}
}

func TestADisabledMerchantIsSeenAtOnce(t *testing.T) {
	h := newHarness(t)
	s := directory()
	s.Version, s.Merchants[0].Enabled = 2, false
	if !h.dir.Replace(s) {
		t.Fatal("not replaced")
	}
	h.want(h.accept(order{id: "o"}), event.Rejected, core.ReasonMerchant)
	if h.dir.Replace(&merchant.Snapshot{Version: 2}) {
		t.Fatal("an equal version replaced the directory")
	}
}

func TestARefusedQuestionIsNotARefusedPayment(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o"})
	h.outcome(y, 0, event.OpPay, pendingOutcome())
	h.outcome(y, 0, event.OpQuery, channels.Outcome{Result: channels.Declined, Code: "bad_request"})
	h.outcome(y, 0, event.OpClose, channels.Outcome{Result: channels.Declined, Code: "bad_request"})
	h.want(y, event.Pending, "")
}

func TestADeclineForExpiryIsAnExpiry(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o"})
	h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.Declined, Code: "expired"})
	h.want(y, event.Expired, "expired")
}

func TestAnOutcomeOfAnotherAccountIsPoison(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o"})
	e := h.outcomeEvent(y, 0, event.OpPay, channels.Outcome{Result: channels.Declined})
	o, err := prepay.Decode(e.Payload)
	h.must(err)
	o.Account = "b"
	e.Payload = o.Encode()
	var poison *bus.PoisonError
	if err := h.core.ApplyOutcomes(context.Background(), h.batch(bus.Outcomes, e)); !errors.As(err, &poison) {
		t.Fatalf("error %v", err)
	}
	h.want(y, event.Dispatched, "")
}
