package app_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/engines"
)

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
	pg, err := engines.StartPostgres(t.Context(), true)
	must(t, err)
	t.Cleanup(func() { _ = pg.Close() })
	d := newDatabasesOn(t, pg, 2)
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
