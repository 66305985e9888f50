package app_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/cmd/app"
	corestore "github.com/tallystick/tallystick/core/sqlstore"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/sqldb"
)

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
		s, err := corestore.Open(d.t.Context(), sqldb.Options{NoSync: true, Postgres: &sqldb.Postgres{URL: d.url(n), Number: n}}, testGroups, time.Now)
		must(d.t, err)
		trade, owned, err := s.OwnTrade(d.t.Context(), ids.Code(x))
		must(d.t, err)
		must(d.t, s.Close())
		if owned != owns || (trade != nil) != owns {
			d.t.Errorf("database %d says that it owns the trade: %t, and gives %v", n, owned, trade)
		}
	}
}
