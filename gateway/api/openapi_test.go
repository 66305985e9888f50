package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// contract is docs/api/openapi.yaml, and what of it was seen.
type contract struct {
	t      *testing.T
	doc    *openapi3.T
	router routers.Router
	mu     sync.Mutex
	seen   map[string]bool
}

func loadContract(t *testing.T) *contract {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("../../docs/api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &contract{t: t, doc: doc, router: router, seen: map[string]bool{}}
}

func (c *contract) input(req *fasthttp.Request) (*openapi3filter.RequestValidationInput, error) {
	u, err := url.Parse(req.URI().String())
	if err != nil {
		return nil, err
	}
	r := &http.Request{Method: string(req.Header.Method()), URL: u, Host: u.Host, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(bytes.Clone(req.Body())))}
	for k, v := range req.Header.All() {
		r.Header.Add(string(k), string(v))
	}
	route, params, err := c.router.FindRoute(r)
	if err != nil {
		return nil, err
	}
	return &openapi3filter.RequestValidationInput{Request: r, PathParams: params, QueryParams: u.Query(), Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, MultiError: true}}, nil
}

// check holds one exchange against the contract: the answer always, the request
// if it was answered with success.
func (c *contract) check(req *fasthttp.Request, res *fasthttp.Response) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	in, err := c.input(req)
	if err != nil {
		c.t.Errorf("%s %s: %v", req.Header.Method(), req.URI().Path(), err)
		return
	}
	if res.StatusCode() < 300 {
		if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
			c.t.Errorf("a request that was taken is not in the contract: %s %s: %v", in.Request.Method, in.Request.URL, err)
		}
	}
	header := http.Header{}
	for k, v := range res.Header.All() {
		header.Add(string(k), string(v))
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{RequestValidationInput: in,
		Status: res.StatusCode(), Header: header, Body: io.NopCloser(bytes.NewReader(bytes.Clone(res.Body()))), Options: in.Options})
	if err != nil {
		c.t.Errorf("%s %s: %d %s: %v", in.Request.Method, in.Request.URL.Path, res.StatusCode(), res.Body(), err)
	}
	var p struct {
		Code   string `json:"code"`
		Status int    `json:"status"`
	}
	if strings.HasPrefix(string(res.Header.ContentType()), "application/problem+json") {
		if err := json.Unmarshal(res.Body(), &p); err != nil {
			c.t.Error(err)
		}
		if entry := api.ProblemOf(p.Code); entry == nil || entry.Status != res.StatusCode() || p.Status != res.StatusCode() {
			c.t.Errorf("%q with status %d is not in the catalogue", p.Code, res.StatusCode())
		}
	}
	c.seen[fmt.Sprintf("%s %s %d", in.Route.Method, in.Route.Path, res.StatusCode())] = true
}

// Every status of every operation in the contract is provoked, and every answer
// held against its schema and headers.
func TestTrafficKeepsTheContract(t *testing.T) {
	c := loadContract(t)
	var panics, notReady bool
	boom := func() {
		if panics {
			panic("a bug")
		}
	}
	h := newHarness(t, func(h *harness, d *api.Deps) {
		d.Points = nil
		cfg := voucher.DefaultConfig()
		cfg.WaitersPerVoucherMax = 1
		views, err := voucher.New(cfg, emptyTopic{}, h.core, d.Now, h.set, nil)
		if err != nil {
			t.Fatal(err)
		}
		h.views, d.Views = views, panicking{views, boom}
		d.Queries = panickingQueries{h.core, boom}
		d.Probes = []api.Probe{{Name: "intake", Check: func() error {
			if notReady {
				return errors.New("stopped")
			}
			return nil
		}}}
	}).listen()
	h.record = c.check
	payments(h)
	reads(h)
	callbacks(h)
	for _, path := range []string{"/healthz", "/readyz"} {
		h.get(path, "")
	}
	notReady = true
	someY := h.someY()
	h.get("/readyz", "")
	panics, h.intake.boom = true, func() { panic("a bug") }
	h.do(request{method: "POST", path: "/v1/callbacks/sandbox/a1", headers: [][2]string{{"X-Sign", "right"}},
		body: event.Encode(channels.CallbackEvent{EventID: "e1", OutTradeNo: ids.OutTradeNo(ids.Code(someY), 0)})})
	h.pay(strings.Replace(goodBody, "order-1", "order-77", 1), "")
	h.get("/v1/vouchers/"+string(ids.VoucherID)+someY, apiKey)
	h.get("/v1/trades/order-1", apiKey)
	h.get("/v1/payments", apiKey)
	c.complete()
}

// complete fails for every documented answer that was not seen.
func (c *contract) complete() {
	c.t.Helper()
	var missing []string
	for path, item := range c.doc.Paths.Map() {
		for method, op := range item.Operations() {
			for status := range op.Responses.Map() {
				if key := method + " " + path + " " + status; !c.seen[key] {
					missing = append(missing, key)
				}
			}
		}
	}
	sort.Strings(missing)
	for _, m := range missing {
		c.t.Errorf("documented, but never seen: %s", m)
	}
}

type panicking struct {
	*voucher.Views
	boom func()
}

func (p panicking) Await(ctx context.Context, a voucher.Ask) (voucher.View, error) {
	p.boom()
	return p.Views.Await(ctx, a)
}

type panickingQueries struct {
	*core
	boom func()
}

func (p panickingQueries) List(ctx context.Context, l event.Listing) ([]event.Listed, bool, error) {
	p.boom()
	return p.core.List(ctx, l)
}

func (p panickingQueries) Trade(ctx context.Context, c ids.Code) (event.Trade, bool, error) {
	p.boom()
	return p.core.Trade(ctx, c)
}

func (h *harness) someY() string {
	a, err := h.begin(goodBody, "")
	if err != nil {
		h.t.Fatal(err)
	}
	return string(a.Y)
}

func payments(h *harness) {
	h.pay(`{"order_id":"order-0","amount":1,"currency":"CNY","subject":"x","order_type":"a","order_scene":"b","method":"redirect","return_url":"https://a.example/",
		"expires_in_seconds":60,"metadata":{"k":"v"}}`, "key")
	h.pay(goodBody, "")
	h.pay(strings.Replace(goodBody, "1999", "2000", 1), "")
	for range 3 {
		r := with("order_id", `"o-slow"`)
		r.key = slowKey
		h.do(r)
	}
	for _, b := range corpus() {
		if b.req.path == "/v1/payments" && b.req.method == "POST" {
			h.do(b.req)
		}
	}
	for _, fate := range []error{&fault.Error{Kind: fault.Unavailable}, &fault.Error{Kind: fault.Unknown}} {
		h.intake.fate = fate
		h.pay(strings.Replace(goodBody, "order-1", "order-2", 1), "")
	}
	h.intake.fate = nil
}

func reads(h *harness) {
	a, x, i := h.acceptedAs("order-3")
	v, trade := "/v1/vouchers/"+a.get("voucher"), "/v1/trades/"+a.get("trade")
	for n, status := range []event.Status{event.Created, event.Pending, event.Succeeded, event.Rejected} {
		h.get(v, apiKey)
		h.get(trade, apiKey)
		p := paymentOf(i, status, int64(n+1))
		p.Reason, p.Fee, p.Attempts[0].Paid, p.Attempts[0].TransactionID = "why", money.Of(3, "CNY"), i.Amount, "t1"
		h.core.knows(x, p)
		h.get(v+"?wait=0&since="+fmt.Sprint(n), a.get("token"))
		h.get(v+"?token="+a.get("token"), "")
	}
	h.get(trade, apiKey)
	h.get("/v1/payments?limit=1", apiKey)
	h.get("/v1/payments?limit=0", apiKey)
	h.get("/v1/payments", "")
	for range 20 { // more than a burst
		h.get("/v1/payments", slowKey)
	}
	h.get("/v1/trades/order-3", apiKey)
	h.get("/v1/trades/never-heard-of", apiKey)
	other, _, _ := h.acceptedAs("order-4")
	for _, r := range []request{{path: v + "?wait=x", key: apiKey}, {path: v, key: "nope"}, {path: v, key: other.get("token")}, {path: v, key: otherKey},
		{path: "/v1/vouchers/x", key: apiKey}, {path: trade + "?x=1", key: apiKey}, {path: trade}, {path: trade, key: otherKey}, {path: "/v1/trades/%20", key: apiKey}} {
		r.method = "GET"
		h.do(r)
	}
	// One waits, the next is one too many.
	o := "/v1/vouchers/" + other.get("voucher")
	polled := make(chan struct{})
	go func() { defer close(polled); h.get(o+"?wait=2", other.get("token")) }()
	for h.get(o, apiKey).status != 429 {
		select {
		case <-polled:
			h.t.Error("the long-poll ended before it was in the way")
			return
		default:
		}
	}
	<-polled
	h.core.down = true
	unheld, err := newHarness(h.t, nil).begin(strings.Replace(goodBody, "order-1", "order-5", 1), "")
	if err != nil {
		h.t.Fatal(err)
	}
	h.get("/v1/vouchers/"+ids.VoucherID.With(unheld.Y), apiKey)
	h.get(trade, apiKey)
	h.get("/v1/payments", apiKey)
	h.core.down = false
}

func (h *harness) acceptedAs(order string) (answer, ids.Context, event.Intent) {
	h.t.Helper()
	a := h.pay(strings.Replace(goodBody, "order-1", order, 1), "")
	if a.status != 202 {
		h.t.Fatalf("%d %s", a.status, a.body)
	}
	e := h.intake.events[len(h.intake.events)-1]
	var i event.Intent
	if err := event.Decode(e.Payload, &i); err != nil {
		h.t.Fatal(err)
	}
	return a, e.Context, i
}

func callbacks(h *harness) {
	y := ids.Code(h.someY())
	good := event.Encode(channels.CallbackEvent{EventID: "e1", OutTradeNo: ids.OutTradeNo(y, 0), State: channels.StatePaid,
		TransactionID: "t1", Paid: money.Of(1999, "CNY")})
	call := func(path, sign string, body []byte) answer {
		return h.do(request{method: "POST", path: path, body: body, headers: [][2]string{{"X-Sign", sign}}})
	}
	const path = "/v1/callbacks/sandbox/a1"
	before := h.intake.count()
	for _, c := range []struct {
		path, sign string
		body       []byte
		status     int
		says       string
	}{
		{path, "right", good, 200, "success"}, {path, "wrong", good, 401, "fail"}, {path, "right", []byte("{"), 400, "fail"},
		{path, "right", []byte(`{"out_trade_no":"x"}`), 400, "fail"}, {"/v1/callbacks/sandbox/a2", "right", good, 404, ""},
		{path, "right", make([]byte, 65<<10), 413, ""},
	} {
		if a := call(c.path, c.sign, c.body); a.status != c.status || c.says != "" && string(a.body) != c.says {
			h.t.Errorf("callback: %d %s, want %d %s", a.status, a.body, c.status, c.says)
		}
	}
	if n := h.intake.count() - before; n != 1 {
		h.t.Errorf("%d callbacks appended", n)
	}
	h.intake.fate = &fault.Error{Kind: fault.Unavailable}
	if a := call(path, "right", good); a.status != 503 || string(a.body) != "fail" {
		h.t.Errorf("callback not kept: %d %s", a.status, a.body)
	}
	h.intake.fate = nil
}

// The schema refuses what the code refuses, as far as a schema can say it.
func TestSchemaIsAsStrictAsTheCode(t *testing.T) {
	c := loadContract(t)
	sayable := map[string]bool{"order_id": true, "amount": true, "currency": true, "subject": true, "order_type": true, "order_scene": true, "method": true,
		"expires_in_seconds": true, "metadata": true}
	checked := 0
	for _, b := range corpus() {
		switch {
		case b.code == "field_type" || b.code == "field_missing" || b.code == "field_unknown" || b.code == "field_invalid" && sayable[b.field]:
		default:
			continue
		}
		if b.name == `subject value 7 "\\ufffd"` || strings.HasPrefix(b.name, "deep nesting") || strings.HasSuffix(b.name, "as exponent") ||
			b.name == "amount 9223372036854775808" {
			// A rune that stands for a broken one; depth; to JSON Schema 1e3 is an integer; the validator compares as floats.
			continue
		}
		req := fasthttp.AcquireRequest()
		req.SetRequestURI("http://gateway.test/v1/payments")
		req.Header.SetMethod("POST")
		req.Header.SetContentType("application/json")
		req.SetBody(b.req.body)
		in, err := c.input(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := openapi3filter.ValidateRequest(context.Background(), in); err == nil {
			t.Errorf("%s: the code refuses it (%s %s), the schema takes it: %s", b.name, b.code, b.field, b.req.body)
		}
		checked++
		fasthttp.ReleaseRequest(req)
	}
	if checked < 150 {
		t.Errorf("only %d bodies were checked", checked)
	}
}

// docs/api/errors.md is made from the catalogue. UPDATE_DOCS=1 writes it.
func TestErrorsAreDocumented(t *testing.T) {
	const path = "../../docs/api/errors.md"
	var b strings.Builder
	b.WriteString("# Errors of the API\n\nEvery error is `application/problem+json` (RFC 9457). `code` never changes its meaning; `field` names what is\n" +
		"wrong, `fix` says what to do, `trace_id` finds it in our logs. Of a payment request, 4xx, 429 and 503 mean that it\n" +
		"was certainly not accepted; 500 and 504 mean that it may or may not have been: ask again with the same key and body.\n\n" +
		"| status | code | what happened | what to do |\n|---|---|---|---|\n")
	seen, last := map[string]bool{}, 0
	for _, p := range api.Catalogue() {
		if seen[p.Code] || p.Status < last || p.Title == "" || p.Meaning == "" || p.Action == "" {
			t.Errorf("catalogue entry %+v is incomplete, double or out of order", p)
		}
		seen[p.Code], last = true, p.Status
		fmt.Fprintf(&b, "| %d | `%s` | **%s.** %s | %s |\n", p.Status, p.Code, p.Title, p.Meaning, p.Action)
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != b.String() {
		t.Errorf("docs/api/errors.md is not what the catalogue says (run with UPDATE_DOCS=1): %v", err)
	}
}
