package api

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/callback"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
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
	http    *fasthttp.Server
	routes  *routeMetrics
	polls   context.Context // ends at shutdown: long-polls answer at once
	endPoll context.CancelFunc
	closing atomic.Bool
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

// exchange is one request on its way through the handler. It lives no longer.
type exchange struct {
	*fasthttp.RequestCtx
	trace   [ids.TraceIDLen]byte
	span    [16]byte
	route   route
	begun   *Acceptance // of a payment request, once it is on its way
	context ids.Context // for the log, once known
	err     error
}

// Handler answers every request of the API.
func (s *Server) Handler(ctx *fasthttp.RequestCtx) {
	start := s.d.Now()
	x := &exchange{RequestCtx: ctx}
	defer s.finish(x, start)
	defer s.recovered(x)
	s.identify(x)
	if err := s.dispatch(x); err != nil {
		s.problem(x, err)
	}
}

// recovered turns a panic into an answer: fasthttp would let it take the whole
// process down, and all other requests with it. Of a payment that was on its way
// nobody can say more than 504 does.
func (s *Server) recovered(x *exchange) {
	p := recover()
	if p == nil {
		return
	}
	s.d.Log.Error("handler panicked", append([]any{"panic", p, "route", routePatterns[x.route], "stack", string(debug.Stack())}, x.context.LogAttrs()...)...)
	kind, code := fault.Internal, "internal"
	if x.begun != nil {
		kind, code = fault.Unknown, "acceptance_unknown"
	}
	x.Response.Reset()
	s.problem(x, &fault.Error{Kind: kind, Op: "gateway", Code: code})
}

// identify takes the caller's trace id, or makes one, and answers with it.
func (s *Server) identify(x *exchange) {
	var random [24]byte
	if _, err := io.ReadFull(s.d.Random, random[:]); err != nil {
		panic("gateway: no randomness: " + err.Error())
	}
	hex.Encode(x.trace[:], random[:16])
	hex.Encode(x.span[:], random[16:])
	if t := x.Request.Header.Peek("traceparent"); validTraceparent(t) {
		copy(x.trace[:], t[3:35])
	}
}

// validTraceparent holds a header against W3C Trace Context, version 00.
func validTraceparent(b []byte) bool {
	if len(b) != 55 || b[0] != '0' || b[1] != '0' || b[2] != '-' || b[35] != '-' || b[52] != '-' {
		return false
	}
	return lowerHex(b[3:35]) && lowerHex(b[36:52]) && lowerHex(b[53:55]) && !zeros(b[3:35]) && !zeros(b[36:52])
}

func lowerHex(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func zeros(b []byte) bool { return len(bytes.Trim(b, "0")) == 0 }

// finish is done with every answer, whatever it is.
func (s *Server) finish(x *exchange, start time.Time) {
	h := &x.Response.Header
	h.SetBytesV("X-Trace-Id", x.trace[:])
	h.Set("traceparent", "00-"+string(x.trace[:])+"-"+string(x.span[:])+"-01")
	h.Set("Cache-Control", "no-store") // answers are of one moment, for one caller
	took := s.d.Now().Sub(start)
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
		args = append(args, "trace_id", string(x.trace[:]))
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
		x.route = routePayments
		return s.only(x, "POST", s.postPayment)
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

func (s *Server) only(x *exchange, method string, h func(*exchange) error) error {
	if string(x.Method()) != method {
		x.Response.Header.Set("Allow", method)
		return &fault.Error{Kind: fault.Invalid, Op: "gateway", Code: "method_not_allowed"}
	}
	return h(x)
}

// bearer gives the credentials of the Authorization header; empty without them.
func (x *exchange) bearer() []byte {
	const scheme = "Bearer "
	h := x.Request.Header.Peek("Authorization")
	if len(h) <= len(scheme) || !bytes.EqualFold(h[:len(scheme)], []byte(scheme)) {
		return nil
	}
	return h[len(scheme):]
}

// merchant authenticates an API key.
func (s *Server) merchant(key []byte) (*merchant.Merchant, error) {
	if len(key) > 0 {
		if m := s.d.Directory.Current().Authenticate(key); m != nil {
			return m, nil
		}
	}
	return nil, &fault.Error{Kind: fault.Unauthorized, Op: "gateway", Code: "unauthorized"}
}

func (s *Server) postPayment(x *exchange) error {
	m, err := s.merchant(x.bearer())
	if err != nil {
		return err
	}
	if x.QueryArgs().Len() > 0 {
		return invalid("query_invalid", "", "send no query parameters", nil)
	}
	if !isJSON(x.Request.Header.ContentType()) || len(x.Request.Header.ContentEncoding()) > 0 {
		return &fault.Error{Kind: fault.Invalid, Op: "gateway", Code: "media_type_unsupported"}
	}
	call := Call{Body: x.PostBody(), TraceID: string(x.trace[:])}
	switch keys := x.Request.Header.PeekAll("Idempotency-Key"); {
	case len(keys) == 1 && len(keys[0]) > 0:
		call.IdempotencyKey = string(keys[0])
	case len(keys) > 0:
		return invalid("header_invalid", "Idempotency-Key", "send it once, with 1 to 255 visible ASCII characters, or leave it out", nil)
	}
	a, err := s.Begin(m, call)
	if err != nil {
		return err
	}
	x.begun, x.context = a, a.Context
	if err := s.Wait(a); err != nil {
		return err
	}
	x.SetStatusCode(fasthttp.StatusAccepted)
	x.SetContentType("application/json")
	x.Response.SetBodyRaw(s.AppendAnswer(make([]byte, 0, 640), a))
	return nil
}

// isJSON takes application/json, in UTF-8.
func isJSON(contentType []byte) bool {
	media, params, _ := bytes.Cut(contentType, []byte(";"))
	params = bytes.TrimSpace(params)
	return bytes.EqualFold(bytes.TrimSpace(media), []byte("application/json")) &&
		(len(params) == 0 || bytes.EqualFold(bytes.ReplaceAll(params, []byte(`"`), nil), []byte("charset=utf-8")))
}

func (s *Server) getVoucher(x *exchange) error {
	var since int64
	var wait time.Duration
	var token []byte
	var seen [3]bool
	var err error
	for k, v := range x.QueryArgs().All() {
		if err != nil {
			break
		}
		i := -1
		switch string(k) {
		case "wait":
			i = 0
			wait, err = s.readWait(string(v))
		case "since":
			i = 1
			since, err = readSince(string(v))
		case "token":
			i = 2
			token = v
		default:
			err = invalid("query_invalid", clip(string(k), 64), "remove it; known are wait, since, token", nil)
			continue
		}
		if seen[i] {
			err = invalid("query_invalid", string(k), "send it once", nil)
		}
		seen[i] = true
	}
	var c Caller
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
	if x.QueryArgs().Len() > 0 {
		return invalid("query_invalid", "", "send no query parameters", nil)
	}
	a, err := s.Trade(s.polls, m, string(x.Path()[len(pathTrades):]))
	x.context = a.context
	if err != nil {
		return err
	}
	return x.json(a)
}

func (s *Server) postCallback(x *exchange) error {
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
