// Package sqlreader is the reading area that bustest needs, in SQL: it keeps
// what was applied, in order, and its places beside it.
package sqlreader

import (
	"context"
	"errors"
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

// ErrRollback is what PublishAndFail fails with.
var ErrRollback = errors.New("the test rolls back")

// Clock stands still.
func Clock() time.Time { return time.UnixMilli(1_700_000_000_000) }

// effectsSchema is a table of what was applied, in order.
const effectsSchema = `CREATE TABLE effects (n INTEGER PRIMARY KEY, topic TEXT, event_id TEXT, type TEXT, version INTEGER,
	at_millis INTEGER, biz_code TEXT, merchant TEXT, order_type TEXT, order_scene TEXT, institution TEXT, trace_id TEXT, form TEXT,
	traffic TEXT, payload BLOB);`

// Reader is the area. Whoever opened it closes its DB.
type Reader struct{ DB *sqldb.DB }

// Open opens or makes reader.db in a folder.
func Open(tb testing.TB, dir string, points fault.Points) Reader {
	tb.Helper()
	return OpenWith(tb, sqldb.Options{Path: filepath.Join(dir, "reader.db"), Points: points})
}

// OpenWith opens the area where options say, and makes its schema if it is missing.
func OpenWith(tb testing.TB, o sqldb.Options) Reader {
	tb.Helper()
	o.Area, o.NoSync, o.Migrations = "reader", true, []string{embedded.Schema(), effectsSchema}
	if o.Postgres != nil {
		if err := sqldb.Migrate(tb.Context(), o, ""); err != nil {
			tb.Fatal(err)
		}
	}
	db, err := sqldb.Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	return Reader{db}
}

// Bus gives the reading half of a Bus.
func (r Reader) Bus(source bus.Source) *bustest.Bus {
	places := embedded.Places{DB: r.DB}
	return &bustest.Bus{Source: source, Places: places, Apply: r.Apply, Effects: r.Effects, Parked: r.Parked, RequestReplay: places.RequestReplay}
}

// Apply keeps a batch and moves its places.
func (r Reader) Apply(ctx context.Context, b *bus.Batch) error {
	return r.ApplyWith(func(tx *sqldb.Tx, b *bus.Batch) error { return embedded.Advance(tx, b, Clock().UnixMilli()) })(ctx, b)
}

// ApplyWith is Apply with embedded.Advance replaced.
func (r Reader) ApplyWith(advance func(tx *sqldb.Tx, b *bus.Batch) error) func(context.Context, *bus.Batch) error {
	return func(ctx context.Context, b *bus.Batch) error {
		return r.DB.Write(ctx, func(tx *sqldb.Tx) error {
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
			return advance(tx, b)
		})
	}
}

// Effects are all messages that were applied, in order.
func (r Reader) Effects(ctx context.Context) ([]bus.Message, error) {
	var out []bus.Message
	err := r.DB.Read(ctx, func(tx *sqldb.Tx) error {
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

// Parked are all messages that were put aside.
func (r Reader) Parked(ctx context.Context) ([]bus.Message, error) {
	rows, err := embedded.Places{DB: r.DB}.List(ctx, "")
	var out []bus.Message
	for i := range rows {
		out = append(out, rows[i].Message)
	}
	return out, err
}
