package event_test

import (
	"bytes"
	"os"
	"reflect"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/accounting/event"
	"github.com/tallystick/tallystick/internal/money"
)

// TestGoldenBytes: version 1 of the payload, kept for whoever reads old logs.
func TestGoldenBytes(t *testing.T) {
	for file, e := range map[string]event.Entry{
		"posted_v1.json": {EntryID: "ent_1", EventID: "evt_1", Rule: "payment.received", Postings: []event.Posting{
			{Account: "psp_receivable:cn-1", Amount: money.Of(100, "CNY")}, {Account: "merchant_payable:m1", Amount: money.Of(-100, "CNY")}}},
		"rejected_v1.json": {EntryID: "ent_2", EventID: "evt_2", Rule: "payout", Reason: "overdraft", Postings: []event.Posting{
			{Account: "wallet:m1", Amount: money.Of(5, "CNY")}, {Account: "bank", Amount: money.Of(-5, "CNY")}}},
	} {
		want, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Encode(); !bytes.Equal(got, bytes.TrimSpace(want)) {
			t.Errorf("%s: encoded %s, want %s", file, got, want)
		}
		if got, err := event.Decode(want); err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%s: decoded %+v (%v), want %+v", file, got, err, e)
		}
	}
}

// TestDecode: fields that a later version adds are passed over; damage is not.
func TestDecode(t *testing.T) {
	if e, err := event.Decode([]byte(`{"entry_id":"ent_1","later":{"x":[1]}}`)); err != nil || e.EntryID != "ent_1" {
		t.Errorf("a later version reads as %+v, %v", e, err)
	}
	for _, bad := range []string{``, `{`, `[]`, `{"postings":[{"amount":{"minor":"1"}}]}`, `{"entry_id":"a","entry_id":"b"}`} {
		if e, err := event.Decode([]byte(bad)); err == nil {
			t.Errorf("%q reads as %+v", bad, e)
		}
	}
}

// TestByHandAsByReflection: what is appended by hand is what reflection gives.
func TestByHandAsByReflection(t *testing.T) {
	text := rapid.OneOf(rapid.Just(""), rapid.String(), rapid.SampledFrom([]string{`"`, `\`, "\x00", "\u2028", "\xff", "a\nb"}))
	rapid.Check(t, func(t *rapid.T) {
		e := event.Entry{EntryID: text.Draw(t, "entry"), EventID: text.Draw(t, "event"), Rule: text.Draw(t, "rule"), Reason: text.Draw(t, "reason")}
		for range rapid.IntRange(0, 3).Draw(t, "postings") {
			e.Postings = append(e.Postings, event.Posting{Account: text.Draw(t, "account"),
				Amount: money.Of(rapid.Int64().Draw(t, "minor"), money.Currency(text.Draw(t, "currency")))})
		}
		want, err := json.Marshal(e, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
		if err != nil || !bytes.Equal(e.Encode(), want) {
			t.Fatalf("by hand       %s\nby reflection %s (%v)", e.Encode(), want, err)
		}
	})
}
