package crash_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/bench/crash"
	"github.com/tallystick/tallystick/internal/fault"
)

// Every named point once and five random instants, at a load that two cores carry
// beside other tests. What it asserts does not depend on how fast they are.
func TestNothingIsLostPaidOrBookedTwice(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for half a minute")
	}
	c := crash.Defaults(false, t.Output())
	c.Rate = 50
	res, err := crash.Run(t.Context(), c)
	if err != nil {
		t.Fatalf("%v: %+v", err, res.Violations)
	}
	if got, want := slices.Sorted(slices.Values(res.Points)), slices.Sorted(slices.Values(crash.Points(false))); !slices.Equal(got, want) {
		t.Errorf("died at %q, want %q", got, want)
	}
	if res.Kills != len(crash.Points(false))+c.Random {
		t.Errorf("%d kills, want %d", res.Kills, len(crash.Points(false))+c.Random)
	}
}

// In the cluster every named point once and a random instant of each role, one role beside
// the other.
func TestNothingIsLostPaidOrBookedTwiceInACluster(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes of a cluster for half a minute")
	}
	c := crash.Defaults(true, t.Output())
	res, err := crash.Run(t.Context(), c)
	if err != nil {
		t.Fatalf("%v: %+v", err, res.Violations)
	}
	if got, want := slices.Sorted(slices.Values(res.Points)), slices.Sorted(slices.Values(crash.Points(true))); !slices.Equal(got, want) {
		t.Errorf("died at %q, want %q", got, want)
	}
	if want := len(crash.Points(true)) + c.Random; res.Kills != want {
		t.Errorf("%d kills, want %d", res.Kills, want)
	}
}

// A point that someone adds to the code is one to die at.
func TestEveryPointOfTheCodeIsNamed(t *testing.T) {
	call := regexp.MustCompile(`oints\.At\((db\.area \+ )?"([a-z_.]+)"( \+ string\([a-z\[\].]+opic\))?\)`)
	found := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "bench" || strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			switch {
			case m[1] != "":
				for _, area := range []string{"intake", "core", "prepay", "accounting"} {
					found[area+m[2]] = true
				}
			case m[3] != "":
				for _, topic := range []string{"intents", "callbacks", "dispatch", "outcomes", "payments", "postings", "directory"} {
					found[m[2]+topic] = true
				}
			default:
				found[m[2]] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	died := map[string]bool{}
	for _, p := range append(crash.Points(false), crash.Points(true)...) {
		if died[p] = true; !found[p] {
			t.Errorf("%s is nowhere in the code", p)
		}
	}
	for p := range found {
		if !died[p] {
			t.Errorf("%s is in the code, and nobody dies there", p)
		}
	}
}

func TestFlushesAreCountedByArea(t *testing.T) {
	const trace = `123 fdatasync(7</tmp/x/data/stores/intake.db-wal>) = 0
124 fsync(9</tmp/x/data/stores/core.db>) = 0
123 fdatasync(7</tmp/x/data/stores/intake.db-wal> <unfinished ...>
125 fsync(3</tmp/x/data/stores>) = 0
123 <... fdatasync resumed>) = 0
123 +++ exited with 0 +++
`
	got := crash.FlushesIn(trace)
	if len(got) != 2 || got["intake"] != 2 || got["core"] != 1 {
		t.Errorf("%v, want intake 2 and core 1", got)
	}
}

func TestConfigNamesTheField(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*crash.Config)
		field  string
	}{
		"a point of the other": {func(c *crash.Config) { c.Points = []string{"kafka.appended.intents"} }, "-point kafka.appended.intents"},
		"a point that is none": {func(c *crash.Config) { c.Points = []string{"core.nowhere"} }, "-point core.nowhere"},
		"too many kills":       {func(c *crash.Config) { c.Random = 1e6 }, "-n"},
		"no load":              {func(c *crash.Config) { c.Rate = 0 }, "-rate"},
		"no patience":          {func(c *crash.Config) { c.DrainMax = 0 }, "bounds"},
	} {
		t.Run(name, func(t *testing.T) {
			c := crash.Defaults(false, t.Output())
			tc.change(&c)
			_, err := crash.Run(t.Context(), c)
			if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tc.field) {
				t.Errorf("%v, want an invalid %s", err, tc.field)
			}
		})
	}
}

// strace pads pids to five places.
func TestEnded(t *testing.T) {
	for pid, line := range map[int]string{7: "7     +++ exited with 0 +++", 999: "999   +++ exited with 0 +++", 12345: "12345 +++ exited with 0 +++"} {
		if trace := "1 +++ exited with 0 +++\n" + line + "\n"; !crash.Ended(trace, pid) || crash.Ended(trace, pid+1) {
			t.Errorf("%q", line)
		}
	}
}
