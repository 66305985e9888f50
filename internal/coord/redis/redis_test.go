package redis_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/internal/coord"
	"github.com/tallystick/tallystick/internal/coord/coordtest"
	"github.com/tallystick/tallystick/internal/coord/redis"
	"github.com/tallystick/tallystick/internal/engines"
)

// server is the one that tests share which do it no harm.
var server *engines.Redis

func TestMain(m *testing.M) {
	code, err := withServer(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withServer(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "tallystick-redis-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	if server, err = engines.StartRedis(context.Background(), dir); err != nil {
		return 1, err
	}
	code := m.Run()
	return code, server.Stop()
}

// start starts a server for one test.
func start(tb testing.TB, args ...string) *engines.Redis {
	tb.Helper()
	s, err := engines.StartRedis(tb.Context(), tb.TempDir(), args...)
	must(tb, err)
	tb.Cleanup(func() { _ = s.Kill() })
	return s
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

var prefixes atomic.Int64

// config has a prefix of its own. Calls may take long: the machine is busy, and who
// tests the bound sets it.
func config(addr string) redis.Config {
	c := redis.DefaultConfig()
	c.Addresses, c.Roles = []string{addr}, []string{coordtest.Role}
	c.KeyPrefix = fmt.Sprintf("t%d:", prefixes.Add(1))
	c.CallTimeout = time.Second
	c.HeartbeatEvery, c.ReplicaTTL = 50*time.Millisecond, 10*time.Minute
	c.BreakerOpen = 50 * time.Millisecond
	c.Replicas = 7 // as many as no test runs: who knows of two has counted them
	return c
}

// replica is a coordinator that runs, with its figures.
type replica struct {
	*redis.Coordinator
	set  *metrics.Set
	stop func()
}

func (r *replica) figure(name string) int {
	return int(r.set.GetOrCreateCounter("tallystick_coord_" + name).Get())
} //nolint:gosec // small

// run starts a replica, which ends with the test.
func run(tb testing.TB, c redis.Config, hear func(coord.Hint)) *replica {
	tb.Helper()
	set := metrics.NewSet()
	r, err := redis.New(c, redis.Deps{Now: time.Now, Metrics: set})
	must(tb, err)
	if hear != nil {
		r.Hear(hear)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx)
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-done
		_ = r.Close()
	})
	tb.Cleanup(stop)
	return &replica{r, set, stop}
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			tb.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// together waits until replicas hear each other and know how many they are.
func together(tb testing.TB, rs ...*replica) {
	tb.Helper()
	eventually(tb, "replicas know of each other", func() bool {
		for _, r := range rs {
			if !r.Listening() || r.Replicas(coordtest.Role) != len(rs) {
				return false
			}
		}
		return true
	})
}

func adapter(s func() *engines.Redis) coordtest.Adapter {
	return coordtest.Adapter{
		Open: func(tb testing.TB, n int, hear []func(coord.Hint)) []coordtest.Replica {
			c := config(s().Addr)
			var rs []*replica
			var out []coordtest.Replica
			for i := range n {
				r := run(tb, c, hear[i])
				rs, out = append(rs, r), append(out, r)
			}
			together(tb, rs...)
			return out
		},
		// See the package: two bursts, and two portions of each replica.
		MoreMax: func(n, burst int) int { return burst + 2*n*max(1, burst/4) },
	}
}

func TestRedis(t *testing.T) {
	coordtest.Run(t, adapter(func() *engines.Redis { return server }))
}

// What an acceptance pays for a shared limit, with Redis there.
func BenchmarkTake(b *testing.B) {
	c := config(server.Addr)
	x, y := run(b, c, nil), run(b, c, nil)
	together(b, x, y)
	bucket := x.Bucket(coordtest.Role, "x", coord.Rate{PerSecond: 100_000, Burst: 100_000})
	b.ReportAllocs()
	for b.Loop() {
		bucket.Take(time.Now())
	}
	b.ReportMetric(float64(x.figure(`calls_total{result="ok"}`))/float64(b.N), "calls/op")
}
