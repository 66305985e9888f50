package embedded_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/bustest/sqlreader"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// recorder is a testing.TB that notes failures instead of failing.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) Error(...any)          { r.failed = true }
func (r *recorder) Fatalf(string, ...any) { r.failed = true; runtime.Goexit() }
func (r *recorder) Fatal(...any)          { r.failed = true; runtime.Goexit() }

// fails reports whether a bus fails the case of this name.
func fails(t *testing.T, name string, open bustest.Open) bool {
	t.Helper()
	cases := bustest.Cases()
	i := slices.IndexFunc(cases, func(c bustest.Case) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("there is no case %q", name)
	}
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				r.failed = true
			}
		}()
		cases[i].Run(r, open)
	}()
	<-done
	return r.failed
}

// source is a source with some methods replaced.
type source struct {
	bus.Source
	read      func(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error)
	refresh   func(ctx context.Context) error
	subscribe func() (<-chan struct{}, func())
}

func (s source) Read(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	if s.read == nil {
		return s.Source.Read(ctx, group, after, limit)
	}
	return s.read(ctx, group, after, limit)
}

func (s source) Refresh(ctx context.Context) error {
	if s.refresh == nil {
		return s.Source.Refresh(ctx)
	}
	return s.refresh(ctx)
}

func (s source) Subscribe() (<-chan struct{}, func()) {
	if s.subscribe == nil {
		return s.Source.Subscribe()
	}
	return s.subscribe()
}

// stored is bus.Places under a name that does not hide its method Places.
type stored interface{ bus.Places }

// reversed is a store of places with replays in another order.
type reversed struct{ stored }

func (p reversed) TakeReplay(ctx context.Context, topic bus.Topic) ([]bus.Message, []int64, error) {
	msgs, rows, err := p.stored.TakeReplay(ctx, topic)
	slices.Reverse(msgs)
	slices.Reverse(rows)
	return msgs, rows, err
}

// forgetful does not know which keys have parked messages.
type forgetful struct{ stored }

func (forgetful) ParkedKeys(context.Context, bus.Topic) (map[string]int, error) {
	return map[string]int{}, nil
}

// setPlaces moves places to wherever the batch goes, from wherever they are.
func setPlaces(tx *sqldb.Tx, b *bus.Batch) error {
	for _, m := range b.Moves {
		_, err := tx.Exec(`INSERT INTO places (topic, grp, epoch, seq) VALUES (?, ?, ?, ?)
			ON CONFLICT (topic, grp) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq`, string(b.Topic), m.Group, m.To.Epoch, m.To.Seq)
		if err != nil {
			return err
		}
	}
	rest := *b
	rest.Moves = nil
	return embedded.Advance(tx, &rest, 0)
}

// TestTheSuiteFindsBrokenBuses breaks a bus in one way at a time: the named case
// must fail. (That a sound bus passes is TestLog and TestIntakeAsABus.)
func TestTheSuiteFindsBrokenBuses(t *testing.T) {
	tests := map[string]struct {
		open    bustest.Open
		breakIt func(b *bustest.Bus, r sqlreader.Reader)
		caught  string
	}{
		"place not checked": {openLog, func(b *bustest.Bus, r sqlreader.Reader) { b.Apply = r.ApplyWith(setPlaces) }, "consumers fence each other"},
		"place in a transaction of its own": {openLog, func(b *bustest.Bus, r sqlreader.Reader) {
			effects := r.ApplyWith(func(*sqldb.Tx, *bus.Batch) error { return nil })
			b.Apply = func(ctx context.Context, batch *bus.Batch) error {
				if err := effects(ctx, batch); err != nil {
					return err
				}
				return r.DB.Write(ctx, func(tx *sqldb.Tx) error { return embedded.Advance(tx, batch, 0) })
			}
		}, "a crash at any commit"},
		"place before the effect": {openLog, func(b *bustest.Bus, r sqlreader.Reader) {
			effects := r.ApplyWith(func(*sqldb.Tx, *bus.Batch) error { return nil })
			b.Apply = func(ctx context.Context, batch *bus.Batch) error {
				if err := r.DB.Write(ctx, func(tx *sqldb.Tx) error { return embedded.Advance(tx, batch, 0) }); err != nil {
					return err
				}
				return effects(ctx, batch)
			}
		}, "a crash at any commit"},
		"emitted outside of the transaction": {openLog, func(b *bustest.Bus, _ sqlreader.Reader) {
			publish := b.Publish
			b.PublishAndFail = func(ctx context.Context, events []bus.Event) error {
				return errors.Join(publish(ctx, events), sqlreader.ErrRollback)
			}
		}, "a failed transaction leaves nothing"},
		"wrong order": {openLog, func(b *bustest.Bus, _ sqlreader.Reader) {
			inner := b.Source
			b.Source = source{Source: inner, read: func(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
				msgs, err := inner.Read(ctx, group, after, limit)
				slices.Reverse(msgs)
				for i := range msgs { // and numbered as if it were right
					msgs[i].Place.Seq = after.Seq + int64(i) + 1
				}
				return msgs, err
			}}
		}, "content and order by key"},
		"a place split by a read": {openIntake, func(b *bustest.Bus, _ sqlreader.Reader) {
			inner := b.Source
			b.Source = source{Source: inner, read: func(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
				msgs, err := inner.Read(ctx, group, after, limit)
				return msgs[:min(limit, len(msgs))], err
			}}
		}, "bounds of a read"},
		"no wake-up": {openLog, func(b *bustest.Bus, _ sqlreader.Reader) {
			b.Source = source{Source: b.Source, subscribe: func() (<-chan struct{}, func()) { return make(chan struct{}), func() {} }}
		}, "wake-ups"},
		"heads are not read at opening": {openLog, func(b *bustest.Bus, _ sqlreader.Reader) {
			b.Source = source{Source: b.Source, refresh: func(context.Context) error { return nil }}
		}, "reopening"},
		"a payload is lost": {openLog, func(b *bustest.Bus, _ sqlreader.Reader) {
			inner := b.Source
			b.Source = source{Source: inner, read: func(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
				msgs, err := inner.Read(ctx, group, after, limit)
				for i := range msgs {
					msgs[i].Payload = nil
				}
				return msgs, err
			}}
		}, "content and order by key"},
		"poison is thrown away": {openLog, func(b *bustest.Bus, r sqlreader.Reader) {
			b.Apply = r.ApplyWith(func(tx *sqldb.Tx, batch *bus.Batch) error {
				rest := *batch
				rest.Parked = nil
				return embedded.Advance(tx, &rest, 0)
			})
		}, "poison waits with its key"},
		"poison loses its key at a restart": {openLog, func(b *bustest.Bus, r sqlreader.Reader) { b.Places = forgetful{embedded.Places{DB: r.DB}} }, "poison waits with its key"},
		"replay in another order":           {openLog, func(b *bustest.Bus, r sqlreader.Reader) { b.Places = reversed{embedded.Places{DB: r.DB}} }, "poison waits with its key"},
		"a replay moves to the end": {openLog, func(b *bustest.Bus, r sqlreader.Reader) {
			b.Apply = r.ApplyWith(func(tx *sqldb.Tx, batch *bus.Batch) error {
				rest := *batch
				rest.Replays = nil // no row is kept: what is still poison is parked anew
				for _, id := range batch.Replays[:min(1, len(batch.Replays))] {
					if _, err := tx.Exec(`DELETE FROM parked WHERE id = ?`, id); err != nil {
						return err
					}
				}
				return embedded.Advance(tx, &rest, 0)
			})
		}, "poison that stays poison"},
		"never full": {openIntake, func(b *bustest.Bus, _ sqlreader.Reader) {
			publish := b.Publish
			b.Publish = func(ctx context.Context, events []bus.Event) error {
				if err := publish(ctx, events); !fault.Is(err, fault.Unavailable) {
					return err
				}
				return nil // accepted, and lost
			}
		}, "a full bus refuses and recovers"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			found := fails(t, tt.caught, func(tb testing.TB, dir string, points fault.Points) *bustest.Bus {
				b := tt.open(tb, dir, points)
				tt.breakIt(b, sqlreader.Reader{DB: b.Places.(embedded.Places).DB})
				return b
			})
			if !found {
				t.Errorf("%q does not find it", tt.caught)
			}
		})
	}
}
