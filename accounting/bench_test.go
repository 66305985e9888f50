package accounting_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/rules"
	"github.com/tallystick/tallystick/accounting/sqlstore"
	"github.com/tallystick/tallystick/accounting/storetest"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
)

// BenchmarkPost books payments of four postings each, fsynced, from decoding the
// event to the committed event on postings. hot: one merchant, two channel
// accounts; uniform: 100,000 merchants. noise: five changes that book nothing
// for each payment that does.
func BenchmarkPost(b *testing.B) {
	for _, c := range []struct {
		name             string
		merchants, noise int
		batch            int
	}{{"hot/batch=64", 1, 0, 64}, {"hot/batch=512", 1, 0, 512}, {"uniform/batch=512", 100_000, 0, 512}, {"noise/batch=512", 1, 5, 512}} {
		b.Run(c.name, func(b *testing.B) {
			ctx := context.Background()
			s, err := sqlstore.Open(ctx, sqlstore.Options{Path: filepath.Join(b.TempDir(), "accounting.db"), Groups: storetest.Groups})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			random := rand.NewChaCha8([32]byte{1})
			source := ids.NewSource(time.Now, random)
			feed := &storetest.Feed{}
			for i := range b.N {
				x := storetest.Context(i%storetest.Groups, int(random.Uint64()%(1<<30)))
				x.Merchant = fmt.Sprintf("m%d", random.Uint64()%uint64(c.merchants))
				for range c.noise {
					e := paid(source.New(ids.EventID), x, "cn-1", 10_000)
					e.Payload = append(e.Payload[:len(e.Payload)-2], "-1}"...)
					feed.Append(i%storetest.Groups, e)
				}
				feed.Append(i%storetest.Groups, paid(source.New(ids.EventID), x, fmt.Sprintf("cn-%d", i%2), 10_000))
			}
			log := slog.New(slog.NewTextHandler(io.Discard, nil))
			p, err := accounting.NewPoster(accounting.Deps{Store: s, Rules: rules.Payments{}, IDs: source, Now: time.Now,
				Groups: storetest.Groups, Metrics: metrics.NewSet(), Log: log, Config: accounting.DefaultConfig()})
			if err != nil {
				b.Fatal(err)
			}
			consumer := &bus.Consumer{Area: "accounting", Source: feed, Places: s.Places(), Apply: p.Apply, MessagesMax: c.batch, Log: log}
			b.ReportAllocs()
			b.ResetTimer()
			start := cpu()
			for worked := true; worked; {
				if worked, err = consumer.Step(ctx); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu()-start).Microseconds())/float64(b.N), "cpu-µs/entry")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
			b.StopTimer()
			if r, err := s.Verify(ctx); err != nil || r.Violated > 0 || r.Entries != int64(b.N) {
				b.Fatal(r, err)
			}
		})
	}
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
