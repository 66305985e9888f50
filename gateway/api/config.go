package api

import (
	"fmt"
	"time"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
)

// Config bounds the API. All values but Linger and LastRequest must be positive.
type Config struct {
	BodyBytesMax int `yaml:"body_bytes_max"` // of a payment request
	// AcceptTimeout is when an intent that is not committed yet is taken back;
	// AcceptDeadline, later, is when 504 is answered for one that cannot be.
	AcceptTimeout  time.Duration `yaml:"accept_timeout"`
	AcceptDeadline time.Duration `yaml:"accept_deadline"`
	// ExpiresMin, ExpiresMax and ExpiresDefault bound how long a payment may be paid.
	ExpiresMin     time.Duration `yaml:"expires_min"`
	ExpiresMax     time.Duration `yaml:"expires_max"`
	ExpiresDefault time.Duration `yaml:"expires_default"`
	// TokenAfterExpiry is how long a client token outlives its payment's expiry.
	TokenAfterExpiry time.Duration `yaml:"token_after_expiry"`
	// WaitMax bounds ?wait= of a voucher.
	WaitMax time.Duration `yaml:"wait_max"`
	// PageMax bounds ?limit= of a list.
	PageMax int `yaml:"page_max"`
	// RecentMax is how many accepted keys are remembered to answer repeats and
	// conflicts at once. What is forgotten is still settled by core.
	RecentMax int `yaml:"recent_max"`
	// HintsMax is how many keys that other gateways have settled are remembered, and
	// how many of ours wait until core has settled them.
	HintsMax     int           `yaml:"hints_max"`
	QueryTimeout time.Duration `yaml:"query_timeout"` // of one question to core
	RetryAfter   time.Duration `yaml:"retry_after"`   // told with 429 and 503
	SlowAfter    time.Duration `yaml:"slow_after"`    // an answer that took longer is logged; long-polls are not
	// Linger is for how long a gateway that is stopped goes on answering, where there are
	// others: each answer ends its connection, and balancers see that it is not ready. 0 is
	// not at all: then clients that know of several gateways meet one that refuses.
	Linger time.Duration `yaml:"linger"`
	// LastRequest is for how long after that, when no new connections are made, those
	// that are there may bring one more request.
	LastRequest time.Duration `yaml:"last_request"`
	HTTP        HTTPConfig    `yaml:"http"`
}

// HTTPConfig bounds the HTTP server.
type HTTPConfig struct {
	// ConnsMax is how many connections are served at once: each long-poll holds one.
	ConnsMax int `yaml:"conns_max"`
	// HeaderBytesMax is also each connection's read buffer.
	HeaderBytesMax     int           `yaml:"header_bytes_max"`
	WriteBufferBytes   int           `yaml:"write_buffer_bytes"`
	RequestBodyMaxHard int           `yaml:"request_body_max_hard"` // of any route, callbacks included
	ReadTimeout        time.Duration `yaml:"read_timeout"`
	WriteTimeout       time.Duration `yaml:"write_timeout"`
	IdleTimeout        time.Duration `yaml:"idle_timeout"`
}

// DefaultConfig is for one replica.
func DefaultConfig() Config {
	return Config{BodyBytesMax: 16 << 10, AcceptTimeout: time.Second, AcceptDeadline: 3 * time.Second,
		ExpiresMin: time.Minute, ExpiresMax: 24 * time.Hour, ExpiresDefault: 15 * time.Minute, TokenAfterExpiry: 24 * time.Hour,
		WaitMax: time.Minute, PageMax: 100, RecentMax: 50_000, HintsMax: 50_000, QueryTimeout: 2 * time.Second, RetryAfter: time.Second, SlowAfter: time.Second,
		LastRequest: time.Second,
		HTTP: HTTPConfig{ConnsMax: 20_000, HeaderBytesMax: 4096, WriteBufferBytes: 2048, RequestBodyMaxHard: 256 << 10,
			ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 75 * time.Second}}
}

// Validate names the value that is not positive or contradicts another.
func (c Config) Validate() error {
	for _, f := range []struct {
		name  string
		value int64
	}{{"body_bytes_max", int64(c.BodyBytesMax)}, {"accept_timeout", int64(c.AcceptTimeout)}, {"accept_deadline", int64(c.AcceptDeadline)},
		{"expires_min", int64(c.ExpiresMin)}, {"expires_max", int64(c.ExpiresMax)}, {"expires_default", int64(c.ExpiresDefault)},
		{"token_after_expiry", int64(c.TokenAfterExpiry)}, {"wait_max", int64(c.WaitMax)}, {"page_max", int64(c.PageMax)}, {"recent_max", int64(c.RecentMax)}, {"hints_max", int64(c.HintsMax)},
		{"query_timeout", int64(c.QueryTimeout)}, {"retry_after", int64(c.RetryAfter)}, {"slow_after", int64(c.SlowAfter)},
		{"http.conns_max", int64(c.HTTP.ConnsMax)}, {"http.header_bytes_max", int64(c.HTTP.HeaderBytesMax)},
		{"http.write_buffer_bytes", int64(c.HTTP.WriteBufferBytes)}, {"http.request_body_max_hard", int64(c.HTTP.RequestBodyMaxHard)},
		{"http.read_timeout", int64(c.HTTP.ReadTimeout)}, {"http.write_timeout", int64(c.HTTP.WriteTimeout)},
		{"http.idle_timeout", int64(c.HTTP.IdleTimeout)}} {
		if f.value <= 0 {
			return configError(f.name, "not_positive", "set it to at least 1")
		}
	}
	switch {
	case c.AcceptDeadline <= c.AcceptTimeout:
		return configError("accept_deadline", "too_small", "set it later than accept_timeout")
	case c.ExpiresMin < time.Second || c.ExpiresMin > c.ExpiresDefault || c.ExpiresDefault > c.ExpiresMax:
		return configError("expires_default", "contradiction", "keep 1s <= expires_min <= expires_default <= expires_max")
	case c.Linger < 0 || c.Linger > 10*time.Second:
		return configError("linger", "out_of_range", "use 0s to 10s")
	case c.LastRequest < 0 || c.LastRequest > 10*time.Second:
		return configError("last_request", "out_of_range", "use 0s to 10s")
	case c.PageMax >= event.ListMax:
		return configError("page_max", "too_large", fmt.Sprintf("set it to at most %d", event.ListMax-1))
	case c.HTTP.RequestBodyMaxHard < c.BodyBytesMax:
		return configError("http.request_body_max_hard", "too_small", "set it to at least body_bytes_max")
	}
	return nil
}

func configError(field, code, fix string) error {
	return &fault.Error{Kind: fault.Invalid, Op: "gateway", Field: "api." + field, Code: code, Fix: fix}
}
