package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
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
	if broker, err = engines.StartKafka(context.Background(), dir); err != nil {
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
	c.Prefix = fmt.Sprintf("t%x.", h.Sum64())
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
func TestIntake(t *testing.T) {
	bustest.Run(t, func(tb testing.TB, dir string, points fault.Points) *bustest.Bus {
		tb.Helper()
		cluster := connect(tb, config(dir), bus.Intents)
		r := openReader(tb, dir, points)
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
		return &bustest.Bus{Source: source, Places: embedded.Places{DB: r.db}, Apply: r.apply, Effects: r.effects, Parked: r.parked,
			RequestReplay: embedded.Places{DB: r.db}.RequestReplay,
			Publish: func(ctx context.Context, events []bus.Event) error {
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
			},
			Close: func() error { return errors.Join(b.stop(), r.db.Close()) }}
	})
}

// An area's log, its relay and a source are a bus.
func TestRelay(t *testing.T) {
	bustest.Run(t, func(tb testing.TB, dir string, points fault.Points) *bustest.Bus {
		tb.Helper()
		cluster := connect(tb, config(dir), bus.Payments)
		r := openReader(tb, dir, points)
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
		return &bustest.Bus{Source: source, Places: embedded.Places{DB: r.db}, Apply: r.apply, Effects: r.effects, Parked: r.parked,
			RequestReplay:  embedded.Places{DB: r.db}.RequestReplay,
			Publish:        func(ctx context.Context, events []bus.Event) error { return emit(ctx, events, nil) },
			PublishAndFail: func(ctx context.Context, events []bus.Event) error { return emit(ctx, events, errRollback) },
			Close:          func() error { return errors.Join(b.stop(), r.db.Close(), db.Close()) }}
	})
}

var errRollback = errors.New("the test rolls back")

func clock() time.Time { return time.UnixMilli(1_700_000_000_000) }

const effectsSchema = `CREATE TABLE effects (n INTEGER PRIMARY KEY, topic TEXT, event_id TEXT, type TEXT, version INTEGER,
	at_millis INTEGER, biz_code TEXT, merchant TEXT, order_type TEXT, order_scene TEXT, institution TEXT, trace_id TEXT, form TEXT,
	traffic TEXT, payload BLOB);`

// reader is the reading area of the suite.
type reader struct{ db *sqldb.DB }

func openReader(tb testing.TB, dir string, points fault.Points) reader {
	tb.Helper()
	db, err := sqldb.Open(tb.Context(), sqldb.Options{Area: "reader", Path: filepath.Join(dir, "reader.db"), NoSync: true, Points: points,
		Migrations: []string{embedded.Schema(), effectsSchema}})
	if err != nil {
		tb.Fatal(err)
	}
	return reader{db}
}

func (r reader) apply(ctx context.Context, b *bus.Batch) error {
	return r.db.Write(ctx, func(tx *sqldb.Tx) error {
		err := b.Live(func(_ int, m *bus.Message) error {
			columns := append([]string{"topic", "event_id", "type", "version", "at_millis"}, ids.Columns...)
			_, err := tx.Insert("effects", append(columns, "payload"), 1, "", func(dst []any, _ int) []any {
				return append(m.Context.AppendValues(append(dst, string(m.Topic), m.ID, m.Type, m.Version, m.AtMillis)), m.Payload)
			})
			return err
		})
		if err != nil {
			return err
		}
		return embedded.Advance(tx, b, clock().UnixMilli())
	})
}

func (r reader) effects(ctx context.Context) ([]bus.Message, error) {
	var out []bus.Message
	err := r.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT topic, event_id, type, version, at_millis, biz_code, merchant, order_type, order_scene, institution,
			trace_id, form, traffic, payload FROM effects ORDER BY n`, nil, func(scan sqldb.Scan) error {
			var m bus.Message
			err := scan(append(append([]any{&m.Topic, &m.ID, &m.Type, &m.Version, &m.AtMillis}, m.Context.Targets()...), &m.Payload)...)
			out = append(out, m)
			return err
		})
	})
	return out, err
}

func (r reader) parked(ctx context.Context) ([]bus.Message, error) {
	rows, err := embedded.Places{DB: r.db}.List(ctx, "")
	var out []bus.Message
	for i := range rows {
		out = append(out, rows[i].Message)
	}
	return out, err
}
