// Package load drives a gateway as merchants and their checkouts do: over the
// public HTTP API, with keep-alive connections, keys of its own and a log of
// what it was promised.
package load

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"
)

// Client speaks the public API to gateways: to one after the other, and to the next
// one where a connection is refused. Safe for concurrent use.
type Client struct {
	hosts  []*fasthttp.HostClient
	apiKey string
	next   atomic.Uint32
}

// NewClient makes a client of the gateways at addrs ("127.0.0.1:8080", with spaces
// between several), with at most conns connections to each.
func NewClient(addrs, apiKey string, conns int) *Client {
	c := &Client{apiKey: apiKey}
	for _, addr := range strings.Fields(addrs) {
		c.hosts = append(c.hosts, &fasthttp.HostClient{Addr: addr, MaxConns: conns,
			MaxIdleConnDuration: 30 * time.Second, MaxIdemponentCallAttempts: 1, ReadTimeout: 90 * time.Second, WriteTimeout: 10 * time.Second,
			NoDefaultUserAgentHeader: true, DisableHeaderNamesNormalizing: false, ReadBufferSize: 4096, WriteBufferSize: 2048})
	}
	return c
}

// Order is what a merchant asks to be paid.
type Order struct {
	OrderID  string            `json:"order_id"`
	Amount   int64             `json:"amount"`
	Currency string            `json:"currency"`
	Subject  string            `json:"subject"`
	Method   string            `json:"method,omitzero"`
	Metadata map[string]string `json:"metadata,omitzero"`
	Key      string            `json:"-"` // Idempotency-Key; empty for none
}

// Accepted is the body of a 202.
type Accepted struct {
	Voucher string `json:"voucher"`
	Payment string `json:"payment"`
	Trade   string `json:"trade"`
	Token   string `json:"token"`
}

// View is what a voucher has come to.
type View struct {
	Voucher string `json:"voucher"`
	Status  string `json:"status"`
	Version int64  `json:"version"`

	AcceptedAtMillis int64 `json:"accepted_at_millis"`
}

// Page is one of a merchant's list.
type Page struct {
	Payments []View `json:"payments"`
	More     bool   `json:"more"`
}

// Final reports whether the voucher's state will not change any more.
func (v View) Final() bool {
	switch v.Status {
	case "paid", "done", "declined", "closed", "expired", "rejected":
		return true
	}
	return false
}

// Pay asks for a payment. status is the HTTP status, 0 when there was no answer:
// then, as after 504, only asking again tells.
func (c *Client) Pay(o Order) (a Accepted, status int, err error) {
	body, err := json.Marshal(o)
	if err != nil {
		return a, 0, err
	}
	status, err = c.do("POST", "/v1/payments", c.apiKey, o.Key, body, &a)
	return a, status, err
}

// Await long-polls a voucher with its client token until its version is greater
// than since, or wait (whole seconds) has passed.
func (c *Client) Await(a Accepted, since int64, wait time.Duration) (v View, status int, err error) {
	path := "/v1/vouchers/" + a.Voucher + "?wait=" + strconv.Itoa(int(wait.Seconds())) + "&since=" + strconv.FormatInt(since, 10)
	status, err = c.do("GET", path, a.Token, "", nil, &v)
	return v, status, err
}

// List asks for a page of the merchant's payments, the last accepted first: of the first
// ones, or of those behind one.
func (c *Client) List(after string, limit int) (p Page, status int, err error) {
	path := "/v1/payments?limit=" + strconv.Itoa(limit)
	if after != "" {
		path += "&after=" + after
	}
	status, err = c.do("GET", path, c.apiKey, "", nil, &p)
	return p, status, err
}

func (c *Client) do(method, path, bearer, key string, body []byte, into any) (int, error) {
	req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(res)
	req.Header.SetMethod(method)
	req.Header.Set("Authorization", "Bearer "+bearer)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	if body != nil {
		req.Header.SetContentType("application/json")
		req.SetBodyRaw(body)
	}
	var err error
	first := c.next.Add(1)
	for i := range c.hosts {
		host := c.hosts[(int(first)+i)%len(c.hosts)]
		req.SetRequestURI("http://" + host.Addr + path)
		if err = host.Do(req, res); !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	if err != nil {
		return 0, err
	}
	if s := res.StatusCode(); s >= 300 {
		return s, fmt.Errorf("%s %s: %d %s", method, path, s, res.Body())
	}
	return res.StatusCode(), json.Unmarshal(res.Body(), into)
}
