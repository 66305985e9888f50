package api_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"
	"go.uber.org/goleak"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/gateway/callback"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// fasthttp keeps these for the life of the process.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		// The tests' own client.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*Client).mCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.init.0.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

const (
	apiKey   = "tk_test_one"
	otherKey = "tk_test_two"
	offKey   = "tk_test_off"
	slowKey  = "tk_test_slow"
)

// intake is a bus.Intake whose commits the test decides.
type intake struct {
	mu      sync.Mutex
	events  []bus.Event // appended, payloads copied
	tickets []*ticket
	refuse  error // of Append
	fate    error // of what is committed at once
	manual  bool  // nothing is committed until settle
	sealed  bool  // Withdraw fails
	boom    func()
}

type ticket struct {
	in   *intake
	done chan struct{}
	err  error
	gone bool
}

func (in *intake) Append(topic bus.Topic, e *bus.Event) (bus.Ticket, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.boom != nil {
		in.boom()
	}
	if in.refuse != nil {
		return nil, in.refuse
	}
	c := *e
	c.Payload = bytes.Clone(e.Payload)
	in.events = append(in.events, c)
	t := &ticket{in: in, done: make(chan struct{})}
	in.tickets = append(in.tickets, t)
	if !in.manual {
		t.err = in.fate
		close(t.done)
	}
	return t, nil
}

// settle commits, or fails, everything that waits.
func (in *intake) settle(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, t := range in.tickets {
		select {
		case <-t.done:
		default:
			t.err = err
			close(t.done)
		}
	}
}

func (in *intake) count() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.events)
}

func (t *ticket) Done() <-chan struct{} { return t.done }
func (t *ticket) Err() error            { return t.err }
func (t *ticket) Withdraw() bool {
	t.in.mu.Lock()
	defer t.in.mu.Unlock()
	if t.in.sealed {
		return false
	}
	t.gone = true
	return true
}

// core answers the queries of view and API.
type core struct {
	mu       sync.Mutex
	down     bool
	stuck    bool // lists get no answer
	cut      int  // lists have no more than so many, if it is not 0
	payments map[ids.Code]event.Payment
	trades   map[ids.Code]event.Trade
	contexts map[ids.Code]ids.Context
	listed   []event.Listing // what was asked for
}

var errDown = errors.New("core is down at db-7.internal")

func (c *core) Payment(ctx context.Context, y ids.Code) (event.Payment, ids.Context, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down || ctx.Err() != nil {
		return event.Payment{}, ids.Context{}, false, errDown
	}
	p, ok := c.payments[y]
	return p, c.contexts[y], ok, nil
}

func (c *core) Trade(ctx context.Context, code ids.Code) (event.Trade, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down || ctx.Err() != nil {
		return event.Trade{}, false, errDown
	}
	t, ok := c.trades[code]
	return t, ok, nil
}

func (c *core) List(ctx context.Context, l event.Listing) ([]event.Listed, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down || ctx.Err() != nil {
		return nil, false, errDown
	}
	if c.stuck {
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-time.After(20 * time.Second):
			return nil, false, nil
		}
	}
	c.listed = append(c.listed, l)
	var all []event.Listed
	for y, p := range c.payments {
		at := p.AcceptedAtMillis
		behind := l.AfterY == "" || at < l.AfterMillis || at == l.AfterMillis && y < l.AfterY
		if x := c.contexts[y]; x.Merchant == l.Merchant && at >= l.FromMillis && (l.UntilMillis == 0 || at < l.UntilMillis) && behind {
			all = append(all, event.Listed{Payment: p, Context: x})
		}
	}
	all = l.InOrder(all)
	if c.cut > 0 && len(all) > c.cut {
		return all[:c.cut], true, nil
	}
	return all, false, nil
}

// knows makes core know a payment and its trade.
func (c *core) knows(x ids.Context, p event.Payment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.payments[p.Y], c.contexts[p.Y] = p, x
	t := event.Trade{Context: x, OrderID: p.OrderID, Amount: p.Amount, Status: "open", Version: 1, Payments: []event.Payment{p},
		AcceptedAtMillis: p.AcceptedAtMillis, ExpiresAtMillis: p.ExpiresAtMillis, Paid: money.Of(0, p.Amount.Currency)}
	c.trades[p.Y], c.trades[x.BizCode] = t, t
}

// emptyTopic is payments without any message.
type emptyTopic struct{}

func (emptyTopic) Topic() bus.Topic                     { return bus.Payments }
func (emptyTopic) Groups() int                          { return 1 }
func (emptyTopic) Head(int) bus.Place                   { return bus.Place{} }
func (emptyTopic) Refresh(context.Context) error        { return nil }
func (emptyTopic) Subscribe() (<-chan struct{}, func()) { return make(chan struct{}), func() {} }
func (emptyTopic) Read(context.Context, int, bus.Place, int) ([]bus.Message, error) {
	return nil, nil
}

// counter is randomness that never repeats. Safe for concurrent use.
type counter struct {
	mu sync.Mutex
	n  uint64
}

func (c *counter) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range p {
		p[i] = 0xa5
	}
	c.n++
	if len(p) >= 8 {
		binary.BigEndian.PutUint64(p, c.n)
	}
	return len(p), nil
}

// psp is a callback parser that believes a header.
type psp struct{}

func (psp) Parse(r channels.CallbackRequest) (channels.CallbackEvent, error) {
	if r.Header("X-Sign") != "right" {
		return channels.CallbackEvent{}, &fault.Error{Kind: fault.Unauthorized, Code: "bad_signature"}
	}
	var e channels.CallbackEvent
	if err := json.Unmarshal(r.Body, &e); err != nil {
		return e, &fault.Error{Kind: fault.Invalid, Err: err}
	}
	return e, nil
}

func (psp) Accepted() channels.Ack {
	return channels.Ack{Status: 200, ContentType: "text/plain", Body: []byte("success")}
}

func (psp) Refused(string) channels.Ack {
	return channels.Ack{Status: 200, ContentType: "text/plain", Body: []byte("fail")}
}

type parsers struct{}

func (parsers) Parser(channel, account string) (channels.CallbackParser, bool) {
	return psp{}, channel == "sandbox" && account == "a1"
}

// harness is an API on an in-memory listener.
type harness struct {
	t         testing.TB
	intake    *intake
	core      *core
	views     *voucher.Views
	secret    *ids.Secret
	tokens    *api.TokenRing
	server    *api.Server
	set       *metrics.Set
	directory *merchant.Directory
	log       *bytes.Buffer
	logMu     sync.Mutex
	client    *fasthttp.Client
	listener  *fasthttputil.InmemoryListener
	record    func(req *fasthttp.Request, res *fasthttp.Response)
	now       func() time.Time
	points    []string
}

func (h *harness) Write(p []byte) (int, error) {
	h.logMu.Lock()
	defer h.logMu.Unlock()
	return h.log.Write(p)
}

func (h *harness) logged() string {
	h.logMu.Lock()
	defer h.logMu.Unlock()
	return h.log.String()
}

func merchants() *merchant.Snapshot {
	one := func(id, key string, enabled bool, perSecond float64, burst int) merchant.Merchant {
		return merchant.Merchant{ID: id, Enabled: enabled, KeyHashes: []string{merchant.HashKey(key)}, Currencies: []money.Currency{"CNY", "USD"},
			AmountMinorMax: 1_000_000, RequestsPerSecond: perSecond, Burst: burst}
	}
	return &merchant.Snapshot{Version: 1, Merchants: []merchant.Merchant{one("m1", apiKey, true, 1e9, 1e9), one("m2", otherKey, true, 1e9, 1e9),
		one("off", offKey, false, 1e9, 1e9), one("slow", slowKey, true, 1e-9, 2)}}
}

// deps makes everything that an API needs; change may alter it.
func newHarness(t testing.TB, change func(*harness, *api.Deps)) *harness {
	t.Helper()
	h := &harness{t: t, intake: &intake{}, set: metrics.NewSet(), log: &bytes.Buffer{}, now: time.Now,
		core: &core{payments: map[ids.Code]event.Payment{}, trades: map[ids.Code]event.Trade{}, contexts: map[ids.Code]ids.Context{}}}
	var err error
	if h.secret, err = ids.NewSecret(bytes.Repeat([]byte{7}, ids.SecretLen)); err != nil {
		t.Fatal(err)
	}
	if h.tokens, err = api.NewTokenRing("k2", map[string][]byte{"k1": bytes.Repeat([]byte{1}, 32), "k2": bytes.Repeat([]byte{2}, 32)}); err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return h.now() }
	if h.views, err = voucher.New(voucher.DefaultConfig(), emptyTopic{}, h.core, now, h.set, nil); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(h, nil))
	h.directory = merchant.NewDirectory(merchants())
	random := &counter{}
	receiver, err := callback.New(callback.Deps{Parsers: parsers{}, Intake: h.intake, Secret: h.secret, IDs: ids.NewSource(now, random),
		Now: now, Random: random, Metrics: h.set, Log: log, Config: callback.DefaultConfig()})
	if err != nil {
		t.Fatal(err)
	}
	d := api.Deps{Directory: h.directory, Intake: h.intake, Secret: h.secret, Tokens: h.tokens, Views: h.views, Queries: h.core, Now: now,
		Random: random, Metrics: h.set, Log: log, Callbacks: receiver, Config: api.DefaultConfig(),
		Points: func(name string) { h.points = append(h.points, name) }}
	d.Config.AcceptTimeout, d.Config.AcceptDeadline = 20*time.Millisecond, 40*time.Millisecond
	if change != nil {
		change(h, &d)
	}
	if h.server, err = api.New(d); err != nil {
		t.Fatal(err)
	}
	return h
}

// listen serves on memory; the test's end shuts it down.
func (h *harness) listen() *harness {
	h.listener = fasthttputil.NewInmemoryListener()
	ended := make(chan error, 1)
	go func() { ended <- h.server.Serve(h.listener) }()
	h.client = &fasthttp.Client{Dial: func(string) (net.Conn, error) { return h.listener.Dial() }, MaxIdemponentCallAttempts: 1,
		NoDefaultUserAgentHeader: true, MaxConnsPerHost: 1024}
	h.t.Cleanup(func() {
		h.client.CloseIdleConnections()
		if err := h.server.Shutdown(context.Background()); err != nil {
			h.t.Error(err)
		}
		_ = h.listener.Close()
		if err := <-ended; err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, fasthttputil.ErrInmemoryListenerClosed) {
			h.t.Error(err)
		}
	})
	return h
}

// answer is a response, copied.
type answer struct {
	status int
	header map[string]string
	body   []byte
}

func (a *answer) get(name string) string {
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		return "not JSON: " + string(a.body)
	}
	s, _ := m[name].(string)
	return s
}

type request struct {
	method, path string
	key          string // API key or token
	headers      [][2]string
	body         []byte
	noType       bool
}

func (h *harness) do(r request) answer {
	h.t.Helper()
	req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(res)
	req.SetRequestURI("http://gateway.test" + r.path)
	req.Header.SetMethod(r.method)
	if r.key != "" {
		req.Header.Set("Authorization", "Bearer "+r.key)
	}
	if r.body != nil {
		if !r.noType {
			req.Header.SetContentType("application/json")
		}
		req.SetBody(r.body)
	}
	for _, kv := range r.headers {
		req.Header.Add(kv[0], kv[1])
	}
	if err := h.client.Do(req, res); err != nil {
		h.t.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	if h.record != nil {
		h.record(req, res)
	}
	a := answer{status: res.StatusCode(), header: map[string]string{}, body: bytes.Clone(res.Body())}
	for k, v := range res.Header.All() {
		a.header[string(k)] = string(v)
	}
	return a
}

const goodBody = `{"order_id":"order-1","amount":1999,"currency":"CNY","subject":"A pound of tea"}`

func (h *harness) pay(body, key string) answer {
	h.t.Helper()
	r := request{method: "POST", path: "/v1/payments", key: apiKey, body: []byte(body)}
	if key != "" {
		r.headers = [][2]string{{"Idempotency-Key", key}}
	}
	return h.do(r)
}

func (h *harness) get(path, key string) answer {
	h.t.Helper()
	return h.do(request{method: "GET", path: path, key: key})
}
