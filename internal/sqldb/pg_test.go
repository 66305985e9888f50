package sqldb_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

func TestPostgresWriteIsAllOrNothing(t *testing.T) {
	o := migrated(t, pgOptions(t, nil))
	db := open(t, o)
	stop := fault.New(fault.Internal, "test", "stop")
	for name, fail := range map[string]error{"a": nil, "b": stop} {
		err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
			if err := insert(tx, name); err != nil {
				return err
			}
			if slices.Contains(names(t, db), name) {
				t.Error("a reader sees what is not committed")
			}
			return fail
		})
		if fault.Is(err, fault.Internal) != (fail != nil) {
			t.Error(err)
		}
	}
	want(t, db, "a")
	for name, read := range map[string]func(context.Context, func(*sqldb.Tx) error) error{"Read": db.Read, "Snapshot": db.Snapshot} {
		if err := read(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, "c") }); err == nil {
			t.Errorf("%s wrote", name)
		}
	}
	want(t, db, "a")
	if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, "a", "d") }); !fault.Is(err, fault.Conflict) {
		t.Errorf("a duplicate: %v", err)
	}
	want(t, db, "a")
}

// TestPostgresSnapshot: what another handle commits in between is not seen.
func TestPostgresSnapshot(t *testing.T) {
	o := migrated(t, pgOptions(t, nil))
	db, other := open(t, o), open(t, o)
	count := func(tx *sqldb.Tx) (n int) {
		if err := tx.Query(`SELECT count(*) FROM item`, nil, func(scan sqldb.Scan) error { return scan(&n) }); err != nil {
			t.Error(err)
		}
		return n
	}
	for name, c := range map[string]struct {
		read func(context.Context, func(*sqldb.Tx) error) error
		more int
	}{"Snapshot": {db.Snapshot, 0}, "Read": {db.Read, 1}} {
		err := c.read(t.Context(), func(tx *sqldb.Tx) error {
			before := count(tx)
			write(t, other, func(tx *sqldb.Tx) error { return insert(tx, "during "+name) })
			if after := count(tx); after != before+c.more {
				t.Errorf("%s: %d rows, then %d", name, before, after)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestPostgresSetsAreSentAtOnce: whatever the size of a set, each row once and in
// few round trips.
func TestPostgresSetsAreSentAtOnce(t *testing.T) {
	db := openPG(t, nil)
	for _, n := range []int{1, 2, 15, 63, 64, 65, 200, 1000, 20_000} {
		var keys []string
		for i := range n {
			keys = append(keys, fmt.Sprintf("%d/%d", n, i))
		}
		trips := func(f func()) int { before := db.RoundTrips(); f(); return int(db.RoundTrips() - before) }
		if k := trips(func() {
			write(t, db, func(tx *sqldb.Tx) error { return insert(tx, keys...) })
		}); k > 2+n/(64*256) {
			t.Errorf("inserting %d rows took %d round trips", n, k)
		}
		if k := trips(func() {
			write(t, db, func(tx *sqldb.Tx) error {
				return tx.Update("item", sqldb.Columns{"n BIGINT"}, sqldb.Columns{"name TEXT"}, n, func(dst []any, i int) []any { return append(dst, i, keys[i]) })
			})
		}); k > 2+n/(64*256) {
			t.Errorf("updating %d rows took %d round trips", n, k)
		}
		got := map[string]int{}
		if k := trips(func() {
			err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
				return sqldb.QueryIn(tx, `SELECT name, n FROM item WHERE name IN (?*)`, append(keys, keys[0], "none"), func(scan sqldb.Scan) error {
					var s string
					var i int
					err := scan(&s, &i)
					if keys[i] != s {
						t.Errorf("%s has %d", s, i)
					}
					got[s] = i
					return err
				})
			})
			if err != nil || len(got) != n {
				t.Errorf("%d keys gave %d rows, %v", n, len(got), err)
			}
		}); k > 1+n/4096 {
			t.Errorf("reading %d keys took %d round trips", n, k)
		}
	}
	var empty []int64
	write(t, db, func(tx *sqldb.Tx) error {
		return sqldb.QueryIn(tx, `SELECT 1 FROM item WHERE id IN (?*)`, empty, func(sqldb.Scan) error { t.Error("a row"); return nil })
	})
}

// TestPostgresStaleRow: one row that is not as it was read refuses the transaction.
func TestPostgresStaleRow(t *testing.T) {
	db := openPG(t, nil)
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a", "b") })
	err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
		return setN(tx, 7, "a", "none", "b")
	})
	refused(t, "a stale row", err, fault.Fenced, "stale_row")
	if !strings.Contains(err.Error(), "2 of 3 rows") {
		t.Error(err)
	}
	sum := -1
	if err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT max(n) FROM item`, nil, func(scan sqldb.Scan) error { return scan(&sum) })
	}); err != nil || sum != 0 {
		t.Errorf("%d, %v: a fenced update left something", sum, err)
	}
}

// TestPostgresIDs: several processes take ids at once, and no id is given twice, or
// outside its database's; in one process they increase.
func TestPostgresIDs(t *testing.T) {
	o := migrated(t, pgOptions(t, func(o *sqldb.Options) { o.Postgres.Number = 3 }))
	var mu sync.Mutex
	all := map[int64]bool{}
	var wg sync.WaitGroup
	for p := range 4 {
		db := open(t, o)
		wg.Go(func() {
			for i := range 30 {
				var got []int64
				take := func(tx *sqldb.Tx, n int) error {
					last := -1
					err := tx.NewIDs("item", n, func(j int, id int64) { last = j; got = append(got, id) })
					if last != n-1 {
						t.Errorf("asked for %d, the last is %d", n, last)
					}
					return err
				}
				err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
					for _, n := range []int{0, 1, i, 5, sqldb.IDsBlock, 3 * sqldb.IDsBlock, 1 + p} {
						if err := take(tx, n); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if !slices.IsSorted(got) {
					t.Errorf("not in order: %v", got)
				}
				mu.Lock()
				for _, id := range got {
					if all[id] {
						t.Errorf("%d twice", id)
					}
					if all[id] = true; id/sqldb.IDsBlock%sqldb.IDsDatabases != 3 {
						t.Errorf("%d is not of database 3", id)
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	// A key that nobody gives is of the same sequence.
	db := open(t, o)
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "by default") })
	if have := sql(t, `SELECT id / %d %% %d FROM %s.item`, sqldb.IDsBlock, sqldb.IDsDatabases, o.Postgres.Schema); have != "3" {
		t.Errorf("an id by default is of database %s", have)
	}
}

// TestPostgresIDsCostOneRoundTrip: one for as many as a transaction needs, and none
// while a block lasts.
func TestPostgresIDsCostOneRoundTrip(t *testing.T) {
	db := openPG(t, nil)
	write(t, db, func(tx *sqldb.Tx) error {
		for _, c := range []struct{ n, trips int }{{10, 1}, {54, 0}, {1, 1}, {63, 0}, {1000, 1}} {
			before := db.RoundTrips()
			if err := tx.NewIDs("item", c.n, func(int, int64) {}); err != nil {
				return err
			}
			if have := int(db.RoundTrips() - before); have != c.trips {
				t.Errorf("%d ids took %d round trips, want %d", c.n, have, c.trips)
			}
		}
		return nil
	})
}

// TestPostgresIDsEnd: a database that has given all its ids takes none that would not fit.
func TestPostgresIDsEnd(t *testing.T) {
	o := migrated(t, pgOptions(t, func(o *sqldb.Options) { o.Postgres.Number = 2 }))
	db := open(t, o)
	take := func(n int) (last int64, err error) {
		err = db.Write(t.Context(), func(tx *sqldb.Tx) error {
			return tx.NewIDs("item", n, func(_ int, id int64) { last = id })
		})
		return last, err
	}
	sql(t, `ALTER SEQUENCE %s.ids RESTART WITH %d`, o.Postgres.Schema, int64(sqldb.IDsMax-(sqldb.IDsDatabases-2)*sqldb.IDsBlock))
	if last, err := take(sqldb.IDsBlock); err != nil || last != sqldb.IDsMax-(sqldb.IDsDatabases-3)*sqldb.IDsBlock-1 {
		t.Errorf("the last is %d, %v", last, err)
	}
	if last, err := take(1); !fault.Is(err, fault.Internal) {
		t.Errorf("one more is %d, %v", last, err)
	}
}

// TestPostgresBegins: a transaction in which nothing is done asks the server all the
// same, so that it says whether there is one.
func TestPostgresBegins(t *testing.T) {
	db := openPG(t, nil)
	looked := fault.New(fault.Internal, "test", "only looked")
	look := func() error { return db.Write(t.Context(), func(*sqldb.Tx) error { return looked }) }
	if err := look(); err != looked {
		t.Error(err)
	}
	write(t, db, func(*sqldb.Tx) error { return nil })
	var pid int
	write(t, db, func(tx *sqldb.Tx) (err error) { pid, err = backend(tx); return err })
	err := db.Write(t.Context(), func(*sqldb.Tx) error { kill(t, pid); return looked })
	refused(t, "nobody is there", err, fault.Unavailable, "database_unreachable")
	if err := look(); err != looked {
		t.Errorf("after it: %v", err)
	}
	before := db.RoundTrips()
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a") })
	if n := db.RoundTrips() - before; n != 2 {
		t.Errorf("a transaction with one statement took %d round trips, want 2", n)
	}
}

// TestPostgresGuard: what guards the writer runs first in each of its transactions,
// in the same round trip that begins it, and refuses them all.
func TestPostgresGuard(t *testing.T) {
	lost := false
	o := migrated(t, pgOptions(t, nil))
	o.Postgres.Guard = func(tx *sqldb.Tx) error {
		held := false
		err := tx.Query(`SELECT ? = FALSE`, []any{lost}, func(scan sqldb.Scan) error { return scan(&held) })
		if err == nil && !held {
			err = fault.New(fault.Fenced, "guard", "the lease is lost")
		}
		return err
	}
	db := open(t, o)
	before := db.RoundTrips()
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a") })
	if n := db.RoundTrips() - before; n != 3 {
		t.Errorf("%d round trips, want 3", n)
	}
	lost = true
	if err := db.Write(t.Context(), func(*sqldb.Tx) error { t.Error("ran"); return nil }); !fault.Is(err, fault.Fenced) {
		t.Error(err)
	}
	want(t, db, "a") // readers are not guarded
	lost = false
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "b") })
	want(t, db, "a", "b")
}

// TestPostgresMustBeDurable: a server that forgets what it has committed is refused.
func TestPostgresMustBeDurable(t *testing.T) {
	o := migrated(t, pgOptions(t, nil)) // of a server with everything off
	o.NoSync = false
	_, err := sqldb.Open(t.Context(), o)
	refused(t, "fsync off", err, fault.Invalid, "not_durable")
	if err != nil && !strings.Contains(err.Error(), "postgresql.conf") {
		t.Errorf("no word of what to do: %v", err)
	}
	e, err := engines.StartPostgres(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	o.Postgres.URL = e.URL("postgres")
	db := open(t, migrated(t, o))
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a") })
	for _, name := range []string{"synchronous_commit"} {
		if _, err := e.Query(t.Context(), "postgres", `ALTER ROLE postgres SET `+name+` = off`); err != nil {
			t.Fatal(err)
		}
		_, err := sqldb.Open(t.Context(), o)
		refused(t, name+" off for the role", err, fault.Invalid, "not_durable")
	}
}
