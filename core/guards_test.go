package core_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

func notSentOutcome() channels.Outcome {
	return channels.Outcome{Result: channels.NotSent, Code: "dial_failed"}
}

// The right number in the wrong currency is the wrong amount, and the PSP's fee is
// of what it received.
func TestAnotherCurrencyOrAmountSettlesNothing(t *testing.T) {
	for _, got := range []money.Amount{money.Of(10_000, "USD"), money.Of(7_000, "CNY")} {
		h := newHarness(t)
		y := h.accept(order{id: "o"})
		e := paid("t1", 1)
		e.Paid = got
		h.callback(y, 0, "a", e)
		h.want(y, event.Closed, core.ReasonAmountPaid)
		fee := money.Of(got.Minor*6/1000, got.Currency)
		if _, s := h.changes(); len(s) != 1 || s[0].Paid != got || s[0].PSPFee != fee {
			t.Errorf("%v: surplus %+v, want a fee of %v", got, s, fee)
		}
		if a := h.payment(y).Attempts[0]; a.Paid != got || a.PSPFee != fee {
			t.Errorf("%v: the attempt says %v with a fee of %v", got, a.Paid, a.PSPFee)
		}
	}
}

// A success without a transaction stands for one of the same amount alone.
func TestAnotherAmountIsAnotherTransaction(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o"})
	h.outcome(y, 0, event.OpQuery, channels.Outcome{Result: channels.Done, State: channels.StatePaid, Paid: money.Of(10_000, "CNY")})
	h.callback(y, 0, "a", paid("t1", 7_000))
	if _, s := h.changes(); len(s) != 1 || s[0].TransactionID != "t1" || s[0].Paid.Minor != 7_000 {
		t.Errorf("surplus %+v", s)
	}
}

// What a PSP says twice, and not the same, is booked once, and somebody is told.
func TestAContradictionIsTold(t *testing.T) {
	h := newHarness(t)
	log := &bytes.Buffer{}
	h.core.Log = slog.New(slog.NewJSONHandler(log, nil))
	y := h.accept(order{id: "o"})
	h.callback(y, 0, "a", paid("t1", 10_000))
	h.callback(y, 0, "a", paid("t2", 10_000)) // surplus
	h.callback(y, 0, "a", paid("t1", 10_000))
	h.callback(y, 0, "a", paid("t2", 10_000))
	if log.Len() > 0 {
		t.Errorf("told of a repetition: %s", log)
	}
	h.changes()
	h.callback(y, 0, "a", paid("t1", 99_000))
	h.callback(y, 0, "a", paid("t2", 99_000))
	if n := strings.Count(log.String(), "contradicts itself"); n != 2 || !strings.Contains(log.String(), string(h.context(y).BizCode)) {
		t.Errorf("%d lines: %s", n, log)
	}
	if c, s := h.changes(); len(c)+len(s) > 0 {
		t.Errorf("something was changed by it: %+v %+v", c, s)
	}
}

// Accounts that cannot be reached take turns, and the pause between two tries is
// bounded.
func TestUnreachableAccountsTakeTurns(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o", expires: 24 * time.Hour})
	h.outcome(y, 0, event.OpPay, notSentOutcome())
	h.dispatches()
	turns, n := "", 1
	for i := range 24 {
		h.outcome(y, n, event.OpPay, notSentOutcome())
		d := h.dispatches()
		if len(d) != 1 || d[0].Op != event.OpPay {
			t.Fatalf("round %d: %+v", i, d)
		}
		if pause := d[0].NotBeforeMillis - h.now.UnixMilli(); pause < 500 || pause > 30_000 {
			t.Errorf("round %d: a pause of %d ms", i, pause)
		}
		turns += d[0].Account
		n = strings.Index("ab", d[0].Account)
	}
	if turns != strings.Repeat("ab", 12) {
		t.Errorf("turns: %s", turns)
	}
}

func TestADisabledAccountGetsNothingNew(t *testing.T) {
	h := newHarness(t)
	s := directory()
	s.Version, s.Accounts[0].Enabled = 2, false
	h.dir.Replace(s)
	if a := h.payment(h.accept(order{id: "o"})).Attempts[0].Account; a != "b" {
		t.Errorf("the attempt is on account %s", a)
	}
}

// There are as many numbers as one character can tell apart.
func TestAttemptsAreBounded(t *testing.T) {
	h := newHarness(t)
	s := directory()
	s.Version = 2
	for i := range 40 {
		a := s.Accounts[0]
		a.ID = fmt.Sprint("x", i)
		s.Accounts = append(s.Accounts, a)
	}
	h.dir.Replace(s)
	y := h.accept(order{id: "o"})
	for i := range ids.AttemptsMax {
		h.outcome(y, i, event.OpPay, notSentOutcome())
	}
	if p := h.payment(y); len(p.Attempts) != ids.AttemptsMax || p.Status != event.Dispatched {
		t.Errorf("%d attempts, %s", len(p.Attempts), p.Status)
	}
}

// What was paid after the end is in the row, not only in memory.
func TestATransactionAfterTheEndIsStored(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o"})
	h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.Declined, Code: "no"})
	h.callback(y, 0, "a", paid("t1", 10_000))
	h.core, h.store = h.open()
	if a := h.payment(y).Attempts[0]; a.TransactionID != "t1" || a.Paid.Minor != 10_000 {
		t.Errorf("%+v", a)
	}
}

// Only deposits have a flow; another form reaches no PSP.
func TestOtherFormsAreRejected(t *testing.T) {
	for _, f := range []traffic.Form{traffic.Withdrawal, traffic.Refund, traffic.Transfer} {
		h := newHarness(t)
		i, e := h.intent(order{id: "o"})
		e.Context.Form = f
		h.must(h.core.ApplyIntents(context.Background(), h.batch("intents", e)))
		h.want(i.Y, event.Rejected, core.ReasonForm)
		h.wantOps("")
	}
}

// An unanswered question says nothing of a call that may still be under way.
func TestAnUnansweredQuestionChangesNothing(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o"})
	h.changes()
	for _, op := range []event.Op{event.OpQuery, event.OpClose} {
		h.outcome(y, 0, op, channels.Outcome{Result: channels.Unknown, Code: "timeout"})
		h.outcome(y, 0, op, notSentOutcome())
	}
	h.want(y, event.Dispatched, "")
	if c, _ := h.changes(); len(c) > 0 {
		t.Errorf("%+v", c)
	}
}

// A success of one number closes the payment order's own other number at its PSP,
// and what becomes of that one is still taken note of.
func TestASuccessClosesThePaymentsOwnOtherNumber(t *testing.T) {
	for name, second := range map[string]int64{"settled": 10_000, "a wrong amount": 9_000} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			y := h.accept(order{id: "o"})
			h.outcome(y, 0, event.OpPay, notSentOutcome())
			h.outcome(y, 1, event.OpPay, pendingOutcome())
			h.dispatches()
			h.callback(y, 0, "a", paid("t1", second))
			h.wantOps("close:b stop:a ")
			h.changes()
			h.outcome(y, 1, event.OpClose, channels.Outcome{Result: channels.Done, State: channels.StateClosed})
			if a := h.payment(y).Attempts[1]; a.Status != event.Closed {
				t.Errorf("the other number is %s for ever", a.Status)
			}
			if c, s := h.changes(); len(c)+len(s) > 0 {
				t.Errorf("a final order changed: %+v %+v", c, s)
			}
		})
	}
}
