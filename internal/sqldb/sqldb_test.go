package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

const schema = `CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, n INTEGER NOT NULL DEFAULT 0 CHECK (n >= 0));`

func options(t testing.TB, change func(o *sqldb.Options)) sqldb.Options {
	o := sqldb.Options{Area: "test", Path: filepath.Join(t.TempDir(), "a folder?#%.db"), Migrations: []string{schema}, NoSync: true}
	if change != nil {
		change(&o)
	}
	return o
}

func open(t testing.TB, o sqldb.Options) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func insert(tx *sqldb.Tx, names ...string) error {
	_, err := tx.Insert("item", []string{"name"}, len(names), "", func(dst []any, i int) []any { return append(dst, names[i]) })
	return err
}

func names(t testing.TB, db *sqldb.DB) []string {
	t.Helper()
	var out []string
	err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT name FROM item ORDER BY id`, nil, func(scan sqldb.Scan) error {
			var s string
			err := scan(&s)
			out = append(out, s)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func want(t testing.TB, db *sqldb.DB, list ...string) {
	t.Helper()
	if have := names(t, db); fmt.Sprint(have) != fmt.Sprint(list) {
		t.Errorf("have %v, want %v", have, list)
	}
}

func write(t testing.TB, db *sqldb.DB, fn func(tx *sqldb.Tx) error) {
	t.Helper()
	if err := db.Write(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func TestSettings(t *testing.T) {
	db := open(t, options(t, func(o *sqldb.Options) { o.NoSync = false; o.CacheKiBMax = 512 }))
	pragma := func(tx *sqldb.Tx, name string) (v string) {
		if err := tx.Query("PRAGMA "+name, nil, func(scan sqldb.Scan) error { return scan(&v) }); err != nil {
			t.Error(err)
		}
		return v
	}
	check := func(where string, settings map[string]string) func(tx *sqldb.Tx) error {
		return func(tx *sqldb.Tx) error {
			for name, want := range settings {
				if have := pragma(tx, name); have != want {
					t.Errorf("%s: %s is %s, want %s", where, name, have, want)
				}
			}
			return nil
		}
	}
	both := map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1", "cache_size": "-512", "busy_timeout": "5000", "temp_store": "2"}
	write(t, db, check("writer", both))
	both["query_only"] = "1"
	for range 3 {
		if err := db.Read(t.Context(), check("reader", both)); err != nil {
			t.Error(err)
		}
	}
}

func TestWriteIsAllOrNothing(t *testing.T) {
	db := open(t, options(t, nil))
	stop := errors.New("stop")
	commits := db.Commits()
	woken := 0
	err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
		tx.OnCommit(func() { woken++ })
		return errors.Join(insert(tx, "a"), stop)
	})
	if !errors.Is(err, stop) || db.Commits() != commits || woken != 0 {
		t.Errorf("%v, %d commits, woken %d times", err, db.Commits()-commits, woken)
	}
	want(t, db)
	write(t, db, func(tx *sqldb.Tx) error {
		tx.OnCommit(func() { woken++ })
		if len(names(t, db)) != 0 {
			t.Error("a reader sees what is not committed")
		}
		return insert(tx, "b")
	})
	if woken != 1 || db.Commits() != commits+1 {
		t.Errorf("woken %d times, %d commits", woken, db.Commits()-commits)
	}
	want(t, db, "b")
}

func TestConstraintsAreConflicts(t *testing.T) {
	db := open(t, options(t, nil))
	for name, fn := range map[string]func(tx *sqldb.Tx) error{
		"unique": func(tx *sqldb.Tx) error { return insert(tx, "a", "a") },
		"check": func(tx *sqldb.Tx) error {
			_, err := tx.Exec(`INSERT INTO item (name, n) VALUES ('b', -1)`)
			return err
		},
		"not null": func(tx *sqldb.Tx) error {
			_, err := tx.Exec(`INSERT INTO item (name) VALUES (NULL)`)
			return err
		},
	} {
		if err := db.Write(t.Context(), fn); !fault.Is(err, fault.Conflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	want(t, db)
	if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { _, err := tx.Exec(`SELEKT`); return err }); !fault.Is(err, fault.Internal) {
		t.Errorf("a statement that is none: %v", err)
	}
}

func TestReadersCannotWrite(t *testing.T) {
	db := open(t, options(t, nil))
	for name, read := range map[string]func(context.Context, func(*sqldb.Tx) error) error{"Read": db.Read, "Snapshot": db.Snapshot} {
		if err := read(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, "a") }); err == nil {
			t.Errorf("%s wrote", name)
		}
	}
	want(t, db)
}

func TestSnapshotSeesOneMoment(t *testing.T) {
	db := open(t, options(t, nil))
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a") })
	count := func(tx *sqldb.Tx) (n int) {
		if err := tx.Query(`SELECT count(*) FROM item`, nil, func(scan sqldb.Scan) error { return scan(&n) }); err != nil {
			t.Error(err)
		}
		return n
	}
	for name, tt := range map[string]struct {
		read func(context.Context, func(*sqldb.Tx) error) error
		more int
	}{"Snapshot": {db.Snapshot, 0}, "Read": {db.Read, 1}} {
		err := tt.read(t.Context(), func(tx *sqldb.Tx) error {
			before := count(tx)
			write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "during "+name) })
			if after := count(tx); after != before+tt.more {
				t.Errorf("%s: %d rows, then %d", name, before, after)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestSetsOfAnySize: whatever the size, each row once, in few statements.
func TestSetsOfAnySize(t *testing.T) {
	db := open(t, options(t, nil))
	most := 0
	for _, n := range []int{0, 1, 2, 3, 4, 5, 7, 15, 16, 17, 33, 63, 64, 65, 127, 128, 200, 1000} {
		var keys []string
		for i := range n {
			keys = append(keys, fmt.Sprintf("%d/%d", n, i))
		}
		before := db.Statements()
		write(t, db, func(tx *sqldb.Tx) error {
			added, err := tx.Insert("item", []string{"name", "n"}, n, "", func(dst []any, i int) []any { return append(dst, keys[i], i) })
			if added != int64(n) {
				t.Errorf("%d rows: %d added", n, added)
			}
			return err
		})
		inserts := int(db.Statements()-before) - 2 // BEGIN and COMMIT
		if n > 0 && inserts > n/64+9 {
			t.Errorf("%d rows took %d statements", n, inserts)
		}
		got := map[string]int{}
		queries := 0
		err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
			before := db.Statements()
			defer func() { queries = int(db.Statements() - before) }()
			return sqldb.QueryIn(tx, `SELECT name, n FROM item WHERE name IN (?*)`, keys, func(scan sqldb.Scan) error {
				var s string
				var i int
				err := scan(&s, &i)
				if keys[i] != s {
					t.Errorf("%s has %d", s, i)
				}
				got[s]++
				return err
			})
		})
		if err != nil || len(got) != n || slices.ContainsFunc(keys, func(k string) bool { return got[k] != 1 }) {
			t.Errorf("%d keys gave %d rows, %v", n, len(got), err)
		}
		if queries > n/64+3 {
			t.Errorf("%d keys took %d statements", n, queries)
		}
		most = max(most, n)
	}
	type id int64
	rows := 0
	err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
		return sqldb.QueryIn(tx, `SELECT name FROM item WHERE id IN (?*)`, []id{1, 2, 99_999}, func(sqldb.Scan) error { rows++; return nil })
	})
	if err != nil || rows != 2 {
		t.Errorf("integer keys: %d rows, %v", rows, err)
	}
}

// TestOneTableTwoListsOfColumns: texts are kept for a table, and made anew when
// the columns differ.
func TestOneTableTwoListsOfColumns(t *testing.T) {
	db := open(t, options(t, nil))
	write(t, db, func(tx *sqldb.Tx) error {
		for i, columns := range [][]string{{"name", "n"}, {"n", "name"}, {"name", "n"}} {
			_, err := tx.Insert("item", columns, 1, "", func(dst []any, _ int) []any {
				if columns[0] == "n" {
					return append(dst, i, fmt.Sprint("row ", i))
				}
				return append(dst, fmt.Sprint("row ", i), i)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	want(t, db, "row 0", "row 1", "row 2")
}

func TestInsertWithATail(t *testing.T) {
	db := open(t, options(t, nil))
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a", "b") })
	write(t, db, func(tx *sqldb.Tx) error {
		list := []string{"a", "c", "b", "d", "c"}
		added, err := tx.Insert("item", []string{"name"}, len(list), "ON CONFLICT DO NOTHING", func(dst []any, i int) []any { return append(dst, list[i]) })
		if added != 2 {
			t.Errorf("%d rows added, want 2", added)
		}
		return err
	})
	want(t, db, "a", "b", "c", "d")
}

func TestUpdateGuardsItsRows(t *testing.T) {
	db := open(t, options(t, nil))
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a", "b", "c") })
	update := func(list ...string) error {
		return db.Write(t.Context(), func(tx *sqldb.Tx) error {
			return tx.Update("item", sqldb.Columns{"n BIGINT"}, sqldb.Columns{"name TEXT"}, len(list), func(dst []any, i int) []any { return append(dst, 1, list[i]) })
		})
	}
	if err := errors.Join(update(), update("a", "b")); err != nil {
		t.Error(err)
	}
	if err := update("c", "gone"); !fault.Is(err, fault.Fenced) {
		t.Error(err)
	}
	var sum int
	err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT sum(n) FROM item`, nil, func(scan sqldb.Scan) error { return scan(&sum) })
	})
	if err != nil || sum != 2 {
		t.Errorf("sum %d, %v: a fenced update left something", sum, err)
	}
}

func TestMigrations(t *testing.T) {
	o := options(t, nil)
	db := open(t, o)
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a") })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	o.Migrations = append(o.Migrations, `ALTER TABLE item ADD COLUMN note TEXT NOT NULL DEFAULT 'x'; CREATE TABLE other (id INTEGER PRIMARY KEY);`)
	for range 2 { // the second time there is nothing to do
		db = open(t, o)
		write(t, db, func(tx *sqldb.Tx) error { _, err := tx.Exec(`UPDATE item SET note = 'y'`); return err })
		want(t, db, "a")
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	broken := o
	broken.Migrations = append(slices.Clone(o.Migrations), `CREATE TABLE third (id INTEGER PRIMARY KEY); SELEKT;`)
	if _, err := sqldb.Open(t.Context(), broken); err == nil {
		t.Error("a broken migration was applied")
	}
	broken.Migrations[2] = `CREATE TABLE third (id INTEGER PRIMARY KEY);` // nothing of the broken one is left
	db = open(t, broken)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := sqldb.Open(t.Context(), o)
	var e *fault.Error
	if !errors.As(err, &e) || e.Kind != fault.Conflict || e.Code != "schema_newer" || e.Fix == "" {
		t.Errorf("an older build opened a newer schema: %v", err)
	}
}

func TestStamp(t *testing.T) {
	o := options(t, func(o *sqldb.Options) { o.Stamp = map[string]string{"groups": "16", "secret": "abc"} })
	for range 2 {
		if err := open(t, o).Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, field := range []string{"groups", "secret"} {
		other := o
		other.Stamp = map[string]string{"groups": "16", "secret": "abc"}
		other.Stamp[field] = "32"
		_, err := sqldb.Open(t.Context(), other)
		var e *fault.Error
		if !errors.As(err, &e) || e.Kind != fault.Conflict || e.Code != "stamp_mismatch" || e.Field != field || e.Fix == "" {
			t.Errorf("%s differs, and it opens: %v", field, err)
		}
	}
	if err := open(t, o).Close(); err != nil {
		t.Errorf("a refused opening changed the stamp: %v", err)
	}
}

// TestFull: a full store refuses whole transactions, and takes them again when
// there is room.
func TestFull(t *testing.T) {
	db := open(t, options(t, nil))
	pages := func(n int) {
		t.Helper()
		write(t, db, func(tx *sqldb.Tx) error {
			return tx.Query(fmt.Sprintf("PRAGMA max_page_count(%d)", n), nil, func(sqldb.Scan) error { return nil })
		})
	}
	pages(20)
	long := strings.Repeat("x", 3000)
	var list []string
	full := 0
	for i := range 40 {
		name := fmt.Sprint(i, long)
		err := db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, name) })
		switch {
		case fault.Is(err, fault.Unavailable):
			full++
		case err != nil:
			t.Fatal(err)
		default:
			list = append(list, name)
		}
	}
	if full == 0 {
		t.Fatal("it was never full")
	}
	pages(10_000)
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "last") })
	want(t, db, append(list, "last")...)
}

// TestCrashAtAPoint: a panic at a point leaves no lock held, and nothing of an
// uncommitted transaction.
func TestCrashAtAPoint(t *testing.T) {
	crash := ""
	o := options(t, func(o *sqldb.Options) {
		o.Points = func(name string) {
			if name == crash {
				panic(name)
			}
		}
	})
	db := open(t, o)
	attempt := func(point, name string) (woken bool) {
		t.Helper()
		crash = point
		defer func() {
			if r := recover(); r != point {
				t.Errorf("recovered %v, want a crash at %s", r, point)
			}
			crash = ""
		}()
		_ = db.Write(t.Context(), func(tx *sqldb.Tx) error {
			tx.OnCommit(func() { woken = true })
			return insert(tx, name)
		})
		return woken
	}
	if attempt("test.before_commit", "lost") || attempt("test.after_commit", "kept") {
		t.Error("a crashed transaction woke someone")
	}
	func() {
		defer func() { _ = recover() }()
		_ = db.Write(t.Context(), func(tx *sqldb.Tx) error { _ = insert(tx, "lost"); panic("in the middle") })
	}()
	func() {
		defer func() { _ = recover() }()
		_ = db.Snapshot(t.Context(), func(*sqldb.Tx) error { panic("while reading") })
	}()
	want(t, db, "kept")
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "next") })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	want(t, open(t, o), "kept", "next")
}

// TestCommitOfUnknownOutcome: nothing is written after it.
func TestCommitOfUnknownOutcome(t *testing.T) {
	var answer error
	db := open(t, options(t, func(o *sqldb.Options) { o.CommitFault = func() error { return answer } }))
	try := func(name string) error {
		return db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, name) })
	}
	answer = fault.New(fault.Unavailable, "test", "disk full")
	if err := try("full"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a full disk: %v", err)
	}
	answer = nil
	if err := try("a"); err != nil {
		t.Errorf("after a full disk: %v", err)
	}
	answer = errors.New("input/output error")
	if err := try("b"); !fault.Is(err, fault.Unknown) {
		t.Errorf("a failed fsync: %v", err)
	}
	answer = nil
	if err := try("c"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after a failed fsync: %v", err)
	}
	want(t, db, "a")
}

func TestClose(t *testing.T) {
	db := open(t, options(t, nil))
	for range 2 {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	nothing := func(*sqldb.Tx) error { t.Error("ran on a closed database"); return nil }
	for name, fn := range map[string]func(context.Context, func(*sqldb.Tx) error) error{"Write": db.Write, "Read": db.Read, "Snapshot": db.Snapshot} {
		if err := fn(t.Context(), nothing); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWaitingEndsWithTheContext: who waits for the one writer may leave; who
// commits may not be interrupted.
func TestWaitingEndsWithTheContext(t *testing.T) {
	o := options(t, nil)
	synctest.Test(t, func(t *testing.T) {
		db, err := sqldb.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		inside, release := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			err := db.Write(ctx, func(tx *sqldb.Tx) error {
				close(inside)
				<-release
				return insert(tx, "the caller left")
			})
			if err != nil {
				t.Errorf("a transaction was interrupted: %v", err)
			}
		})
		<-inside
		wg.Go(func() {
			if err := db.Write(ctx, func(*sqldb.Tx) error { t.Error("ran"); return nil }); !fault.Is(err, fault.Unavailable) {
				t.Errorf("who waited: %v", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		wg.Wait()
		want(t, db, "the caller left")
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestManyWritersAndReaders(t *testing.T) {
	db := open(t, options(t, nil))
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 40 {
				if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, fmt.Sprint(w, "/", i)) }); err != nil {
					t.Error(err)
				}
				if err := db.Snapshot(t.Context(), func(tx *sqldb.Tx) error {
					return tx.Query(`SELECT 1 FROM item WHERE name = ?`, []any{fmt.Sprint(w, "/", i)}, func(sqldb.Scan) error { return nil })
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(names(t, db)); n != 320 {
		t.Errorf("%d rows, want 320", n)
	}
}

// TestForeignWrites: what others write is noticed, once, and nothing else is taken
// for it.
func TestForeignWrites(t *testing.T) {
	o := options(t, nil)
	db, other := open(t, o), open(t, o)
	add := func(db *sqldb.DB, name string, fail error) (foreign int64) {
		err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
			foreign = tx.ForeignWrites()
			return errors.Join(insert(tx, name), fail)
		})
		if (err == nil) != (fail == nil) {
			t.Error(err)
		}
		return foreign
	}
	last := add(db, "first", nil)
	expect := func(what string, more, have int64) {
		t.Helper()
		if have-last != more {
			t.Errorf("%s: %d more, want %d", what, have-last, more)
		}
		last = have
	}
	expect("after its own", 0, add(db, "own", nil))
	_ = add(db, "rolled back", errors.New("stop"))
	expect("after a rollback", 0, add(db, "own 2", nil))
	_ = names(t, db)
	expect("after a read", 0, add(db, "own 3", nil))
	_ = add(other, "foreign 1", nil)
	_ = add(other, "foreign 2", nil)
	expect("after another's", 1, add(db, "own 4", nil))
	expect("after its own again", 0, add(db, "own 5", nil))
	_ = add(other, "foreign 3", errors.New("stop"))
	expect("after what another rolled back", 0, add(db, "own 6", nil))
	_ = add(other, "foreign 4", nil)
	if foreign := add(db, "rolled back", errors.New("stop")); foreign != last+1 {
		t.Errorf("a transaction that is rolled back was told of %d more", foreign-last)
	}
	expect("after that", 1, add(db, "own 7", nil))
}
