package redis

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
)

// Config says where Redis is, and bounds what is asked of it.
type Config struct {
	// Addresses are host:port: one of a server, several of a Redis Cluster.
	Addresses []string
	Username  string
	Password  string
	DB        int         // 0 in a cluster
	TLS       *tls.Config // nil for none
	KeyPrefix string      // of keys and channels, so that installations can share a server
	// Roles are those of this replica: it counts as one of each.
	Roles []string
	// CallTimeout bounds one call; DialTimeout a connection, which calls do not wait for.
	CallTimeout time.Duration
	DialTimeout time.Duration
	// BreakerFailures in a row stop all calls for BreakerOpen; then one tries again.
	BreakerFailures int
	BreakerOpen     time.Duration
	// Replicas is how many there are of each role, as long as Redis has not said it.
	Replicas int
	// HeartbeatEvery is how often a replica says that it lives; ReplicaTTL, after
	// which silence it does not count.
	HeartbeatEvery time.Duration
	ReplicaTTL     time.Duration
	// PortionMax and PortionAge bound the tokens that are drawn ahead.
	PortionMax int
	PortionAge time.Duration
	// Gather is the least time between two calls. PauseMin is the least between two
	// draws of a bucket that was empty, or whose draw failed.
	Gather   time.Duration
	PauseMin time.Duration
	// BatchMax is how many draws, hints or wake-ups one call takes of each.
	BatchMax int
	// HintsQueueMax and WakesQueueMax wait for the next call; more are dropped.
	HintsQueueMax int
	WakesQueueMax int
	// Dial opens a connection; nil for the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// DefaultConfig lacks Addresses and Roles.
func DefaultConfig() Config {
	return Config{KeyPrefix: "tallystick:", CallTimeout: 20 * time.Millisecond, DialTimeout: time.Second, BreakerFailures: 5, BreakerOpen: time.Second,
		Replicas: 2, HeartbeatEvery: time.Second, ReplicaTTL: 5 * time.Second, PortionMax: 1000, PortionAge: 200 * time.Millisecond,
		Gather: time.Millisecond, PauseMin: 5 * time.Millisecond, BatchMax: 256, HintsQueueMax: 8192, WakesQueueMax: 1024}
}

// Validate names the first value that cannot be.
func (c *Config) Validate() error {
	bad := func(field, code, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "redis", Field: "redis." + field, Code: code, Fix: fix}
	}
	if len(c.Addresses) == 0 {
		return bad("addresses", "missing", "name Redis as host:port, or set coordination: local")
	}
	for _, a := range c.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return bad("addresses", "bad_value", "give "+strconv.Quote(a)+" as host:port")
		}
	}
	for _, f := range []struct {
		name  string
		value int64
	}{{"call_timeout", int64(c.CallTimeout)}, {"dial_timeout", int64(c.DialTimeout)}, {"breaker_failures", int64(c.BreakerFailures)},
		{"breaker_open", int64(c.BreakerOpen)}, {"replicas", int64(c.Replicas)}, {"heartbeat_every", int64(c.HeartbeatEvery)},
		{"replica_ttl", int64(c.ReplicaTTL)}, {"portion_max", int64(c.PortionMax)}, {"portion_age", int64(c.PortionAge)},
		{"gather", int64(c.Gather)}, {"pause_min", int64(c.PauseMin)}, {"batch_max", int64(c.BatchMax)},
		{"hints_queue_max", int64(c.HintsQueueMax)}, {"wakes_queue_max", int64(c.WakesQueueMax)}} {
		if f.value <= 0 {
			return bad(f.name, "not_positive", "set it to at least 1")
		}
	}
	switch {
	case len(c.Roles) == 0:
		return bad("roles", "missing", "give the process a role")
	case c.DB < 0 || c.DB > 0 && len(c.Addresses) > 1:
		return bad("db", "out_of_range", "use 0 in a cluster, and a number from 0 otherwise")
	case c.CallTimeout > time.Second:
		return bad("call_timeout", "out_of_range", "use at most 1s: what takes longer is not worth waiting for")
	case c.BreakerFailures > 10_000:
		return bad("breaker_failures", "out_of_range", "use 1 to 10000")
	case c.ReplicaTTL < 2*c.HeartbeatEvery:
		return bad("replica_ttl", "too_small", "set it to at least twice heartbeat_every")
	case c.ReplicaTTL < time.Millisecond:
		return bad("replica_ttl", "too_small", "use at least 1ms")
	}
	return nil
}
