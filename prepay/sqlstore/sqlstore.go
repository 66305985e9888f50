// Package sqlstore keeps prepay's calls, its topic outcomes and its places in
// topic dispatch in one SQL database.
package sqlstore

import (
	"context"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
)

// Config says where the store is. Options' Area and Migrations are set here.
type Config struct {
	sqldb.Options
	Groups int // of the installation
	// NowMillis dates parked messages.
	NowMillis func() int64
}

// Store implements prepay.Store.
type Store struct {
	db    *sqldb.DB
	log   *embedded.Log
	now   func() int64
	held  *held
	texts map[updateOf]string // of statements, by the writer
	all   int                 // groups of the installation
	// groups are those of this process; nil is all.
	groups []int
}

var _ prepay.Store = (*Store)(nil)

// Open opens or makes the database. It fails with fault.Conflict when the stamp
// differs or the schema is newer than this build.
func Open(ctx context.Context, c Config) (*Store, error) {
	c.Area, c.Migrations = "prepay", migrations(c.Postgres != nil)
	db, err := sqldb.Open(ctx, c.Options)
	if err != nil {
		return nil, fault.Wrap("prepay/sqlstore", err)
	}
	return &Store{db: db, log: embedded.NewLog(db, c.Groups, bus.Outcomes), now: c.NowMillis, held: newHeld(CallsHeldMax), texts: map[updateOf]string{},
		all: c.Groups, groups: c.Held}, nil
}

// Migrate makes prepay's schema in PostgreSQL, or brings it up to date; see
// sqldb.Migrate.
func Migrate(ctx context.Context, o sqldb.Options, role string) error {
	o.Area, o.Migrations = "prepay", migrations(true)
	return sqldb.Migrate(ctx, o, role)
}

// Log is the area's own topic, outcomes; DB counts statements.
func (s *Store) Log() *embedded.Log { return s.log }

// DB is the database, for its figures.
func (s *Store) DB() *sqldb.DB { return s.db }

// Outcomes reads the area's topic.
func (s *Store) Outcomes() bus.Source { return s.log.Source(bus.Outcomes) }

// Places is where the consumer of dispatch starts from, and its parked messages.
func (s *Store) Places() embedded.Places { return embedded.Places{DB: s.db, Groups: s.groups} }

// Close waits for running transactions.
func (s *Store) Close() error { return s.db.Close() }

// Update implements prepay.Store. Calls that are expected to be new are not
// looked for: should one exist, its insert fails, and all is done again.
func (s *Store) Update(ctx context.Context, p prepay.Pick, fn func(prepay.Picked) (prepay.Change, error)) error {
	err := s.change(ctx, p, fn)
	if len(p.New) > 0 && fault.Is(err, fault.Conflict) {
		p.New = nil
		err = s.change(ctx, p, fn)
	}
	return err
}

func (s *Store) change(ctx context.Context, p prepay.Pick, fn func(prepay.Picked) (prepay.Change, error)) error {
	return s.db.Write(ctx, func(tx *sqldb.Tx) error {
		s.held.begin(tx)
		picked, err := s.pick(tx, p)
		if err != nil {
			return err
		}
		ch, err := fn(picked)
		if err != nil {
			return err
		}
		if err := insert(tx, ch.Insert, s.all); err != nil {
			return err
		}
		if err := s.update(tx, ch.Update); err != nil {
			return err
		}
		if ch.Batch != nil {
			if err := embedded.Advance(tx, ch.Batch, s.now()); err != nil {
				return err
			}
		}
		tx.OnCommit(func() {
			for _, calls := range [][]prepay.Call{ch.Insert, ch.Update} {
				for i := range calls {
					s.held.put(&calls[i])
				}
			}
		})
		return s.log.Emit(tx, bus.Outcomes, ch.Events)
	})
}

// Find implements prepay.Store.
func (s *Store) Find(ctx context.Context, outTradeNo string) (c prepay.Call, ok bool, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		calls, err := query(tx, nil, fromCalls+`WHERE c.out_trade_no = ?`, outTradeNo)
		if len(calls) == 1 {
			c, ok = calls[0], true
		}
		return err
	})
	return c, ok, err
}

// ListOpen implements prepay.Store.
func (s *Store) ListOpen(ctx context.Context, f prepay.Filter, after int64, limit int) (calls []prepay.Call, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		calls, err = query(tx, nil, selectOpen+`p.id > ? AND (? = '' OR p.account = ?) AND (? = '' OR p.standing = ?)
			AND (? = FALSE OR p.desk_at_millis > 0) ORDER BY p.id LIMIT ?`,
			after, f.Account, f.Account, string(f.Standing), string(f.Standing), f.Desk, limit)
		return err
	})
	return calls, err
}

// Stats implements prepay.Store.
func (s *Store) Stats(ctx context.Context, nowMillis int64) (stats []prepay.AccountStats, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT account, COUNT(CASE WHEN status = 'due' AND next_at_millis <= ? THEN 1 END),
				COALESCE(MIN(CASE WHEN status = 'due' AND next_at_millis <= ? THEN next_at_millis END), 0),
				COUNT(CASE WHEN status = 'due' AND next_at_millis > ? THEN 1 END),
				COUNT(CASE WHEN standing = 'unknown' THEN 1 END), COUNT(CASE WHEN desk_at_millis > 0 THEN 1 END)
			FROM progress INDEXED BY progress_open WHERE open = TRUE`+s.mine("grp")+` GROUP BY account ORDER BY account`,
			[]any{nowMillis, nowMillis, nowMillis}, func(scan sqldb.Scan) error {
				var a prepay.AccountStats
				err := scan(&a.Account, &a.Due, &a.OldestDueMillis, &a.Waiting, &a.Unknown, &a.Desk)
				stats = append(stats, a)
				return err
			})
	})
	return stats, err
}
