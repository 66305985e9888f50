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
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// errFull is a full disk, as the store reports it.
var errFull = fault.New(fault.Unavailable, "test", "disk full")

var errRollback = errors.New("the test rolls back")

func clock() time.Time { return time.UnixMilli(1_700_000_000_000) }

// effectsSchema is a table of what was applied, in order.
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
		if err := insertEffects(tx, b); err != nil {
			return err
		}
		return embedded.Advance(tx, b, clock().UnixMilli())
	})
}

func insertEffects(tx *sqldb.Tx, b *bus.Batch) error {
	return b.Live(func(_ int, m *bus.Message) error {
		columns := append([]string{"topic", "event_id", "type", "version", "at_millis"}, ids.Columns...)
		_, err := tx.Insert("effects", append(columns, "payload"), 1, "", func(dst []any, _ int) []any {
			return append(m.Context.AppendValues(append(dst, string(m.Topic), m.ID, m.Type, m.Version, m.AtMillis)), m.Payload)
		})
		return err
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

// bus gives the reading half of a Bus.
func (r reader) bus(source bus.Source) *bustest.Bus {
	places := embedded.Places{DB: r.db}
	return &bustest.Bus{Source: source, Places: places, Apply: r.apply, Effects: r.effects, Parked: r.parked, RequestReplay: places.RequestReplay}
}

// openLog is a log table, in a database of its own.
func openLog(tb testing.TB, dir string, points fault.Points) *bustest.Bus {
	tb.Helper()
	db, err := sqldb.Open(tb.Context(), sqldb.Options{Area: "writer", Path: filepath.Join(dir, "writer.db"), NoSync: true, Points: points,
		Migrations: []string{embedded.Schema(bus.Payments)}})
	if err != nil {
		tb.Fatal(err)
	}
	log := embedded.NewLog(db, 4, bus.Payments)
	r := openReader(tb, dir, points)
	b := r.bus(log.Source(bus.Payments))
	b.Publish = func(ctx context.Context, events []bus.Event) error {
		return db.Write(ctx, func(tx *sqldb.Tx) error { return log.Emit(tx, bus.Payments, events) })
	}
	b.PublishAndFail = func(ctx context.Context, events []bus.Event) error {
		return db.Write(ctx, func(tx *sqldb.Tx) error {
			if err := log.Emit(tx, bus.Payments, events); err != nil {
				return err
			}
			return errRollback
		})
	}
	b.Close = func() error { return errors.Join(db.Close(), r.db.Close()) }
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
	r := openReader(tb, dir, points)
	in, err := embedded.OpenIntake(tb.Context(), intakeConfig, db, clock, points, slog.New(slog.DiscardHandler),
		func(_ string, topic bus.Topic) (int64, error) {
			p, err := embedded.Places{DB: r.db}.Places(tb.Context(), topic)
			return p[0].Seq, err
		})
	if err != nil {
		tb.Fatal(err)
	}
	b := r.bus(in.Source(bus.Intents))
	b.Bounded = true
	b.Passed = func(topic bus.Topic, moves []bus.Move) {
		for _, m := range moves {
			in.Passed("core", topic, m.To.Seq)
		}
	}
	b.Publish = publishIntake(in)
	b.Close = func() error { return errors.Join(db.Close(), r.db.Close()) }
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
