package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tallystick/tallystick/internal/fault"
)

// Options say how to open a database.
type Options struct {
	// Area names the database in errors, metrics and crash points ("core").
	Area string
	// Path is the SQLite file; it is made if missing.
	Path string
	// Postgres, if set, takes the place of the file.
	Postgres *Postgres
	// Migrations are SQL scripts; the n-th brings the schema to version n. Those
	// that are missing are applied at Open to SQLite, and by Migrate to PostgreSQL.
	// One that was released never changes.
	Migrations []string
	// Stamp holds installation constants (the code secret's fingerprint, the
	// number of groups). They are stored at first open; a later Open with another
	// value is refused.
	Stamp map[string]string
	// Held are the groups that this process works on; nil is all. Stores look for what
	// is due among these.
	Held []int
	// NoSync turns fsync off, and takes a PostgreSQL server that has it off. Only the
	// simulation and tests, which kill no machine, may.
	NoSync bool
	// CacheKiBMax bounds the page cache of each connection; 0 means 16,384.
	CacheKiBMax int
	// PageBytes is the page size of a database that is made now, a power of two from
	// 512 to 65,536; 0 means SQLite's 4,096. Large rows are written in fewer pieces
	// on large pages.
	PageBytes int
	// ReadersMax bounds the reading connections; 0 means 2.
	ReadersMax int
	// Points is told "<area>.before_commit" and "<area>.after_commit".
	Points fault.Points
	// CommitFault, if set, is asked after the statements of each writing
	// transaction, and an error from it is taken for the engine's answer to COMMIT,
	// which is not run: fault.Unavailable is a full disk, all others a failed
	// fsync. After fault.Unknown it is run all the same, and nobody is told so. For
	// tests and the simulation.
	CommitFault func() error
}

// DB is one area's database. Safe for concurrent use; writers queue.
type DB struct {
	area       string
	points     fault.Points
	fault      func() error
	postgres   bool
	open       func(readOnly bool) (connection, error)
	guard      func(*Tx) error
	number     int        // of a PostgreSQL database
	writer     chan *conn // holds the one writing connection when it is free
	readers    chan *conn // holds reading connections; nil entries are yet to be opened
	statements atomic.Int64
	trips      atomic.Int64
	commits    atomic.Int64
	stopped    atomic.Bool // a commit's outcome is unknown: nothing is written any more
	closeOnce  sync.Once
	closed     chan struct{}

	// Of the writing connection, and used by who has it: its data version when it
	// last wrote, and how often that was another one at the next transaction.
	version uint32
	foreign int64
	// And what is left of its block of ids; see NewIDs.
	nextID, lastID int64
}

// connection is an *engine or a *postgres.
type connection interface{ close() error }

// conn is one connection with the texts of sets, which are bounded by the code.
type conn struct {
	connection
	texts map[textKey]madeText
}

func newConn(c connection) *conn { return &conn{connection: c, texts: map[textKey]madeText{}} }

// Open opens the database and checks its stamp. An SQLite file is made if it is
// missing, and migrated. A PostgreSQL schema must be there (Migrate), and of the
// version that this build knows. It fails with fault.Conflict when the stamp or the
// version differs.
func Open(ctx context.Context, o Options) (*DB, error) {
	if o.ReadersMax == 0 {
		o.ReadersMax = 2
	}
	if o.Postgres != nil {
		return openPostgres(ctx, o)
	}
	return openSQLite(ctx, o)
}

func newDB(o Options, open func(readOnly bool) (connection, error)) *DB {
	db := &DB{area: o.Area, points: o.Points, fault: o.CommitFault, open: open, writer: make(chan *conn, 1),
		readers: make(chan *conn, o.ReadersMax), closed: make(chan struct{})}
	for range o.ReadersMax {
		db.readers <- nil
	}
	return db
}

func openSQLite(ctx context.Context, o Options) (*DB, error) {
	op := "sqldb: open " + o.Area
	if o.CacheKiBMax == 0 {
		o.CacheKiBMax = 16_384
	}
	// A commit waits for its data, not for the times of its file.
	if _, err := sqlite.Fdatasync(true); err != nil && !errors.Is(err, sqlite.ErrFdatasyncUnavailable) {
		return nil, fault.Wrap(op, err)
	}
	if len(o.Migrations) > 0 {
		if err := migrate(ctx, o); err != nil {
			return nil, fault.Wrap(op+": migrate", err)
		}
	}
	db := newDB(o, func(readOnly bool) (connection, error) {
		list := pragmas(o)
		if readOnly { // what is meant to read can't write, whatever the statement
			list = append(list, "query_only(1)")
		}
		return openEngine(o.Path, list)
	})
	e, err := db.open(false)
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	db.writer <- newConn(e)
	checked := false
	defer func() {
		if !checked { // also when a crash point panics
			_ = db.Close()
		}
	}()
	if err := db.checkStamp(ctx, o.Stamp); err != nil {
		return nil, fault.Wrap(op, err)
	}
	checked = true
	return db, nil
}

// pragmas are the settings of each connection.
func pragmas(o Options) (list []string) {
	sync := "FULL"
	if o.NoSync {
		sync = "OFF"
	}
	if o.PageBytes != 0 {
		list = append(list, "page_size("+strconv.Itoa(o.PageBytes)+")") // before the first page is written
	}
	return append(list, "busy_timeout(5000)", "journal_mode(WAL)", "synchronous("+sync+")",
		"foreign_keys(1)", "cache_size(-"+strconv.Itoa(o.CacheKiBMax)+")", "wal_autocheckpoint(10000)", "temp_store(MEMORY)")
}

// migrate runs on connections of its own, as the library that does it wants
// those of database/sql.
func migrate(ctx context.Context, o Options) (err error) {
	q := url.Values{"_pragma": pragmas(o)}
	pool, err := sql.Open("sqlite", "file:"+(&url.URL{Path: o.Path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	return migrateUp(ctx, pool, goose.DialectSQLite3, o.Migrations)
}

// migrateUp applies the scripts that are missing.
func migrateUp(ctx context.Context, pool *sql.DB, dialect goose.Dialect, scripts []string, options ...goose.ProviderOption) error {
	all := make([]*goose.Migration, len(scripts))
	for i, script := range scripts {
		all[i] = goose.NewGoMigration(int64(i+1), &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, script)
			return err
		}}, nil)
	}
	p, err := goose.NewProvider(dialect, pool, nil, append(options, goose.WithGoMigrations(all...), goose.WithDisableGlobalRegistry(true))...)
	if err != nil {
		return err
	}
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	want := int64(len(scripts))
	if have > want {
		return schemaNewer(have, want)
	}
	if have < want {
		_, err = p.Up(ctx)
	}
	return err
}

func schemaNewer(have, want int64) error {
	return &fault.Error{Kind: fault.Conflict, Code: "schema_newer", Fix: "run the build that wrote it, or a newer one",
		Err: fmt.Errorf("the schema has version %d, this build knows up to %d", have, want)}
}

// Stamp stores constants that are known only after Open, and compares them at every
// other call: fault.Conflict when one differs. The database has a stamp already.
func (db *DB) Stamp(ctx context.Context, stamp map[string]string) error {
	return fault.Wrap("sqldb: stamp "+db.area, db.Write(ctx, func(tx *Tx) error { return db.compareStamp(tx, stamp) }))
}

// checkStamp stores each constant at first open and compares it at every other.
func (db *DB) checkStamp(ctx context.Context, stamp map[string]string) error {
	if len(stamp) == 0 {
		return nil
	}
	return db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(`CREATE TABLE IF NOT EXISTS stamp (name TEXT PRIMARY KEY, value TEXT NOT NULL)`); err != nil {
			return err
		}
		return db.compareStamp(tx, stamp)
	})
}

func (db *DB) compareStamp(tx *Tx, stamp map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(stamp)) {
		want := stamp[name]
		if _, err := tx.Exec(`INSERT INTO stamp (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING`, name, want); err != nil {
			return err
		}
		var have string
		err := tx.Query(`SELECT value FROM stamp WHERE name = ?`, []any{name}, func(scan Scan) error { return scan(&have) })
		if err != nil {
			return err
		}
		if have != want {
			return stampMismatch(db.area, name, have, want)
		}
	}
	return nil
}

func stampMismatch(area, name, have, want string) error {
	return &fault.Error{Kind: fault.Conflict, Code: "stamp_mismatch", Field: name,
		Fix: "open this data with the secret and settings that made it",
		Err: fmt.Errorf("the %s store was made with %s=%q, this process has %q", area, name, have, want)}
}

// Number is that of a PostgreSQL database; 0 for SQLite.
func (db *DB) Number() int { return db.number }

// Statements is how many SQL statements have run, and Commits how many writing
// transactions were committed: tests hold both down.
func (db *DB) Statements() int64 { return db.statements.Load() }

// RoundTrips is how often a statement, or several that were sent at once, were waited
// for. It says something of PostgreSQL alone.
func (db *DB) RoundTrips() int64 { return db.trips.Load() }

// Commits counts committed writing transactions.
func (db *DB) Commits() int64 { return db.commits.Load() }

// Write runs fn in the writing transaction: all of it is committed and fsynced
// when Write returns nil, and none of it when it returns an error, except
// fault.Unknown: then a failed write or fsync, or a server that did not answer, left it
// open, and nothing more is written here (fault.Unavailable). What is in memory is worth
// nothing, and the store must be opened anew: with SQLite by another process, with
// PostgreSQL by the next duty. A full disk is
// fault.Unavailable: nothing was written, and a later Write may succeed.
func (db *DB) Write(ctx context.Context, fn func(*Tx) error) error {
	var c *conn
	select {
	case c = <-db.writer:
	case <-db.closed:
		return fault.New(fault.Unavailable, "sqldb: "+db.area, "database is closed")
	case <-ctx.Done():
		return fault.New(fault.Unavailable, "sqldb: "+db.area, "waiting to write: %w", ctx.Err())
	}
	defer func() { db.writer <- c }()
	if db.stopped.Load() {
		// After a failed fsync the kernel may have dropped what it could not write:
		// a later commit would succeed on top of a hole.
		return &fault.Error{Kind: fault.Unavailable, Op: "sqldb: " + db.area, Code: "store_stopped",
			Fix: db.reopenFix()}
	}
	// Nothing of it is interrupted half-way by a caller who leaves.
	tx := &Tx{db: db, conn: c, writes: true}
	committed := false
	end, err := tx.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { end(committed) }()
	if err = fn(tx); err == nil {
		err = tx.flush()
	}
	if e := tx.begun(); e != nil { // a guard's refusal is the reason for whatever it is that fn does not like
		return e
	}
	tx.due = nil
	if err != nil {
		return err
	}
	db.points.At(db.area + ".before_commit")
	if err := tx.commit(); err != nil {
		if fault.Is(err, fault.Unavailable) {
			return err // full: SQLite keeps the transaction open, and we roll it back
		}
		db.stopped.Store(true)
		return &fault.Error{Kind: fault.Unknown, Op: "sqldb: commit " + db.area, Code: "commit_unknown",
			Fix: db.reopenFix(), Err: err}
	}
	committed = true
	db.commits.Add(1)
	db.points.At(db.area + ".after_commit")
	for _, f := range tx.onCommit {
		f()
	}
	return nil
}

// reopenFix is how a store is reopened of which nobody knows how a commit ended.
func (db *DB) reopenFix() string {
	if db.postgres {
		return "nothing is to be done where a duty has it, as the next one opens it anew; a command is run again"
	}
	return "the process must stop: the next one opens the store anew"
}

// Close waits for running transactions and closes the files. Later calls of
// Read and Write fail with fault.Unavailable.
func (db *DB) Close() error {
	var err error
	db.closeOnce.Do(func() {
		close(db.closed)
		for range cap(db.readers) {
			if c := <-db.readers; c != nil {
				err = errors.Join(err, c.close())
			}
		}
		err = errors.Join(err, (<-db.writer).close())
	})
	return err
}

// classify gives an engine's error its kind.
func classify(op string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := classifyPostgres(op, err); ok {
		return e
	}
	var ee *engineError
	var se *sqlite.Error // of a connection of database/sql: migrations and backups have those
	code, known := int32(0), false
	if known = errors.As(err, &ee); known {
		code = ee.code
	} else if known = errors.As(err, &se); known {
		code = int32(se.Code()) //nolint:gosec // SQLite's codes fit
	}
	if known {
		switch code & 0xff {
		case sqlite3.SQLITE_FULL:
			return &fault.Error{Kind: fault.Unavailable, Op: op, Code: "disk_full", Fix: "free disk space", Err: err}
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			return &fault.Error{Kind: fault.Unavailable, Op: op, Code: "database_busy", Err: err}
		case sqlite3.SQLITE_CONSTRAINT:
			return &fault.Error{Kind: fault.Conflict, Op: op, Code: "constraint", Err: err}
		}
	}
	return &fault.Error{Kind: fault.Internal, Op: op, Err: err}
}
