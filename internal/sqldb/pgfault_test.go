package sqldb_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// kill ends a connection of the server, and waits until it is gone.
func kill(t testing.TB, pid int) {
	t.Helper()
	sql(t, `SELECT pg_terminate_backend(%d, 10000)`, pid)
}

func TestPostgresConnectionKilled(t *testing.T) {
	o := migrated(t, pgOptions(t, nil))
	db := open(t, o)
	var pid int
	write(t, db, func(tx *sqldb.Tx) (err error) { pid, err = backend(tx); return err })

	kill(t, pid) // while nobody used it: who comes next has another one
	write(t, db, func(tx *sqldb.Tx) (err error) { pid, err = backend(tx); return err })
	err := db.Write(t.Context(), func(tx *sqldb.Tx) error { kill(t, pid); return insert(tx, "before a statement") })
	refused(t, "before a statement", err, fault.Unavailable, "database_unreachable")
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a") })

	inTheMiddle := func(tx *sqldb.Tx) error {
		if err := insert(tx, "in the middle"); err != nil {
			return err
		}
		if pid, err = backend(tx); err != nil {
			return err
		}
		kill(t, pid)
		return insert(tx, "the rest")
	}
	refused(t, "in the middle", db.Write(t.Context(), inTheMiddle), fault.Unavailable, "database_unreachable")
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "b") })
	if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { _ = inTheMiddle(tx); return nil }); !fault.Is(err, fault.Unavailable) {
		t.Errorf("in the middle, and nobody looked: %v", err)
	}
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "c") })
	if have := rows(t, o); have != "a b c" {
		t.Errorf("rows %s", have)
	}

	for name, read := range map[string]func(context.Context, func(*sqldb.Tx) error) error{"Read": db.Read, "Snapshot": db.Snapshot} {
		err := read(t.Context(), func(tx *sqldb.Tx) error {
			pid, err := backend(tx)
			if err != nil {
				return err
			}
			kill(t, pid)
			_, err = backend(tx)
			return err
		})
		refused(t, name, err, fault.Unavailable, "database_unreachable")
		for range 2 { // each reading connection in turn
			want(t, db, "a", "b", "c")
		}
	}
}

// TestPostgresCommitOfUnknownOutcome: whoever loses the answer to COMMIT does not
// know what became of it, and writes nothing more.
func TestPostgresCommitOfUnknownOutcome(t *testing.T) {
	for name, c := range map[string]struct {
		hook func(c *link) bool
		kept string
	}{
		"the server never gets it": {func(c *link) bool { c.cut(); return false }, ""},
		"the server has done it": {func(c *link) bool {
			// It is committed before its answer goes out, and that answer is swallowed.
			_ = c.client.Close()
			_, _ = c.server.Write([]byte("Q\x00\x00\x00\x0bCOMMIT\x00"))
			_, _ = io.Copy(io.Discard, io.LimitReader(c.server, 1))
			return false
		}, "a"},
		"it ends with an error that is the end of the server": {func(c *link) bool {
			_, _ = c.client.Write(errorResponse("FATAL", "57P01", "terminating connection due to administrator command"))
			c.cut()
			return false
		}, ""},
		"it cannot write its log": {func(c *link) bool {
			_, _ = c.client.Write(errorResponse("PANIC", "58030", "could not write to file"))
			c.cut()
			return false
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := migrated(t, pgOptions(t, nil))
			p := newProxy(t, server.Engine(t).Addr())
			through := o
			postgres := *o.Postgres
			postgres.URL = p.url(t, o.Postgres.URL)
			through.Postgres = &postgres
			db := open(t, through)
			woken := 0
			p.onCommit(c.hook)
			err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
				tx.OnCommit(func() { woken++ })
				return insert(tx, "a")
			})
			refused(t, "the commit", err, fault.Unknown, "commit_unknown")
			p.onCommit(nil)
			err = db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, "b") })
			refused(t, "the next", err, fault.Unavailable, "store_stopped")
			if woken != 0 || db.Commits() != 0 {
				t.Errorf("woken %d times, %d commits", woken, db.Commits())
			}
			if have := rows(t, o); have != c.kept {
				t.Errorf("rows %q, want %q", have, c.kept)
			}
			write(t, open(t, o), func(tx *sqldb.Tx) error { return insert(tx, "c") }) // the next process
		})
	}
}

// now runs what a transaction has left for later.
func now(tx *sqldb.Tx) error {
	return tx.Query(`SELECT 1`, nil, func(sqldb.Scan) error { return nil })
}

func insertNow(tx *sqldb.Tx, names ...string) error {
	return errors.Join(insert(tx, names...), now(tx))
}

// TestPostgresKilledBeforeCommit: what the server says of its end may be said of
// one that had committed as well.
func TestPostgresKilledBeforeCommit(t *testing.T) {
	o := migrated(t, pgOptions(t, nil))
	db := open(t, o)
	err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
		pid, err := backend(tx)
		if err == nil {
			err = insertNow(tx, "a")
		}
		kill(t, pid)
		return err
	})
	refused(t, "the commit", err, fault.Unknown, "commit_unknown")
	if have := rows(t, o); have != "" {
		t.Errorf("rows %s", have)
	}
}

// TestPostgresCommitRefused: what the server says it rolled back is certain, and the
// handle goes on.
func TestPostgresCommitRefused(t *testing.T) {
	const deferred = `CREATE FUNCTION at_the_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF NEW.name LIKE 'full%' THEN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END IF;
	IF NEW.name LIKE 'wrong%' THEN RAISE EXCEPTION 'wrong' USING ERRCODE = '23514'; END IF;
	RETURN NULL; END $$;
	CREATE CONSTRAINT TRIGGER item_at_the_end AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_the_end();`
	o := migrated(t, pgOptions(t, func(o *sqldb.Options) { o.Migrations = append(o.Migrations, deferred) }))
	db := open(t, o)
	for name, code := range map[string]string{"wrong": "sqlstate_23514", "full": "sqlstate_53100"} {
		err := db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, name) })
		refused(t, name, err, fault.Unavailable, code)
		write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "after "+name) })
	}
	if have := rows(t, o); strings.Count(have, "after") != 2 || strings.Count(have, " ") != 3 {
		t.Errorf("rows %s", have)
	}
}

// TestPostgresSwallowedError: a transaction of which a statement failed cannot be
// committed, whoever did not look.
func TestPostgresSwallowedError(t *testing.T) {
	o := migrated(t, pgOptions(t, nil))
	db := open(t, o)
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "here") })
	for name, fail := range map[string]func(tx *sqldb.Tx) error{
		"exec": func(tx *sqldb.Tx) error { _, err := tx.Exec(`SELEKT`); return err },
		"query": func(tx *sqldb.Tx) error {
			return tx.Query(`SELECT 1 / ?`, []any{0}, func(sqldb.Scan) error { return nil })
		},
		"a set": func(tx *sqldb.Tx) error { return insertNow(tx, "x", "y", "x", "z") },
		"an update": func(tx *sqldb.Tx) error {
			return errors.Join(setN(tx, -1, "here"), now(tx))
		},
	} {
		for _, first := range []bool{true, false} { // with what begins the transaction, or behind it
			err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
				if !first {
					if err := insert(tx, "lost"); err != nil {
						return err
					}
				}
				if err := fail(tx); err == nil {
					t.Errorf("%s did not fail", name)
				}
				return nil
			})
			refused(t, name, err, fault.Unavailable, "")
		}
	}
	// What the reader of rows says is his own affair.
	write(t, db, func(tx *sqldb.Tx) error {
		_ = tx.Query(`SELECT name FROM item`, nil, func(sqldb.Scan) error { return errors.New("enough") })
		return insert(tx, "kept")
	})
	want(t, db, "here", "kept")
}

// TestPostgresWaitsAreBounded: for a statement, for a lock, and for each other.
func TestPostgresWaitsAreBounded(t *testing.T) {
	o := pgOptions(t, func(o *sqldb.Options) {
		o.Postgres.StatementTimeout = time.Second
		o.Postgres.URL += "&options=" + "-c%20deadlock_timeout%3D20ms"
	})
	migrated(t, o)
	a, b := open(t, o), open(t, o)
	write(t, a, func(tx *sqldb.Tx) error { return insert(tx, "1", "2") })
	err := a.Write(t.Context(), func(tx *sqldb.Tx) error { _, err := tx.Exec(`SELECT pg_sleep(60)`); return err })
	refused(t, "a statement", err, fault.Unavailable, "sqlstate_57014")

	update := func(tx *sqldb.Tx, name string) error {
		_, err := tx.Exec(`UPDATE item SET n = n + 1 WHERE name = ?`, name)
		return err
	}
	err = a.Write(t.Context(), func(tx *sqldb.Tx) error {
		if err := update(tx, "1"); err != nil {
			return err
		}
		if err := b.Write(t.Context(), func(tx *sqldb.Tx) error { return update(tx, "1") }); !fault.Is(err, fault.Unavailable) {
			t.Errorf("a lock: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Errorf("who held the lock: %v", err)
	}

	// Each holds a row and wants the other's: the server ends one of them.
	var both sync.WaitGroup
	both.Add(2)
	var done sync.WaitGroup
	errs := make([]error, 2)
	for i, c := range []struct {
		db          *sqldb.DB
		first, next string
	}{{a, "1", "2"}, {b, "2", "1"}} {
		done.Go(func() {
			errs[i] = c.db.Write(t.Context(), func(tx *sqldb.Tx) error {
				err := update(tx, c.first)
				both.Done()
				both.Wait()
				return errors.Join(err, update(tx, c.next))
			})
		})
	}
	done.Wait()
	dead := 0
	for _, err := range errs {
		if err != nil {
			dead++
			refused(t, "a deadlock", err, fault.Unavailable, "sqlstate_40P01")
		}
	}
	if dead != 1 {
		t.Errorf("%d of two were ended: %v", dead, errs)
	}
	for _, db := range []*sqldb.DB{a, b} {
		write(t, db, func(tx *sqldb.Tx) error { return update(tx, "1") })
	}
}

// TestPostgresIdleTransaction: a process that stands still in the middle of a
// transaction loses it, for certain, and goes on with the next.
func TestPostgresIdleTransaction(t *testing.T) {
	o := migrated(t, pgOptions(t, nil))
	o.Postgres.IdleTimeout = 500 * time.Millisecond
	db := open(t, o)
	err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
		if err := insertNow(tx, "a"); err != nil {
			return err
		}
		for sql(t, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tallystick test' AND state = 'idle in transaction'`) != "0" {
			time.Sleep(10 * time.Millisecond)
		}
		return nil
	})
	refused(t, "the commit", err, fault.Unavailable, "sqlstate_25P03")
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "b") })
	if have := rows(t, o); have != "b" {
		t.Errorf("rows %s", have)
	}
}

// TestPostgresResources: a server that lacks something gives an error that says so,
// keeps nothing, and is used again when it has it.
func TestPostgresResources(t *testing.T) {
	const full = `CREATE TABLE space (left_over BIGINT); INSERT INTO space VALUES (0);
	CREATE FUNCTION full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF (SELECT left_over FROM space) = 0 THEN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END IF; RETURN NEW; END $$;
	CREATE TRIGGER item_full BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION full();`
	o := pgOptions(t, func(o *sqldb.Options) { o.Migrations = append(o.Migrations, full) })
	role := "role_" + o.Postgres.Schema
	if err := sqldb.MakeRole(t.Context(), *o.Postgres, role, ""); err != nil {
		t.Fatal(err)
	}
	if err := sqldb.Migrate(t.Context(), o, role); err != nil {
		t.Fatal(err)
	}
	sql(t, `ALTER ROLE %s CONNECTION LIMIT 3`, role)
	o.Postgres.User = role
	db := open(t, o)
	err := db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, "a") })
	refused(t, "a full disk", err, fault.Unavailable, "disk_full")
	sql(t, `UPDATE %s.space SET left_over = 1`, o.Postgres.Schema)
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "b") })
	want(t, db, "b")

	refused(t, "one connection too many", second(sqldb.Open(t.Context(), o)), fault.Unavailable, "sqlstate_53300")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for sql(t, `SELECT count(*) FROM pg_stat_activity WHERE usename = '%s'`, role) != "0" {
		time.Sleep(10 * time.Millisecond)
	}
	want(t, open(t, o), "b")
}

// TestPostgresServerKilled: kill -9, and a restart: what was acknowledged is there.
func TestPostgresServerKilled(t *testing.T) {
	e, err := engines.StartPostgres(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	o := migrated(t, sqldb.Options{Area: "test", Postgres: &sqldb.Postgres{URL: e.URL("postgres"), Number: 1}, Migrations: []string{schema}})
	db := open(t, o)
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a") })
	err = db.Write(t.Context(), func(tx *sqldb.Tx) error {
		if err := insert(tx, "lost"); err != nil {
			return err
		}
		if err := e.Kill(); err != nil {
			t.Fatal(err)
		}
		return insert(tx, "more")
	})
	refused(t, "in the middle", err, fault.Unavailable, "database_unreachable")
	for what, call := range map[string]func() error{
		"write": func() error { return db.Write(t.Context(), func(*sqldb.Tx) error { t.Error("ran"); return nil }) },
		"read": func() error {
			return db.Read(t.Context(), func(tx *sqldb.Tx) error { _, err := backend(tx); return err })
		},
		"open": func() error { return second(sqldb.Open(t.Context(), o)) },
	} {
		refused(t, what, call(), fault.Unavailable, "database_unreachable")
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "b") })
	want(t, db, "a", "b")
}

// TestPostgresServerFrozen: a server that stands still holds up a call no longer
// than its bound; one that stands still at COMMIT leaves its outcome open.
func TestPostgresServerFrozen(t *testing.T) {
	e, err := engines.StartPostgres(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	o := migrated(t, sqldb.Options{Area: "test", NoSync: true, Migrations: []string{schema},
		Postgres: &sqldb.Postgres{URL: e.URL("postgres"), Number: 1, ConnectTimeout: time.Second, StatementTimeout: time.Second}})
	db, late := open(t, o), open(t, o)
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a") })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	err = late.Write(t.Context(), func(tx *sqldb.Tx) error {
		err := insertNow(tx, "at the end")
		must(e.Freeze())
		return err
	})
	refused(t, "a commit", err, fault.Unknown, "commit_unknown")
	err = db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, "lost") })
	refused(t, "a statement", err, fault.Unavailable, "database_unreachable")
	for range 2 { // with the connection that there was, and a new one
		err = db.Read(t.Context(), func(tx *sqldb.Tx) error { _, err := backend(tx); return err })
		refused(t, "a read", err, fault.Unavailable, "database_unreachable")
	}
	refused(t, "opening", second(sqldb.Open(t.Context(), o)), fault.Unavailable, "database_unreachable")
	must(e.Thaw())
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "b") })
	want(t, db, names(t, open(t, o))...)
	refused(t, "who does not know", late.Write(t.Context(), func(*sqldb.Tx) error { return nil }), fault.Unavailable, "store_stopped")
}

// TestLookingAtAConnectionWaitsForNothing: also while something reads it, as the
// driver does for a time when it was slow to write.
func TestLookingAtAConnectionWaitsForNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // a test
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close() //nolint:errcheck // a test
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if sqldb.Spoken(near) {
		t.Error("nobody has said anything")
	}
	read := make(chan error)
	go func() { _, err := near.Read(make([]byte, 1)); read <- err }()
	for range 20 {
		time.Sleep(time.Millisecond) // until it reads
		if sqldb.Spoken(near) {
			t.Error("nobody has said anything, and something reads")
		}
	}
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if sqldb.Spoken(near) {
		t.Error("what was said has been read")
	}
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	for !sqldb.Spoken(near) {
		time.Sleep(time.Millisecond)
	}
}
