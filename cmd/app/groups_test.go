package app_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/move"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Every table of every area is moved, or listed as not belonging to a group; so one
// that is added is thought of.
func TestEveryTableIsMovedOrListed(t *testing.T) {
	d := newDatabases(t, 1)
	for _, area := range areas() {
		must(t, d.open(area.Name, 1).Read(t.Context(), func(tx *sqldb.Tx) error {
			tables, err := tablesOf(tx)
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
		_, err := d.pg.Query(context.WithoutCancel(t.Context()), d.name(1), fmt.Sprintf(remove, role, named, table, fmt.Sprintf(where[table], group)))
		return err
	}
	for table := range where {
		if err := try(table, "postgres", 0, 0); err == nil {
			t.Errorf("%s of a group that is owned here can be removed", table)
		}
	}
	d.query(1, "DELETE FROM accounting.leases WHERE grp = 0") // as a move does
	for table := range where {
		if err := try(table, d.at+"_accounting", 0, 0); err == nil {
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
