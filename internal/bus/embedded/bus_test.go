package embedded_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/bustest/sqlreader"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// errFull is a full disk, as the store reports it.
var errFull = fault.New(fault.Unavailable, "test", "disk full")

// openLog is a log table, in a database of its own.
func openLog(tb testing.TB, dir string, points fault.Points) *bustest.Bus {
	tb.Helper()
	return openLogWith(tb, sqldb.Options{Path: filepath.Join(dir, "writer.db"), Points: points}, sqlreader.Open(tb, dir, points))
}

func openLogWith(tb testing.TB, o sqldb.Options, r sqlreader.Reader) *bustest.Bus {
	tb.Helper()
	o.Area, o.NoSync, o.Migrations = "writer", true, []string{embedded.Schema(bus.Payments)}
	db, err := sqldb.Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	log := embedded.NewLog(db, 4, bus.Payments)
	b := r.Bus(log.Source(bus.Payments))
	b.Publish = func(ctx context.Context, events []bus.Event) error {
		return db.Write(ctx, func(tx *sqldb.Tx) error { return log.Emit(tx, bus.Payments, events) })
	}
	b.PublishAndFail = func(ctx context.Context, events []bus.Event) error {
		return db.Write(ctx, func(tx *sqldb.Tx) error {
			if err := log.Emit(tx, bus.Payments, events); err != nil {
				return err
			}
			return sqlreader.ErrRollback
		})
	}
	b.Close = func() error { return errors.Join(db.Close(), r.DB.Close()) }
	return b
}

// intakeConfig bounds the intake of the suite.
var intakeConfig = embedded.IntakeConfig{Topics: []bus.Topic{bus.Intents}, BatchRecordsMax: 100, BatchBytesMax: 1 << 20,
	QueueBatchesMax: 2, UnreadBytesMax: 200_000, UnreadAgeMax: time.Minute, Readers: []string{"core"}, TrimEveryBatches: 3}

// openIntake is the intake; one Publish is one batch.
func openIntake(tb testing.TB, dir string, points fault.Points) *bustest.Bus {
	tb.Helper()
	db, err := sqldb.Open(tb.Context(), sqldb.Options{Area: "intake", Path: filepath.Join(dir, "intake.db"), NoSync: true, Points: points,
		Migrations: []string{embedded.IntakeSchema(bus.Intents)}})
	if err != nil {
		tb.Fatal(err)
	}
	r := sqlreader.Open(tb, dir, points)
	in, err := embedded.OpenIntake(tb.Context(), intakeConfig, db, sqlreader.Clock, points, slog.New(slog.DiscardHandler),
		func(_ string, topic bus.Topic) (int64, error) {
			p, err := embedded.Places{DB: r.DB}.Places(tb.Context(), topic)
			return p[0].Seq, err
		})
	if err != nil {
		tb.Fatal(err)
	}
	b := r.Bus(in.Source(bus.Intents))
	b.Bounded = true
	b.Passed = func(topic bus.Topic, moves []bus.Move) {
		for _, m := range moves {
			in.Passed("core", topic, m.To.Seq)
		}
	}
	b.Publish = publishIntake(in)
	b.Close = func() error { return errors.Join(db.Close(), r.DB.Close()) }
	return b
}

// publishIntake appends events as one batch and commits it; callers queue, so
// that each has a batch to itself.
func publishIntake(in *embedded.Intake) func(ctx context.Context, events []bus.Event) error {
	turn := make(chan struct{}, 1)
	return func(ctx context.Context, events []bus.Event) error {
		turn <- struct{}{}
		defer func() { <-turn }()
		var last bus.Ticket
		for i := range events {
			t, err := in.Append(bus.Intents, &events[i])
			if err != nil {
				if last != nil && !last.Withdraw() {
					return errors.New("could not take back an uncommitted batch")
				}
				return err
			}
			last = t
		}
		if _, err := in.Step(ctx); err != nil {
			return err
		}
		<-last.Done()
		return last.Err()
	}
}

func TestLog(t *testing.T) { bustest.Run(t, openLog) }

func TestIntakeAsABus(t *testing.T) { bustest.Run(t, openIntake) }
