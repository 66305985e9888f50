package core_test

import (
	"strings"
	"testing"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/sqlstore"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/engines/pgtest"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
)

var server pgtest.Server

func TestMain(m *testing.M) { server.Main(m) }

// TestWhatAPSPSaysIsKept: text that is none, or longer than any key, is told and kept
// on PostgreSQL too, which refuses it. A refusal would be repeated for ever, and with
// it the batch of all the others.
func TestWhatAPSPSaysIsKept(t *testing.T) {
	p := server.Schema(t)
	if err := sqlstore.Migrate(t.Context(), sqldb.Options{Postgres: p, NoSync: true}, ""); err != nil {
		t.Fatal(err)
	}
	h := newHarnessOn(t, p)
	for name, bad := range map[string]string{"nul": "a\x00b", "gbk": "\xd6\xa7\xb8\xb6", "cut": "é\xc3", "long": strings.Repeat("x", 10_000)} {
		y := h.accept(order{id: name})
		h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.Unknown, Code: bad, Message: bad})
		h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.Done, State: channels.StatePending,
			Credential: channels.Credential{Method: channels.MethodQRCode, Value: bad}})
		e := paid(bad, 10_000)
		e.Code, e.Attach = bad, bad
		h.callback(y, 0, "a", e)
		h.outcome(y, 0, event.OpQuery, channels.Outcome{Result: channels.Done, State: channels.StatePaid, TransactionID: bad, Paid: money.Of(10_000, "CNY")})
		have := h.payment(y)
		if id := have.Attempts[0].TransactionID; have.Status != event.Succeeded || id == "" || id != channels.Identifier(id) {
			t.Errorf("%s: %s, transaction %q", name, have.Status, have.Attempts[0].TransactionID)
		}
		h.outcome(y, 0, event.OpQuery, channels.Outcome{Result: channels.Done, State: channels.StatePaid, TransactionID: bad + "2", Paid: money.Of(10_000, "CNY")})
		declined := h.accept(order{id: name + "2"})
		h.outcome(declined, 0, event.OpPay, channels.Outcome{Result: channels.Declined, Code: bad})
		if have := h.payment(declined); have.Status != event.Declined {
			t.Errorf("%s: %s", name, have.Status)
		}
	}
	if _, surplus := h.changes(); len(surplus) != 4 {
		t.Errorf("%d second transactions are surplus, want 4", len(surplus))
	}
}

// TestAReasonForParkingIsKept: it may quote what it is the reason for.
func TestAReasonForParkingIsKept(t *testing.T) {
	p := server.Schema(t)
	if err := sqlstore.Migrate(t.Context(), sqldb.Options{Postgres: p, NoSync: true}, ""); err != nil {
		t.Fatal(err)
	}
	h := newHarnessOn(t, p)
	y := h.accept(order{id: "o1"})
	e := h.outcomeEvent(y, 0, event.OpPay, channels.Outcome{Result: channels.Done})
	b := h.batch(bus.Outcomes, e)
	b.Parked = map[int]string{0: "unknown type \x00 \xff of " + core.ErrNoPayment.Error()}
	h.must(h.core.ApplyOutcomes(t.Context(), b))
	list, err := h.store.Parked().List(t.Context(), "")
	if err != nil || len(list) != 1 || !strings.HasPrefix(list[0].Reason, "unknown type \uFFFD \uFFFD of ") {
		t.Errorf("%+v, %v", list, err)
	}
}
