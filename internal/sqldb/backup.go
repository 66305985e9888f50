package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"modernc.org/sqlite"

	"github.com/tallystick/tallystick/internal/fault"
)

// Copy is a database file and the file that it is copied to, which must not exist.
type Copy struct{ From, To string }

// Backups let writers stand still for a moment. They must have begun again before
// a writer gives up waiting (busy_timeout, 5 s), whatever the number of databases.
const (
	freezeTries         = 20
	freezeTimeoutMillis = 500 // for the write lock of one database
	freezePause         = 100 * time.Millisecond
)

// Backup copies databases as they all were at one and the same moment, beside the
// processes that use them. Their writers stand still only until each database is
// seen in a reading transaction, some milliseconds; the copying itself holds up
// nobody. The copies are checked and flushed. fault.Unavailable: the databases
// were too busy, try again; whatever the error, the copies are of no use.
//
// It is SQLite's online backup (https://www.sqlite.org/backup.html) out of a
// transaction that was open before: then the copy is of that moment.
func Backup(ctx context.Context, copies []Copy) (err error) {
	const op = "sqldb: backup"
	sources := make([]*frozen, len(copies))
	defer func() {
		for _, f := range sources {
			err = errors.Join(err, f.close(ctx))
		}
	}()
	for i, c := range copies {
		if _, err := os.Lstat(c.To); !errors.Is(err, os.ErrNotExist) {
			return fault.New(fault.Conflict, op, "%s is already there", c.To)
		}
		if sources[i], err = openFrozen(ctx, c.From); err != nil {
			return fault.Wrap(op, err)
		}
	}
	if err := freeze(ctx, sources); err != nil {
		return fault.Wrap(op, err)
	}
	for i, c := range copies {
		if err := sources[i].copyTo(ctx, c.To); err != nil {
			return fault.Wrap(op+" to "+c.To, err)
		}
	}
	return nil
}

// frozen is a database that is being copied: one connection to keep writers away,
// and one that sees the moment.
type frozen struct {
	pool       *sql.DB
	lock, view *sql.Conn
}

func openFrozen(ctx context.Context, path string) (*frozen, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	pool, err := sql.Open("sqlite", fmt.Sprintf("file:%s?_pragma=busy_timeout(%d)", (&url.URL{Path: path}).EscapedPath(), freezeTimeoutMillis))
	if err != nil {
		return nil, err
	}
	f := &frozen{pool: pool}
	for _, c := range []**sql.Conn{&f.lock, &f.view} {
		if *c, err = pool.Conn(ctx); err != nil {
			return f, classify("open", err)
		}
	}
	return f, nil
}

// freeze begins the reading transactions while nobody can write to any of the
// databases.
func freeze(ctx context.Context, all []*frozen) error {
	var err error
	for range freezeTries {
		if err = tryFreeze(ctx, all); err == nil || !fault.Is(err, fault.Unavailable) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(freezePause):
		}
	}
	return err
}

func tryFreeze(ctx context.Context, all []*frozen) (err error) {
	run := func(c *sql.Conn, query string) error {
		_, err := c.ExecContext(ctx, query)
		return classify(query, err)
	}
	defer func() {
		for _, f := range all {
			f.end(ctx, f.lock) // nothing was written
			if err != nil {
				f.end(ctx, f.view)
			}
		}
	}()
	for _, f := range all {
		if err := run(f.lock, "BEGIN IMMEDIATE"); err != nil {
			return err
		}
	}
	for _, f := range all {
		if err := run(f.view, "BEGIN"); err != nil {
			return err
		}
		var n int
		if err := f.view.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&n); err != nil { // the first look fixes the moment
			return classify("freeze", err)
		}
	}
	return nil
}

// copyTo copies what the view sees, then checks and flushes the copy.
func (f *frozen) copyTo(ctx context.Context, path string) error {
	to := "file:" + (&url.URL{Path: path}).EscapedPath()
	err := f.view.Raw(func(c any) error {
		backuper, ok := c.(interface {
			NewBackup(string) (*sqlite.Backup, error)
		})
		if !ok {
			return fmt.Errorf("%T makes no backups", c)
		}
		b, err := backuper.NewBackup(to)
		if err != nil {
			return err
		}
		for more := true; more && err == nil; {
			if more, err = b.Step(1024); err == nil {
				err = ctx.Err()
			}
		}
		return errors.Join(err, b.Finish())
	})
	if err != nil {
		return classify("copy", err)
	}
	if err := check(ctx, to); err != nil {
		return err
	}
	file, err := os.Open(path) //nolint:gosec // the caller's
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// check reads a copy through: a backup that cannot be read is none.
func check(ctx context.Context, uri string) (err error) {
	pool, err := sql.Open("sqlite", uri)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	var verdict string
	if err := pool.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return classify("check", err)
	}
	if verdict != "ok" {
		return fault.New(fault.Internal, "check", "the copy is damaged: %s", verdict)
	}
	return nil
}

func (f *frozen) close(ctx context.Context) error {
	if f == nil {
		return nil
	}
	var errs []error
	for _, c := range []*sql.Conn{f.lock, f.view} {
		if c != nil {
			f.end(ctx, c)
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(append(errs, f.pool.Close())...)
}

// end ends a connection's transaction, if there is one.
func (f *frozen) end(ctx context.Context, c *sql.Conn) {
	_, _ = c.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
}
