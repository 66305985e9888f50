package voucher_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

const groups = 4

// source is topic payments in memory.
type source struct {
	mu    sync.Mutex
	logs  [groups][]bus.Message
	lives [groups]int64
	wakes []chan struct{}
}

func (s *source) Topic() bus.Topic              { return bus.Payments }
func (s *source) Groups() int                   { return groups }
func (s *source) Refresh(context.Context) error { return nil }

func (s *source) Head(g int) bus.Place {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.logs[g]) == 0 {
		return bus.Place{}
	}
	return s.logs[g][len(s.logs[g])-1].Place
}

func (s *source) Read(_ context.Context, g int, after bus.Place, limit int) (out []bus.Message, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.logs[g] {
		if m.Place.Seq > after.Seq && len(out) < limit && m.Payload != nil {
			out = append(out, m)
		}
	}
	return out, nil
}

func (s *source) Subscribe() (<-chan struct{}, func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := make(chan struct{}, 1)
	s.wakes = append(s.wakes, w)
	return w, func() {}
}

func (s *source) emit(c ids.Context, p event.Payment) {
	s.put(c, event.Encode(event.PaymentChanged{Payment: p, Settled: -1}))
}

func (s *source) put(c ids.Context, payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := c.BizCode.Group(groups)
	s.logs[g] = append(s.logs[g], bus.Message{Topic: bus.Payments, Group: g, Place: bus.Place{Epoch: 1, Seq: int64(len(s.logs[g]) + 1)},
		Event: bus.Event{ID: "evt_1", Type: event.TypePaymentChanged, Version: 1, Context: c, Payload: payload}})
	for _, w := range s.wakes {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// trim takes everything away from readers, as retention does.
func (s *source) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for g := range s.logs {
		for i := range s.logs[g] {
			s.logs[g][i].Payload = nil
		}
	}
}

func (s *source) Rewound(g int) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lives[g]
}

// rewind leaves the first n messages of a group, as if they were published anew.
func (s *source) rewind(g, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[g] = s.logs[g][:n:n]
	s.lives[g]++
}

// core answers the view's questions.
type core struct {
	mu       sync.Mutex
	down     bool
	asked    int
	payments map[ids.Code]event.Payment
	contexts map[ids.Code]ids.Context
	during   func() // called while a question is being answered
}

func (c *core) Payment(asking context.Context, y ids.Code) (event.Payment, ids.Context, bool, error) {
	if err := asking.Err(); err != nil {
		return event.Payment{}, ids.Context{}, false, err
	}
	c.mu.Lock()
	c.asked++
	during, down := c.during, c.down
	p, ok := c.payments[y]
	ctx := c.contexts[y]
	c.mu.Unlock()
	if during != nil {
		during()
	}
	if down {
		return event.Payment{}, ids.Context{}, false, errors.New("core is down")
	}
	return p, ctx, ok, nil
}

func (c *core) questions() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

type harness struct {
	t      *testing.T
	source *source
	core   *core
	views  *voucher.Views
	secret *ids.Secret
	now    time.Time
	set    *metrics.Set
	log    *bytes.Buffer
}

// newHarness is a view that has found its place at the end of the topic.
func newHarness(t *testing.T, change func(*voucher.Config)) *harness {
	t.Helper()
	h := unplaced(t, change)
	h.step()
	return h
}

func unplaced(t *testing.T, change func(*voucher.Config)) *harness {
	t.Helper()
	h := &harness{t: t, source: &source{}, core: &core{payments: map[ids.Code]event.Payment{}, contexts: map[ids.Code]ids.Context{}},
		now: time.UnixMilli(1_800_000_000_000), set: metrics.NewSet(), log: &bytes.Buffer{}}
	secret, err := ids.NewSecret(make([]byte, ids.SecretLen))
	if err != nil {
		t.Fatal(err)
	}
	h.secret = secret
	cfg := voucher.DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	h.views, err = voucher.New(cfg, h.source, h.core, func() time.Time { return h.now }, h.set, slog.New(slog.NewTextHandler(h.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// step reads everything there is.
func (h *harness) step() {
	h.t.Helper()
	for range 1000 {
		worked, err := h.views.Step(context.Background())
		if err != nil {
			h.t.Fatal(err)
		}
		if !worked {
			return
		}
	}
	h.t.Fatal("the view never comes to rest")
}

// order makes the codes and context of a merchant's order.
func (h *harness) order(id, key string) (ids.Context, ids.Code) {
	x := h.secret.Trade(traffic.Real, "m1", id)
	y := h.secret.Intent(x, "m1", id, traffic.Deposit, key, ids.FingerprintOf([]byte(id+key)))
	return ids.Context{BizCode: x, Merchant: "m1", OrderType: "general", OrderScene: "online", TraceID: "0123456789abcdef0123456789abcdef",
		Form: traffic.Deposit, Traffic: traffic.Real}, y
}

func payment(y ids.Code, status event.Status, version int64) event.Payment {
	p := event.Payment{Y: y, OrderID: "o1", IdempotencyKey: "o1", Status: status, Version: version, Amount: money.Of(1999, "CNY"), Subject: "Tea"}
	if status == event.Pending || status.Final() {
		p.Credential = channels.Credential{Method: channels.MethodQRCode, Value: "https://pay.example/1"}
	}
	return p
}

func (h *harness) ask(y ids.Code, since int64) voucher.Ask {
	return voucher.Ask{Y: y, Merchant: "m1", Since: since}
}

func (h *harness) await(a voucher.Ask) voucher.View {
	h.t.Helper()
	v, err := h.views.Await(context.Background(), a)
	if err != nil {
		h.t.Fatalf("await %+v: %v", a, err)
	}
	return v
}

func (h *harness) want(v voucher.View, status voucher.Status, version int64) {
	h.t.Helper()
	if v.Status != status || v.Version != version {
		h.t.Fatalf("have %s at version %d, want %s at %d", v.Status, v.Version, status, version)
	}
}
