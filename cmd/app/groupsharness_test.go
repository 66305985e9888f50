package app_test

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	accountingstore "github.com/tallystick/tallystick/accounting/sqlstore"
	"github.com/tallystick/tallystick/cmd/app"
	corestore "github.com/tallystick/tallystick/core/sqlstore"
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/move"
	"github.com/tallystick/tallystick/internal/sqldb"
	prepaystore "github.com/tallystick/tallystick/prepay/sqlstore"
)

// testGroups are those of the installations of these tests.
const testGroups = 4

// databases are an installation's, on one server, with nobody at work.
type databases struct {
	t   *testing.T
	pg  *engines.Postgres
	at  string // a prefix of its databases and roles
	dir string
	env []string
	n   int
	dbs map[string]*sqldb.DB // as their owner, by area and number
}

func newDatabases(t *testing.T, n int) *databases {
	t.Helper()
	return newDatabasesOn(t, server.Engine(t), n)
}

func newDatabasesOn(t *testing.T, pg *engines.Postgres, n int) *databases {
	t.Helper()
	dir, _ := initialised(t)
	d := &databases{t: t, pg: pg, at: place(), dir: dir, n: n, dbs: map[string]*sqldb.DB{}}
	urls := ""
	for i := range n {
		_, err := pg.Query(t.Context(), "postgres", "CREATE DATABASE "+d.name(i+1))
		must(t, err)
		urls += fmt.Sprintf("%d=%s ", i+1, d.url(i+1))
	}
	d.env = []string{"TALLYSTICK_BUS=kafka", "TALLYSTICK_KAFKA_BROKERS=127.0.0.1:1", fmt.Sprint("TALLYSTICK_GROUPS=", testGroups), "TALLYSTICK_STORES=postgres",
		"TALLYSTICK_POSTGRES_DATABASES=" + urls, "TALLYSTICK_POSTGRES_USER_PREFIX=" + d.at + "_", "TALLYSTICK_LEASE_TTL=1s", "TALLYSTICK_LEASE_RENEW_EVERY=100ms", "TALLYSTICK_POSTGRES_IDLE_TIMEOUT=2s", "TALLYSTICK_MOVE_LOOK_EVERY=20ms"}
	_, err := app.Migrate(t.Context(), d.deps(), "postgres", "")
	must(t, err)
	return d
}

// name is a database's, by its number.
func (d *databases) name(number int) string { return fmt.Sprint(d.at, "_pay", number) }

func (d *databases) url(number int) string { return d.pg.URL(d.name(number)) }

func (d *databases) deps(env ...string) app.Deps {
	d.t.Helper()
	deps, err := app.Production(d.dir, append(slices.Clone(d.env), env...), io.Discard)
	must(d.t, err)
	deps.NoSync = true
	return deps
}

// unserved moves where nobody works.
var unserved = app.MoveOptions{As: "postgres", Unserved: true}

// areas are the stores' own words of what goes with a group.
func areas() []move.Area {
	return []move.Area{corestore.Moves(testGroups), prepaystore.Moves(testGroups), accountingstore.Moves()}
}

// open opens an area's schema in a database as its owner.
func (d *databases) open(area string, number int) *sqldb.DB {
	d.t.Helper()
	key := fmt.Sprint(area, number)
	if db := d.dbs[key]; db != nil {
		return db
	}
	o := sqldb.Options{NoSync: true, Postgres: &sqldb.Postgres{URL: d.url(number), Number: number}}
	var db *sqldb.DB
	switch area {
	case "core":
		s, err := corestore.Open(d.t.Context(), o, testGroups, time.Now)
		must(d.t, err)
		db = s.DB()
	case "prepay":
		s, err := prepaystore.Open(d.t.Context(), prepaystore.Config{Options: o, Groups: testGroups})
		must(d.t, err)
		db = s.DB()
	default:
		s, err := accountingstore.Open(d.t.Context(), accountingstore.Options{Postgres: o.Postgres, NoSync: true, Groups: testGroups})
		must(d.t, err)
		db = s.DB()
	}
	d.t.Cleanup(func() { _ = db.Close() })
	d.dbs[key] = db
	return db
}

// number asks for one number.
func (d *databases) number(area string, number int, query string, args ...any) (n int64) {
	d.t.Helper()
	must(d.t, d.open(area, number).Read(d.t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(query, args, func(scan sqldb.Scan) error { return scan(&n) })
	}))
	return n
}

func (d *databases) query(number int, sql string) string {
	d.t.Helper()
	out, err := d.pg.Query(d.t.Context(), d.name(number), sql)
	must(d.t, err)
	return out
}

// owners are the databases that have the lease rows of a group, by area.
func (d *databases) owners(group int) map[string][]int {
	out := map[string][]int{}
	for _, area := range areas() {
		for n := 1; n <= d.n; n++ {
			if d.number(area.Name, n, `SELECT count(*) FROM leases WHERE grp = ? AND frozen = FALSE`, group) == 1 {
				out[area.Name] = append(out[area.Name], n)
			}
		}
	}
	return out
}

func (d *databases) isAt(group, number int) {
	d.t.Helper()
	want := map[string][]int{"core": {number}, "prepay": {number}, "accounting": {number}}
	if have := d.owners(group); !maps.EqualFunc(want, have, slices.Equal[[]int]) {
		d.t.Errorf("group %d is at %v, want database %d", group, have, number)
	}
	for n := 1; n <= d.n; n++ {
		for _, area := range areas() {
			if left := d.number(area.Name, n, `SELECT count(*) FROM moves`); left != 0 {
				d.t.Errorf("%s, database %d: %d moves are unfinished", area.Name, n, left)
			}
		}
	}
}

// listed holds what the list says of an area's part of a group.
func (d *databases) listed(group int, role app.Role, state string, rows, parked int64) {
	d.t.Helper()
	list, err := app.ListGroups(d.t.Context(), d.deps())
	must(d.t, err)
	for _, a := range list.Groups[group].Areas {
		if a.Area != role {
			continue
		}
		if a.State != state || a.Rows != rows || a.Parked != parked || (len(a.Databases) == 1) != (state == "free") || (a.Lag >= 0) != (state == "free") {
			d.t.Errorf("the list says %+v of group %d, want it %s with %d rows and %d parked", a, group, state, rows, parked)
		}
	}
}
