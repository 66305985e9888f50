package wire_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/money"
)

var at = time.Unix(1_700_000_000, 0)

func ring(t *testing.T, secrets ...string) *wire.Ring {
	t.Helper()
	var all [][]byte
	for _, s := range secrets {
		all = append(all, []byte(s))
	}
	r, err := wire.NewRing(all...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const secret, other = "0123456789abcdef", "fedcba9876543210"

// The signatures were made with Python's hmac and hashlib, from PROTOCOL.md.
func TestGoldenSignatures(t *testing.T) {
	r := ring(t, secret)
	if id := wire.KeyID([]byte(secret)); id != "33ce155880b5" {
		t.Errorf("key id %s", id)
	}
	for _, c := range []struct {
		kind                  wire.Kind
		subject, body, golden string
	}{
		{wire.KindRequest, wire.PathQuery, `{"out_trade_no":"r0"}`, "29028808615669ba4ab412e688712df17cc0d2d4e166b7ff9c212feb84d51200"},
		{wire.KindReply, wire.ReplySubject(200, wire.PathQuery), `{"code":"ok"}`, "2a55a3b0adefa2bfe2362a85c40cba609f500c8a2bb18fed891e149aa4f2c899"},
		{wire.KindCallback, "", `{}`, "201df149f84571269eb41f61879f6e4ced6442d63e7c828ed73ab222f6f455da"},
	} {
		s := r.Sign(c.kind, c.subject, "acct", "nonce-01", at, []byte(c.body))
		if s.Signature != c.golden {
			t.Errorf("%s: %s, want %s", c.kind, s.Signature, c.golden)
		}
	}
}

func TestVerify(t *testing.T) {
	body := []byte(`{"a":1}`)
	good := ring(t, secret).Sign(wire.KindCallback, "", "acct", "nonce-01", at, body)
	change := func(f func(*wire.Seal)) wire.Seal { s := good; f(&s); return s }
	for _, c := range []struct {
		name    string
		ring    *wire.Ring
		kind    wire.Kind
		subject string
		account string
		seal    wire.Seal
		body    []byte
		want    bool
	}{
		{"genuine", ring(t, secret), wire.KindCallback, "", "acct", good, body, true},
		{"old key, being rotated out", ring(t, other, secret), wire.KindCallback, "", "acct", good, body, true},
		{"key rotated out", ring(t, other), wire.KindCallback, "", "acct", good, body, false},
		{"another kind", ring(t, secret), wire.KindReply, "", "acct", good, body, false},
		{"another subject", ring(t, secret), wire.KindCallback, "/v1/pay", "acct", good, body, false},
		{"another account asked", ring(t, secret), wire.KindCallback, "", "acct2", good, body, false},
		{"another account claimed", ring(t, secret), wire.KindCallback, "", "acct2", change(func(s *wire.Seal) { s.Account = "acct2" }), body, false},
		{"another body", ring(t, secret), wire.KindCallback, "", "acct", good, []byte(`{"a":2}`), false},
		{"another time", ring(t, secret), wire.KindCallback, "", "acct", change(func(s *wire.Seal) { s.Timestamp = "1700000001" }), body, false},
		{"another nonce", ring(t, secret), wire.KindCallback, "", "acct", change(func(s *wire.Seal) { s.Nonce = "nonce-02" }), body, false},
		{"no signature", ring(t, secret), wire.KindCallback, "", "acct", change(func(s *wire.Seal) { s.Signature = "" }), body, false},
		{"upper case", ring(t, secret), wire.KindCallback, "", "acct", change(func(s *wire.Seal) { s.Signature = strings.ToUpper(s.Signature) }), body, false},
		{"no key", ring(t, secret), wire.KindCallback, "", "acct", change(func(s *wire.Seal) { s.Key = "" }), body, false},
		{"a line in the nonce", ring(t, secret), wire.KindCallback, "", "acct", change(func(s *wire.Seal) { s.Nonce = "nonce\n01" }), body, false},
		{"a sign in the time", ring(t, secret), wire.KindCallback, "", "acct", change(func(s *wire.Seal) { s.Timestamp = "+1700000000" }), body, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.ring.Verify(c.kind, c.subject, c.account, c.seal, c.body); got != c.want {
				t.Errorf("verify = %v", got)
			}
		})
	}
}

// A line that moves from one field into the next must not keep its signature.
func TestFieldsDoNotRunIntoEachOther(t *testing.T) {
	r := ring(t, secret)
	for _, nonce := range []string{"nonce\nxx", "short", strings.Repeat("n", 65), "nonce 01"} {
		s := r.Sign(wire.KindCallback, "", "acct", nonce, at, nil)
		if r.Verify(wire.KindCallback, "", "acct", s, nil) {
			t.Errorf("nonce %q is accepted", nonce)
		}
	}
	s := r.Sign(wire.KindCallback, "", "acct", "nonce-01", time.Unix(-5, 0), nil)
	if r.Verify(wire.KindCallback, "", "acct", s, nil) {
		t.Errorf("timestamp %q is accepted", s.Timestamp)
	}
}

func TestFresh(t *testing.T) {
	for _, c := range []struct {
		stamp string
		want  bool
	}{
		{"1700000000", true}, {"1699999700", true}, {"1699999699", false}, {"1700000300", true}, {"1700000301", false},
		{"", false}, {"x", false}, {"99999999999999999999", false}, {"-9223372036854775808", false},
	} {
		if got := (wire.Seal{Timestamp: c.stamp}).Fresh(at); got != c.want {
			t.Errorf("fresh(%q) = %v", c.stamp, got)
		}
	}
}

func TestRingBounds(t *testing.T) {
	long := bytes.Repeat([]byte("k"), 257)
	for name, keys := range map[string][][]byte{
		"none": {}, "three": {[]byte(secret), []byte(other), []byte(secret)}, "short": {[]byte("short")}, "long": {long},
		"second short": {[]byte(secret), nil},
	} {
		if _, err := wire.NewRing(keys...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func pay() wire.Pay {
	return wire.Pay{OutTradeNo: "r0", Amount: money.Of(1, "CNY"), Method: channels.MethodQRCode, Subject: "Tea \"<&绿\n",
		ReturnURL: "https://shop.test/back", NotifyURL: "http://us.test/cb", ExpiresAtMillis: 1, Attach: "a|b"}
}

// What is appended by hand is what is read by the library, every field of it.
func TestPayRoundTrip(t *testing.T) {
	bare := pay()
	bare.ReturnURL, bare.Attach = "", ""
	for _, want := range []wire.Pay{pay(), bare} {
		b, err := want.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		var got wire.Pay
		if err := wire.ParseRequest(b, &got); err != nil || got != want {
			t.Errorf("%s: %+v, %v", b, got, err)
		}
	}
	bad := pay()
	bad.Subject = "\xff"
	if _, err := bad.Append(nil); err == nil {
		t.Error("a subject that is not UTF-8 is sent")
	}
}

func TestPayValidate(t *testing.T) {
	ok := pay()
	if err := ok.Validate(); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range map[string]func(*wire.Pay){
		"out_trade_no": func(p *wire.Pay) { p.OutTradeNo = "a/b" },
		"amount":       func(p *wire.Pay) { p.Amount.Minor = 0 },
		"currency":     func(p *wire.Pay) { p.Amount.Currency = "cny" },
		"method":       func(p *wire.Pay) { p.Method = "cash" },
		"subject":      func(p *wire.Pay) { p.Subject = "" },
		"return_url":   func(p *wire.Pay) { p.ReturnURL = strings.Repeat("x", 513) },
		"notify_url":   func(p *wire.Pay) { p.NotifyURL = "" },
		"expires_at":   func(p *wire.Pay) { p.ExpiresAtMillis = 0 },
		"attach":       func(p *wire.Pay) { p.Attach = strings.Repeat("x", 129) },
	} {
		p := pay()
		spoil(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestParseRequestIsStrict(t *testing.T) {
	for _, body := range []string{``, `[]`, `{"out_trade_no":"a","x":1}`, `{"out_trade_no":"a","out_trade_no":"b"}`,
		`{"out_trade_no":"a"}{}`, "{\"out_trade_no\":\"\xff\"}", `{"out_trade_no":1}`} {
		if err := wire.ParseRequest([]byte(body), &wire.Ask{}); err == nil {
			t.Errorf("%s is accepted", body)
		}
	}
}

func FuzzParseReply(f *testing.F) {
	f.Add([]byte(`{"code":"ok","out_trade_no":"r0","state":"paid","transaction_id":"t","paid":{"minor":1,"currency":"CNY"}}`))
	f.Add([]byte(`{"code":"ok","state":"paid"}`))
	f.Add([]byte(`{"code":"ok","paid":{"minor":1e3}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := wire.ParseReply(b)
		if err != nil {
			return
		}
		if r.Code == "" || (r.State == channels.StatePaid) != (r.Paid.Minor > 0) {
			t.Errorf("%s: %+v", b, r)
		}
		if again, err := wire.ParseReply(wire.Marshal(r)); err != nil || again != r {
			t.Errorf("%s: %+v, then %+v, %v", b, r, again, err)
		}
	})
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`{"event_id":"e","out_trade_no":"r0","state":"paid","transaction_id":"t","paid":{"minor":1,"currency":"CNY"},"occurred_at_millis":1}`))
	f.Add([]byte(`{"event_id":"e","out_trade_no":"r0","state":"closed","occurred_at_millis":1,"new":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := wire.ParseEvent(b)
		if err != nil {
			return
		}
		if e.EventID == "" || e.OutTradeNo == "" || (e.State == channels.StatePaid) != (e.Paid.Minor > 0) {
			t.Errorf("%s: %+v", b, e)
		}
		if again, err := wire.ParseEvent(wire.Marshal(e)); err != nil || again != e {
			t.Errorf("%s: %+v, then %+v, %v", b, e, again, err)
		}
	})
}
