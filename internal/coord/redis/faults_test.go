package redis_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tallystick/tallystick/internal/coord"
	"github.com/tallystick/tallystick/internal/coord/coordtest"
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
)

// never is a rate that gives nothing while a test runs: what is taken is of the
// burst.
const never = 1e-6

const burst = 60

// drain takes until nothing comes any more, also what is drawn a moment later.
func drain(r *replica, name string) (n int) {
	b := r.Bucket(coordtest.Role, name, coord.Rate{PerSecond: never, Burst: burst})
	for idle := 0; idle < 60; idle++ {
		for b.Take(time.Now()) {
			n, idle = n+1, 0
		}
		time.Sleep(5 * time.Millisecond)
	}
	return n
}

// alone checks that a replica keeps to its part of a limit.
func alone(t *testing.T, r *replica, name string, replicas int) {
	t.Helper()
	eventually(t, "the breaker is open", func() bool { return !r.Up() })
	if n := drain(r, name); n != burst/replicas {
		t.Errorf("without Redis one of %d replicas gets %d of %d", replicas, n, burst)
	}
}

// shared checks that Redis is used, without a restart.
func shared(t *testing.T, name string, rs ...*replica) {
	t.Helper()
	for _, r := range rs {
		eventually(t, "the breaker is closed", r.Up)
		eventually(t, "the others are heard", r.Listening)
	}
	// On a busy machine a call may take too long now and then: that is no failure here.
	n := 0
	for try := 0; n < burst; try++ {
		if n = drain(rs[0], fmt.Sprint(name, try)); try == 20 {
			t.Fatalf("with Redis one of %d replicas, alone, gets %d of %d", len(rs), n, burst)
		}
	}
}

func TestRedisGoesAndComesBack(t *testing.T) {
	for _, tc := range []struct {
		name     string
		leave    func(*engines.Redis) error
		comeBack func(*engines.Redis, context.Context) error
	}{
		{"killed and started again, empty", (*engines.Redis).Kill, (*engines.Redis).Start},
		{"frozen", (*engines.Redis).Freeze, func(s *engines.Redis, _ context.Context) error { return s.Thaw() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := start(t)
			c := config(s.Addr)
			c.CallTimeout = 20 * time.Millisecond
			var heard sync.Map
			a := run(t, c, nil)
			b := run(t, c, func(h coord.Hint) { heard.Store(h.Y, true) })
			together(t, a, b)
			shared(t, "before", a, b)
			wake, cancel := b.Subscribe("x")
			defer cancel()
			must(t, tc.leave(s))
			alone(t, a, "while", 2)
			for len(wake) > 0 {
				<-wake
			}
			a.Tell(coord.Hint{Y: "r00000000000000000000000001"})
			eventually(t, "a hint without a way is dropped", func() bool { return a.figure(`hints_total{result="dropped"}`) > 0 })
			must(t, tc.comeBack(s, t.Context()))
			shared(t, "after", a, b)
			eventually(t, "who was deaf wakes its own, or is woken", func() bool { a.Notify("x"); return len(wake) > 0 })
			const y = "r00000000000000000000000002"
			eventually(t, "hints are heard again", func() bool { a.Tell(coord.Hint{Y: y}); _, ok := heard.Load(coordY(y)); return ok })
		})
	}
}

// After a time of deafness a replica wakes all its own, though nobody said a thing.
func TestDeafnessWakes(t *testing.T) {
	s := start(t)
	r := run(t, config(s.Addr), nil)
	together(t, r)
	wake, cancel := r.Subscribe("x")
	defer cancel()
	must(t, s.Kill())
	eventually(t, "the subscription is known to be gone", func() bool { return !r.Listening() })
	must(t, s.Start(t.Context()))
	eventually(t, "a wake-up", func() bool { return len(wake) > 0 })
}

// A connection that is there and brings nothing any more is noticed, and replaced.
func TestADeafConnectionIsReplaced(t *testing.T) {
	var network slowly
	c := config(server.Addr)
	a := run(t, c, nil)
	c.Dial = network.dial
	b := run(t, c, nil)
	together(t, a, b)
	wake, cancel := b.Subscribe("x")
	defer cancel()
	network.deaf.Store(network.conns.Load())
	eventually(t, "the other is heard again", func() bool { a.Notify("x"); return len(wake) > 0 })
}

// What is drawn ahead and not used goes back: nothing is lost by an idle while.
func TestWhatIsDrawnAheadGoesBack(t *testing.T) {
	c := config(server.Addr)
	a, b := run(t, c, nil), run(t, c, nil)
	together(t, a, b)
	bucket := a.Bucket(coordtest.Role, "x", coord.Rate{PerSecond: never, Burst: burst})
	n := 0
	for ; n < burst/2-5; n++ { // of its own share; what is left is less than a portion
		if !bucket.Take(time.Now()) {
			t.Fatalf("%d tokens, its own share is %d", n, burst/2)
		}
	}
	failed := 0
	eventually(t, "a portion is drawn ahead", func() bool {
		if now := a.figure(`calls_total{result="error"}`); now > failed { // by a busy machine: only the next token asks again
			failed = now
			if bucket.Take(time.Now()) {
				n++
			}
		}
		return a.figure(`tokens_total{from="redis"}`) > 0
	})
	time.Sleep(c.PortionAge + 50*time.Millisecond)
	if n += drain(a, "x"); n < burst {
		t.Errorf("%d tokens of %d: those that were too old are lost", n, burst)
	}
}

// Scripts that Redis has forgotten are sent again: that is no failure of Redis.
func TestFlushedScripts(t *testing.T) {
	s := start(t)
	c := config(s.Addr)
	a, b := run(t, c, nil), run(t, c, nil)
	together(t, a, b)
	client := goredis.NewClient(&goredis.Options{Addr: s.Addr})
	defer client.Close() //nolint:errcheck // a test
	for i, name := range []string{"one", "two", "three"} {
		must(t, client.ScriptFlush(t.Context()).Err())
		shared(t, name, a, b)
		if failed := a.figure(`calls_total{result="error"}`); failed > 0 {
			t.Fatalf("round %d: %d calls failed", i, failed)
		}
	}
}

// Nothing is asked for after this flush: the draw that finds no script is made again
// by itself.
func TestADrawThatFindsNoScriptIsMadeAgain(t *testing.T) {
	s := start(t)
	c := config(s.Addr)
	a, b := run(t, c, nil), run(t, c, nil)
	together(t, a, b)
	client := goredis.NewClient(&goredis.Options{Addr: s.Addr})
	defer client.Close() //nolint:errcheck // a test
	drawn := 0
	for i, name := range []string{"one", "two"} {
		bucket := a.Bucket(coordtest.Role, name, coord.Rate{PerSecond: never, Burst: burst})
		for range burst/2 - 5 { // what is left is less than a portion
			bucket.Take(time.Now())
		}
		failed := 0
		eventually(t, "a portion is drawn", func() bool {
			if now := a.figure(`calls_total{result="error"}`); now > failed { // by a busy machine: only the next token asks again
				failed = now
				bucket.Take(time.Now())
			}
			return a.figure(`tokens_total{from="redis"}`) > drawn
		})
		drawn = a.figure(`tokens_total{from="redis"}`)
		if i == 0 {
			must(t, client.ScriptFlush(t.Context()).Err())
		}
	}
}

func TestWrongPassword(t *testing.T) {
	s := start(t, "--requirepass", "right")
	c := config(s.Addr)
	c.Password, c.Replicas = "wrong", 4
	alone(t, run(t, c, nil), "x", 4) // as configured: nobody could be counted
	c.Password = "right"
	r := run(t, c, nil)
	together(t, r)
	shared(t, "y", r)
}

// slowly is a network on which all takes long, or that is cut; connections that are
// there already can be made deaf.
type slowly struct {
	delay atomic.Int64
	cut   atomic.Bool
	deaf  atomic.Int64 // connections up to this one hear nothing
	conns atomic.Int64
}

func (s *slowly) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	return &slowConn{c, s, s.conns.Add(1)}, err
}

type slowConn struct {
	net.Conn
	s *slowly
	n int64
}

func (c *slowConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || c.n > c.s.deaf.Load() {
			return n, err
		}
	}
}

func (c *slowConn) Write(b []byte) (int, error) {
	time.Sleep(time.Duration(c.s.delay.Load()))
	if c.s.cut.Load() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func TestSlowRedis(t *testing.T) {
	s := start(t)
	var network slowly
	c := config(s.Addr)
	c.CallTimeout, c.Dial = 20*time.Millisecond, network.dial
	a, b := run(t, c, nil), run(t, c, nil)
	together(t, a, b)
	network.delay.Store(int64(60 * time.Millisecond))
	alone(t, a, "while", 2)
	network.delay.Store(0)
	shared(t, "after", a, b)
}

// Whatever Redis does, who asks for a token does not wait: here not even a
// connection comes about, and this test would not end.
func TestNobodyWaitsForRedis(t *testing.T) {
	hang := make(chan struct{})
	c := config(server.Addr)
	dialled := make(chan struct{}, 100)
	c.CallTimeout, c.Replicas = 20*time.Millisecond, 2
	c.Dial = func(context.Context, string, string) (net.Conn, error) {
		select {
		case dialled <- struct{}{}:
		default:
		}
		<-hang
		return nil, fault.New(fault.Unavailable, "test", "no connection")
	}
	r := run(t, c, nil)
	b := r.Bucket(coordtest.Role, "x", coord.Rate{PerSecond: never, Burst: 5000})
	taken := 0
	for range 5000 {
		if b.Take(time.Now()) {
			taken++
		}
		r.Tell(coord.Hint{Y: "r00000000000000000000000001"})
		r.Notify("x")
	}
	<-dialled
	if wait, cancel := b.Reserve(time.Now()); wait > 0 {
		cancel(time.Now())
	}
	if taken != 2500 {
		t.Errorf("%d tokens, one of two replicas has 2500", taken)
	}
	// A call gives up in time as well: else the breaker would never open.
	eventually(t, "the breaker is open", func() bool { return !r.Up() })
	close(hang)
}

// A replica asks Redis once for a portion of tokens, not once for each.
func TestCallsAreFew(t *testing.T) {
	c := config(server.Addr)
	c.HeartbeatEvery, c.ReplicaTTL = 10*time.Second, time.Minute
	a, b := run(t, c, nil), run(t, c, nil)
	eventually(t, "the heartbeats", func() bool {
		return a.figure(`calls_total{result="ok"}`) > 0 && b.figure(`calls_total{result="ok"}`) > 0
	})
	before := a.figure(`calls_total{result="ok"}`)
	bucket := a.Bucket(coordtest.Role, "x", coord.Rate{PerSecond: never, Burst: 40_000})
	taken := 0
	for range 2_000_000 {
		if bucket.Take(time.Now()) {
			taken++
		}
		if taken == 20_000 {
			break
		}
	}
	if calls := a.figure(`calls_total{result="ok"}`) - before; taken < 20_000 || calls > 20_000/100 {
		t.Errorf("%d tokens with %d calls", taken, calls)
	}
}

// A replica that ends, or is not heard of for long, does not count.
func TestReplicasAreCounted(t *testing.T) {
	s := start(t)
	c := config(s.Addr)
	a, b, ended := run(t, c, nil), run(t, c, nil), run(t, c, nil)
	together(t, a, b, ended)
	ended.stop()
	together(t, a, b)
	if n := drain(a, "x"); n < burst {
		t.Errorf("one of 2, alone: %d of %d", n, burst)
	}
	// One more, and the share of a bucket that is there already is less.
	a.Bucket(coordtest.Role, "y", coord.Rate{PerSecond: never, Burst: burst})
	together(t, a, b, run(t, c, nil))
	must(t, s.Kill())
	alone(t, a, "y", 3)

	s = start(t)
	var network slowly
	c = config(s.Addr)
	c.ReplicaTTL = 400 * time.Millisecond
	a = run(t, c, nil)
	c.Dial = network.dial
	gone := run(t, c, nil)
	together(t, a, gone)
	network.cut.Store(true)
	eventually(t, "one is left", func() bool { return a.Replicas(coordtest.Role) == 1 })
	if n := gone.Replicas(coordtest.Role); n != 2 {
		t.Errorf("who is cut off knows of %d replicas: the last number counts", n)
	}
}

// Under load for some time, replicas together stay below what the package says.
func TestOverAdmissionIsBounded(t *testing.T) {
	const n, perSecond = 3, 400.0
	c := config(server.Addr)
	c.PortionAge = 20 * time.Millisecond // a small portion: the bound is close
	var rs []*replica
	for range n {
		rs = append(rs, run(t, c, nil))
	}
	together(t, rs...)
	begin := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for _, r := range rs {
		b := r.Bucket(coordtest.Role, "x", coord.Rate{PerSecond: perSecond, Burst: 40})
		wg.Go(func() {
			mine := 0
			for time.Since(begin) < time.Second {
				if b.Take(time.Now()) {
					mine++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			taken += mine
		})
	}
	wg.Wait()
	took := time.Since(begin).Seconds()
	portion := max(40/4, perSecond*c.PortionAge.Seconds())
	if most := 2*40 + perSecond*took + 2*n*portion; float64(taken) > most {
		t.Errorf("%d tokens within %.2f s, at most %.0f", taken, took, most)
	}
	t.Logf("%d tokens within %.2f s, at %.0f a second and a burst of 40", taken, took, perSecond)
}
