package event_test

import (
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// text is whatever a PSP or a merchant may send, UTF-8 or not; often nothing.
func text(t *rapid.T, name string) string {
	return rapid.OneOf(rapid.Just(""), rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		rapid.SampledFrom([]string{`"`, `\`, "\x00", "\u2028", "<&>", "\xff", "茶", "a\nb"})).Draw(t, name)
}

func number(t *rapid.T, name string) int64 {
	return rapid.OneOf(rapid.Just[int64](0), rapid.Int64(), rapid.SampledFrom([]int64{-1, 1, math.MaxInt64, math.MinInt64})).Draw(t, name)
}

func amount(t *rapid.T, name string) money.Amount {
	return money.Of(number(t, name), money.Currency(text(t, name+" currency")))
}

func paymentChanged(t *rapid.T) *event.PaymentChanged {
	p := &event.PaymentChanged{Settled: int(number(t, "settled"))}
	p.Y, p.OrderID, p.IdempotencyKey = ids.Code(text(t, "y")), text(t, "order"), text(t, "key")
	p.Status, p.Version, p.Reason, p.AliasOf = event.Status(text(t, "status")), number(t, "version"), text(t, "reason"), ids.Code(text(t, "alias"))
	p.Amount, p.Method, p.Subject = amount(t, "amount"), channels.Method(text(t, "method")), text(t, "subject")
	p.Credential = channels.Credential{Method: channels.Method(text(t, "credential method")), Value: text(t, "credential")}
	p.FeeRate, p.Fee = money.Rate(number(t, "rate")), amount(t, "fee")
	p.AcceptedAtMillis, p.ExpiresAtMillis = number(t, "accepted"), number(t, "expires")
	p.NextAction, p.NextAtMillis = text(t, "action"), number(t, "next")
	if n := rapid.IntRange(-1, 3).Draw(t, "attempts"); n >= 0 {
		p.Attempts = []event.Attempt{}
		for range n {
			p.Attempts = append(p.Attempts, event.Attempt{OutTradeNo: text(t, "number"), Channel: text(t, "channel"), Account: text(t, "account"),
				Status: event.Status(text(t, "attempt status")), Reason: text(t, "attempt reason"), TransactionID: text(t, "transaction"),
				Paid: amount(t, "paid"), PSPFeeRate: money.Rate(number(t, "psp rate")), PSPFee: amount(t, "psp fee")})
		}
	}
	return p
}

func dispatch(t *rapid.T) *event.Dispatch {
	return &event.Dispatch{Op: event.Op(text(t, "op")), Y: ids.Code(text(t, "y")), OutTradeNo: text(t, "number"), Account: text(t, "account"),
		Amount: amount(t, "amount"), Method: channels.Method(text(t, "method")), Subject: text(t, "subject"), ReturnURL: text(t, "url"),
		ExpiresAtMillis: number(t, "expires"), NotBeforeMillis: number(t, "not before")}
}

// What is appended by hand is what reflection gives, byte for byte.
func TestByHandAsByReflection(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, d := paymentChanged(t), dispatch(t)
		if have, want := string(p.Encode()), string(event.Encode(p)); have != want {
			t.Fatalf("by hand       %s\nby reflection %s", have, want)
		}
		if have, want := string(d.Encode()), string(event.Encode(d)); have != want {
			t.Fatalf("by hand       %s\nby reflection %s", have, want)
		}
	})
}

// Every field is set once, so that one that is added later is not forgotten here.
func TestNoFieldIsForgotten(t *testing.T) {
	for _, v := range []interface{ Encode() []byte }{&event.PaymentChanged{}, &event.Dispatch{}} {
		fill(reflect.ValueOf(v).Elem())
		if have, want := string(v.Encode()), string(event.Encode(v)); have != want {
			t.Errorf("by hand       %s\nby reflection %s", have, want)
		}
	}
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	default:
		panic("a kind of field that fill does not know: " + v.Type().String())
	}
}

// A reader gets the same from memory as from the bytes.
func TestMemoryAndPayloadSayTheSame(t *testing.T) {
	p, d := &event.PaymentChanged{}, &event.Dispatch{}
	fill(reflect.ValueOf(p).Elem())
	fill(reflect.ValueOf(d).Elem())
	for _, value := range []any{p, nil, "of another type", d} {
		have, err := event.ReadPaymentChanged(p.Encode(), value)
		if err != nil || !reflect.DeepEqual(have, p) {
			t.Errorf("from %T: %+v, %v", value, have, err)
		}
		ask, err := event.ReadDispatch(d.Encode(), value)
		if err != nil || !reflect.DeepEqual(ask, d) {
			t.Errorf("from %T: %+v, %v", value, ask, err)
		}
	}
	if _, err := event.ReadPaymentChanged([]byte("{"), nil); err == nil {
		t.Error("broken bytes were read")
	}
}
