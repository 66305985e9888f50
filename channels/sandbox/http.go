package sandbox

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/fault"
)

// errNoConn says that all connections allowed are in use.
var errNoConn = fmt.Errorf("%w: all connections are in use", ErrNotSent)

// httpSender carries requests by HTTP, once each: whether a request is repeated
// is decided above, so the client's own repetitions are off in every way it has.
type httpSender struct {
	client  *fasthttp.HostClient
	base    string
	callMax time.Duration
}

func newHTTP(c *Config) (*httpSender, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || (u.Path != "" && u.Path != "/") ||
		u.User != nil || u.RawQuery != "" {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "sandbox", Code: "config_invalid", Field: "endpoint",
			Fix: "a base URL such as http://127.0.0.1:9090"}
	}
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	dialMax := millis(c.DialMillisMax)
	return &httpSender{
		base:    u.Scheme + "://" + u.Host,
		callMax: millis(c.CallMillisMax),
		client: &fasthttp.HostClient{
			Addr: addr, IsTLS: u.Scheme == "https", TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12},
			DialTimeout: func(addr string, left time.Duration) (net.Conn, error) {
				return dial(addr, left, dialMax)
			},
			MaxConns: c.ConnectionsMax, MaxIdleConnDuration: millis(c.IdleMillisMax), ConnPoolStrategy: fasthttp.LIFO,
			MaxIdemponentCallAttempts: 1,
			RetryIfErr:                func(*fasthttp.Request, int, error) (bool, bool) { return false, false },
			MaxResponseBodySize:       c.ReplyBytesMax,
			NoDefaultUserAgentHeader:  true, DisablePathNormalizing: true,
		},
	}, nil
}

// dial is the one place that proves NotSent: where it fails, there never was a
// connection on which a byte could have left.
func dial(addr string, left, dialMax time.Duration) (net.Conn, error) {
	if left <= 0 || left > dialMax {
		left = dialMax
	}
	conn, err := net.DialTimeout("tcp", addr, left)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return conn, nil
}

// send makes one call. It returns at ctx's deadline; a ctx that is cancelled
// without one is noticed before the call only, as what was sent stays sent.
func (h *httpSender) send(ctx context.Context, r wire.Request) (wire.Response, error) {
	deadline, ok := ctx.Deadline()
	if latest := time.Now().Add(h.callMax); !ok || deadline.After(latest) {
		deadline = latest
	}
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(fasthttp.MethodPost)
	req.SetRequestURI(h.base + r.Path)
	req.Header.SetContentType(wire.ContentType)
	req.Header.Set(wire.HeaderAccount, r.Seal.Account)
	req.Header.Set(wire.HeaderKey, r.Seal.Key)
	req.Header.Set(wire.HeaderTimestamp, r.Seal.Timestamp)
	req.Header.Set(wire.HeaderNonce, r.Seal.Nonce)
	req.Header.Set(wire.HeaderSignature, r.Seal.Signature)
	req.SetBodyRaw(r.Body)

	err := h.client.DoDeadline(req, resp, deadline)
	if errors.Is(err, fasthttp.ErrNoFreeConns) {
		return wire.Response{}, errNoConn
	}
	if err != nil {
		return wire.Response{}, err
	}
	return wire.Response{
		Status: resp.StatusCode(),
		Seal: wire.Seal{
			Account:   r.Seal.Account,
			Nonce:     r.Seal.Nonce,
			Key:       string(resp.Header.Peek(wire.HeaderKey)),
			Timestamp: string(resp.Header.Peek(wire.HeaderTimestamp)),
			Signature: string(resp.Header.Peek(wire.HeaderSignature)),
		},
		Body: append([]byte(nil), resp.Body()...), // the Outcome keeps it, resp is reused
	}, nil
}

func millis(n int) time.Duration { return time.Duration(n) * time.Millisecond }
