package callback_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/goleak"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/callback"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type intake struct {
	events  []bus.Event
	refuse  error
	done    chan struct{}
	fate    error
	sealed  bool
	revoked int
}

func (in *intake) Append(topic bus.Topic, e *bus.Event) (bus.Ticket, error) {
	if topic != bus.Callbacks {
		return nil, errors.New("wrong topic")
	}
	if in.refuse != nil {
		return nil, in.refuse
	}
	c := *e
	c.Payload = bytes.Clone(e.Payload)
	in.events = append(in.events, c)
	return in, nil
}

func (in *intake) Done() <-chan struct{} { return in.done }
func (in *intake) Err() error            { return in.fate }
func (in *intake) Withdraw() bool        { in.revoked++; return !in.sealed }

// psp gives what the test wants it to have read.
type psp struct {
	event channels.CallbackEvent
	err   error
	saw   channels.CallbackRequest
	sign  string
}

func (p *psp) Parser(channel, account string) (channels.CallbackParser, bool) {
	return p, channel == "sandbox" && account == "a1"
}

func (p *psp) Parse(r channels.CallbackRequest) (channels.CallbackEvent, error) {
	p.saw, p.sign = r, r.Header("X-Sign")
	return p.event, p.err
}

func (p *psp) Accepted() channels.Ack {
	return channels.Ack{Status: 200, ContentType: "text/plain", Body: []byte("success")}
}

func (p *psp) Refused(reason string) channels.Ack {
	return channels.Ack{Status: 200, ContentType: "text/plain", Body: []byte("fail " + reason)}
}

type harness struct {
	intake *intake
	psp    *psp
	secret *ids.Secret
	set    *metrics.Set
	points []string
	*callback.Receiver
	x   ids.Context
	y   ids.Code
	req callback.Request
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	done := make(chan struct{})
	close(done)
	h := &harness{intake: &intake{done: done}, psp: &psp{}, set: metrics.NewSet()}
	var err error
	if h.secret, err = ids.NewSecret(bytes.Repeat([]byte{3}, ids.SecretLen)); err != nil {
		t.Fatal(err)
	}
	random := strings.NewReader(strings.Repeat("0123456789abcdef", 1000))
	h.Receiver, err = callback.New(callback.Deps{Parsers: h.psp, Intake: h.intake, Secret: h.secret, IDs: ids.NewSource(time.Now, random), Now: time.Now,
		Random: random, Points: func(n string) { h.points = append(h.points, n) }, Metrics: h.set, Config: callback.DefaultConfig()})
	if err != nil {
		t.Fatal(err)
	}
	x := h.secret.Trade(traffic.Real, "m1", "o1")
	h.y = h.secret.Intent(x, "m1", "o1", traffic.Deposit, "o1", ids.FingerprintOf(nil))
	h.x = ids.Context{BizCode: x, Merchant: "m1", OrderType: "retail", OrderScene: "app", Institution: "sandbox",
		TraceID: "0af7651916cd43dd8448eb211c80319c", Form: traffic.Deposit, Traffic: traffic.Real}
	h.psp.event = channels.CallbackEvent{EventID: "e1", OutTradeNo: ids.OutTradeNo(h.y, 0), State: channels.StatePaid, TransactionID: "t1",
		Paid: money.Of(1999, "CNY"), Attach: h.x.Attach()}
	h.req = callback.Request{Channel: "sandbox", Account: "a1", Method: "POST", Path: "/v1/callbacks/sandbox/a1", Body: []byte("raw \xff bytes"),
		Headers: map[string]string{"x-sign": "s", "authorization": "Bearer secret", "cookie": "c", "content-type": "text/plain"}}
	return h
}

func TestKeptAsItCameAndAsItWasRead(t *testing.T) {
	h := newHarness(t)
	ack, err := h.Receive(h.req)
	if err != nil || ack.Status != 200 || string(ack.Body) != "success" {
		t.Fatalf("%+v %v", ack, err)
	}
	e := h.intake.events[0]
	var c event.CallbackReceived
	if err := event.Decode(e.Payload, &c); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.Raw, h.req.Body) || c.Channel != "sandbox" || c.Account != "a1" || c.Event != h.psp.event || c.ReceivedAtMillis == 0 {
		t.Errorf("%+v", c)
	}
	if c.Headers["x-sign"] != "s" || len(c.Headers) != 2 {
		t.Errorf("headers kept: %v", c.Headers)
	}
	if e.Context != h.x || !strings.HasPrefix(e.ID, "evt_") || e.Type != event.TypeCallback {
		t.Errorf("%+v", e)
	}
	if h.psp.sign != "s" || h.psp.saw.Path != h.req.Path || h.psp.saw.Method != "POST" {
		t.Errorf("the parser saw %+v", h.psp.saw)
	}
	if !slices.Equal(h.points, []string{"gateway.callback_appended_not_acked"}) {
		t.Errorf("points %v", h.points)
	}
}

func TestContextWithoutAUsableAttach(t *testing.T) {
	other := func(h *harness) ids.Context {
		c := h.x
		c.Merchant = "m2"
		c.BizCode = h.secret.Trade(traffic.Real, "m2", "o1")
		return c
	}
	for name, attach := range map[string]func(*harness) string{
		"none":                  func(*harness) string { return "" },
		"cut":                   func(h *harness) string { return h.x.Attach()[:40] },
		"garbage":               func(*harness) string { return "a|b|c|d|e" },
		"of another merchant":   func(h *harness) string { c := other(h); return c.Attach() },
		"naming another seller": func(h *harness) string { c := h.x; c.Merchant = "m2"; return c.Attach() },
		"of another order": func(h *harness) string {
			c := h.x
			for i := 0; c.BizCode.Slot() == h.y.Slot(); i++ {
				c.BizCode = h.secret.Trade(traffic.Real, "m1", "other"+strings.Repeat("x", i))
			}
			return c.Attach()
		},
		"of another merchant's order in the same slot": func(h *harness) string {
			c := other(h)
			for i := 0; c.BizCode.Slot() != h.y.Slot(); i++ {
				c.BizCode = h.secret.Trade(traffic.Real, "m2", fmt.Sprint("o", i))
			}
			return c.Attach()
		},
		"whose trade was made up": func(h *harness) string {
			c := h.x
			c.BizCode = c.BizCode[:5] + ids.Code(strings.Repeat("z", 10)) + c.BizCode[15:]
			return c.Attach()
		},
		"with a trace id that is none": func(h *harness) string { c := h.x; c.TraceID = strings.Repeat("z", 32); return c.Attach() },
		// What comes back is in rows, with the callback that waits for its order.
		"with a type that no order has":          func(h *harness) string { c := h.x; c.OrderType = "re\x00tail"; return c.Attach() },
		"with a scene that is no text":           func(h *harness) string { c := h.x; c.OrderScene = "\xff"; return c.Attach() },
		"with a scene longer than any order has": func(h *harness) string { c := h.x; c.OrderScene = strings.Repeat("a", 17); return c.Attach() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.psp.event.Attach = attach(h)
			if _, err := h.Receive(h.req); err != nil {
				t.Fatal(err)
			}
			c := h.intake.events[0].Context
			if c.BizCode != h.y || c.Merchant != "unknown" || c.OrderType != "unknown" || c.OrderScene != "unknown" || c.Institution != "sandbox" ||
				len(c.TraceID) != 32 || c.Validate() != nil {
				t.Errorf("%+v", c)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*harness)
		kind   fault.Kind
		status int // of the Ack; 0 for none
		count  string
	}{
		{"forged", func(h *harness) { h.psp.err = &fault.Error{Kind: fault.Unauthorized} }, fault.Unauthorized, 401, `channel="sandbox",result="forged"`},
		{"unreadable", func(h *harness) { h.psp.err = &fault.Error{Kind: fault.Invalid} }, fault.Invalid, 400, `channel="sandbox",result="refused"`},
		{"not our number", func(h *harness) { h.psp.event.OutTradeNo = "ORDER-4711" }, fault.Invalid, 400, `channel="sandbox",result="refused"`},
		{"number cut", func(h *harness) { h.psp.event.OutTradeNo = string(h.y) }, fault.Invalid, 400, `channel="sandbox",result="refused"`},
		{"paid nothing", func(h *harness) { h.psp.event.Paid.Minor = 0 }, fault.Invalid, 400, `channel="sandbox",result="refused"`},
		{"paid in no currency", func(h *harness) { h.psp.event.Paid.Currency = "" }, fault.Invalid, 400, `channel="sandbox",result="refused"`},
		{"no such account", func(h *harness) { h.req.Account = "a2\"} 1\nx{y=\"" }, fault.NotFound, 0, `channel="other",result="no_account"`},
		{"too large", func(h *harness) { h.req.Body = make([]byte, 64<<10+1) }, fault.TooLarge, 0, `channel="sandbox",result="too_large"`},
		{"intake full", func(h *harness) { h.intake.refuse = &fault.Error{Kind: fault.Unavailable} }, fault.Unavailable, 503, `channel="sandbox",result="not_kept"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHarness(t)
			c.change(h)
			ack, err := h.Receive(h.req)
			if !fault.Is(err, c.kind) || ack.Status != c.status || ack.Status != 0 && !strings.HasPrefix(string(ack.Body), "fail") {
				t.Errorf("%+v %v", ack, err)
			}
			if len(h.intake.events) != 0 || len(h.points) != 0 {
				t.Error("something was kept")
			}
			var b strings.Builder
			h.set.WritePrometheus(&b)
			if !strings.Contains(b.String(), "tallystick_callbacks_total{"+c.count+"} 1") {
				t.Errorf("not counted:\n%s", b.String())
			}
		})
	}
}

// The PSP's word for yes is given for what is committed, and for nothing else.
func TestAcknowledgedOnlyWhenCommitted(t *testing.T) {
	for name, fate := range map[string]error{"rolled back": &fault.Error{Kind: fault.Unavailable}, "nobody knows": &fault.Error{Kind: fault.Unknown}} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.intake.fate = fate
			ack, err := h.Receive(h.req)
			if !fault.Is(err, fault.Unavailable) || ack.Status != 503 || !strings.HasPrefix(string(ack.Body), "fail") || len(h.points) != 0 {
				t.Errorf("%+v %v", ack, err)
			}
		})
	}
	for name, sealed := range map[string]bool{"too slow, withdrawn": false, "too slow, sealed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t)
				h.intake.done, h.intake.sealed = make(chan struct{}), sealed
				start := time.Now()
				ack, err := h.Receive(h.req)
				want := map[bool]time.Duration{false: 2 * time.Second, true: 4 * time.Second}[sealed]
				if !fault.Is(err, fault.Unavailable) || ack.Status != 503 || h.intake.revoked != 1 || time.Since(start) != want {
					t.Errorf("%+v %v after %s", ack, err, time.Since(start))
				}
			})
		})
	}
	t.Run("committed in the last moment", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t)
			h.intake.done, h.intake.sealed = make(chan struct{}), true
			time.AfterFunc(3*time.Second, func() { close(h.intake.done) })
			if ack, err := h.Receive(h.req); err != nil || string(ack.Body) != "success" {
				t.Errorf("%+v %v", ack, err)
			}
		})
	})
}

// A PSP that signs nonsense is still heard: the raw bytes are the evidence.
func TestNonsenseIsKept(t *testing.T) {
	h := newHarness(t)
	h.psp.event.Attach, h.psp.event.Code, h.psp.event.EventID, h.psp.event.TransactionID = "\x8b", "\xd3\xe0", "e\xff", "t\xff"
	h.psp.event.State, h.psp.event.Paid.Currency = "paid\xff", "CN\xff"
	h.psp.event.OccurredAt = time.Date(12026, 1, 1, 0, 0, 0, 0, time.FixedZone("", 30))
	if _, err := h.Receive(h.req); err != nil {
		t.Fatal(err)
	}
	var c event.CallbackReceived
	if err := event.Decode(h.intake.events[0].Payload, &c); err != nil || c.Event.EventID != channels.Identifier("e\xff") || c.Event.TransactionID != channels.Identifier("t\xff") ||
		c.Event.Code != channels.Text("\xd3\xe0") || !c.Event.OccurredAt.IsZero() {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestHeadersAreBounded(t *testing.T) {
	h := newHarness(t)
	for i := range 1000 {
		h.req.Headers["x-"+strings.Repeat("a", i%50)+string(rune('a'+i%26))] = strings.Repeat("v", 100) + "\xff"
	}
	if _, err := h.Receive(h.req); err != nil {
		t.Fatal(err)
	}
	var c event.CallbackReceived
	if err := event.Decode(h.intake.events[0].Payload, &c); err != nil {
		t.Fatal(err)
	}
	size := 0
	for k, v := range c.Headers {
		size += len(k) + len(v)
	}
	if len(c.Headers) > 64 || size > 9<<10 || len(c.Headers) < 30 {
		t.Errorf("%d headers of %d bytes", len(c.Headers), size)
	}
}

func FuzzOutTradeNoAndAttach(f *testing.F) {
	f.Add("", "")
	f.Add("r0000000000000000000000000000", "a|b|c|d|e")
	f.Fuzz(func(t *testing.T, number, attach string) {
		h := newHarness(t)
		h.psp.event.OutTradeNo, h.psp.event.Attach = number, attach
		_, _, err := h.Begin(h.req)
		if (err == nil) != (len(h.intake.events) == 1) {
			t.Fatalf("%v, but %d kept", err, len(h.intake.events))
		}
		if err == nil && h.intake.events[0].Context.Validate() != nil {
			t.Fatalf("%+v", h.intake.events[0].Context)
		}
	})
}
