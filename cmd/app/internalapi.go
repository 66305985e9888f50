package app

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// Core answers other processes' questions on its operator port, which is never
// public:
//
//	GET /internal/v1/payments/{y}    {"found":true,"payment":{...},"context":{...}}
//	GET /internal/v1/trades/{code}   {"found":true,"trade":{...}}
//	POST /internal/v1/list           a event.Listing; {"found":true,"listed":[...],"cut":true}
const (
	internalPayments = "/internal/v1/payments/"
	internalTrades   = "/internal/v1/trades/"
	internalList     = "/internal/v1/list"
)

// askedFor is a header: for how many milliseconds core may look for the answer. A little
// later nobody waits for it any more.
const askedFor = "Asked-For-Millis"

// internalAnswer is the body of all.
type internalAnswer struct {
	Found   bool           `json:"found"`
	Payment event.Payment  `json:"payment,omitzero"`
	Context ids.Context    `json:"context,omitzero"`
	Trade   event.Trade    `json:"trade,omitzero"`
	Listed  []event.Listed `json:"listed,omitzero"`
	Cut     bool           `json:"cut,omitzero"`
}

// queries are what the gateway asks of core.
type queries interface {
	Payment(ctx context.Context, y ids.Code) (event.Payment, ids.Context, bool, error)
	Trade(ctx context.Context, code ids.Code) (event.Trade, bool, error)
	List(ctx context.Context, l event.Listing) (list []event.Listed, cut bool, err error)
}

// answerQueries is an operator handler that answers core's questions as well, within
// timeout.
func answerQueries(q core.Queries, timeout time.Duration, next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(c *fasthttp.RequestCtx) {
		within := timeout
		if millis, err := strconv.ParseUint(string(c.Request.Header.Peek(askedFor)), 10, 32); err == nil { // an older build does not say
			within = min(timeout, time.Duration(millis)*time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(context.Background(), within) //nolint:contextcheck // fasthttp has none that ends
		defer cancel()
		a, known, err := answer(ctx, q, c)
		if !known {
			next(c)
			return
		}
		if fault.Is(err, fault.Invalid) {
			c.Error(err.Error(), fasthttp.StatusBadRequest)
			return
		}
		var body []byte
		if err == nil {
			body, err = json.Marshal(a)
		}
		if err != nil {
			c.Error(err.Error(), fasthttp.StatusServiceUnavailable)
			return
		}
		c.SetContentType("application/json")
		c.SetBody(body)
	}
}

// answer answers one question; known is false if it is none.
func answer(ctx context.Context, q core.Queries, c *fasthttp.RequestCtx) (a internalAnswer, known bool, err error) {
	path := string(c.Path())
	if path == internalList && c.IsPost() {
		var l event.Listing
		if err := json.Unmarshal(c.PostBody(), &l); err != nil {
			return a, true, fault.New(fault.Invalid, "list", "%w", err)
		}
		a.Found = true
		a.Listed, a.Cut, err = q.List(ctx, l)
		return a, true, err
	}
	y, payment := strings.CutPrefix(path, internalPayments)
	x, trade := strings.CutPrefix(path, internalTrades)
	if !payment && !trade || !c.IsGet() {
		return a, false, nil
	}
	code, err := ids.ParseCode(map[bool]string{true: y, false: x}[payment])
	switch {
	case err != nil:
		return a, true, fault.New(fault.Invalid, "code", "%w", err)
	case payment:
		a.Payment, a.Context, a.Found, err = q.Payment(ctx, code)
	default:
		a.Trade, a.Found, err = q.Trade(ctx, code)
	}
	return a, true, err
}

// remoteQueries ask core in other processes, any of which can answer.
type remoteQueries struct {
	client *fasthttp.Client // of questions that one database answers
	lists  *fasthttp.Client // of those that wait for all: they keep nobody from the others
	bases  []string
	next   *atomic.Uint32
}

// answerBytesMax bounds an answer. Any list fits: text is at most six times as long in
// JSON, which is 3 MiB for core.CredentialBytesMax, and leaves 10 KiB for each payment.
const answerBytesMax = 4 << 20

// queryConnsMax bounds a gateway's connections to one core, and listConnsMax its lists
// that are read there at the same time.
const (
	queryConnsMax = 64
	listConnsMax  = 8
)

func newRemoteQueries(bases string) remoteQueries {
	client := func(most int) *fasthttp.Client {
		return &fasthttp.Client{MaxConnsPerHost: most, MaxIdleConnDuration: 10 * time.Second, MaxResponseBodySize: answerBytesMax,
			NoDefaultUserAgentHeader: true, MaxConnWaitTimeout: time.Second,
			// Connections of before a restart fail, one after the other. Whatever the method,
			// all that is asked only reads.
			MaxIdemponentCallAttempts: most + 1,
			RetryIfErr:                func(*fasthttp.Request, int, error) (resetTimeout, retry bool) { return false, true }}
	}
	r := remoteQueries{next: new(atomic.Uint32), client: client(queryConnsMax), lists: client(listConnsMax)}
	for _, b := range strings.Fields(bases) {
		r.bases = append(r.bases, strings.TrimSuffix(b, "/"))
	}
	return r
}

// ask asks for a path, or sends a body there: one core, the next one when it fails early,
// and once another one beside it when it has said nothing for half of the time, as it may
// stand still. Who answers is asked first from then on; if nobody does, the next one is.
func (r remoteQueries) ask(ctx context.Context, client *fasthttp.Client, path string, body []byte) (a internalAnswer, err error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(5 * time.Second)
	}
	type reply struct {
		a   internalAnswer
		err error
		by  uint32
	}
	first, n := r.next.Load(), uint32(len(r.bases)) //nolint:gosec // a handful
	replies := make(chan reply, n)
	asked, waits := uint32(0), 0
	next := func() {
		if asked == n {
			return
		}
		by := first + asked
		asked++
		waits++
		go func() {
			a, err := askOne(client, r.bases[by%n]+path, body, time.Until(deadline))
			replies <- reply{a, err, by}
		}()
	}
	next()
	whole := time.Until(deadline)
	silent := time.NewTimer(whole / 2)
	defer silent.Stop()
	for waits > 0 {
		select {
		case <-silent.C:
			next()
		case got := <-replies:
			waits--
			if got.err == nil {
				r.next.CompareAndSwap(first, got.by)
				return got.a, nil
			}
			if err = got.err; time.Until(deadline) > whole/4 { // else all are slow, and one more would not answer in time
				next()
			}
		}
	}
	r.next.CompareAndSwap(first, first+1)
	return a, err
}

func askOne(client *fasthttp.Client, url string, body []byte, within time.Duration) (a internalAnswer, err error) {
	req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(res)
	req.SetRequestURI(url)
	req.Header.Set(askedFor, strconv.FormatInt(max(0, within*9/10).Milliseconds(), 10))
	if body != nil {
		req.Header.SetMethod(fasthttp.MethodPost)
		req.SetBody(body)
	}
	if err := client.DoTimeout(req, res, within); err != nil {
		return a, fault.New(fault.Unavailable, "ask core", "%w", err)
	}
	if s := res.StatusCode(); s != 200 {
		return a, fault.New(fault.Unavailable, "ask core", "%d %.200s", s, res.Body())
	}
	if err := json.Unmarshal(res.Body(), &a); err != nil {
		return a, fault.New(fault.Unavailable, "ask core", "%w", fmt.Errorf("answer: %w", err))
	}
	return a, nil
}

// Payment implements queries.
func (r remoteQueries) Payment(ctx context.Context, y ids.Code) (event.Payment, ids.Context, bool, error) {
	a, err := r.ask(ctx, r.client, internalPayments+string(y), nil)
	return a.Payment, a.Context, a.Found, err
}

// Trade implements queries.
func (r remoteQueries) Trade(ctx context.Context, code ids.Code) (event.Trade, bool, error) {
	a, err := r.ask(ctx, r.client, internalTrades+string(code), nil)
	return a.Trade, a.Found, err
}

// List implements queries.
func (r remoteQueries) List(ctx context.Context, l event.Listing) ([]event.Listed, bool, error) {
	body, err := json.Marshal(l)
	if err != nil {
		return nil, false, err
	}
	a, err := r.ask(ctx, r.lists, internalList, body)
	return a.Listed, a.Cut, err
}
