package sim_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tallystick/tallystick/bench/sim"
)

var (
	seeds = flag.Int("seeds", 200, "how many seeds are simulated")
	trims = flag.Int("trims", 50, "how many seeds are simulated with logs that are trimmed")
	first = flag.Uint64("first", 1, "the first of them")
	trace = flag.Uint64("replay", 0, "simulate this seed alone, and print what happens")
)

func config(seed uint64) sim.Config { return sim.Usual(seed) }

func TestSeeds(t *testing.T) {
	if *trace != 0 {
		c := config(*trace)
		c.Trace = os.Stdout
		if _, _, err := sim.Simulate(c); err != nil {
			t.Fatal(err)
		}
		return
	}
	for seed := *first; seed < *first+uint64(*seeds); seed++ { //nolint:gosec // a count
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			if _, _, err := sim.Simulate(config(seed)); err != nil {
				t.Errorf("%v\nlook at it: go test ./bench/sim -v -run TestSeeds -replay %d", err, seed)
			}
		})
	}
}

// The same with logs that are trimmed all the while: whatever was committed by its
// readers may go at any moment, and everything ends as well.
func TestTrimmedSeeds(t *testing.T) {
	if *trace != 0 {
		t.Skip("covered by TestSeeds: one seed is looked at")
	}
	var trimmed atomic.Int64
	t.Run("seeds", func(t *testing.T) {
		for seed := *first; seed < *first+uint64(*trims); seed++ { //nolint:gosec // a count
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				c := config(seed)
				c.Trim = true
				w, err := sim.Run(c)
				if err != nil {
					t.Error(err)
				}
				trimmed.Add(w.Trimmed)
			})
		}
	})
	t.Logf("%d messages were trimmed", trimmed.Load())
	if trimmed.Load() == 0 {
		t.Error("nothing was trimmed: this shows nothing")
	}
}

// Seeds that once failed stay here.
func TestRegressionSeeds(t *testing.T) {
	text, err := os.ReadFile("testdata/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		number, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if number == "" || strings.HasPrefix(number, "#") {
			continue
		}
		seed, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(number, func(t *testing.T) {
			if _, _, err := sim.Simulate(config(seed)); err != nil {
				t.Error(err)
			}
		})
	}
}

// The same seed gives the same event log, byte for byte; another seed another.
func TestTheSameSeedIsTheSameRun(t *testing.T) {
	var last []byte
	crashes := 0
	for seed := uint64(1); seed <= 10; seed++ {
		one, n, err := sim.Simulate(config(seed))
		if err != nil {
			t.Fatal(err)
		}
		two, _, err := sim.Simulate(config(seed))
		if err != nil {
			t.Fatal(err)
		}
		if len(one) == 0 || !bytes.Equal(one, two) {
			t.Fatalf("seed %d: two runs of %d and %d bytes differ", seed, len(one), len(two))
		}
		if bytes.Equal(one, last) {
			t.Fatalf("seed %d is the run of the seed before", seed)
		}
		last = one
		crashes += n
	}
	if crashes == 0 {
		t.Fatal("the app was never abandoned: the simulation shows nothing about crashes")
	}
}
