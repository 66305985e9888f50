package redis_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	goredis "github.com/redis/go-redis/v9"

	"github.com/tallystick/tallystick/internal/coord"
	"github.com/tallystick/tallystick/internal/coord/redis"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

func coordY(s string) ids.Code { return ids.Code(s) }

// Queues have bounds, and what finds them full is dropped and counted.
func TestQueuesAreBounded(t *testing.T) {
	c := config(server.Addr)
	c.HintsQueueMax, c.WakesQueueMax = 8, 3
	set := metrics.NewSet()
	r, err := redis.New(c, redis.Deps{Now: time.Now, Metrics: set}) // nothing runs
	must(t, err)
	defer r.Close() //nolint:errcheck // a test
	for range 20 {
		r.Tell(coord.Hint{Y: "r00000000000000000000000001"})
	}
	for _, name := range []string{"a", "b", "c", "d", "a", "e"} {
		r.Notify(name)
	}
	figures := &replica{Coordinator: r, set: set}
	if hints, wakes := figures.figure(`hints_total{result="dropped"}`), figures.figure("wakes_dropped_total"); hints != 12 || wakes != 2 {
		t.Errorf("%d of 20 hints were dropped, 8 have a place; %d of 5 names, 3 have one", hints, wakes)
	}
}

// What is no message of ours is counted and does nothing.
func TestWrongMessages(t *testing.T) {
	c := config(server.Addr)
	heard := make(chan coord.Hint, 100)
	r := run(t, c, func(h coord.Hint) { heard <- h })
	together(t, r)
	client := goredis.NewClient(&goredis.Options{Addr: server.Addr})
	defer client.Close() //nolint:errcheck // a test
	head, hint := "\x01another replica!", strings.Repeat("k", 8)+"r00000000000000000000000001"+strings.Repeat("f", 32)
	for i, m := range []struct{ channel, text string }{
		{"hints", ""}, {"hints", "\x01short"}, {"hints", head + hint + "x"}, {"hints", head + strings.Replace(hint, "r0", "U0", 1)},
		{"hints", head + hint + strings.Replace(hint, "r0", "U0", 1)}, {"wakes", ""}, {"wakes", head}, {"wakes", head + "a\n\nb"},
	} {
		must(t, client.Publish(t.Context(), c.KeyPrefix+m.channel, m.text).Err())
		eventually(t, "counted", func() bool { return r.figure("messages_wrong_total") == i+1 })
	}
	// Of another version: not for us, and not wrong.
	must(t, client.Publish(t.Context(), c.KeyPrefix+"hints", "\x02"+head[1:]+"anything").Err())
	must(t, client.Publish(t.Context(), c.KeyPrefix+"hints", head+hint).Err())
	if h := <-heard; h.Y != "r00000000000000000000000001" || len(heard) > 0 || r.figure("messages_wrong_total") != 8 {
		t.Errorf("heard %+v and %d more", h, len(heard))
	}
}

func FuzzMessage(f *testing.F) {
	head := "\x01another replica!"
	f.Add(true, head+strings.Repeat("k", 8)+"r00000000000000000000000001"+strings.Repeat("f", 32))
	f.Add(false, head+"a\nb")
	f.Add(true, "\x01")
	r, err := redis.New(config("127.0.0.1:1"), redis.Deps{Now: time.Now})
	if err != nil {
		f.Fatal(err)
	}
	r.Hear(func(h coord.Hint) {
		if _, err := ids.ParseCode(string(h.Y)); err != nil {
			f.Errorf("heard a code that is none: %v", err)
		}
	})
	f.Fuzz(func(_ *testing.T, hints bool, text string) { redis.Heard(r, hints, text) })
}

func TestBadConfiguration(t *testing.T) {
	for name, tc := range map[string]struct {
		field  string
		change func(*redis.Config)
	}{
		"no address":          {"redis.addresses", func(c *redis.Config) { c.Addresses = nil }},
		"no port":             {"redis.addresses", func(c *redis.Config) { c.Addresses = []string{"here"} }},
		"no role":             {"redis.roles", func(c *redis.Config) { c.Roles = nil }},
		"a database, cluster": {"redis.db", func(c *redis.Config) { c.DB = 1; c.Addresses = []string{"a:1", "b:1"} }},
		"a call too long":     {"redis.call_timeout", func(c *redis.Config) { c.CallTimeout = time.Minute }},
		"no call":             {"redis.call_timeout", func(c *redis.Config) { c.CallTimeout = 0 }},
		"no failures":         {"redis.breaker_failures", func(c *redis.Config) { c.BreakerFailures = 0 }},
		"a breaker for ever":  {"redis.breaker_open", func(c *redis.Config) { c.BreakerOpen = -1 }},
		"no replicas":         {"redis.replicas", func(c *redis.Config) { c.Replicas = 0 }},
		"a short life":        {"redis.replica_ttl", func(c *redis.Config) { c.ReplicaTTL = c.HeartbeatEvery }},
		"no portion":          {"redis.portion_max", func(c *redis.Config) { c.PortionMax = 0 }},
		"no age":              {"redis.portion_age", func(c *redis.Config) { c.PortionAge = 0 }},
		"no batch":            {"redis.batch_max", func(c *redis.Config) { c.BatchMax = 0 }},
		"no hints":            {"redis.hints_queue_max", func(c *redis.Config) { c.HintsQueueMax = 0 }},
		"no wakes":            {"redis.wakes_queue_max", func(c *redis.Config) { c.WakesQueueMax = 0 }},
		"no gathering":        {"redis.gather", func(c *redis.Config) { c.Gather = 0 }},
		"no pause":            {"redis.pause_min", func(c *redis.Config) { c.PauseMin = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			c := config("127.0.0.1:1")
			tc.change(&c)
			_, err := redis.New(c, redis.Deps{Now: time.Now})
			var e *fault.Error
			if !errors.As(err, &e) || e.Kind != fault.Invalid || e.Field != tc.field || e.Fix == "" {
				t.Errorf("%v, want %s and a fix", err, tc.field)
			}
		})
	}
}

// A cluster of one node: commands of one pipeline go where their keys are.
func TestCluster(t *testing.T) {
	s := start(t, "--cluster-enabled", "yes")
	client := goredis.NewClient(&goredis.Options{Addr: s.Addr})
	defer client.Close() //nolint:errcheck // a test
	must(t, client.ClusterAddSlotsRange(t.Context(), 0, 16383).Err())
	eventually(t, "the cluster is formed", func() bool {
		info, err := client.ClusterInfo(t.Context()).Result()
		return err == nil && strings.Contains(info, "cluster_state:ok")
	})
	c := config(s.Addr)
	c.Addresses = []string{s.Addr, s.Addr}
	a, b := run(t, c, nil), run(t, c, nil)
	together(t, a, b)
	shared(t, "x", a, b)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	wake, end := b.Subscribe("w")
	defer end()
	a.Notify("w")
	select {
	case <-wake:
	case <-ctx.Done():
		t.Error("not woken")
	}
}
