// Package sqlstore keeps the ledger in SQL tables: the area's own database, with
// its places, its parked messages and its topic postings beside the journal.
package sqlstore

import (
	"context"
	"fmt"
	"sync"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Options say how to open a ledger. Zero bounds mean their defaults.
type Options struct {
	Path string // of the SQLite file; made if missing
	// Postgres, if set, takes the place of the file.
	Postgres *sqldb.Postgres
	Groups   int               // the slots are divided into, fixed for the installation
	Stamp    map[string]string // see sqldb.Options
	NoSync   bool              // only the simulation may
	Points   fault.Points
	Held     []int // see sqldb.Options
	// CommitFault fails commits; see sqldb.Options. For tests and the simulation.
	CommitFault func() error
	// CacheKiBMax bounds the page cache of each connection; 8,192 by default.
	CacheKiBMax int
	// HeldMax bounds the balances, and the accounts, held in memory between
	// batches (about 200 bytes each); 50,000 by default.
	HeldMax int
}

// Store implements accounting.Store.
type Store struct {
	db     *sqldb.DB
	log    *embedded.Log
	groups int
	mine   []int // groups of this process; nil is all

	mu       sync.Mutex // one batch at a time: it guards what is held
	held     *accounting.Held
	accounts *accountCache
}

var _ accounting.Store = (*Store)(nil)

// Open opens or makes the ledger and brings its schema up to date. It fails with
// fault.Conflict when the stamp differs or the schema is newer than this build.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Groups < 1 || o.Groups > ids.Slots {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "accounting/sqlstore: open", Code: "config_invalid", Field: "groups",
			Fix: fmt.Sprintf("choose 1 to %d", ids.Slots)}
	}
	if o.CacheKiBMax == 0 {
		o.CacheKiBMax = 8192
	}
	if o.HeldMax == 0 {
		o.HeldMax = 50_000
	}
	db, err := sqldb.Open(ctx, o.sqldb())
	if err != nil {
		return nil, err
	}
	return &Store{db: db, log: embedded.NewLog(db, o.Groups, bus.Postings), groups: o.Groups, mine: o.Held,
		held: accounting.NewHeld(o.HeldMax), accounts: newAccountCache(o.HeldMax)}, nil
}

func (o *Options) sqldb() sqldb.Options {
	return sqldb.Options{Area: "accounting", Path: o.Path, Postgres: o.Postgres, Migrations: migrations(o.Postgres != nil), Stamp: o.Stamp,
		NoSync: o.NoSync, CacheKiBMax: o.CacheKiBMax, Points: o.Points, CommitFault: o.CommitFault}
}

// Migrate makes the ledger's schema in PostgreSQL, or brings it up to date; see
// sqldb.Migrate.
func Migrate(ctx context.Context, o Options, role string) error {
	return sqldb.Migrate(ctx, o.sqldb(), role)
}

// DB is the database, for those who hold its statements down.
func (s *Store) DB() *sqldb.DB { return s.db }

// Log is where topic postings is written, and trimmed.
func (s *Store) Log() *embedded.Log { return s.log }

// Source reads topic postings.
func (s *Store) Source() bus.Source { return s.log.Source(bus.Postings) }

// Places is what the poster's consumer starts from.
func (s *Store) Places() embedded.Places { return embedded.Places{DB: s.db, Groups: s.mine} }

// Close waits for running transactions and closes the database.
func (s *Store) Close() error { return s.db.Close() }
