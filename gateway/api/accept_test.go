package api_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

func (h *harness) seller() *merchant.Merchant { return h.directory.Current().Merchant("m1") }

func (h *harness) begin(body, key string) (*api.Acceptance, error) {
	return h.server.Begin(h.seller(), api.Call{Body: []byte(body), IdempotencyKey: key})
}

func TestAcceptedIntentIsWhatWasAsked(t *testing.T) {
	h := newHarness(t, nil).listen()
	body := `{"metadata":{"b":"2","a":"Zoë"},"order_id":"order-1","amount":1999,"currency":"CNY","subject":"T\u0065a \"fine\"",
		"order_type":"retail","order_scene":"app","method":"redirect","return_url":"https://shop.example/back?x=1","expires_in_seconds":600}`
	a := h.do(request{method: "POST", path: "/v1/payments", key: apiKey, body: []byte(body), headers: [][2]string{{"Idempotency-Key", "key-1"},
		{"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}})
	if a.status != 202 || a.get("status") != "accepted" || a.header["Cache-Control"] != "no-store" {
		t.Fatalf("have %d %s %v", a.status, a.body, a.header)
	}
	if a.get("trace_id") != "0af7651916cd43dd8448eb211c80319c" || a.header["X-Trace-Id"] != a.get("trace_id") || !strings.HasPrefix(a.header["Traceparent"], "00-"+a.get("trace_id")+"-") {
		t.Errorf("trace id not handed on: %s %v", a.body, a.header)
	}
	e := h.intake.events[0]
	var i event.Intent
	if err := event.Decode(e.Payload, &i); err != nil {
		t.Fatal(err)
	}
	if e.ID != a.get("voucher") || e.Type != event.TypeIntent || e.Version != bus.EnvelopeVersion || string(i.Y) != strings.TrimPrefix(a.get("payment"), "pay_") {
		t.Errorf("event %+v", e)
	}
	want := ids.Context{BizCode: ids.Code(strings.TrimPrefix(a.get("trade"), "trd_")), Merchant: "m1", OrderType: "retail", OrderScene: "app",
		TraceID: "0af7651916cd43dd8448eb211c80319c", Form: traffic.Deposit, Traffic: traffic.Real}
	if e.Context != want || e.Context.Validate() != nil {
		t.Errorf("context %+v, want %+v", e.Context, want)
	}
	if i.OrderID != "order-1" || i.IdempotencyKey != "key-1" || i.Amount != money.Of(1999, "CNY") || i.Method != channels.MethodRedirect ||
		i.Subject != `Tea "fine"` || i.ReturnURL != "https://shop.example/back?x=1" || i.Metadata["a"] != "Zoë" || i.Metadata["b"] != "2" || len(i.Metadata) != 2 ||
		i.ExpiresAtMillis-i.AcceptedAtMillis != 600_000 {
		t.Errorf("intent %+v", i)
	}
	if y := h.secret.Intent(want.BizCode, "m1", "order-1", traffic.Deposit, "key-1", ids.FingerprintOf(i.Canonical)); y != i.Y {
		t.Error("the code is not a function of the canonical body")
	}
	if !bytes.Equal(event.Encode(i), e.Payload) {
		t.Errorf("not what event.Encode gives:\n%s\n%s", e.Payload, event.Encode(i))
	}
	if !slices.Equal(h.points, []string{"gateway.committed_not_answered"}) {
		t.Errorf("crash points passed: %v", h.points)
	}
}

// The encoder without reflection must not drift from event.Encode.
func TestIntentBytesAreEventEncode(t *testing.T) {
	h := newHarness(t, nil)
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.StringMatching(`[^\x00-\x1f\x7f-\x9f]{1,40}`)
		r := struct {
			O string            `json:"order_id"`
			A int64             `json:"amount"`
			C string            `json:"currency"`
			S string            `json:"subject"`
			M map[string]string `json:"metadata,omitzero"`
			U string            `json:"return_url,omitzero"`
		}{rapid.StringMatching(`[A-Za-z0-9._:-]{1,64}`).Draw(rt, "order"), rapid.Int64Range(1, 1_000_000).Draw(rt, "amount"), "CNY", text.Draw(rt, "subject"),
			rapid.MapOfN(rapid.StringMatching(`[A-Za-z0-9._-]{1,40}`), text, 0, 4).Draw(rt, "metadata"),
			rapid.SampledFrom([]string{"", "https://a.example/%22?q=<&>"}).Draw(rt, "url")}
		before := h.intake.count()
		_, err := h.begin(string(event.Encode(r)), "")
		if err != nil {
			if fault.Is(err, fault.Invalid) { // such as a card number by chance
				rt.Skip()
			}
			rt.Fatal(err)
		}
		var i event.Intent
		payload := h.intake.events[before].Payload
		if err := event.Decode(payload, &i); err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(event.Encode(i), payload) || i.Subject != r.S {
			rt.Fatalf("%s\n%s", payload, event.Encode(i))
		}
	})
}

func TestSameKeyAndBodyIsTheSameVoucher(t *testing.T) {
	h := newHarness(t, nil)
	first, err := h.begin(goodBody, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("in flight: appended again, as nobody knows yet", func(t *testing.T) {
		again, err := h.begin(`{"subject":"A pound of tea","currency":"CNY","amount":1999,"order_id":"order-1"}`, "order-1")
		if err != nil || again.Y != first.Y || h.intake.count() != 2 {
			t.Errorf("%+v, %v, %d appended", again, err, h.intake.count())
		}
	})
	if err := h.server.Finish(first); err != nil {
		t.Fatal(err)
	}
	t.Run("committed: answered from memory", func(t *testing.T) {
		again, err := h.begin(goodBody, "")
		if err != nil || again.Y != first.Y || h.intake.count() != 2 {
			t.Errorf("%+v, %v, %d appended", again, err, h.intake.count())
		}
		if err := h.server.Finish(again); err != nil {
			t.Error(err)
		}
	})
	t.Run("another key is another payment of the trade", func(t *testing.T) {
		other, err := h.begin(goodBody, "second")
		if err != nil || other.Y == first.Y || other.Context.BizCode != first.Context.BizCode {
			t.Errorf("%+v, %v", other, err)
		}
	})
	t.Run("another gateway gives the same voucher", func(t *testing.T) {
		elsewhere := newHarness(t, nil)
		again, err := elsewhere.begin(goodBody, "")
		if err != nil || again.Y != first.Y {
			t.Errorf("%+v, %v", again, err)
		}
	})
}

func TestSameKeyOtherBody(t *testing.T) {
	const other = `{"order_id":"order-1","amount":2000,"currency":"CNY","subject":"A pound of tea"}`
	t.Run("409 once the first is committed", func(t *testing.T) {
		h := newHarness(t, nil).listen()
		if a := h.pay(goodBody, ""); a.status != 202 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		a := h.pay(other, "")
		if a.status != 409 || a.get("code") != "idempotency_conflict" || h.intake.count() != 1 {
			t.Errorf("%d %s, %d appended", a.status, a.body, h.intake.count())
		}
	})
	t.Run("a first that was not committed proves nothing", func(t *testing.T) {
		h := newHarness(t, nil)
		h.intake.fate = &fault.Error{Kind: fault.Unavailable, Code: "not_committed"}
		a, err := h.begin(goodBody, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.server.Finish(a); !fault.Is(err, fault.Unavailable) {
			t.Fatal(err)
		}
		if _, err := h.begin(other, ""); err != nil {
			t.Errorf("refused because of what was never kept: %v", err)
		}
	})
	t.Run("two committed at once: core decides", func(t *testing.T) {
		h := newHarness(t, nil)
		a, err1 := h.begin(goodBody, "")
		b, err2 := h.begin(other, "")
		if err := errors.Join(err1, err2, h.server.Finish(b), h.server.Finish(a)); err != nil {
			t.Fatal(err)
		}
		for _, body := range []string{goodBody, other} {
			if _, err := h.begin(body, ""); err != nil {
				t.Errorf("%s: %v", body, err)
			}
		}
	})
}

// What core rejected was not the first of its key after all: another gateway's was.
func TestARejectedFirstProvesNoConflict(t *testing.T) {
	h := newHarness(t, nil).listen()
	_, x, i := h.accepted()
	h.core.knows(x, paymentOf(i, event.Rejected, 1))
	h.get("/v1/vouchers/"+ids.VoucherID.With(i.Y), apiKey)
	if a := h.pay(strings.Replace(goodBody, "1999", "2000", 1), ""); a.status != 202 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// These codes were given out. A change of the canonical form gives every retry of
// an old request another voucher: it must never happen by accident.
func TestCodesNeverChange(t *testing.T) {
	h := newHarness(t, nil)
	for body, want := range map[string][2]string{
		goodBody: {"rd6c4b7jxm93ndt8dchqct7nxn2", "rd6mp8912c05rjrg43pg65041qs"},
		`{"order_id":"o:2","amount":1,"currency":"USD","subject":"茶","order_type":"a","order_scene":"b","method":"redirect","return_url":"https://a.example/","expires_in_seconds":60,"metadata":{"b":"2","a":"1"}}`: {"rng7kh54hakqc5jm5yfgz6f06y1", "rngjnqnz2a551sy8m9a33x8m6qt"},
	} {
		a, err := h.begin(body, "key-1")
		if err != nil {
			t.Fatal(err)
		}
		if have := [2]string{string(a.Context.BizCode), string(a.Y)}; have != want {
			t.Errorf("%s\nhave %q\nwant %q", body, have, want)
		}
	}
}

func TestThreeValuedAnswer(t *testing.T) {
	cases := []struct {
		name   string
		setup  func(*intake)
		status int
		code   string
		ids    bool
	}{
		{"intake refuses", func(in *intake) { in.refuse = &fault.Error{Kind: fault.Unavailable, Code: "backlog_bytes"} }, 503, "not_accepted", false},
		{"batch rolled back", func(in *intake) { in.fate = &fault.Error{Kind: fault.Unavailable, Code: "not_committed"} }, 503, "not_accepted", false},
		{"fsync failed", func(in *intake) { in.fate = &fault.Error{Kind: fault.Unknown} }, 504, "acceptance_unknown", true},
		{"any other error of a commit proves nothing", func(in *intake) { in.fate = errors.New("?") }, 504, "acceptance_unknown", true},
		{"too slow, withdrawn", func(in *intake) { in.manual = true }, 503, "not_accepted", false},
		{"too slow, sealed", func(in *intake) { in.manual, in.sealed = true, true }, 504, "acceptance_unknown", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := newHarness(t, nil).listen()
			c.setup(h.intake)
			a := h.pay(goodBody, "")
			if a.status != c.status || a.get("code") != c.code || a.header["Content-Type"] != "application/problem+json" {
				t.Fatalf("%d %s", a.status, a.body)
			}
			if a.get("token") != "" || (a.get("voucher") != "") != c.ids || (a.get("trade") != "") != c.ids {
				t.Errorf("ids or token: %s", a.body)
			}
			if (a.header["Retry-After"] != "") != (c.status == 503) {
				t.Errorf("Retry-After %q", a.header["Retry-After"])
			}
			if c.code == "not_accepted" && c.name == "too slow, withdrawn" && !h.intake.tickets[0].gone {
				t.Error("503 without the intent being withdrawn")
			}
		})
	}
	t.Run("sealed, and committed in the last moment", func(t *testing.T) {
		h := newHarness(t, func(_ *harness, d *api.Deps) { d.Config.AcceptDeadline = time.Minute }).listen()
		h.intake.manual, h.intake.sealed = true, true
		go func() {
			for h.intake.count() == 0 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(30 * time.Millisecond) // beyond AcceptTimeout; later is as good
			h.intake.settle(nil)
		}()
		if a := h.pay(goodBody, ""); a.status != 202 {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}

func TestRateLimitIsPerMerchant(t *testing.T) {
	h := newHarness(t, nil).listen()
	for i, want := range []int{202, 202, 429, 429} {
		a := h.do(request{method: "POST", path: "/v1/payments", key: slowKey, body: fmt.Appendf(nil, `{"order_id":"o%d","amount":1,"currency":"CNY","subject":"x"}`, i)})
		if a.status != want || (a.header["Retry-After"] != "") != (want == 429) {
			t.Errorf("request %d: %d %s", i, a.status, a.body)
		}
	}
	if a := h.pay(goodBody, ""); a.status != 202 {
		t.Errorf("another merchant: %d %s", a.status, a.body)
	}
	if h.intake.count() != 3 {
		t.Errorf("%d appended", h.intake.count())
	}
}

// Reads have a limit of their own: what a merchant asks for may cost core a look
// into its store.
func TestReadsAreLimitedPerMerchant(t *testing.T) {
	h := newHarness(t, nil).listen()
	trade := func(key string) int {
		return h.do(request{method: "GET", path: "/v1/trades/o1", key: key}).status
	}
	voucher := func() int {
		return h.do(request{method: "GET", path: "/v1/vouchers/" + ids.VoucherID.With(h.secret.Trade(traffic.Real, "slow", "o1")), key: slowKey}).status
	}
	for i := range 16 { // eight for each payment request of the burst of 2
		have := 0
		if i%2 == 0 {
			have = trade(slowKey)
		} else {
			have = voucher()
		}
		if have != 200 {
			t.Fatalf("read %d: %d", i, have)
		}
	}
	if a, b := trade(slowKey), voucher(); a != 429 || b != 429 {
		t.Errorf("reads beyond the limit: %d and %d", a, b)
	}
	if have := trade(apiKey); have != 200 {
		t.Errorf("another merchant: %d", have)
	}
	if a := h.do(request{method: "POST", path: "/v1/payments", key: slowKey, body: []byte(`{"order_id":"o1","amount":1,"currency":"CNY","subject":"x"}`)}); a.status != 202 {
		t.Errorf("a payment after too many reads: %d", a.status)
	}
}

// Measured: 4, two of them for the test alone. Each allocation of an acceptance is CPU that load pays for.
func TestAllocationsPerAccept(t *testing.T) {
	const bound = 5
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Points = nil; d.Intake = discard{done: closed()} })
	m, n := h.seller(), 0
	body := []byte(`{"order_id":"order-0000000","amount":1999,"currency":"CNY","subject":"A pound of tea","metadata":{"cart":"c-1"}}`)
	out := make([]byte, 0, 1024)
	have := testing.AllocsPerRun(2000, func() {
		n++
		copy(body[len(`{"order_id":"order-`):], fmt.Sprintf("%07d", n))
		a, err := h.server.Begin(m, api.Call{Body: body, TraceID: "0af7651916cd43dd8448eb211c80319c"})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.server.Wait(a); err != nil {
			t.Fatal(err)
		}
		out = h.server.AppendAnswer(out[:0], a)
	})
	t.Logf("%.0f allocations per accept", have)
	if have > bound && !raceEnabled {
		t.Errorf("%.0f allocations per accept, the bound is %d", have, bound)
	}
}

// Measured: 2. The strings of the request and those that the view keeps: what HTTP
// adds to an acceptance is used again.
func TestAllocationsPerRequest(t *testing.T) {
	const bound = 3
	h := newHarness(t, func(_ *harness, d *api.Deps) {
		d.Points, d.Now = nil, time.Now
		d.Intake, d.Random = discard{done: closed()}, rand.Reader
	})
	n := 0
	var ctx fasthttp.RequestCtx
	ctx.Init(&fasthttp.Request{}, nil, nil)
	ctx.Request.Header.SetMethod("POST")
	ctx.Request.SetRequestURI("/v1/payments")
	ctx.Request.Header.Set("Authorization", "Bearer "+apiKey)
	ctx.Request.Header.Set("Idempotency-Key", "key-1")
	ctx.Request.Header.SetContentType("application/json")
	body := []byte(`{"order_id":"order-0000000","amount":1999,"currency":"CNY","subject":"A pound of tea","metadata":{"cart":"c-1"}}`)
	have := testing.AllocsPerRun(2000, func() {
		n++
		for i, at := n, len(`{"order_id":"order-0000000`)-1; i > 0; i, at = i/10, at-1 {
			body[at] = byte('0' + i%10)
		}
		ctx.Request.SetBodyRaw(body)
		ctx.Response.Reset()
		h.server.Handler(&ctx)
		if ctx.Response.StatusCode() != fasthttp.StatusAccepted {
			t.Fatalf("%d %s", ctx.Response.StatusCode(), ctx.Response.Body())
		}
	})
	t.Logf("%.0f allocations per request", have)
	if have > bound && !raceEnabled {
		t.Errorf("%.0f allocations per request, the bound is %d", have, bound)
	}
}

type discard struct{ done chan struct{} }

func closed() chan struct{} { c := make(chan struct{}); close(c); return c }

func (d discard) Append(bus.Topic, *bus.Event) (bus.Ticket, error) { return d, nil }
func (d discard) Done() <-chan struct{}                            { return d.done }
func (d discard) Err() error                                       { return nil }
func (d discard) Withdraw() bool                                   { return false }

func BenchmarkAccept(b *testing.B) {
	h := newHarness(b, func(_ *harness, d *api.Deps) { d.Points = nil; d.Intake = discard{done: closed()} })
	m, n := h.seller(), 0
	body := []byte(`{"order_id":"order-0000000","amount":1999,"currency":"CNY","subject":"A pound of tea","metadata":{"cart":"c-1"}}`)
	out := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		n++
		copy(body[len(`{"order_id":"order-`):], fmt.Sprintf("%07d", n%10_000_000))
		a, err := h.server.Begin(m, api.Call{Body: body, TraceID: "0af7651916cd43dd8448eb211c80319c"})
		if err != nil {
			b.Fatal(err)
		}
		if err := h.server.Wait(a); err != nil {
			b.Fatal(err)
		}
		out = h.server.AppendAnswer(out[:0], a)
	}
}

// failing is randomness that can be switched off.
type failing struct {
	inner io.Reader
	off   atomic.Bool
}

func (f *failing) Read(p []byte) (int, error) {
	if f.off.Load() {
		return 0, errors.New("no entropy")
	}
	return f.inner.Read(p)
}

// What is used again must tell nothing of the request before.
func TestNothingOfAnotherRequestIsTold(t *testing.T) {
	random := &failing{inner: &counter{}}
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Random = random }).listen()
	const trace = "0af7651916cd43dd8448eb211c80319c"
	good := request{method: "POST", path: "/v1/payments", key: apiKey, body: []byte(goodBody),
		headers: [][2]string{{"traceparent", "00-" + trace + "-b7ad6b7169203331-01"}}}
	for range 10 {
		if a := h.do(good); a.status != 202 || a.get("trace_id") != trace {
			t.Fatalf("%d %s", a.status, a.body)
		}
		h.intake.fate = &fault.Error{Kind: fault.Unknown}
		if a := h.pay(strings.Replace(goodBody, "order-1", "order-2", 1), ""); a.status != 504 || a.get("trace_id") == trace {
			t.Fatalf("%d %s", a.status, a.body)
		}
		h.intake.fate = nil
		if a := h.pay(`{`, ""); a.status != 400 || a.get("voucher") != "" || a.get("trace_id") == trace {
			t.Fatalf("%d %s", a.status, a.body)
		}
		random.off.Store(true)
		if a := h.do(good); a.status != 500 || strings.Contains(string(a.body), trace) || a.get("voucher") != "" {
			t.Fatalf("%d %s", a.status, a.body)
		}
		random.off.Store(false)
	}
}
