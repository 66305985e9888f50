package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/bustest/sqlreader"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// broker is the one that all tests share: each has topics of its own.
var broker *engines.Kafka

func TestMain(m *testing.M) {
	code, err := withBroker(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withBroker(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "tallystick-kafka-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	if broker, err = engines.StartSecureKafka(context.Background(), dir); err != nil {
		return 1, err
	}
	code := m.Run()
	return code, broker.Stop()
}

const groups = 4

// config is for topics that belong to a folder.
func config(dir string) kafka.Config {
	h := fnv.New64a()
	_, _ = h.Write([]byte(dir))
	c := kafka.DefaultConfig()
	c.Brokers, c.Groups, c.Replication, c.MinInSync = []string{broker.Addr}, groups, 1, 1
	c.Prefix, c.NoSync = fmt.Sprintf("t%x.", h.Sum64()), true
	c.FetchWait = 100 * time.Millisecond
	return c
}

func connect(tb testing.TB, c kafka.Config, topics ...bus.Topic) *kafka.Cluster {
	tb.Helper()
	cluster, err := kafka.Connect(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cluster.Close() })
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	for {
		err := cluster.EnsureTopics(ctx, topics...)
		if err == nil {
			return cluster
		}
		if ctx.Err() != nil || !fault.Is(err, fault.Unavailable) { // a broker listens before it answers
			tb.Fatal(err)
		}
	}
}

// background runs things until stop.
type background struct {
	cancel context.CancelFunc
	done   []chan error
	ctx    context.Context
}

func newBackground() *background {
	b := &background{}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

func (b *background) run(f func(context.Context) error) {
	done := make(chan error, 1)
	b.done = append(b.done, done)
	go func() { done <- f(b.ctx) }()
}

func (b *background) stop() error {
	b.cancel()
	var errs []error
	for _, d := range b.done {
		errs = append(errs, <-d)
	}
	return errors.Join(errs...)
}

// caughtUp waits until a source has seen everything: the suite looks at once.
func caughtUp(ctx context.Context, cluster *kafka.Cluster, s *kafka.Source) error {
	fresh := kafka.NewSource(cluster, s.Topic(), slog.New(slog.DiscardHandler))
	if err := fresh.Refresh(ctx); err != nil {
		return err
	}
	for g := range s.Groups() {
		for s.Head(g).Seq < fresh.Head(g).Seq {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	}
	return nil
}

// Intake and its sources are a bus.
func TestIntake(t *testing.T) { bustest.Run(t, openIntake(config)) }

// openIntake opens the bus of a folder over brokers that are reached by how.
func openIntake(how func(dir string) kafka.Config) bustest.Open {
	return func(tb testing.TB, dir string, points fault.Points) *bustest.Bus {
		tb.Helper()
		cluster := connect(tb, how(dir), bus.Intents)
		r := sqlreader.Open(tb, dir, points)
		in, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), nil, bus.Intents)
		if err != nil {
			tb.Fatal(err)
		}
		source := kafka.NewSource(cluster, bus.Intents, slog.New(slog.DiscardHandler))
		if err := source.Refresh(tb.Context()); err != nil {
			tb.Fatal(err)
		}
		b := newBackground()
		b.run(in.Run)
		b.run(func(ctx context.Context) error { return source.Run(ctx, time.Second) })
		suite := r.Bus(source)
		suite.Publish = func(ctx context.Context, events []bus.Event) error {
			var tickets []bus.Ticket
			for i := range events {
				ticket, err := in.Append(bus.Intents, &events[i])
				if err != nil {
					return err
				}
				tickets = append(tickets, ticket)
			}
			for _, ticket := range tickets {
				<-ticket.Done()
				if err := ticket.Err(); err != nil {
					return err
				}
			}
			return caughtUp(ctx, cluster, source)
		}
		suite.Close = func() error { return errors.Join(b.stop(), r.DB.Close()) }
		return suite
	}
}

// An area's log, its relay and a source are a bus.
func TestRelay(t *testing.T) { bustest.Run(t, openRelay(config)) }

func openRelay(how func(dir string) kafka.Config) bustest.Open {
	return func(tb testing.TB, dir string, points fault.Points) *bustest.Bus {
		tb.Helper()
		cluster := connect(tb, how(dir), bus.Payments)
		r := sqlreader.Open(tb, dir, points)
		db, err := sqldb.Open(tb.Context(), sqldb.Options{Area: "writer", Path: filepath.Join(dir, "writer.db"), NoSync: true, Points: points,
			Migrations: []string{embedded.Schema(bus.Payments)}})
		if err != nil {
			tb.Fatal(err)
		}
		log := embedded.NewLog(db, groups, bus.Payments)
		relay := &kafka.Relay{Cluster: cluster, Source: log.Source(bus.Payments), MessagesMax: 5, Log: slog.New(slog.DiscardHandler)}
		source := kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler))
		drain := func(ctx context.Context) error {
			if err := log.Source(bus.Payments).Refresh(ctx); err != nil {
				return err
			}
			for {
				if worked, err := relay.Step(ctx); err != nil || !worked {
					return err
				}
			}
		}
		if err := errors.Join(drain(tb.Context()), source.Refresh(tb.Context())); err != nil { // what a crash left unpublished
			tb.Fatal(err)
		}
		b := newBackground()
		b.run(func(ctx context.Context) error { return source.Run(ctx, time.Second) })
		emit := func(ctx context.Context, events []bus.Event, then error) error {
			err := db.Write(ctx, func(tx *sqldb.Tx) error {
				if err := log.Emit(tx, bus.Payments, events); err != nil {
					return err
				}
				return then
			})
			if err != nil {
				return err
			}
			return errors.Join(drain(ctx), caughtUp(ctx, cluster, source))
		}
		suite := r.Bus(source)
		suite.Publish = func(ctx context.Context, events []bus.Event) error { return emit(ctx, events, nil) }
		suite.PublishAndFail = func(ctx context.Context, events []bus.Event) error { return emit(ctx, events, sqlreader.ErrRollback) }
		suite.Close = func() error { return errors.Join(b.stop(), r.DB.Close(), db.Close()) }
		return suite
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
