package sim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tallystick/tallystick/cmd/app"
)

// Bench is `go run ./bench sim`: seeds, one after the other.
func Bench(ctx context.Context, fs *flag.FlagSet, args []string, out io.Writer) (map[string]any, error) {
	seeds := fs.Int("seeds", 50, "how many")
	first := fs.Uint64("seed", 1, "the first of them")
	trim := fs.Bool("trim", false, "with logs that are trimmed as soon as they may be")
	short := fs.Bool("short", false, "10 seeds")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if *short {
		*seeds = 10
	}
	figures := map[string]any{}
	var crashes, failed int
	var trimmed int64
	for i := range *seeds {
		if err := ctx.Err(); err != nil {
			return figures, err
		}
		c := Usual(*first + uint64(i)) //nolint:gosec // a count
		c.Trim = *trim
		r, err := Run(c)
		crashes, trimmed = crashes+r.Crashes, trimmed+r.Trimmed
		if err != nil {
			failed++
			_, _ = fmt.Fprintf(out, "  wrong: %v\n", err)
		}
	}
	figures["seeds"], figures["failed"], figures["crashes"], figures["messages_trimmed"] = *seeds, failed, crashes, trimmed
	if failed > 0 {
		return figures, errors.New("the auditor found what must not be")
	}
	return figures, nil
}

// Usual is what a seed is simulated with.
func Usual(seed uint64) Config {
	return Config{Seed: seed, Orders: 16, Steps: 2500, CrashShare: 0.01, FaultShare: 0.02}
}

// Result is what a run was.
type Result struct {
	Log     []byte // every event that is still there, and the journal
	Crashes int    // how often the app was abandoned
	Trimmed int64  // messages that the areas' logs have no more
}

// Simulate is Run, for whoever wants its event log and its crashes.
func Simulate(cfg Config) (log []byte, crashes int, err error) {
	r, err := Run(cfg)
	return r.Log, r.Crashes, err
}

// Run runs one seed in a folder of its own.
func Run(cfg Config) (r Result, err error) {
	if cfg.Dir, err = temporary(); err != nil {
		return r, err
	}
	defer os.RemoveAll(cfg.Dir) //nolint:errcheck // temporary
	if err := os.MkdirAll(filepath.Join(cfg.Dir, app.StoresDir), 0o700); err != nil {
		return r, err
	}
	w, err := New(cfg)
	if err != nil {
		return r, err
	}
	err = w.Run()
	r.Crashes, r.Trimmed = w.crashes, w.auditor.trimmed
	if err != nil {
		return r, fmt.Errorf("seed %d: %w", cfg.Seed, err)
	}
	r.Log, err = w.EventLog()
	return r, err
}
