package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/bench/judge"
	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/ids"
)

// product is what is killed, in one of the profiles.
type product interface {
	// kills lets processes die as the stops say. What dies is started again at once.
	kills(ctx context.Context, stops []stop) error
	// serve waits until everything runs and serves.
	serve(ctx context.Context) error
	// fate is an error if a process has ended by itself.
	fate() error
	// quiet reports whether nothing is open, and nothing unread.
	quiet(ctx context.Context) bool
	// stop asks all processes to end.
	stop() error
	// books are the stores, once nothing runs any more.
	books(ctx context.Context) (books, error)
	io.Closer
}

// books are stores that can be judged.
type books interface {
	Verify(ctx context.Context) (app.Verification, error)
	Owner(code ids.Code) (*app.Stores, error)
	io.Closer
}

// bench is what outlives every process: the PSPs and the merchants.
type bench struct {
	cfg      Config
	dir, exe string
	folder   rig.Folder
	product  product
	psps     map[string]*sim.Sim
	stopPSPs func() error
	shop     *shop

	mu  sync.Mutex
	res Result
}

func newBench(ctx context.Context, cfg Config) (b *bench, err error) {
	b = &bench{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, _, err = rig.TempDir("crash"); err != nil {
		return b, err
	}
	if b.exe, err = rig.Build(ctx, b.dir); err != nil {
		return b, err
	}
	addrs := ""
	if cfg.Cluster {
		addrs, err = b.newCluster(ctx)
	} else {
		addrs, err = b.newEmbedded()
	}
	if err != nil {
		return b, err
	}
	// Calls that hang are given up within a second.
	err = b.folder.Edit(func(s *merchant.Snapshot) {
		for i := range s.Accounts {
			s.Accounts[i].Limits.DeadlineMillis = 1000
		}
	})
	if err != nil {
		return b, err
	}
	if b.psps, b.stopPSPs, err = b.folder.StartPSPs(ctx, faults(), sim.DeskConfig{Seed: cfg.Seed, CallbackBackoffMillis: 200}); err != nil {
		return b, err
	}
	b.shop = newShop(load.NewClient(addrs, b.folder.APIKey, 4096), cfg.Seed)
	return b, nil
}

// faults are those of the demo, quicker, and more of those that a crash meets.
func faults() sim.Faults {
	f := sim.Realistic()
	f.LatencyBaseMillis, f.LatencyTailMillis, f.LatencyMaxMillis = 10, 40, 600
	f.HangMaxMillis, f.DuplicateCallbackShare, f.EarlyCallbackShare = 3_000, 0.03, 0.03
	f.AutoPayDelayMillis, f.AutoPayTailMillis = 20, 200
	return f
}

// environ configures all processes. What asks is quick, and what polls is off.
func environ() []string {
	return []string{"TALLYSTICK_PREPAY_BACKOFF_ASK_FIRST_MILLIS=25", "TALLYSTICK_PREPAY_BACKOFF_POLL_FIRST_MILLIS=3600000",
		"TALLYSTICK_CORE_NOT_SENT_PAUSE_MAX_MILLIS=2000"}
}

// crashAt makes a process die at a point.
func (s stop) crashAt() string { return fmt.Sprintf("%s=%s:%d", app.EnvCrashAt, s.point, s.passing) }

// end lets a process die, if it has not at its point, and notes how it did. The error says
// that this was wrong, and is noted.
func (b *bench) end(s stop, who string, p *rig.Process, started time.Time) error {
	byItself := p.Ended()
	p.Kill()
	switch {
	case s.point == "" && byItself == nil, s.point != "" && byItself != nil && p.Killed():
		b.died(s, who, time.Since(started))
		return nil
	case byItself == nil:
		return b.wrong("%s was not passed %d times within %s", s.point, s.passing, b.cfg.PointMax)
	}
	return b.wrong("%s: %v", who, byItself)
}

// died notes a kill.
func (b *bench) died(s stop, who string, lived time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.res.Kills++
	if s.point != "" {
		b.res.Points = append(b.res.Points, s.point)
	}
	b.print("kill %3d  %-12s %-40s after %5d ms; acknowledged %d", b.res.Kills, who, s.name(), lived.Milliseconds(), b.shop.acknowledged())
}

// wrong notes that something did not hold, and gives it.
func (b *bench) wrong(format string, args ...any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.res.Add(judge.Other, format, args...)
	return fmt.Errorf(format, args...)
}

// timeReady notes how long a process took from its start to its first healthy answer. The
// error is that there was none.
func (b *bench) timeReady(ctx context.Context, p *rig.Process, addr string, started time.Time) error {
	if err := p.Ready(ctx, addr, b.cfg.ReadyMax); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.res.recovered = append(b.res.recovered, time.Since(started))
	return nil
}

func (b *bench) print(format string, args ...any) {
	_, _ = fmt.Fprintf(b.cfg.Out, format+"\n", args...)
}

// refuseOne lets one PSP refuse connections from now until half of the time given
// has passed, or the function that it gives is called.
func (b *bench) refuseOne(about time.Duration) (end func(), err error) {
	psp := b.psps[app.ExampleAccounts()[0]]
	if err := psp.Refuse(true); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	t := time.AfterFunc(about/2, func() { defer close(done); _ = psp.Refuse(false) })
	return func() {
		if t.Stop() {
			_ = psp.Refuse(false)
			return
		}
		<-done
	}, nil
}

// drain waits until every merchant was answered and nothing is under way: no open
// payment order, nothing unread, no payer and no callback to come. What is still
// open when DrainMax has passed is left to the comparison: it must have a next
// action then.
func (b *bench) drain(ctx context.Context, answered <-chan struct{}) error {
	limit := time.NewTimer(b.cfg.DrainMax)
	defer limit.Stop()
	for quiet := 0; quiet < 4; { // the figures of open orders may be two seconds old
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			select {
			case <-answered:
				return nil
			default:
				return fmt.Errorf("some merchants still had no answer after %s", b.cfg.DrainMax)
			}
		case <-time.After(time.Second):
		}
		if err := b.product.fate(); err != nil {
			return fmt.Errorf("while everything drained: %w", err)
		}
		select {
		case <-answered:
		default:
			continue
		}
		if quiet++; !b.quiet(ctx) {
			quiet = 0
		}
	}
	return nil
}

func (b *bench) quiet(ctx context.Context) bool {
	for _, psp := range b.psps {
		if _, more := psp.NextAt(); more {
			return false
		}
	}
	return b.product.quiet(ctx)
}

// judge opens the stores, which no process may have, and compares.
func (b *bench) judge(ctx context.Context) error {
	deps, err := b.folder.Deps()
	if err != nil {
		return err
	}
	books, err := b.product.books(ctx)
	if err != nil {
		return err
	}
	defer books.Close() //nolint:errcheck // only read
	v, err := judge.Case{Orders: b.shop.log(), PSPs: b.psps, Secret: deps.Secret, Books: books, Out: b.cfg.Out}.Judge(ctx)
	v.Violations = append(b.res.Violations, v.Violations...)
	b.res.Verdict = v
	return err
}

func (b *bench) close() error {
	var errs []error
	if b.shop != nil {
		close(b.shop.bankrupt)
	}
	if b.product != nil {
		errs = append(errs, b.product.Close())
	}
	if b.stopPSPs != nil {
		errs = append(errs, b.stopPSPs())
	}
	if b.cfg.Keep {
		b.print("left: %s", b.dir)
	} else if b.dir != "" {
		errs = append(errs, os.RemoveAll(b.dir))
	}
	return errors.Join(errs...)
}

// report prints what stands after a round.
func (b *bench) report() {
	r := &b.res
	b.print("compared: %d kills, %d vouchers acknowledged (%d final, %d open), PSPs took %d payments; %d violations", r.Kills, r.Acknowledged,
		r.Final, r.Open, r.Paid, len(r.Violations))
}

// accuse prints what did not hold.
func (b *bench) accuse() {
	violations := b.res.Violations
	for i, v := range violations {
		if i == 20 {
			b.print("  ... and %d more", len(violations)-i)
			break
		}
		b.print("  %s: %s", v.Kind, v.What)
	}
}

// explain prints the last lines that the processes logged above level INFO.
func (b *bench) explain() {
	var lines []string
	logs, _ := filepath.Glob(filepath.Join(b.dir, "*.log")) // the pattern is ours
	for _, path := range logs {
		text, err := os.ReadFile(path) //nolint:gosec // ours
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) { // each begins with its time
			if !strings.Contains(line, `"level":"INFO"`) {
				lines = append(lines, strings.TrimSpace(line)+" "+filepath.Base(path))
			}
		}
	}
	slices.Sort(lines)
	b.print("the processes' last words:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
}
