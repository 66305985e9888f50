package channels_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/internal/money"
)

func fit(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

func TestText(t *testing.T) {
	for in, want := range map[string]string{"": "", "ok": "ok", "支付 成功": "支付 成功", "a\x00b": "a\uFFFDb", "\xd6\xa7\xb8\xb6": "\u05a7\uFFFD",
		"\x00": "\uFFFD", "\xff\x00": "\uFFFD\uFFFD", "\ttab\n": "\ttab\n"} {
		if have := channels.Text(in); have != want || !fit(have) {
			t.Errorf("%q is made %q, want %q", in, have, want)
		}
	}
	for most := range 12 {
		if have := channels.TextMax("a支付\x00b", most); len(have) > most || !fit(have) || !strings.HasPrefix("a支付\uFFFDb", have) {
			t.Errorf("%d bytes: %q", most, have)
		}
	}
}

// TestIdentifiersStayApart: money hangs on a transaction being told from another.
func TestIdentifiersStayApart(t *testing.T) {
	long := strings.Repeat("x", channels.IDBytesMax)
	seen := map[string]string{}
	for _, in := range []string{"", "2026112522001", long, long + "y", long + "z", "a\x00", "a\xff", "a\xfe", "a\uFFFD", "\x00", "\x00\x00", strings.Repeat("支", 100), strings.Repeat("支", 101)} {
		have := channels.Identifier(in)
		if len(have) > channels.IDBytesMax || !fit(have) || channels.Identifier(have) != have {
			t.Errorf("%q is made %q", in, have)
		}
		if fit(in) && len(in) <= channels.IDBytesMax && have != in {
			t.Errorf("%q is changed to %q", in, have)
		}
		if other, taken := seen[have]; taken {
			t.Errorf("%q and %q are the same", in, other)
		}
		seen[have] = in
	}
}

func TestStorable(t *testing.T) {
	const bad = "\xff\x00é"
	o := channels.Outcome{Result: channels.Done, State: bad, Credential: channels.Credential{Method: bad, Value: bad}, TransactionID: bad,
		Paid: money.Amount{Minor: 5, Currency: bad}, Code: bad, Message: bad, Raw: []byte(bad)}.Storable()
	e := channels.CallbackEvent{EventID: bad, OutTradeNo: bad, State: bad, TransactionID: bad, Paid: money.Amount{Minor: 5, Currency: bad},
		Code: bad, Attach: bad, OccurredAt: time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC)}.Storable()
	for _, s := range []string{string(o.State), string(o.Credential.Method), o.Credential.Value, o.TransactionID, string(o.Paid.Currency), o.Code, o.Message,
		e.EventID, e.OutTradeNo, string(e.State), e.TransactionID, string(e.Paid.Currency), e.Code, e.Attach} {
		if !fit(s) || !strings.Contains(s, "é") {
			t.Errorf("%q", s)
		}
	}
	if string(o.Raw) != bad || o.Paid.Minor != 5 || e.Paid.Minor != 5 || o.Result != channels.Done || !e.OccurredAt.IsZero() || o.TransactionID != e.TransactionID {
		t.Errorf("%+v %+v", o, e)
	}
}
