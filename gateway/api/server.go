package api

import (
	"bytes"
	"context"
	"errors"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/callback"
	"github.com/tallystick/tallystick/internal/fault"
)

// CallbackHandler takes a callback, as gateway/callback does: the Ack is for the
// PSP; with a status of 0 the error is told as any other.
type CallbackHandler interface {
	Receive(callback.Request) (channels.Ack, error)
}

// Probe is one thing that a ready process has.
type Probe struct {
	Name  string
	Check func() error // cheap, bounded, safe for concurrent use
}

// Server is the HTTP shell of a Service.
type Server struct {
	*Service
	http      *fasthttp.Server
	listening atomic.Pointer[listener] // what Serve has
	pool      sync.Pool                // *exchange
	routes    *routeMetrics
	polls     context.Context // ends at shutdown: long-polls answer at once
	endPoll   context.CancelFunc
	closing   atomic.Bool
}

// New makes the API. Nothing runs until Serve.
func New(d Deps) (*Server, error) {
	service, err := NewService(d)
	if err != nil {
		return nil, err
	}
	s := &Server{Service: service, routes: newRouteMetrics(service.d.Metrics)}
	s.polls, s.endPoll = context.WithCancel(context.Background())
	s.http = s.newHTTP()
	return s, nil
}

// Handler answers every request of the API.
func (s *Server) Handler(ctx *fasthttp.RequestCtx) {
	x := s.exchange(ctx)
	defer s.done(x)
	s.identifyTrace(x)
	if err := s.dispatch(x); err != nil {
		s.problem(x, err)
	}
}

// done ends an exchange, also one whose handler panicked.
func (s *Server) done(x *exchange) {
	if p := recover(); p != nil {
		s.recovered(x, p)
	}
	s.finish(x)
	s.release(x)
}

// recovered turns a panic into an answer: fasthttp would let it take the whole
// process down, and all other requests with it. Of a payment that was on its way
// nobody can say more than 504 does.
func (s *Server) recovered(x *exchange, p any) {
	s.d.Log.Error("handler panicked", append([]any{"panic", p, "route", routePatterns[x.route], "stack", string(debug.Stack())}, x.context.LogAttrs()...)...)
	kind, code := fault.Internal, "internal"
	if x.begun {
		kind, code = fault.Unknown, "acceptance_unknown"
	}
	x.Response.Reset()
	s.problem(x, &fault.Error{Kind: kind, Op: "gateway", Code: code})
}

// The names of headers, as they are written: nothing brings them into that form
// for each request.
const (
	headerTraceparent    = "Traceparent"
	headerIdempotencyKey = "Idempotency-Key"
)

var (
	headerTraceID       = []byte("X-Trace-Id")
	headerTraceparentID = []byte(headerTraceparent)
	headerCacheControl  = []byte("Cache-Control")
	noStore             = []byte("no-store") // answers are of one moment, for one caller
)

// finish is done with every answer, whatever it is.
func (s *Server) finish(x *exchange) {
	h := &x.Response.Header
	h.SetCanonical(headerTraceID, x.trace)
	h.SetCanonical(headerTraceparentID, x.parent[:])
	h.SetCanonical(headerCacheControl, noStore)
	if s.closing.Load() {
		h.SetConnectionClose()
	}
	took := s.d.Now().Sub(x.start)
	status := x.Response.StatusCode()
	s.routes.requests[x.route][min(max(status/100, 2), 5)].Inc()
	s.routes.seconds[x.route].Update(took.Seconds())
	slow := took > s.d.Config.SlowAfter && x.route != routeVoucherWait
	if status < 500 && !slow {
		return
	}
	// Path and query stay out: a query may carry a token.
	args := []any{"route", routePatterns[x.route], "status", status, "took_millis", took.Milliseconds(), "error", x.err}
	if x.context.BizCode == "" {
		args = append(args, "trace_id", string(x.trace))
	} else {
		args = append(args, x.context.LogAttrs()...)
	}
	if status >= 500 && x.route != routeReady {
		s.d.Log.Error("request failed", args...)
	} else {
		s.d.Log.Warn("request slow or not ready", args...)
	}
}

var (
	pathPayments  = []byte("/v1/payments")
	pathVouchers  = []byte("/v1/vouchers/")
	pathTrades    = []byte("/v1/trades/")
	pathCallbacks = []byte("/v1/callbacks/")
	pathHealth    = []byte("/healthz")
	pathReady     = []byte("/readyz")
)

// dispatch finds the route by path, then by method.
func (s *Server) dispatch(x *exchange) error {
	path := x.Path()
	switch {
	case bytes.Equal(path, pathPayments):
		if x.IsGet() {
			x.route = routeList
			return s.getPayments(x)
		}
		x.route = routePayments
		return s.only(x, "POST", s.postPayment, "GET")
	case segment(path, pathVouchers):
		x.route = routeVoucher
		return s.only(x, "GET", s.getVoucher)
	case segment(path, pathTrades):
		x.route = routeTrade
		return s.only(x, "GET", s.getTrade)
	case s.d.Callbacks != nil && bytes.HasPrefix(path, pathCallbacks):
		if channel, account, ok := bytes.Cut(path[len(pathCallbacks):], []byte("/")); ok && len(channel) > 0 && segment(account, nil) {
			x.route = routeCallback
			return s.only(x, "POST", s.postCallback)
		}
	case bytes.Equal(path, pathHealth):
		x.route = routeHealth
		return s.only(x, "GET", s.getHealth)
	case bytes.Equal(path, pathReady):
		x.route = routeReady
		return s.only(x, "GET", s.getReady)
	}
	return &fault.Error{Kind: fault.NotFound, Op: "gateway", Code: "route_unknown"}
}

// segment reports whether path is prefix and one more segment.
func segment(path, prefix []byte) bool {
	return bytes.HasPrefix(path, prefix) && len(path) > len(prefix) && bytes.IndexByte(path[len(prefix):], '/') < 0
}

// only serves a method of a path that may have others.
func (s *Server) only(x *exchange, method string, h func(*exchange) error, others ...string) error {
	if string(x.Method()) != method {
		x.Response.Header.Set("Allow", strings.Join(append(others, method), ", "))
		return &fault.Error{Kind: fault.Invalid, Op: "gateway", Code: "method_not_allowed"}
	}
	return h(x)
}

// merchant authenticates an API key.
func (s *Server) merchant(key []byte) (*merchant.Merchant, error) {
	directory := s.d.Directory.Current()
	if directory.Version == 0 { // nobody can say whose key it is
		return nil, noDirectory()
	}
	if len(key) > 0 {
		if m := directory.Authenticate(key); m != nil {
			return m, nil
		}
	}
	return nil, &fault.Error{Kind: fault.Unauthorized, Op: "gateway", Code: "unauthorized"}
}

// noDirectory is for a process that does not know yet who there is.
func noDirectory() error {
	return &fault.Error{Kind: fault.Unavailable, Op: "gateway", Code: "not_ready", Err: errors.New("there is no directory yet")}
}

func (s *Server) postPayment(x *exchange) error {
	m, err := s.merchant(x.bearer())
	if err != nil {
		return err
	}
	if x.hasQuery() {
		return invalid("query_invalid", "", "send no query parameters", nil)
	}
	h := &x.Request.Header
	if !isJSON(h.ContentType()) || len(h.ContentEncoding()) > 0 {
		return &fault.Error{Kind: fault.Invalid, Op: "gateway", Code: "media_type_unsupported"}
	}
	var key []byte
	switch keys := h.PeekAll(headerIdempotencyKey); {
	case len(keys) == 1 && len(keys[0]) > 0:
		key = keys[0]
	case len(keys) > 0:
		return invalid("header_invalid", headerIdempotencyKey, "send it once, with 1 to 255 visible ASCII characters, or leave it out", nil)
	}
	a := &x.payment
	if err := s.begin(a, m, x.PostBody(), key, x.trace, x.start); err != nil {
		return err
	}
	x.begun, x.context = true, a.Context
	if err := s.Wait(a); err != nil {
		return err
	}
	x.SetStatusCode(fasthttp.StatusAccepted)
	x.SetContentType(contentTypeJSON)
	x.out = s.AppendAnswer(x.out[:0], a)
	x.Response.AppendBody(x.out)
	return nil
}

func (s *Server) getVoucher(x *exchange) error {
	var since int64
	var wait time.Duration
	var token []byte
	err := x.parameters(
		parameter{"wait", func(text string) (err error) { wait, err = s.readWait(text); return err }},
		parameter{"since", func(text string) (err error) { since, err = readSince(text); return err }},
		parameter{"token", func(text string) error { token = []byte(text); return nil }})
	c, authErr := s.caller(x, token)
	if authErr != nil { // who may not ask is not told what is wrong with the question
		return authErr
	}
	if err != nil {
		return err
	}
	if wait > 0 {
		x.route = routeVoucherWait
	}
	a, err := s.Voucher(s.polls, c, string(x.Path()[len(pathVouchers):]), since, wait)
	x.context = a.context
	if err != nil {
		return err
	}
	return x.json(a)
}

// caller authenticates by API key or client token, from the header, else from ?token=.
func (s *Server) caller(x *exchange, query []byte) (c Caller, err error) {
	proof := x.bearer()
	if len(proof) == 0 {
		proof = query
		if len(query) > 0 && !bytes.HasPrefix(query, []byte(TokenPrefix)) {
			// An API key does not belong into a URL, where logs keep it.
			return c, &fault.Error{Kind: fault.Unauthorized, Op: "gateway", Code: "token_invalid"}
		}
	}
	if bytes.HasPrefix(proof, []byte(TokenPrefix)) {
		c.Claims, err = s.d.Tokens.Verify(proof, s.d.Now())
	} else {
		c.Merchant, err = s.merchant(proof)
	}
	return c, err
}

func (s *Server) getTrade(x *exchange) error {
	m, err := s.merchant(x.bearer())
	if err != nil {
		return err
	}
	if x.hasQuery() {
		return invalid("query_invalid", "", "send no query parameters", nil)
	}
	a, err := s.Trade(context.WithoutCancel(s.polls), m, string(x.Path()[len(pathTrades):]))
	x.context = a.context
	if err != nil {
		return err
	}
	return x.json(a)
}

func (s *Server) postCallback(x *exchange) error {
	if s.d.Directory.Current().Version == 0 {
		return noDirectory()
	}
	channel, account, _ := bytes.Cut(x.Path()[len(pathCallbacks):], []byte("/"))
	headers := map[string]string{}
	for k, v := range x.Request.Header.All() {
		headers[string(bytes.ToLower(k))] = string(v)
	}
	ack, err := s.d.Callbacks.Receive(callback.Request{Channel: string(channel), Account: string(account), Method: "POST",
		Path: string(x.Path()), Headers: headers, Body: x.PostBody()})
	if ack.Status == 0 {
		return err
	}
	x.err = err
	x.SetStatusCode(ack.Status)
	x.SetContentType(ack.ContentType)
	x.SetBody(ack.Body)
	return nil
}

func (s *Server) getHealth(x *exchange) error { return x.json(map[string]string{"status": "alive"}) }

// getReady names everything that is missing.
func (s *Server) getReady(x *exchange) error {
	missing := []string{}
	if s.closing.Load() {
		missing = append(missing, "shutting down")
	}
	for _, p := range s.d.Probes {
		if err := p.Check(); err != nil {
			missing = append(missing, p.Name)
			x.err = errors.Join(x.err, fault.Wrap(p.Name, err))
		}
	}
	if len(missing) == 0 {
		return x.json(map[string]string{"status": "ready"})
	}
	b, err := json.Marshal(missing)
	if err != nil {
		return err
	}
	s.problemWith(x, &fault.Error{Kind: fault.Unavailable, Op: "gateway", Code: "not_ready", Err: x.err}, append([]byte(`,"missing":`), b...))
	return nil
}
