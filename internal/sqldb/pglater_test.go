package sqldb_test

import (
	"errors"
	"testing"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// rename changes the names of two rows.
func rename(tx *sqldb.Tx, from, to [2]string) error {
	return tx.Update("item", sqldb.Columns{"name TEXT"}, sqldb.Columns{"name TEXT"}, 2, func(dst []any, i int) []any { return append(dst, &to[i], &from[i]) })
}

// setN sets a column of some rows.
func setN(tx *sqldb.Tx, n int, names ...string) error {
	return tx.Update("item", sqldb.Columns{"n BIGINT"}, sqldb.Columns{"name TEXT"}, len(names), func(dst []any, i int) []any { return append(dst, n, names[i]) })
}

// TestPostgresWritesGoTogether: what a transaction only writes goes in one round trip,
// in its order, with the first thing that it has to wait for.
func TestPostgresWritesGoTogether(t *testing.T) {
	db := openPG(t, nil)
	all := func(tx *sqldb.Tx) error {
		if err := insert(tx, "a", "b", "c", "d", "e"); err != nil {
			return err
		}
		if err := rename(tx, [2]string{"a", "b"}, [2]string{"A", "B"}); err != nil {
			return err
		}
		return tx.Expect(1, func(have int64) error { return fault.New(fault.Fenced, "test", "%d rows", have) }, `DELETE FROM item WHERE name = ?`, "A")
	}
	trips := func(fn func(tx *sqldb.Tx) error) int64 {
		before := db.RoundTrips()
		write(t, db, fn)
		return db.RoundTrips() - before
	}
	if n := trips(all); n != 2 {
		t.Errorf("%d round trips, want one and the commit's", n)
	}
	want(t, db, "B", "c", "d", "e")
	if n := trips(func(tx *sqldb.Tx) error {
		if err := rename(tx, [2]string{"B", "c"}, [2]string{"b", "C"}); err != nil {
			return err
		}
		seen := 0
		err := tx.Query(`SELECT count(*) FROM item WHERE name IN ('b', 'C')`, nil, func(scan sqldb.Scan) error { return scan(&seen) })
		if seen != 2 {
			t.Errorf("%d of what was written before is seen", seen)
		}
		return err
	}); n != 2 {
		t.Errorf("%d round trips with a question, want the question's and the commit's", n)
	}
	want(t, db, "b", "C", "d", "e")
	var many []string
	for i := range 300 {
		many = append(many, string(rune('α'+i)))
	}
	if n := trips(func(tx *sqldb.Tx) error {
		for _, name := range many {
			if err := tx.Expect(1, nil, `INSERT INTO item (name) VALUES (?)`, name); err != nil {
				return err
			}
		}
		return nil
	}); n != 3 {
		t.Errorf("%d round trips for 300 statements, want two and the commit's", n)
	}
}

// TestPostgresLateErrors: what was left for later and does not do what it should fails
// the transaction, whatever comes between, and nothing of it is kept.
func TestPostgresLateErrors(t *testing.T) {
	db := openPG(t, nil)
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "here") })
	for _, c := range []struct {
		name string
		late func(tx *sqldb.Tx) error
		kind fault.Kind
		code string
	}{
		{"a duplicate", func(tx *sqldb.Tx) error { return insert(tx, "here") }, fault.Conflict, "constraint"},
		{"a row that is gone", func(tx *sqldb.Tx) error { return rename(tx, [2]string{"here", "gone"}, [2]string{"x", "y"}) }, fault.Fenced, "stale_row"},
		{"another number of rows", func(tx *sqldb.Tx) error {
			return tx.Expect(2, func(have int64) error {
				return &fault.Error{Kind: fault.Internal, Op: "test", Code: map[int64]string{1: "one"}[have]}
			}, `UPDATE item SET n = 1 WHERE name = 'here'`)
		}, fault.Internal, "one"},
	} {
		for _, asks := range []bool{false, true} {
			err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
				if err := insert(tx, "before"); err != nil {
					return err
				}
				if err := c.late(tx); err != nil {
					return err
				}
				if asks {
					_ = now(tx) // nobody looks
				}
				return insert(tx, "after")
			})
			if kind := c.kind; asks { // the next statement is refused, as it would be there
				refused(t, c.name+", asked", err, fault.Unavailable, "")
			} else {
				refused(t, c.name, err, kind, c.code)
			}
			want(t, db, "here")
		}
	}
}

// TestPostgresArgumentsAreTakenAtOnce: what a pointer points to when the statement is
// given counts, not when it runs.
func TestPostgresArgumentsAreTakenAtOnce(t *testing.T) {
	o := migrated(t, pgOptions(t, nil))
	write(t, open(t, o), func(tx *sqldb.Tx) error {
		name, n, number, flag := "then", int64(1), 2, true
		_, err := tx.Insert("item", []string{"name", "n"}, 1, "", func(dst []any, _ int) []any { return append(dst, &name, &n) })
		if err != nil {
			return err
		}
		err = tx.Expect(1, func(int64) error { return fault.New(fault.Fenced, "test", "changed meanwhile") },
			`UPDATE item SET n = n + ? WHERE ? = TRUE`, &number, &flag)
		name, n, number, flag = "later", 100, 200, false
		return err
	})
	if have := sql(t, `SELECT name || n FROM %s.item`, o.Postgres.Schema); have != "then3" {
		t.Errorf("have %s", have)
	}
}

// TestPostgresIDsGoOn: what a transaction leaves of a block is the next one's.
func TestPostgresIDsGoOn(t *testing.T) {
	db := openPG(t, nil)
	var all []int64
	take := func(n int) func(tx *sqldb.Tx) error {
		return func(tx *sqldb.Tx) error {
			return tx.NewIDs("item", n, func(_ int, id int64) { all = append(all, id) })
		}
	}
	write(t, db, take(3))
	before := db.RoundTrips()
	write(t, db, take(sqldb.IDsBlock-3))
	if n := db.RoundTrips() - before; n != 2 {
		t.Errorf("%d round trips, want the beginning's and the commit's", n)
	}
	write(t, db, take(1))
	for i := 1; i < sqldb.IDsBlock; i++ {
		if all[i] != all[0]+int64(i) {
			t.Fatalf("ids %v", all)
		}
	}
	if last := all[sqldb.IDsBlock]; last != all[0]+sqldb.IDsBlock*sqldb.IDsDatabases {
		t.Errorf("behind the block comes %d", last-all[0])
	}
}

// TestPostgresIDsAfterAReconnect: a server that was restarted may not know any more that it
// gave a block, and gives it again: nobody goes on with one that he has from before.
func TestPostgresIDsAfterAReconnect(t *testing.T) {
	db := openPG(t, nil)
	var ids []int64
	pid := 0
	take := func(tx *sqldb.Tx) (err error) {
		if pid, err = backend(tx); err != nil {
			return err
		}
		return tx.NewIDs("item", 1, func(_ int, id int64) { ids = append(ids, id) })
	}
	write(t, db, take)
	write(t, db, take)
	kill(t, pid)
	write(t, db, take)
	if ids[1] != ids[0]+1 || ids[2] < ids[0]+sqldb.IDsBlock {
		t.Errorf("ids %v", ids)
	}
}

// TestPostgresLateGuard: a guard that waits for nothing goes with the first statement,
// and what it refuses is not kept.
func TestPostgresLateGuard(t *testing.T) {
	lost := false
	o := migrated(t, pgOptions(t, nil))
	o.Postgres.Guard = func(tx *sqldb.Tx) error {
		return tx.Expect(1, func(int64) error { return fault.New(fault.Fenced, "guard", "the lease is lost") }, `SELECT 1 WHERE ? = FALSE`, lost)
	}
	db := open(t, o)
	before := db.RoundTrips()
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a") })
	if n := db.RoundTrips() - before; n != 2 {
		t.Errorf("%d round trips, want 2", n)
	}
	reason := fault.New(fault.Internal, "test", "a reason of its own")
	if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { return errors.Join(insert(tx, "b"), reason) }); !errors.Is(err, reason) {
		t.Error(err)
	}
	lost = true
	for name, fn := range map[string]func(tx *sqldb.Tx) error{
		"a writer": func(tx *sqldb.Tx) error { return insert(tx, "b") },
		"a reader": func(tx *sqldb.Tx) error {
			return tx.Query(`SELECT name FROM item`, nil, func(sqldb.Scan) error { t.Error("it is shown a row"); return nil })
		},
		"who does nothing": func(*sqldb.Tx) error { return nil },
		"who has a reason to fail": func(tx *sqldb.Tx) error {
			return errors.Join(insert(tx, "b"), fault.New(fault.Internal, "test", "an invariant is violated"))
		},
	} {
		if err := db.Write(t.Context(), fn); !fault.Is(err, fault.Fenced) {
			t.Errorf("%s: %v", name, err)
		}
	}
	want(t, db, "a")
}
