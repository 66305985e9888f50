package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/app"
)

func TestGroupsArePrinted(t *testing.T) {
	list := &app.GroupList{
		Groups: []app.GroupInfo{{Group: 3, FirstSlot: 768, LastSlot: 1023, Areas: []app.AreaInfo{
			{Area: app.RoleCore, Databases: []int{2}, Holder: "10.0.0.7:8081", RenewedMillis: 140, Epoch: 12, State: "served", Lag: 4, Rows: 99, Parked: 1},
			{Area: app.RolePrepay, Databases: []int{}, State: "moving 1 to 2", Lag: -1},
		}}},
		Unreachable: []app.Unreachable{{Database: 1, Area: app.RoleCore, Reason: "connection refused"}},
	}
	var b bytes.Buffer
	if err := printGroups(&b, list); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	for i, want := range []string{
		"GROUP SLOTS AREA DATABASE STATE HOLDER RENEWED EPOCH LAG ROWS PARKED",
		"3 768-1023 core 2 served 10.0.0.7:8081 140ms 12 4 99 1",
		"3 768-1023 prepay - moving 1 to 2 - - 0 ? 0 0",
		"database 1, core: cannot be asked: connection refused",
	} {
		if have := strings.Join(strings.Fields(lines[i]), " "); have != want {
			t.Errorf("line %d: %q, want %q", i, have, want)
		}
	}
}

// The groups of a data folder stay together, and a command that needs a database says so.
func TestGroupsWantPostgres(t *testing.T) {
	dir := t.TempDir() + "/data"
	if code := run(t.Context(), []string{"init", "--data", dir}); code != 0 {
		t.Fatalf("init: %d", code)
	}
	for _, args := range [][]string{{"groups", "list"}, {"groups", "move", "1", "--to", "2"}} {
		if code := run(t.Context(), append(args, "--data", dir)); code != 2 {
			t.Errorf("%v: exit code %d, want 2", args, code)
		}
	}
}
