package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// The exit code tells a script what happened: 0 for done, 1 for not as it must
// be, 2 for a command or a configuration that has to be corrected.
func TestExitCodes(t *testing.T) {
	fresh := filepath.Join(t.TempDir(), "fresh")
	for _, tc := range []struct {
		name string
		args []string
		code int
	}{
		{"no command", nil, 2},
		{"unknown command", []string{"serv"}, 2},
		{"unknown flag", []string{"demo", "--rte", "5"}, 2},
		{"bad value", []string{"demo", "--rate", "x"}, 2},
		{"out of range", []string{"demo", "--rate=-1"}, 2},
		{"missing flag", []string{"serve"}, 2},
		{"no such folder", []string{"serve", "--data", "/nonexistent"}, 2},
		{"help", []string{"--help"}, 0},
		{"version", []string{"version"}, 0},
		{"init", []string{"init", "--data", fresh}, 0},
		{"init again", []string{"init", "--data", fresh}, 2},
		{"parked before the first start", []string{"parked", "list", "--data", fresh}, 2},
		{"verify an empty folder", []string{"verify", "--data", fresh}, 0},
		{"nothing parked", []string{"parked", "list", "--data", fresh}, 0},
		{"replay of a bad id", []string{"parked", "replay", "--data", fresh, "trd_x"}, 2},
		{"replay of no id", []string{"parked", "replay", "--data", fresh, "bogus"}, 2},
		{"replay of another kind of id", []string{"parked", "replay", "--data", fresh, "vch_" + strings.Repeat("r", 27)}, 2},
		{"replay where nothing is parked", []string{"parked", "replay", "--data", fresh, "trd_" + strings.Repeat("r", 27)}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if code := run(t.Context(), tc.args); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
		})
	}
}
