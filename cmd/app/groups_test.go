package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	accountingstore "github.com/tallystick/tallystick/accounting/sqlstore"
	"github.com/tallystick/tallystick/cmd/app"
	corestore "github.com/tallystick/tallystick/core/sqlstore"
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/lease"
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
	dir string
	env []string
	n   int
	dbs map[string]*sqldb.DB // as their owner, by area and number
}

func newDatabases(t *testing.T, n int) *databases {
	t.Helper()
	return newDatabasesOn(t, n, false)
}

// newDatabasesOn makes them on a server that is durable or is not.
func newDatabasesOn(t *testing.T, n int, durable bool) *databases {
	t.Helper()
	pg, err := engines.StartPostgres(t.Context(), durable)
	must(t, err)
	t.Cleanup(func() { _ = pg.Close() })
	dir, _ := initialised(t)
	d := &databases{t: t, pg: pg, dir: dir, n: n, dbs: map[string]*sqldb.DB{}}
	urls := ""
	for i := range n {
		_, err := pg.Query(t.Context(), "postgres", fmt.Sprint("CREATE DATABASE pay", i+1))
		must(t, err)
		urls += fmt.Sprintf("%d=%s ", i+1, pg.URL(fmt.Sprint("pay", i+1)))
	}
	d.env = []string{"TALLYSTICK_BUS=kafka", "TALLYSTICK_KAFKA_BROKERS=127.0.0.1:1", fmt.Sprint("TALLYSTICK_GROUPS=", testGroups), "TALLYSTICK_STORES=postgres",
		"TALLYSTICK_POSTGRES_DATABASES=" + urls, "TALLYSTICK_LEASE_TTL=1s", "TALLYSTICK_LEASE_RENEW_EVERY=100ms", "TALLYSTICK_POSTGRES_IDLE_TIMEOUT=2s", "TALLYSTICK_MOVE_LOOK_EVERY=20ms"}
	_, err = app.Migrate(t.Context(), d.deps(), "postgres", "")
	must(t, err)
	return d
}

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
	o := sqldb.Options{NoSync: true, Postgres: &sqldb.Postgres{URL: d.pg.URL(fmt.Sprint("pay", number)), Number: number}}
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
	out, err := d.pg.Query(d.t.Context(), fmt.Sprint("pay", number), sql)
	must(d.t, err)
	return out
}

// filler makes rows in which every column has a value of its own.
type filler struct {
	t  *testing.T
	tx *sqldb.Tx
	n  int64
}

// row adds a row, with some values given, and gives its id if it has one.
func (f *filler) row(table string, given map[string]any) (id int64) {
	f.t.Helper()
	var columns []string
	var values []any
	must(f.t, f.tx.Query(`SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = ? ORDER BY ordinal_position`,
		[]any{table}, func(scan sqldb.Scan) error {
			var name, typ string
			if err := scan(&name, &typ); err != nil {
				return err
			}
			f.n++
			v, has := given[name]
			switch {
			case has:
			case name == "id":
				return nil
			case name == "traffic":
				v = "real"
			case typ == "text":
				v = fmt.Sprintf("%s %d ü'\\\t", name, f.n)
			case typ == "bytea":
				v = []byte{0, 255, byte(f.n), '\n', '\\'}
			case typ == "boolean":
				v = f.n%2 == 0
			default:
				v = f.n
			}
			columns, values = append(columns, name), append(values, v)
			return nil
		}))
	returning := ""
	if _, err := f.tx.Columns(table); err == nil {
		returning = " RETURNING " + map[bool]string{true: "id", false: "0::bigint"}[f.hasID(table)]
	}
	must(f.t, f.tx.Query(`INSERT INTO `+table+` (`+strings.Join(columns, ", ")+`) VALUES (?`+strings.Repeat(",?", len(columns)-1)+`)`+returning, values,
		func(scan sqldb.Scan) error { return scan(&id) }))
	return id
}

func (f *filler) hasID(table string) bool {
	columns, err := f.tx.Columns(table)
	must(f.t, err)
	return slices.Contains(columns, "id")
}

// code is the n-th code of a group, of either kind.
func code(group, n int) string {
	first, last := ids.SlotsOf(group, testGroups)
	slot := first + n*97%(last-first+1)
	return string("rs"[n%2]) + string([]byte{ids.Alphabet[slot>>5], ids.Alphabet[slot&31]}) + fmt.Sprintf("%024d", n)
}

func (f *filler) shared(group int, told, read []string) {
	for _, topic := range told {
		f.row("heads", map[string]any{"topic": topic, "grp": group})
		for i := range 3 {
			id := f.row("log_"+topic, map[string]any{"grp": group})
			f.row("marks", map[string]any{"topic": topic, "grp": group, "seq": int64(64*i + 1), "id": id})
		}
	}
	for _, topic := range read {
		f.row("places", map[string]any{"topic": topic, "grp": group})
		f.row("parked", map[string]any{"topic": topic, "grp": group, "biz_code": code(group, 1)})
	}
}

func (f *filler) core(group int) {
	f.shared(group, []string{"dispatch", "payments"}, []string{"intents", "callbacks", "outcomes"})
	for n := range 10 {
		x := code(group, n)
		trade := f.row("trade_orders", map[string]any{"biz_code": x})
		for k := range 2 {
			payment := f.row("payment_orders", map[string]any{"trade_id": trade, "biz_code": x, "y": x[:26] + string("xy"[k]), "metadata": `{"k":"v"}`, "status": "pending"})
			f.row("attempts", map[string]any{"payment_id": payment, "biz_code": x})
			f.row("exceptions", map[string]any{"payment_id": payment, "biz_code": x})
		}
	}
}

func (f *filler) prepay(group int) {
	f.shared(group, []string{"outcomes"}, []string{"dispatch"})
	for n := range 10 {
		x := code(group, n)
		id := f.row("calls", map[string]any{"biz_code": x, "out_trade_no": x + "0"})
		given := map[string]any{"id": id, "grp": group, "status": "due", "op": "query", "standing": "unknown", "open": true, "owner": ""}
		if n%2 == 1 {
			given["status"], given["next_at_millis"], given["owner"] = "sending", int64(0), "somebody"
		}
		f.row("progress", given)
	}
}

// ledger adds entries over accounts of which the names are given.
func (f *filler) ledger(group int, names ...string) {
	f.shared(group, []string{"postings"}, []string{"payments"})
	account := map[string]int64{}
	for _, name := range names {
		must(f.t, f.tx.Query(`SELECT id FROM accounts WHERE name = ?`, []any{name}, func(scan sqldb.Scan) error {
			var id int64
			err := scan(&id)
			account[name] = id
			return err
		}))
		if account[name] == 0 {
			account[name] = f.row("accounts", map[string]any{"book": "main", "name": name, "currency": "CNY", "class": "asset", "side": "debit", "kind": "spread"})
		}
	}
	sums := map[int64]int64{}
	for n := range 10 {
		entry := f.row("entries", map[string]any{"grp": group, "biz_code": code(group, n), "reason": ""})
		for i, name := range names {
			minor := int64(100 + n)
			if i == len(names)-1 {
				minor = -minor * int64(i)
			}
			f.row("postings", map[string]any{"id": entry<<8 | int64(i), "account_id": account[name], "minor": minor})
			sums[account[name]] += minor
		}
	}
	for id, minor := range sums {
		f.row("balances", map[string]any{"id": id<<10 | int64(group), "minor": minor})
	}
}

// fill gives each group rows in each area, where it is.
func (d *databases) fill() {
	d.t.Helper()
	for number := 1; number <= d.n; number++ {
		for _, area := range []string{"core", "prepay", "accounting"} {
			db := d.open(area, number)
			groups, err := lease.Owned(d.t.Context(), db)
			must(d.t, err)
			must(d.t, db.Write(d.t.Context(), func(tx *sqldb.Tx) error {
				f := &filler{t: d.t, tx: tx, n: int64(1000 * number)}
				for _, g := range groups {
					switch area {
					case "core":
						f.core(g)
					case "prepay":
						f.prepay(g)
					default: // some accounts are there in all databases, under other numbers, and some are not
						f.ledger(g, fmt.Sprint("only:", number), "fees", "shared")
					}
				}
				if area == "prepay" {
					f.row("cleaned", map[string]any{"id": int64(1), "before_millis": int64(100 * (3 - number))})
				}
				return nil
			}))
		}
	}
}

// staying are the tables whose rows are no group's, and why they stay.
var staying = map[string]string{
	"leases": "who owns groups", "members": "processes", "moves": "groups on their way", "stamp": "the installation's constants", "schema_version": "the schema's",
	"accounts": "made where they are missing, known by their keys", "cleaned": "a moment, and the later one holds",
}

// dump is what a database says of the groups: table by table, in the words of
// PostgreSQL. Accounts are named, as their numbers differ between databases.
func (d *databases) dump(number int) map[string][]string {
	d.t.Helper()
	out := map[string][]string{}
	for _, area := range areas() {
		db := d.open(area.Name, number)
		must(d.t, db.Read(d.t.Context(), func(tx *sqldb.Tx) error {
			tables, err := tx.Tables()
			for _, table := range tables {
				if staying[table] != "" {
					continue
				}
				query := map[string]string{
					"postings": `SELECT p.id || ' ' || a.name || ' ' || p.minor FROM postings p JOIN accounts a ON a.id = p.account_id ORDER BY p.id`,
					"balances": `SELECT (b.id & 1023) || ' ' || a.name || ' ' || b.minor || ' ' || b.net || ' ' || b.version FROM balances b JOIN accounts a ON a.id = b.id >> 10 ORDER BY 1`,
				}[table]
				if query == "" {
					query = `SELECT t::text FROM ` + table + ` AS t ORDER BY 1`
				}
				err = errors.Join(err, tx.Query(query, nil, func(scan sqldb.Scan) error {
					var row string
					err := scan(&row)
					out[area.Name+"."+table] = append(out[area.Name+"."+table], row)
					return err
				}))
			}
			return err
		}))
	}
	return out
}

// together is what all databases say.
func (d *databases) together() map[string][]string {
	out := map[string][]string{}
	for n := 1; n <= d.n; n++ {
		for table, rows := range d.dump(n) {
			out[table] = append(out[table], rows...)
		}
	}
	for _, rows := range out {
		slices.Sort(rows)
	}
	return out
}

func (d *databases) same(what string, want, have map[string][]string) {
	d.t.Helper()
	for _, table := range slices.Sorted(maps.Keys(want)) {
		if !slices.Equal(want[table], have[table]) {
			d.t.Errorf("%s: %s has %d rows, and had %d; the first that differs: %s", what, table, len(have[table]), len(want[table]), firstDifference(want[table], have[table]))
		}
	}
	if len(want) != len(have) {
		d.t.Errorf("%s: rows in tables %v, and there were some in %v", what, slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want)))
	}
}

func firstDifference(a, b []string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] + " / " + b[i]
		}
	}
	return "one has more"
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

// Every table of every area is moved, or listed as not belonging to a group; so one
// that is added is thought of.
func TestEveryTableIsMovedOrListed(t *testing.T) {
	d := newDatabases(t, 1)
	for _, area := range areas() {
		must(t, d.open(area.Name, 1).Read(t.Context(), func(tx *sqldb.Tx) error {
			tables, err := tx.Tables()
			var moved []string
			for _, p := range area.Portions(1) {
				moved = append(moved, p.Table)
				if staying[p.Table] != "" || !slices.Contains(tables, p.Table) {
					t.Errorf("%s: table %s is moved, and it stays, or is none", area.Name, p.Table)
				}
			}
			for _, table := range tables {
				if staying[table] == "" && !slices.Contains(moved, table) {
					t.Errorf("%s: table %s is neither moved nor listed as staying: a group that moves would lose its rows", area.Name, table)
				}
			}
			if len(tables) < 8 {
				t.Errorf("%s: only tables %v", area.Name, tables)
			}
			return err
		}))
	}
}

// Every row of every table goes with its group, whole, and nothing else does; there
// and back again everything is as it was.
func TestMoveThereAndBack(t *testing.T) {
	long(t)
	d := newDatabases(t, 2)
	d.fill()
	before, first, second := d.together(), d.dump(1), d.dump(2)
	for _, table := range slices.Sorted(maps.Keys(before)) {
		if len(before[table]) < 4 {
			t.Fatalf("table %s has %d rows: the test shows nothing", table, len(before[table]))
		}
	}
	rows := int64(0)
	o := unserved
	o.Did = func(s move.Step) {
		if s.Name == "copied" {
			rows += s.Rows
		}
	}
	for _, tc := range []struct{ group, to int }{{1, 2}, {3, 1}, {1, 1}, {3, 2}} {
		moved, err := app.MoveGroup(t.Context(), d.deps(), tc.group, tc.to, o)
		must(t, err)
		if !moved {
			t.Errorf("group %d to database %d: nothing was done", tc.group, tc.to)
		}
		d.isAt(tc.group, tc.to)
		d.same(fmt.Sprint("after ", tc), before, d.together())
		for n := 1; n <= 2; n++ {
			if sum := d.number("accounting", n, `SELECT CAST(coalesce(sum(minor), 0) AS BIGINT) FROM balances`); sum != 0 {
				t.Errorf("after %v: database %d is out of balance by %d", tc, n, sum)
			}
		}
		if moved, err := app.MoveGroup(t.Context(), d.deps(), tc.group, tc.to, o); err != nil || moved {
			t.Errorf("again: moved %t, %v", moved, err)
		}
	}
	if rows < 4*150 {
		t.Errorf("%d rows were copied in all", rows)
	}
	d.same("database 1 in the end", first, d.dump(1))
	d.same("database 2 in the end", second, d.dump(2))
	if before := d.query(1, "SELECT before_millis FROM prepay.cleaned") + " " + d.query(2, "SELECT before_millis FROM prepay.cleaned"); before != "200 200" {
		t.Errorf("calls were cleaned away up to %s: the later moment holds where the group was", before)
	}
}

// abandoned is what a crash point panics with.
type abandoned struct{}

// A crash behind any step of any area: what is done again by the same command ends
// right; on the way no area of a group has two owners, and no row is nowhere. What is
// between two steps is in the package that makes them.
func TestMoveIsResumedAfterACrash(t *testing.T) {
	long(t)
	d := newDatabases(t, 2)
	d.fill()
	before := d.together()
	to, passed, crashes := 2, 0, 0
	run := func(at int) (crashed bool) {
		defer func() {
			r := recover()
			if _, ours := r.(abandoned); ours {
				crashed = true
			} else if r != nil {
				panic(r)
			}
		}()
		deps := d.deps()
		passed = 0
		deps.Points = func(name string) {
			if strings.HasPrefix(name, "move.") {
				if passed++; passed == at {
					panic(abandoned{})
				}
			}
		}
		_, err := app.MoveGroup(t.Context(), deps, 1, to, unserved)
		must(t, err)
		return false
	}
	for at := 1; ; at++ {
		crashed := run(at)
		if crashed {
			crashes++
			for area, owners := range d.owners(1) {
				if len(owners) > 1 {
					t.Fatalf("point %d: %s is served by databases %v", at, area, owners)
				}
			}
			have := d.together()
			for table, rows := range before {
				if lost := slices.DeleteFunc(slices.Clone(rows), func(r string) bool { return slices.Contains(have[table], r) }); len(lost) > 0 {
					t.Fatalf("point %d: %s has lost %d rows", at, table, len(lost))
				}
			}
			if run(0) {
				t.Fatal("it crashed again")
			}
		}
		d.isAt(1, to)
		d.same(fmt.Sprint("after a crash at point ", at), before, d.together())
		if !crashed {
			break
		}
		to = 3 - to // from where it is now
	}
	if crashes != 3*len([]string{"frozen", "copied", "departed", "settled", "forgotten"}) {
		t.Errorf("%d points were passed", crashes)
	}
}

// The command itself, killed with -9 behind a step of each area: it goes on when it
// is run again, and says so when there is nothing to do.
func TestTheCommandIsKilledAndRunAgain(t *testing.T) {
	long(t)
	d := newDatabasesOn(t, 2, true)
	d.fill()
	before := d.together()
	program := filepath.Join(t.TempDir(), "tallystick")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../tallystick").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run := func(env string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), program, append([]string{"groups"}, append(args, "--data", d.dir)...)...)
		cmd.Env = append(append(os.Environ(), d.env...), env)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	move := []string{"move", "1", "--to", "2", "--as", "postgres", "--unserved"}
	for _, point := range []string{"move.accounting.copied", "move.prepay.departed", "move.core.settled"} {
		if out, err := run(app.EnvCrashAt+"="+point+":1", move...); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("at %s: %v %s", point, err, out)
		}
	}
	if out, err := run("", move...); err != nil || !strings.Contains(out, "group 1 is in database 2\n") {
		t.Fatalf("in the end: %v %s", err, out)
	}
	d.isAt(1, 2)
	d.same("in the end", before, d.together())
	if out, err := run("", move...); err != nil || !strings.Contains(out, "group 1 is in database 2 already") {
		t.Errorf("again: %v %s", err, out)
	}
	if out, err := run("", "list"); err != nil || strings.Count(out, "\n") != 1+3*testGroups {
		t.Errorf("list: %v %s", err, out)
	}
}

// What cannot be done says why, and changes nothing.
func TestMovesThatAreRefused(t *testing.T) {
	long(t)
	d := newDatabases(t, 3)
	d.fill()
	before := d.together()
	stop := func(point string) app.Deps {
		deps := d.deps("TALLYSTICK_MOVE_WAIT_MAX=1s")
		deps.Points = func(name string) {
			if name == point {
				panic(abandoned{})
			}
		}
		return deps
	}
	crash := func(point string, to int) {
		t.Helper()
		defer func() {
			if r := recover(); r != (abandoned{}) {
				t.Fatalf("%s was not passed: %v", point, r)
			}
		}()
		_, _ = app.MoveGroup(t.Context(), stop(point), 0, to, unserved)
	}
	fails := func(words string, kind fault.Kind, group, to int, o app.MoveOptions) {
		t.Helper()
		_, err := app.MoveGroup(t.Context(), d.deps("TALLYSTICK_MOVE_WAIT_MAX=1s"), group, to, o)
		if !fault.Is(err, kind) || !strings.Contains(err.Error(), words) {
			t.Errorf("group %d to %d: %v, want %s with %q", group, to, err, kind, words)
		}
	}
	fails("unknown_database", fault.Invalid, 0, 9, unserved)
	fails("unknown_group", fault.Invalid, testGroups, 1, unserved)
	fails("unknown_group", fault.Invalid, -1, 1, unserved)
	fails("nobody_serves", fault.Conflict, 0, 2, app.MoveOptions{As: "postgres"})
	d.same("what was refused", before, d.together())

	// Another mover, as far as one area's database knows.
	held := d.open("accounting", 2)
	claimed, err := lease.Claim(t.Context(), held, 0)
	must(t, err)
	if !claimed {
		t.Fatal("the group could not be claimed")
	}
	fails("move_under_way", fault.Conflict, 0, 2, unserved)
	must(t, lease.Unclaim(t.Context(), held, 0))

	// A group that has left goes on to where it was sent, and nowhere else.
	crash("move.accounting.departed", 2)
	d.listed(0, app.RoleAccounting, "moving 1 to 2", 0, 0)
	d.listed(0, app.RolePrepay, "free", 10, 1)
	d.listed(1, app.RoleCore, "free", 20, 3)
	fails("move_unfinished", fault.Conflict, 0, 1, unserved)
	fails("move_unfinished", fault.Conflict, 0, 3, unserved)
	// Nor does migrate give it to anybody.
	_, err = app.Migrate(t.Context(), d.deps(), "postgres", "")
	must(t, err)
	if o := d.owners(0)["accounting"]; o != nil {
		t.Fatalf("a group on its way was given to database %v", o)
	}
	_, err = app.MoveGroup(t.Context(), d.deps(), 0, 2, unserved)
	must(t, err)
	d.isAt(0, 2)

	// One that has not left is taken back, or goes elsewhere; its copy is removed.
	crash("move.prepay.copied", 3)
	_, err = app.MoveGroup(t.Context(), d.deps(), 0, 2, unserved)
	must(t, err)
	d.isAt(0, 2)
	d.same("taken back", before, d.together())
	crash("move.core.copied", 3)
	_, err = app.MoveGroup(t.Context(), d.deps(), 0, 1, unserved)
	must(t, err)
	d.isAt(0, 1)
	d.same("sent elsewhere", before, d.together())
	d.ownsItsTradesAlone(crash)
}

// ownsItsTradesAlone asks two databases that both have the rows of a trade.
func (d *databases) ownsItsTradesAlone(crash func(point string, to int)) {
	d.t.Helper()
	crash("move.core.settled", 3)
	for n, owns := range map[int]bool{1: false, 3: true} {
		x := code(0, 1)
		if d.number("core", n, `SELECT count(*) FROM trade_orders WHERE biz_code = ?`, x) != 1 {
			d.t.Fatalf("database %d has not the trade: the test shows nothing", n)
		}
		s, err := corestore.Open(d.t.Context(), sqldb.Options{NoSync: true, Postgres: &sqldb.Postgres{URL: d.pg.URL(fmt.Sprint("pay", n)), Number: n}}, testGroups, time.Now)
		must(d.t, err)
		trade, owned, err := s.OwnTrade(d.t.Context(), ids.Code(x))
		must(d.t, err)
		must(d.t, s.Close())
		if owned != owns || (trade != nil) != owns {
			d.t.Errorf("database %d says that it owns the trade: %t, and gives %v", n, owned, trade)
		}
	}
}

// A copy that is not what it was copied from is found out before anything is given up.
func TestMoveComparesBothSides(t *testing.T) {
	long(t)
	d := newDatabases(t, 2)
	d.fill()
	const spoil = `CREATE FUNCTION core.spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN %s; END $$; CREATE TRIGGER spoil BEFORE INSERT ON core.attempts FOR EACH ROW EXECUTE FUNCTION core.spoil()`
	for name, how := range map[string]string{"another value": "NEW.paid_minor := NEW.paid_minor + 1; RETURN NEW", "a row less": "IF NEW.n % 2 = 0 THEN RETURN NULL; END IF; RETURN NEW"} {
		d.query(2, fmt.Sprintf(spoil, how))
		_, err := app.MoveGroup(t.Context(), d.deps(), 0, 2, unserved)
		if err == nil || !strings.Contains(err.Error(), "table attempts has") {
			t.Errorf("%s: %v", name, err)
		}
		if o := d.query(1, "SELECT count(*) FROM core.leases WHERE grp = 0") + d.query(2, "SELECT count(*) FROM core.attempts WHERE out_trade_no LIKE '%'"); o[:1] != "1" {
			t.Errorf("%s: the source does not own it any more: %s", name, o)
		}
		d.query(2, "DROP TRIGGER spoil ON core.attempts; DROP FUNCTION core.spoil()")
	}
	// Nor does a ledger go that is wrong already.
	d.query(1, "UPDATE accounting.balances SET minor = minor + 1 WHERE id & 1023 = 1 AND id = (SELECT min(id) FROM accounting.balances WHERE id & 1023 = 1)")
	if _, err := app.MoveGroup(t.Context(), d.deps(), 1, 2, unserved); err == nil || !strings.Contains(err.Error(), "not the sums") {
		t.Errorf("a balance that is not the sum of its postings: %v", err)
	}
}

// The journal's rows may go with their group alone, by an owner of the tables alone.
func TestOnlyAMoveRemovesFromTheJournal(t *testing.T) {
	long(t)
	d := newDatabases(t, 2)
	d.fill()
	const remove = "SET ROLE %s; SET search_path = accounting; BEGIN; SELECT set_config('tallystick.forget', '%d', TRUE); DELETE FROM %s WHERE %s; ROLLBACK"
	where := map[string]string{"postings": "id >> 8 IN (SELECT id FROM entries WHERE grp = %d)", "entries": "grp = %d", "balances": "id & 1023 = %d"}
	try := func(table, role string, named, group int) error {
		_, err := d.pg.Query(context.WithoutCancel(t.Context()), "pay1", fmt.Sprintf(remove, role, named, table, fmt.Sprintf(where[table], group)))
		return err
	}
	for table := range where {
		if err := try(table, "postgres", 0, 0); err == nil {
			t.Errorf("%s of a group that is owned here can be removed", table)
		}
	}
	d.query(1, "DELETE FROM accounting.leases WHERE grp = 0") // as a move does
	for table := range where {
		if err := try(table, "tallystick_accounting", 0, 0); err == nil {
			t.Errorf("%s can be removed by the role that serves", table)
		}
		if err := try(table, "postgres", 1, 0); err == nil {
			t.Errorf("%s can be removed by who names another group", table)
		}
		if err := try(table, "postgres", 0, 0); err != nil {
			t.Errorf("%s cannot be removed by a move: %v", table, err)
		}
	}
}
