package chaos

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
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
	c := &client{apiKey: apiKey, http: http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 512, IdleConnTimeout: 30 * time.Second}}}
	for _, a := range strings.Fields(addrs) {
		c.bases = append(c.bases, "http://"+a)
	}
	return c
}

// pay asks for a payment, and gives its voucher. status is 0 when there was no answer.
func (c *client) pay(ctx context.Context, o load.Order) (voucher string, status int) {
	body, err := json.Marshal(o)
	if err != nil {
		return "", 0
	}
	first := int(c.next.Add(1))
	for i := range c.bases {
		voucher, status, err = c.post(ctx, c.bases[(first+i)%len(c.bases)], o.Key, body)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return voucher, status
		}
	}
	return "", 0
}

func (c *client) post(ctx context.Context, base, key string, body []byte) (voucher string, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/payments", bytes.NewReader(body))
	if err != nil {
		return "", 0, err
	}
	// No key that the library knows by its name: it would send again by itself what
	// was cut off.
	req.Header = http.Header{"Authorization": {"Bearer " + c.apiKey}, "Content-Type": {"application/json"}, "idempotency-key": {key}}
	res, err := c.http.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusAccepted {
		return "", res.StatusCode, err
	}
	var a load.Accepted
	if err := json.Unmarshal(text, &a); err != nil {
		return "", 0, err
	}
	return a.Voucher, res.StatusCode, nil
}
