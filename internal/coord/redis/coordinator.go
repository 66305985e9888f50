package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/sony/gobreaker/v2"

	"github.com/tallystick/tallystick/internal/coord"
	"github.com/tallystick/tallystick/internal/fault"
)

// Deps is what a Coordinator is made of beside its configuration. Random, Metrics
// and Log may be left out.
type Deps struct {
	Now     func() time.Time
	Random  io.Reader // for the replica's id
	Metrics *metrics.Set
	Log     *slog.Logger
}

// idLen is the length of a replica's id.
const idLen = 16

// Coordinator is one replica: all three ports. Safe for concurrent use.
type Coordinator struct {
	cfg     Config
	client  redis.UniversalClient
	now     func() time.Time
	log     *slog.Logger
	breaker *gobreaker.CircuitBreaker[struct{}]
	queue   *queue
	metrics *figures
	id      [idLen]byte
	subs    coord.Subscribers
	hear    func(coord.Hint)
	// Of the goroutine that calls.
	beatAt     time.Time // the next heartbeat
	drawScript *script
	beatScript *script

	mu       sync.Mutex
	buckets  map[string]*bucket
	replicas map[string]int // by role, as last counted
}

// New checks the configuration. It does not wait for Redis, and nothing runs until
// Run does. fault.Invalid names the key that is wrong.
func New(cfg Config, d Deps) (*Coordinator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if d.Random == nil {
		d.Random = rand.Reader
	}
	if d.Metrics == nil {
		d.Metrics = metrics.NewSet()
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	c := &Coordinator{cfg: cfg, now: d.Now, log: d.Log, drawScript: newScript(drawScript), beatScript: newScript(beatScript), buckets: map[string]*bucket{}, replicas: map[string]int{}}
	if _, err := io.ReadFull(d.Random, c.id[:]); err != nil {
		return nil, fault.Wrap("redis: replica id", err)
	}
	c.queue = newQueue(&c.cfg)
	c.metrics = c.newFigures(d.Metrics)
	c.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{Name: "redis", MaxRequests: 1, Timeout: cfg.BreakerOpen,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= uint32(cfg.BreakerFailures) }, //nolint:gosec // validated
		OnStateChange: func(_ string, from, to gobreaker.State) {
			c.log.Warn("redis breaker: without Redis each replica keeps to its part of every limit", "from", from.String(), "to", to.String())
		}})
	c.client = redis.NewUniversalClient(c.options())
	return c, nil
}

// options leaves nothing to go-redis that takes longer than a call may: it does not
// try again, and it does not greet.
func (c *Coordinator) options() *redis.UniversalOptions {
	redis.SetLogger(silent{}) // it writes to standard error; what is wrong, calls tell us
	return &redis.UniversalOptions{Addrs: c.cfg.Addresses, Username: c.cfg.Username, Password: c.cfg.Password, DB: c.cfg.DB, TLSConfig: c.cfg.TLS,
		Dialer: c.cfg.Dial, Protocol: 2, DisableIdentity: true, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		MaxRetries: -1, MaxRedirects: 1, DialerRetries: 1, DialTimeout: c.cfg.DialTimeout, ReadTimeout: c.cfg.CallTimeout, WriteTimeout: c.cfg.CallTimeout,
		PoolTimeout: c.cfg.CallTimeout, ContextTimeoutEnabled: true, PoolSize: 2, PipelinePoolSize: -1}
}

// silent is a logger of go-redis.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// Tell implements coord.Hints.
func (c *Coordinator) Tell(h coord.Hint) {
	if len(h.Y) != hintCodeLen || !c.queue.hint(h) {
		c.metrics.hintsDropped.Inc()
	}
}

// Hear implements coord.Hints.
func (c *Coordinator) Hear(hear func(coord.Hint)) { c.hear = hear }

// Notify implements coord.Wakes.
func (c *Coordinator) Notify(name string) {
	coord.CheckName(name)
	c.subs.Wake(name)
	if !c.queue.notify(name) {
		c.metrics.wakesDropped.Inc()
	}
}

// Subscribe implements coord.Wakes.
func (c *Coordinator) Subscribe(name string) (<-chan struct{}, func()) { return c.subs.Subscribe(name) }

// replicasOf is how many share a bucket. c.mu is held.
func (c *Coordinator) replicasOf(role string) int {
	if n := c.replicas[role]; n > 0 {
		return n
	}
	return c.cfg.Replicas
}

// Replicas is how many replicas of a role there are, as far as this one knows.
func (c *Coordinator) Replicas(role string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.replicasOf(role)
}

// counted takes what Redis counted.
func (c *Coordinator) counted(role string, n int, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replicas[role] == n || n < 1 {
		return
	}
	c.replicas[role] = n
	for _, b := range c.buckets {
		if b.role == role {
			b.divide(n, now)
		}
	}
}

// Run talks to Redis until ctx ends, and then says that this replica is gone. It
// fails never: without Redis it tries again.
func (c *Coordinator) Run(ctx context.Context) error {
	var listening sync.WaitGroup
	listening.Go(func() { c.listen(ctx) })
	defer listening.Wait()
	beat := time.NewTicker(c.cfg.HeartbeatEvery)
	defer beat.Stop()
	gather := time.NewTimer(0)
	defer gather.Stop()
	for {
		select {
		case <-ctx.Done():
			c.leave(context.WithoutCancel(ctx))
			return nil
		case <-gather.C:
		}
		c.step(ctx)
		select {
		case <-ctx.Done():
		case <-c.queue.kick:
		case <-beat.C:
		}
		gather.Reset(c.cfg.Gather)
	}
}

// Close closes the connections. Nothing may run any more.
func (c *Coordinator) Close() error { return fault.Wrap("redis", c.client.Close()) }

// step makes one call with all that waits, if anything does.
func (c *Coordinator) step(ctx context.Context) {
	now, b := c.now(), c.queue.take()
	beat := !now.Before(c.beatAt)
	if b.empty() && !beat {
		return
	}
	if beat {
		// A heartbeat that is not heard is as good as none: the next one is in time.
		c.beatAt = now.Add(c.cfg.HeartbeatEvery / 2)
	}
	p := c.newCall(b, beat)
	_, err := c.breaker.Execute(func() (struct{}, error) { return struct{}{}, p.run(ctx) })
	switch {
	case err == nil:
		c.metrics.callsOK.Inc()
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		c.metrics.callsRefused.Inc()
		p.refused(c.cfg.BreakerOpen / 4)
		return
	default:
		c.metrics.callsFailed.Inc()
	}
	p.settle()
}

// leave takes this replica off the count, if Redis is there.
func (c *Coordinator) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	_, _ = c.breaker.Execute(func() (struct{}, error) {
		_, err := c.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, role := range c.cfg.Roles {
				p.ZRem(ctx, c.replicasKey(role), string(c.id[:]))
			}
			return nil
		})
		return struct{}{}, err
	})
}

func (c *Coordinator) replicasKey(role string) string { return c.cfg.KeyPrefix + "replicas:" + role }

// Up reports whether calls go through: the breaker is closed.
func (c *Coordinator) Up() bool { return c.breaker.State() == gobreaker.StateClosed }

// Listening reports whether this replica hears the others.
func (c *Coordinator) Listening() bool { return c.metrics.listening.Load() }

// figures are what /metrics shows.
type figures struct {
	callsOK, callsFailed, callsRefused                 *metrics.Counter
	tokensDrawn, tokensOwn                             *metrics.Counter
	hintsSent, hintsHeard, hintsDropped, messagesWrong *metrics.Counter
	wakesDropped                                       *metrics.Counter
	listening                                          atomic.Bool
}

func (c *Coordinator) newFigures(set *metrics.Set) *figures {
	count := set.GetOrCreateCounter
	f := &figures{callsOK: count(`tallystick_coord_calls_total{result="ok"}`), callsFailed: count(`tallystick_coord_calls_total{result="error"}`),
		callsRefused: count(`tallystick_coord_calls_total{result="breaker_open"}`),
		tokensDrawn:  count(`tallystick_coord_tokens_total{from="redis"}`), tokensOwn: count(`tallystick_coord_tokens_total{from="own"}`),
		hintsSent: count(`tallystick_coord_hints_total{result="sent"}`), hintsHeard: count(`tallystick_coord_hints_total{result="heard"}`),
		hintsDropped: count(`tallystick_coord_hints_total{result="dropped"}`), messagesWrong: count(`tallystick_coord_messages_wrong_total`),
		wakesDropped: count(`tallystick_coord_wakes_dropped_total`)}
	for _, state := range []gobreaker.State{gobreaker.StateClosed, gobreaker.StateHalfOpen, gobreaker.StateOpen} {
		set.GetOrCreateGauge(`tallystick_coord_breaker_state{state="`+state.String()+`"}`, func() float64 { return truth(c.breaker.State() == state) })
	}
	set.GetOrCreateGauge("tallystick_coord_listening", func() float64 { return truth(f.listening.Load()) })
	for _, role := range c.cfg.Roles {
		set.GetOrCreateGauge(`tallystick_coord_replicas{role="`+role+`"}`, func() float64 { return float64(c.Replicas(role)) })
	}
	return f
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
