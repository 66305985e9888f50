// Package sqlstore keeps core's trades in an SQL database.
package sqlstore

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// places promotes the methods of embedded.Places, one of which has its name.
type places = embedded.Places

// Store implements core.Store and bus.Places. Safe for concurrent use.
type Store struct {
	places
	db   *sqldb.DB
	log  *embedded.Log
	now  func() time.Time
	held *held
	// parked counts parked messages, so that a batch without any need not look.
	parked atomic.Int64
}

// Open opens or makes core's database for a number of groups.
func Open(ctx context.Context, o sqldb.Options, groups int, now func() time.Time) (*Store, error) {
	o.Area, o.Migrations = "core", migrations()
	db, err := sqldb.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &Store{places: places{DB: db}, db: db, now: now, held: newHeld(TradesHeldMax), log: embedded.NewLog(db, groups, bus.Dispatch, bus.Payments)}
	err = db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT count(*) FROM parked`, nil, func(scan sqldb.Scan) error {
			var n int64
			err := scan(&n)
			s.parked.Store(n)
			return err
		})
	})
	if err != nil {
		_ = db.Close()
		return nil, fault.Wrap("core: open", err)
	}
	return s, nil
}

// DB is the database, for its counters.
func (s *Store) DB() *sqldb.DB { return s.db }

// Parked lists and replays what core's consumers put aside.
func (s *Store) Parked() embedded.Places { return s.places }

// Log gives the sources of topics dispatch and payments.
func (s *Store) Log() *embedded.Log { return s.log }

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// TradesHeldMax bounds the trades held in memory, about 2 KiB each.
const TradesHeldMax = 10_000

// Apply implements core.Store.
func (s *Store) Apply(ctx context.Context, b *bus.Batch, want core.Want, decide func(*core.Work) error) error {
	err := s.db.Write(ctx, func(tx *sqldb.Tx) error {
		// What is taken comes back after the commit alone.
		trades, rest := s.held.take(want)
		read, err := load(tx, rest)
		if err != nil {
			return err
		}
		w := core.NewWork(append(trades, read...))
		if err := decide(w); err != nil {
			return err
		}
		if err := save(tx, w.Trades()); err != nil {
			return err
		}
		if err := embedded.Advance(tx, b, s.now().UnixMilli()); err != nil {
			return err
		}
		if b.Topic == bus.Intents {
			if err := s.releaseWaiting(tx, w.Trades()); err != nil {
				return err
			}
		}
		if err := s.log.Emit(tx, bus.Dispatch, w.Dispatches); err != nil {
			return err
		}
		if err := s.log.Emit(tx, bus.Payments, w.Payments); err != nil {
			return err
		}
		tx.OnCommit(func() { s.held.put(w.Trades()) })
		return nil
	})
	if err == nil {
		s.parked.Add(int64(len(b.Parked) - len(b.Replays)))
	}
	return fault.Wrap("core: apply "+string(b.Topic), err)
}

// releaseWaiting asks for a replay of what was parked because its payment order
// was not there yet.
func (s *Store) releaseWaiting(tx *sqldb.Tx, trades []*core.Trade) error {
	if s.parked.Load() <= 0 {
		return nil
	}
	keys := make([]string, 0, 2*len(trades))
	for _, t := range trades {
		keys = append(keys, string(t.Context.BizCode))
		for _, p := range t.Payments {
			keys = append(keys, string(p.Y)) // a callback without attach is keyed by its Y
		}
	}
	for _, k := range keys {
		if _, err := tx.Exec(`UPDATE parked SET replay = 1 WHERE biz_code = ? AND topic <> ?`, k, string(bus.Intents)); err != nil {
			return err
		}
	}
	return nil
}

// Due implements core.Store.
func (s *Store) Due(ctx context.Context, nowMillis int64, limit int) ([]ids.Code, error) {
	var out []ids.Code
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT biz_code FROM payment_orders WHERE next_at_millis > 0 AND next_at_millis <= ? ORDER BY next_at_millis LIMIT ?`,
			[]any{nowMillis, limit}, func(scan sqldb.Scan) error {
				var x ids.Code
				err := scan(&x)
				out = append(out, x)
				return err
			})
	})
	return out, fault.Wrap("core: due", err)
}

// Trade implements core.Store.
func (s *Store) Trade(ctx context.Context, code ids.Code) (*core.Trade, error) {
	var t *core.Trade
	err := s.db.Snapshot(ctx, func(tx *sqldb.Tx) error {
		for _, w := range []core.Want{{Trades: []ids.Code{code}}, {Payments: []ids.Code{code}}} {
			found, err := load(tx, w)
			if err != nil {
				return err
			}
			if len(found) == 1 {
				t = found[0]
				return nil
			}
		}
		return nil
	})
	return t, fault.Wrap("core: trade", err)
}
