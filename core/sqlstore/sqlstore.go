// Package sqlstore keeps core's trades in an SQL database.
package sqlstore

import (
	"context"
	"slices"
	"time"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/lease"
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
	// mine is the condition that something is in a group of this process, if it has
	// not all of them.
	mine     string
	mineArgs []any

	together *together
}

// Open opens or makes core's database for a number of groups.
func Open(ctx context.Context, o sqldb.Options, groups int, now func() time.Time) (*Store, error) {
	o.Area, o.Migrations = "core", migrations(o.Postgres != nil)
	db, err := sqldb.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	mine, args := ids.InGroups("biz_code", o.Held, groups)
	log := embedded.NewLog(db, groups, bus.Dispatch, bus.Payments)
	log.Summarise(bus.Payments, summarise)
	return &Store{places: places{DB: db, Groups: o.Held}, mine: mine, mineArgs: args, db: db, now: now, held: newHeld(TradesHeldMax), together: newTogether(), log: log}, nil
}

// Migrate makes core's schema in PostgreSQL, or brings it up to date; see
// sqldb.Migrate.
func Migrate(ctx context.Context, o sqldb.Options, role string) error {
	o.Area, o.Migrations = "core", migrations(true)
	return sqldb.Migrate(ctx, o, role)
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

// Apply implements core.Store. Whatever waits to be applied at the same time may
// share its transaction.
func (s *Store) Apply(ctx context.Context, b *bus.Batch, want core.Want, decide func(*core.Work) error) error {
	j := &job{batch: b, want: want, decide: decide}
	err := s.together.run(ctx, j, func(jobs []*job) { s.apply(ctx, jobs) })
	return fault.Wrap("core: apply "+string(b.Topic), err)
}

// transact applies jobs in one transaction, all or none.
func (s *Store) transact(ctx context.Context, jobs []*job) error {
	return s.db.Write(ctx, func(tx *sqldb.Tx) error {
		w, err := s.decide(tx, wanted(jobs), func(w *core.Work) error {
			for _, j := range jobs {
				if err := j.decide(w); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		return s.write(tx, jobs, w)
	})
}

// decide decides on what is held and what is read. What is held may be behind the
// tables: where it leads to an error, everything is read, and decided again.
func (s *Store) decide(tx *sqldb.Tx, want core.Want, decide func(*core.Work) error) (*core.Work, error) {
	// What is taken comes back after the commit alone.
	trades, rest := s.held.take(want)
	read, err := load(tx, rest)
	if err != nil {
		return nil, err
	}
	// A rejected payment order is not held with its trade: the trade may be here twice.
	trades = slices.DeleteFunc(trades, func(t *core.Trade) bool {
		return slices.ContainsFunc(read, func(r *core.Trade) bool { return r.Row == t.Row })
	})
	try := func(all []*core.Trade) (*core.Work, error) {
		if err := loadKeys(tx, all, want.Keys); err != nil {
			return nil, err
		}
		w := core.NewWork(all)
		return w, decide(w)
	}
	w, err := try(append(trades, read...))
	if err == nil || len(trades) == 0 {
		return w, err
	}
	if read, err = load(tx, want); err != nil {
		return nil, err
	}
	return try(read)
}

// write saves, moves the places, and emits last.
func (s *Store) write(tx *sqldb.Tx, jobs []*job, w *core.Work) error {
	if err := save(tx, w.Trades()); err != nil {
		return err
	}
	release := false
	for _, j := range jobs {
		if err := embedded.Advance(tx, j.batch, s.now().UnixMilli()); err != nil {
			return err
		}
		release = release || j.batch.Topic == bus.Intents || len(j.batch.Parked) > 0
	}
	if release {
		if err := releaseWaiting(tx, s.Groups); err != nil {
			return err
		}
	}
	err := s.log.EmitAll(tx, embedded.Told{Topic: bus.Dispatch, Events: w.Dispatches}, embedded.Told{Topic: bus.Payments, Events: w.Payments})
	if err != nil {
		return err
	}
	tx.OnCommit(func() { s.held.put(w.Trades()) })
	return nil
}

// releaseWaiting asks for a replay of what was parked because its payment order
// was not there yet, and is there now: also if it came between the transaction
// that missed it and the one that parks. A callback without attach is keyed by
// its Y.
func releaseWaiting(tx *sqldb.Tx, groups []int) error {
	return tx.Do(`UPDATE parked SET replay = TRUE WHERE replay = FALSE`+sqldb.Among("grp", groups)+` AND topic <> ? AND reason LIKE ?
		AND (EXISTS (SELECT 1 FROM trade_orders t WHERE t.biz_code = parked.biz_code) OR EXISTS (SELECT 1 FROM payment_orders p WHERE p.y = parked.biz_code))`,
		string(bus.Intents), "%"+core.ErrNoPayment.Error()+"%")
}

// Due implements core.Store.
func (s *Store) Due(ctx context.Context, nowMillis int64, limit int) ([]ids.Code, error) {
	var out []ids.Code
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT biz_code FROM payment_orders WHERE next_at_millis > 0 AND next_at_millis <= ?`+s.mine+` ORDER BY next_at_millis LIMIT ?`,
			slices.Concat([]any{nowMillis}, s.mineArgs, []any{limit}), func(scan sqldb.Scan) error {
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
	err := s.db.Snapshot(ctx, func(tx *sqldb.Tx) (err error) {
		t, err = trade(tx, code)
		return err
	})
	return t, fault.Wrap("core: trade", err)
}

// OwnTrade is Trade of a PostgreSQL database that may not own the code's group, or not
// any more: then it says so, whatever is in its tables.
func (s *Store) OwnTrade(ctx context.Context, code ids.Code) (t *core.Trade, owned bool, err error) {
	err = s.db.Snapshot(ctx, func(tx *sqldb.Tx) (err error) {
		if owned, err = lease.Owns(tx, code.Group(s.groups())); err == nil && owned {
			t, err = trade(tx, code)
		}
		return err
	})
	return t, owned, fault.Wrap("core: trade", err)
}

func trade(tx *sqldb.Tx, code ids.Code) (*core.Trade, error) {
	for _, w := range []core.Want{{Payments: []ids.Code{code}}, {Trades: []ids.Code{code}}} {
		found, err := load(tx, w)
		if err != nil {
			return nil, err
		}
		if len(found) == 1 {
			return found[0], loadLast(tx, found[0])
		}
	}
	return nil, nil
}
