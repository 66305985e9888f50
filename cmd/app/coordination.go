package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/coord"
	"github.com/tallystick/tallystick/internal/coord/local"
	"github.com/tallystick/tallystick/internal/coord/redis"
	"github.com/tallystick/tallystick/internal/fault"
)

// How replicas coordinate.
const (
	CoordinationLocal = "local" // each for itself
	CoordinationRedis = "redis"
)

// Coordinator is what a replica has to do with others of its roles. Nothing about
// money rests on it.
type Coordinator interface {
	coord.Limits
	coord.Hints
	coord.Wakes
	// Run runs until ctx ends; it fails never. Close follows it.
	Run(ctx context.Context) error
	Close() error
}

// RedisConfig is for coordination: redis. See redis.Config.
type RedisConfig struct {
	Addresses       string        `yaml:"addresses"` // host:port, with commas between them: several are a cluster
	Username        string        `yaml:"username"`
	DB              int           `yaml:"db"`
	TLS             bool          `yaml:"tls"`
	TLSCAFile       string        `yaml:"tls_ca_file"` // empty for the system's
	KeyPrefix       string        `yaml:"key_prefix"`
	CallTimeout     time.Duration `yaml:"call_timeout"`
	DialTimeout     time.Duration `yaml:"dial_timeout"`
	BreakerFailures int           `yaml:"breaker_failures"`
	BreakerOpen     time.Duration `yaml:"breaker_open"`
	Replicas        int           `yaml:"replicas"`
	HeartbeatEvery  time.Duration `yaml:"heartbeat_every"`
	ReplicaTTL      time.Duration `yaml:"replica_ttl"`
	PortionMax      int           `yaml:"portion_max"`
	PortionAge      time.Duration `yaml:"portion_age"`
	Gather          time.Duration `yaml:"gather"`
	PauseMin        time.Duration `yaml:"pause_min"`
	BatchMax        int           `yaml:"batch_max"`
	HintsQueueMax   int           `yaml:"hints_queue_max"`
	WakesQueueMax   int           `yaml:"wakes_queue_max"`
}

func defaultRedis() RedisConfig {
	c := redis.DefaultConfig()
	return RedisConfig{KeyPrefix: c.KeyPrefix, CallTimeout: c.CallTimeout, DialTimeout: c.DialTimeout, BreakerFailures: c.BreakerFailures,
		BreakerOpen: c.BreakerOpen, Replicas: c.Replicas, HeartbeatEvery: c.HeartbeatEvery, ReplicaTTL: c.ReplicaTTL, PortionMax: c.PortionMax,
		PortionAge: c.PortionAge, Gather: c.Gather, PauseMin: c.PauseMin, BatchMax: c.BatchMax, HintsQueueMax: c.HintsQueueMax, WakesQueueMax: c.WakesQueueMax}
}

// redis is the configuration without password and certificates.
func (c *Config) redis() redis.Config {
	r := c.Redis
	out := redis.Config{Username: r.Username, DB: r.DB, KeyPrefix: r.KeyPrefix, CallTimeout: r.CallTimeout, DialTimeout: r.DialTimeout,
		BreakerFailures: r.BreakerFailures, BreakerOpen: r.BreakerOpen, Replicas: r.Replicas, HeartbeatEvery: r.HeartbeatEvery, ReplicaTTL: r.ReplicaTTL,
		PortionMax: r.PortionMax, PortionAge: r.PortionAge, Gather: r.Gather, PauseMin: r.PauseMin, BatchMax: r.BatchMax,
		HintsQueueMax: r.HintsQueueMax, WakesQueueMax: r.WakesQueueMax}
	for a := range strings.SplitSeq(r.Addresses, ",") {
		if a = strings.TrimSpace(a); a != "" {
			out.Addresses = append(out.Addresses, a)
		}
	}
	for _, role := range allRoles() {
		if c.has(role) {
			out.Roles = append(out.Roles, string(role))
		}
	}
	return out
}

// validateCoordination names the key that cannot be.
func (c *Config) validateCoordination() error {
	switch c.Coordination {
	case CoordinationLocal:
		return nil
	case CoordinationRedis:
		r := c.redis()
		return r.Validate()
	}
	return &fault.Error{Kind: fault.Invalid, Op: "configuration", Field: "coordination", Code: "unknown_coordination", Fix: "use local or redis"}
}

// newCoordinator makes the one that the configuration names. Nothing is waited for.
func newCoordinator(d *Deps, secrets Secrets) (Coordinator, error) {
	if d.Config.Coordination != CoordinationRedis {
		return oneReplica{local.New().Replica()}, nil
	}
	c := d.Config.redis()
	var err error
	if c.Password, err = secrets.RedisPassword(); err != nil {
		return nil, err
	}
	if d.Config.Redis.TLS {
		if c.TLS, err = tlsTo(d.Config.Redis.TLSCAFile); err != nil {
			return nil, err
		}
	}
	return redis.New(c, redis.Deps{Now: d.Now, Random: d.Random, Metrics: d.Metrics, Log: d.Log})
}

// tlsTo trusts the authorities of a file, or those of the system.
func tlsTo(caFile string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return c, nil
	}
	bad := func(err error) error {
		return &fault.Error{Kind: fault.Invalid, Op: "configuration", Field: "redis.tls_ca_file", Code: "bad_file", Fix: "name a readable file of certificates in PEM form", Err: err}
	}
	text, err := os.ReadFile(caFile) //nolint:gosec // named by the operator
	if err != nil {
		return nil, bad(err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(text) {
		return nil, bad(errors.New("it has no certificate"))
	}
	return c, nil
}

// oneReplica has nobody to coordinate with.
type oneReplica struct{ *local.Replica }

func (oneReplica) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (oneReplica) Close() error { return nil }

// bucket is a shared limit as gateway/api wants it.
type bucket struct{ coord.Bucket }

func (b bucket) SetRate(perSecond float64, burst int, now time.Time) {
	b.Bucket.SetRate(coord.Rate{PerSecond: perSecond, Burst: burst}, now)
}

// merchantBuckets are shared by all gateways.
func (a *App) merchantBuckets(name string, perSecond float64, burst int) api.Bucket {
	return bucket{a.Coord.Bucket(string(RoleGateway), name, coord.Rate{PerSecond: perSecond, Burst: burst})}
}

// connectHints lets the gateway hear others, once it is made, and tell them.
func (a *App) connectHints() {
	a.Views.Decided(a.API.Decided)
	a.Coord.Hear(func(h coord.Hint) { a.API.Heard(api.KeyHint{Key: h.Key, Y: h.Y, Fingerprint: h.Fingerprint}) })
}

// hint is how a gateway tells others; nil where there are none.
func (a *App) hint() func(api.KeyHint) {
	if a.Config.Coordination != CoordinationRedis {
		return nil
	}
	return func(h api.KeyHint) { a.Coord.Tell(coord.Hint{Key: h.Key, Y: h.Y, Fingerprint: h.Fingerprint}) }
}
