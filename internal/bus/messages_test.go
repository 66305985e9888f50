package bus_test

import (
	"bytes"
	"encoding/hex"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	accounting "github.com/tallystick/tallystick/accounting/event"
	"github.com/tallystick/tallystick/channels"
	core "github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
	prepay "github.com/tallystick/tallystick/prepay/event"
)

// goldenMessage is a message as it was first written. Its bytes never change: they
// are in logs, and are read by builds of another release.
type goldenMessage struct {
	Topic   bus.Topic `json:"topic"`
	Type    string    `json:"type"`
	Payload string    `json:"payload"`
	Record  string    `json:"record"` // hexadecimal
	Kafka   struct {
		Partition int      `json:"partition"` // of 16
		Key       string   `json:"key"`
		Headers   []string `json:"headers"` // the value is the record
	} `json:"kafka"`
}

func goldenMessages(t *testing.T, file string) (out []goldenMessage) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

const (
	goldenX  = ids.Code("rb31x3qx24ejzkyed228xecdyx4")
	goldenY  = ids.Code("rb3st9z1yrax00mxf8e0fwgk40n")
	goldenNo = "rb3st9z1yrax00mxf8e0fwgk40n0"
)

// payloads are today's values, each with every field set: how it is written, and
// how it is read.
func payloads() map[string]struct {
	value  any
	encode func() []byte
	read   func([]byte) (any, error)
} {
	cny := func(minor int64) money.Amount { return money.Of(minor, "CNY") }
	intent := core.Intent{Y: goldenY, IdempotencyKey: "key-1", AcceptedAtMillis: 1732412345678, ExpiresAtMillis: 1732413245678,
		Canonical: jsontext.Value(`{"amount":1050,"currency":"CNY","metadata":{"a":"b"},"method":"redirect","order_id":"o-1","return_url":"https://shop.example/back","subject":"茶 <tea>"}`),
		OrderID:   "o-1", Amount: cny(1050), Method: channels.MethodRedirect, Subject: "茶 <tea>", ReturnURL: "https://shop.example/back", Metadata: map[string]string{"a": "b"}}
	callback := core.CallbackReceived{Channel: "sandbox", Account: "sandbox-a", Headers: map[string]string{"content-type": "application/json", "x-signature": "ab"},
		Event: channels.CallbackEvent{EventID: "n-1", OutTradeNo: goldenNo, State: channels.StatePaid, TransactionID: "t-1", Paid: cny(1050), Code: "ok",
			OccurredAt: time.Date(2024, 11, 24, 1, 2, 3, 4000, time.UTC), Attach: "x.y"},
		Raw: []byte("{\"raw\":\x00\xff}"), ReceivedAtMillis: 1732412345999}
	dispatch := core.Dispatch{Op: core.OpPay, Y: goldenY, OutTradeNo: goldenNo, Account: "sandbox-a", Amount: cny(1050), Method: channels.MethodQRCode,
		Subject: "茶 <tea>", ReturnURL: "https://shop.example/back", ExpiresAtMillis: 1732413185678, NotBeforeMillis: 1732412345700}
	outcome := prepay.Outcome{OutTradeNo: goldenNo, Account: "sandbox-a", Op: "pay", Try: 2, AtMillis: 1732412346000, NextAtMillis: 1732412356000,
		Outcome: channels.Outcome{Result: channels.Done, State: channels.StatePaid, Credential: channels.Credential{Method: channels.MethodQRCode, Value: "https://psp.example/q"},
			TransactionID: "t-1", Paid: cny(1050), Code: "ok", Message: "成功", Raw: []byte{0, 0xff}}}
	attempt := core.Attempt{OutTradeNo: goldenNo, Channel: "sandbox", Account: "sandbox-a", Status: core.Succeeded, Reason: "paid", TransactionID: "t-1",
		Paid: cny(1050), PSPFeeRate: 6000, PSPFee: cny(6)}
	changed := core.PaymentChanged{Settled: 1, Payment: core.Payment{Y: goldenY, OrderID: "o-1", IdempotencyKey: "key-1", Status: core.Succeeded, Version: 5,
		Reason: "none", AliasOf: goldenY, Amount: cny(1050), Method: channels.MethodQRCode, Subject: "茶 <tea>",
		Credential: channels.Credential{Method: channels.MethodQRCode, Value: "https://psp.example/q"}, Attempts: []core.Attempt{attempt}, FeeRate: 8000, Fee: cny(8),
		AcceptedAtMillis: 1732412345678, ExpiresAtMillis: 1732413245678, NextAction: "close", NextAtMillis: 1732413250678}}
	surplus := core.Surplus{Y: goldenY, OutTradeNo: goldenNo, Channel: "sandbox", Account: "sandbox-a", TransactionID: "t-2", Paid: cny(1050), PSPFee: cny(6), Why: "second_success"}
	entry := accounting.Entry{EntryID: "ent_1", EventID: "evt_1", Rule: "payment.received", Reason: "overdraft",
		Postings: []accounting.Posting{{Account: "psp_receivable:sandbox-a", Amount: cny(1050)}, {Account: "merchant_payable:m1", Amount: cny(-1050)}}}
	type way = struct {
		value  any
		encode func() []byte
		read   func([]byte) (any, error)
	}
	return map[string]way{
		core.TypeIntent:         {intent, func() []byte { return core.Encode(intent) }, func(b []byte) (any, error) { return decoded[core.Intent](b) }},
		core.TypeCallback:       {callback, func() []byte { return core.Encode(callback) }, func(b []byte) (any, error) { return decoded[core.CallbackReceived](b) }},
		core.TypeDispatch:       {dispatch, dispatch.Encode, func(b []byte) (any, error) { return decoded[core.Dispatch](b) }},
		prepay.TypeOutcome:      {outcome, outcome.Encode, func(b []byte) (any, error) { return prepay.Decode(b) }},
		core.TypePaymentChanged: {changed, changed.Encode, func(b []byte) (any, error) { return decoded[core.PaymentChanged](b) }},
		core.TypeSurplus:        {surplus, func() []byte { return core.Encode(surplus) }, func(b []byte) (any, error) { return decoded[core.Surplus](b) }},
		accounting.TypePosted:   {entry, entry.Encode, func(b []byte) (any, error) { return accounting.Decode(b) }},
		accounting.TypeRejected: {entry, entry.Encode, func(b []byte) (any, error) { return accounting.Decode(b) }},
	}
}

func decoded[T any](payload []byte) (any, error) {
	var v T
	err := core.Decode(payload, &v)
	return v, err
}

// event is the event of a golden message of a version.
func goldenEvent(typ string, payload []byte) bus.Event {
	return bus.Event{ID: "evt_01932f5c-1b4e-7a3d-8c21-000000000001", Type: typ, Version: 1, AtMillis: 1732412345678, Payload: payload,
		Context: ids.Context{BizCode: goldenX, Merchant: "m1", OrderType: "general", OrderScene: "online", Institution: "sandbox",
			TraceID: "0123456789abcdef0123456789abcdef", Form: traffic.Deposit, Traffic: traffic.Real}}
}

// Version 1 of every message: what is written today is what was written first, byte
// for byte, and what was written first is read as what it meant.
func TestMessagesV1(t *testing.T) {
	ways := payloads()
	for _, g := range goldenMessages(t, "messages_v1.json") {
		t.Run(string(g.Topic)+" "+g.Type, func(t *testing.T) {
			want, err := hex.DecodeString(g.Record)
			if err != nil {
				t.Fatal(err)
			}
			way, known := ways[g.Type]
			if !known {
				t.Fatal("nobody writes this type any more: its messages are still to be read")
			}
			payload := way.encode()
			if string(payload) != g.Payload {
				t.Errorf("the payload is written as\n%s, want\n%s", payload, g.Payload)
			}
			e := goldenEvent(g.Type, []byte(g.Payload))
			if have := bus.AppendRecord(nil, &e); !bytes.Equal(have, want) {
				t.Errorf("it is written as\n%x, want\n%x", have, want)
			}
			events, err := bus.ParseRecords(want)
			if err != nil || len(events) != 1 || !reflect.DeepEqual(events[0], e) {
				t.Fatalf("it is read as %+v, want %+v; %v", events, e, err)
			}
			value, err := way.read(events[0].Payload)
			if err != nil || !reflect.DeepEqual(value, way.value) {
				t.Errorf("its payload is read as\n%+v, want\n%+v; %v", value, way.value, err)
			}
			if g.Kafka.Key != string(goldenX) || g.Kafka.Partition != goldenX.Group(16) {
				t.Errorf("it goes to partition %d of 16 by its key %s", goldenX.Group(16), goldenX)
			}
		})
	}
}

// Version 2 exists in this test alone: one more field in the envelope and in each
// payload, and a type that nobody knows. This build reads it, keeps to what it
// knows, and hands on what it does not know: processes of two releases run side by
// side while one replaces the other.
func TestMessagesOfTheNextVersion(t *testing.T) {
	ways := payloads()
	unknown := 0
	for _, g := range goldenMessages(t, "messages_v2.json") {
		t.Run(string(g.Topic)+" "+g.Type, func(t *testing.T) {
			record, err := hex.DecodeString(g.Record)
			if err != nil {
				t.Fatal(err)
			}
			events, err := bus.ParseRecords(record)
			want := goldenEvent(g.Type, []byte(g.Payload))
			want.Version, want.Extra = 2, []byte("\x01\x05later")
			if err != nil || len(events) != 1 || !reflect.DeepEqual(events[0], want) {
				t.Fatalf("it is read as %+v, want %+v; %v", events, want, err)
			}
			if have := bus.AppendRecord(nil, &events[0]); !bytes.Equal(have, record) {
				t.Errorf("it is handed on as\n%x, want\n%x", have, record)
			}
			way, known := ways[g.Type]
			if !known {
				unknown++
				return
			}
			if value, err := way.read(events[0].Payload); err != nil || !reflect.DeepEqual(value, way.value) {
				t.Errorf("its payload is read as\n%+v, want\n%+v; %v", value, way.value, err)
			}
		})
	}
	if unknown != 6 {
		t.Errorf("%d messages of an unknown type: one for each topic is wanted", unknown)
	}
}

// Every type and every topic has its golden message.
func TestEveryTypeHasGoldenBytes(t *testing.T) {
	types, topics := map[string]bool{}, map[string]bool{}
	for _, g := range goldenMessages(t, "messages_v1.json") {
		types[g.Type], topics[string(g.Topic)] = true, true
	}
	for _, dir := range []string{"../../core/event", "../../prepay/event", "../../accounting/event"} {
		for name, value := range constants(t, dir) {
			if strings.HasPrefix(name, "Type") && !types[value] {
				t.Errorf("%s of %s has none", name, dir)
			}
		}
	}
	for _, topic := range []bus.Topic{bus.Intents, bus.Callbacks, bus.Dispatch, bus.Outcomes, bus.Payments, bus.Postings} {
		if !topics[string(topic)] {
			t.Errorf("topic %s has none", topic)
		}
	}
	for typ, way := range payloads() {
		if empty := emptyField(reflect.ValueOf(way.value)); empty != "" {
			t.Errorf("%s: the golden message does not set %s", typ, empty)
		}
	}
}

// constants are the text constants of a package.
func constants(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
				if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
					out[spec.Names[0].Name], _ = strconv.Unquote(lit.Value)
				}
			}
			return true
		})
	}
	return out
}

// emptyField names a field that is not set.
func emptyField(v reflect.Value) string {
	if v.Kind() != reflect.Struct || v.Type() == reflect.TypeFor[time.Time]() {
		return ""
	}
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		if f.IsZero() {
			return name
		}
		if f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct {
			f = f.Index(0)
		}
		if in := emptyField(f); in != "" {
			return name + "." + in
		}
	}
	return ""
}
