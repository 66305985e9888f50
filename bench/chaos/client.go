package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/bench/load"
)

// client is a merchant's: Go's own, which notices when a server closes a connection
// that nothing goes over. It goes to the next gateway where a connection is refused;
// whatever else happens to a request counts.
type client struct {
	http   http.Client
	bases  []string
	apiKey string
	next   atomic.Uint32
}

func newClient(addrs, apiKey string) *client {
	c := &client{apiKey: apiKey, http: http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 512, IdleConnTimeout: 30 * time.Second,
		DialContext: dialCounted}}}
	for _, a := range strings.Fields(addrs) {
		c.bases = append(c.bases, "http://"+a)
	}
	return c
}

// counted is a connection that counts what is sent over it.
type counted struct {
	net.Conn
	sent atomic.Int64
}

func dialCounted(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &counted{Conn: c}, nil
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// outcome is what one request came to.
type outcome int

const (
	accepted  outcome = iota
	refused           // 429 and 503: certainly nothing came of it
	unknown           // 504: nobody can say
	wrong             // any other answer
	cut               // something of it was sent, and no answer came
	unreached         // no gateway took a connection
)

// answer is what a client got.
type answer struct {
	outcome
	status    int // 0: none
	body      []byte
	err       error // why there is none
	elsewhere bool  // one gateway refused the connection, another one took it
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%d %.200s", a.status, a.body)
}

// pay asks for a payment.
func (c *client) pay(ctx context.Context, o load.Order) (promised load.Accepted, a answer) {
	body, err := json.Marshal(o)
	if err != nil {
		return promised, answer{outcome: wrong, err: err}
	}
	// No key that the library knows by its name: it would send again by itself what
	// was cut off.
	a = c.ask(ctx, http.MethodPost, "/v1/payments", http.Header{"Authorization": {"Bearer " + c.apiKey}, "Content-Type": {"application/json"}, "idempotency-key": {o.Key}}, body)
	switch a.status {
	case 0:
	case http.StatusAccepted:
		if err := json.Unmarshal(a.body, &promised); err != nil {
			a.outcome, a.err = wrong, err
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		a.outcome = refused
	case http.StatusGatewayTimeout:
		a.outcome = unknown
	default:
		a.outcome = wrong
	}
	return promised, a
}

// ask sends a request to one gateway after the other, until one takes the connection.
// What a status means is the caller's.
func (c *client) ask(ctx context.Context, method, path string, header http.Header, body []byte) (a answer) {
	first := int(c.next.Add(1))
	for i := range c.bases {
		a = c.askOne(ctx, method, c.bases[(first+i)%len(c.bases)]+path, header, body)
		if a.outcome != unreached {
			a.elsewhere = i > 0
			return a
		}
	}
	return a
}

func (c *client) askOne(ctx context.Context, method, url string, header http.Header, body []byte) answer {
	// The library sends again by itself what only reads, when its connection ends: then
	// the first one was cut, if anything of it was sent.
	var on *counted
	var before int64
	again := false
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		again = again || on != nil && on.sent.Load() > before
		on = got.Conn.(*counted)
		before = on.sent.Load()
	}}), method, url, bytes.NewReader(body))
	if err != nil {
		return answer{outcome: wrong, err: err}
	}
	req.Header = header
	res, err := c.http.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) && !again {
		return answer{outcome: unreached, err: err}
	}
	if err != nil {
		return answer{outcome: cut, err: err}
	}
	defer res.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return answer{outcome: cut, err: err}
	case again:
		return answer{outcome: cut, err: fmt.Errorf("%s %s was cut, and answered when it was sent again", method, url)}
	}
	return answer{status: res.StatusCode, body: text}
}
