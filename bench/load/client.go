// Package load drives a gateway as merchants and their checkouts do: over the
// public HTTP API, with keep-alive connections, keys of its own and a log of
// what it was promised.
package load

import (
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"
)

// Client speaks the public API to one gateway. Safe for concurrent use.
type Client struct {
	host   fasthttp.HostClient
	apiKey string
	base   string
}

// NewClient makes a client of a gateway at addr ("127.0.0.1:8080"), with at most
// conns connections.
func NewClient(addr, apiKey string, conns int) *Client {
	return &Client{apiKey: apiKey, base: "http://" + addr, host: fasthttp.HostClient{Addr: addr, MaxConns: conns,
		MaxIdleConnDuration: 30 * time.Second, MaxIdemponentCallAttempts: 1, ReadTimeout: 90 * time.Second, WriteTimeout: 10 * time.Second,
		NoDefaultUserAgentHeader: true, DisableHeaderNamesNormalizing: false, ReadBufferSize: 4096, WriteBufferSize: 2048}}
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

func (c *Client) do(method, path, bearer, key string, body []byte, into any) (int, error) {
	req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(res)
	req.SetRequestURI(c.base + path)
	req.Header.SetMethod(method)
	req.Header.Set("Authorization", "Bearer "+bearer)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	if body != nil {
		req.Header.SetContentType("application/json")
		req.SetBodyRaw(body)
	}
	if err := c.host.Do(req, res); err != nil {
		return 0, err
	}
	if s := res.StatusCode(); s >= 300 {
		return s, fmt.Errorf("%s %s: %d %s", method, path, s, res.Body())
	}
	return res.StatusCode(), json.Unmarshal(res.Body(), into)
}
