package api

import (
	"time"

	"github.com/tallystick/tallystick/internal/fault"
)

// Config bounds the API. All values must be positive.
type Config struct {
	BodyBytesMax int // of a payment request
	// AcceptTimeout is when an intent that is not committed yet is taken back;
	// AcceptDeadline, later, is when 504 is answered for one that cannot be.
	AcceptTimeout  time.Duration
	AcceptDeadline time.Duration
	// ExpiresMin, ExpiresMax and ExpiresDefault bound how long a payment may be paid.
	ExpiresMin     time.Duration
	ExpiresMax     time.Duration
	ExpiresDefault time.Duration
	// TokenAfterExpiry is how long a client token outlives its payment's expiry.
	TokenAfterExpiry time.Duration
	// WaitMax bounds ?wait= of a voucher.
	WaitMax time.Duration
	// RecentMax is how many accepted keys are remembered to answer repeats and
	// conflicts at once. What is forgotten is still settled by core.
	RecentMax    int
	QueryTimeout time.Duration // of one question to core
	RetryAfter   time.Duration // told with 429 and 503
	SlowAfter    time.Duration // an answer that took longer is logged; long-polls are not
	HTTP         HTTPConfig
}

// HTTPConfig bounds the HTTP server.
type HTTPConfig struct {
	// ConnsMax is how many connections are served at once: each long-poll holds one.
	ConnsMax int
	// HeaderBytesMax is also each connection's read buffer.
	HeaderBytesMax     int
	WriteBufferBytes   int
	RequestBodyMaxHard int // of any route, callbacks included
	ReadTimeout        time.Duration
	WriteTimeout       time.Duration
	IdleTimeout        time.Duration
}

// DefaultConfig is for one replica.
func DefaultConfig() Config {
	return Config{BodyBytesMax: 16 << 10, AcceptTimeout: time.Second, AcceptDeadline: 3 * time.Second,
		ExpiresMin: time.Minute, ExpiresMax: 24 * time.Hour, ExpiresDefault: 15 * time.Minute, TokenAfterExpiry: 24 * time.Hour,
		WaitMax: time.Minute, RecentMax: 50_000, QueryTimeout: 2 * time.Second, RetryAfter: time.Second, SlowAfter: time.Second,
		HTTP: HTTPConfig{ConnsMax: 20_000, HeaderBytesMax: 4096, WriteBufferBytes: 2048, RequestBodyMaxHard: 256 << 10,
			ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 75 * time.Second}}
}

// Validate names the value that is not positive or contradicts another.
func (c Config) Validate() error {
	for _, f := range []struct {
		name  string
		value int64
	}{{"bodyBytesMax", int64(c.BodyBytesMax)}, {"acceptTimeout", int64(c.AcceptTimeout)}, {"acceptDeadline", int64(c.AcceptDeadline)},
		{"expiresMin", int64(c.ExpiresMin)}, {"expiresMax", int64(c.ExpiresMax)}, {"expiresDefault", int64(c.ExpiresDefault)},
		{"tokenAfterExpiry", int64(c.TokenAfterExpiry)}, {"waitMax", int64(c.WaitMax)}, {"recentMax", int64(c.RecentMax)},
		{"queryTimeout", int64(c.QueryTimeout)}, {"retryAfter", int64(c.RetryAfter)}, {"slowAfter", int64(c.SlowAfter)},
		{"http.connsMax", int64(c.HTTP.ConnsMax)}, {"http.headerBytesMax", int64(c.HTTP.HeaderBytesMax)},
		{"http.writeBufferBytes", int64(c.HTTP.WriteBufferBytes)}, {"http.requestBodyMaxHard", int64(c.HTTP.RequestBodyMaxHard)},
		{"http.readTimeout", int64(c.HTTP.ReadTimeout)}, {"http.writeTimeout", int64(c.HTTP.WriteTimeout)},
		{"http.idleTimeout", int64(c.HTTP.IdleTimeout)}} {
		if f.value <= 0 {
			return configError(f.name, "not_positive", "set it to at least 1")
		}
	}
	switch {
	case c.AcceptDeadline <= c.AcceptTimeout:
		return configError("acceptDeadline", "too_small", "set it later than acceptTimeout")
	case c.ExpiresMin < time.Second || c.ExpiresMin > c.ExpiresDefault || c.ExpiresDefault > c.ExpiresMax:
		return configError("expiresDefault", "contradiction", "keep 1 s <= expiresMin <= expiresDefault <= expiresMax")
	case c.HTTP.RequestBodyMaxHard < c.BodyBytesMax:
		return configError("http.requestBodyMaxHard", "too_small", "set it to at least bodyBytesMax")
	}
	return nil
}

func configError(field, code, fix string) error {
	return &fault.Error{Kind: fault.Invalid, Op: "gateway", Field: "gateway.api." + field, Code: code, Fix: fix}
}
