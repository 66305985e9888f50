package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
)

// The figures that are read while it runs.
const (
	metricPosted = `tallystick_accounting_entries_total{result="posted"}`
	metricOpen   = "tallystick_core_open_payments"
	metricUnread = "tallystick_intake_unread_bytes"
	metricLag    = "tallystick_consumer_lag"
)

// sampleEvery is how often they are read: also how late the last posting may be seen.
const sampleEvery = 200 * time.Millisecond

// drainMax is how long everything may take to end after the last accept. A call
// that hung is asked after with growing distance.
const drainMax = 2 * time.Minute

// bench is one run.
type bench struct {
	out     io.Writer
	d       time.Duration
	users   users
	top     int
	profile string // file to keep the profile in
	least   float64
	keep    string // folder to leave the stores in

	folder rig.Folder
	server *rig.Process
	psp    *sim.Sim

	serverCPU, ownCPU time.Duration
	peakMiB           float64
	posted            int64
	postedAtEnd       int64 // when the offering ended
	lastPosting       time.Time
	samples           []sample
	offeringEnded     time.Time
	spent             spent
	functions         []function
	succeeded         int64
	violations        []string
}

// sample is how much was posted at a time.
type sample struct {
	at     time.Time
	posted int64
}

// postedBy is when all but one in a thousand payments were booked. The very last
// ones are those whose call hung more than once: their wait is the PSP's.
func (b *bench) postedBy() sample {
	for _, s := range b.samples {
		if s.posted >= b.posted-b.posted/1000 {
			return s
		}
	}
	return sample{at: b.lastPosting, posted: b.posted}
}

// Run is the bench.
func Run(ctx context.Context, fs *flag.FlagSet, args []string, out io.Writer) (map[string]any, error) {
	b := &bench{out: out}
	short := fs.Bool("short", false, "offer for 10 s instead of 60")
	fs.DurationVar(&b.d, "for", time.Minute, "how long payments are offered")
	fs.IntVar(&b.users.count, "users", 2048, "payments that are not ready yet, at most")
	fs.Float64Var(&b.users.rate, "rate", 0, "offer at a constant rate per second; 0: as many as the users can")
	fs.IntVar(&b.top, "top", 0, "print so many functions with the most CPU")
	fs.StringVar(&b.profile, "profile", "", "file to keep the server's CPU profile in")
	fs.Float64Var(&b.least, "least", 0, "fail below so many settled payments per second")
	fs.StringVar(&b.keep, "keep", "", "new folder in which to keep the data, to look at afterwards")
	seed := fs.Uint64("seed", 1, "seed of the orders and of the PSP's faults")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if *short {
		b.d = 10 * time.Second
	}
	dir, remove, err := rig.TempDir("e2e")
	if err != nil {
		return nil, err
	}
	defer remove()
	stop, err := b.start(ctx, dir, *seed)
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	err = b.measure(ctx)
	if err = errors.Join(err, stop()); err != nil {
		return nil, err
	}
	if err := b.verify(ctx); err != nil {
		return nil, err
	}
	figures := b.report()
	if rate := figures["settled_per_second"].(float64); rate < b.least {
		b.violations = append(b.violations, fmt.Sprintf("%.0f settled payments per second are under %.0f", rate, b.least))
	}
	return figures, rig.Join(b.violations)
}

// start builds and starts the server, and the PSP in this process.
func (b *bench) start(ctx context.Context, dir string, seed uint64) (stop func() error, err error) {
	stopPSP := func() error { return nil }
	stop = func() error {
		var err error
		if b.server != nil {
			err = b.server.Stop(2 * time.Minute)
		}
		return errors.Join(err, stopPSP())
	}
	binary, err := rig.Build(ctx, dir)
	if err != nil {
		return stop, err
	}
	if b.keep == "" {
		b.keep = filepath.Join(dir, "data")
	}
	if b.folder, err = rig.MakeFolder(b.keep); err != nil {
		return stop, err
	}
	if b.psp, stopPSP, err = b.folder.StartPSP(ctx, sim.Realistic(), seed); err != nil {
		return stop, err
	}
	if b.server, err = rig.Start(binary, b.folder.Env, filepath.Join(dir, "server.log"), "serve", "--data", b.folder.Dir); err != nil {
		return stop, err
	}
	b.users.client = load.NewClient(b.folder.Addr, b.folder.APIKey, b.users.count)
	b.users.order = load.Orders(seed)
	return stop, b.server.Ready(ctx, b.folder.Addr, 30*time.Second)
}

// measure runs the load until all that it accepted has ended.
func (b *bench) measure(ctx context.Context) error {
	server0, err := b.server.CPU()
	if err != nil {
		return err
	}
	own0 := rig.SelfCPU()
	_, _ = fmt.Fprintf(b.out, "offering for %s, %d users\n", b.d, b.users.count)
	profiled, offered := make(chan error, 1), make(chan struct{})
	go func() { profiled <- b.takeProfile(ctx) }()
	go func() { defer close(offered); b.users.run(ctx, b.d) }()
	b.offeringEnded = time.Now().Add(b.d)
	if err := b.watch(ctx, offered); err != nil {
		return err
	}
	server1, err := b.server.CPU()
	b.serverCPU, b.ownCPU = server1-server0, rig.SelfCPU()-own0
	peak, err2 := b.server.PeakRSS()
	b.peakMiB = float64(peak) / (1 << 20)
	return errors.Join(err, err2, <-profiled)
}

// watch reads figures until everything was offered, followed and worked on.
func (b *bench) watch(ctx context.Context, offered <-chan struct{}) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	quiet := time.Time{} // since when nothing is open
	printed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.server.Done():
			return errors.New("the server ended")
		case <-tick.C:
		}
		f, err := rig.ReadFigures(ctx, b.folder.OperatorAddr)
		if err != nil {
			return err
		}
		now := time.Now()
		if n := int64(f[metricPosted]); n > b.posted {
			b.posted, b.lastPosting = n, now
			b.samples = append(b.samples, sample{now, n})
		}
		if now.Before(b.offeringEnded) {
			b.postedAtEnd = b.posted
		}
		if now.Sub(printed) > 2*time.Second {
			printed = now
			_, _ = fmt.Fprintf(b.out, "  accepted %d, ready %d, posted %d; open %.0f, unread %.0f KiB, lag %.0f\n", b.users.accepted.Load(), b.users.ready.Load(), b.posted,
				f.Sum(metricOpen), f.Sum(metricUnread)/1024, f.Sum(metricLag))
		}
		select {
		case <-offered:
		default:
			continue
		}
		if f.Sum(metricOpen)+f.Sum(metricUnread)+f.Sum(metricLag) > 0 {
			quiet = time.Time{}
		} else if quiet.IsZero() {
			quiet = now
		}
		// The gauge of open payments is a few seconds old: it must stay at nothing.
		if !quiet.IsZero() && now.Sub(quiet) > 5*time.Second {
			return nil
		}
		if now.Sub(b.offeringEnded) > drainMax {
			return nil // verify tells what is still open
		}
	}
}

// takeProfile profiles the server while payments are offered.
func (b *bench) takeProfile(ctx context.Context) error {
	sleep(ctx, b.d/10) // not the start
	raw, err := rig.Profile(ctx, b.folder.OperatorAddr, b.d*8/10)
	if err != nil {
		return err
	}
	if b.profile != "" {
		if err := os.WriteFile(b.profile, raw, 0o600); err != nil {
			return err
		}
	}
	b.spent, b.functions, err = attribute(raw)
	return err
}

// report prints what was measured, and gives the figures.
func (b *bench) report() map[string]any {
	u := &b.users
	first := time.Unix(0, u.first.Load())
	seconds, n := b.lastPosting.Sub(first).Seconds(), float64(b.succeeded)
	rate := n / seconds
	nearly := b.postedBy()
	nearlyAll := float64(nearly.posted) / nearly.at.Sub(first).Seconds()
	inWindow := float64(b.postedAtEnd) / b.offeringEnded.Sub(first).Seconds()
	serverMillis, ownMillis := 1e3*b.serverCPU.Seconds()/n, 1e3*b.ownCPU.Seconds()/n
	_, _ = fmt.Fprintf(b.out, `settled %d payments in %.1f s from the first accept to the last posting: %.0f per second (%.0f until all but one in a thousand were booked, %.0f while they were offered)
accept p50 %s p99 %s; ready p50 %s p99 %s
accepted %d, ready %d, final before ready %d, not ready in time %d, refused %d, unanswered %d, dropped %d
CPU per settled payment: server %.3f ms, load and simulator %.3f ms; server's memory at most %.0f MiB
`, b.succeeded, seconds, rate, nearlyAll, inWindow, u.accept.Quantile(.5), u.accept.Quantile(.99), u.readyAfter.Quantile(.5), u.readyAfter.Quantile(.99),
		u.accepted.Load(), u.ready.Load(), u.final.Load(), u.late.Load(), u.refused.Load(), u.unanswered.Load(), u.dropped.Load(), serverMillis, ownMillis, b.peakMiB)
	b.spent.table(b.out, serverMillis)
	if b.top > 0 {
		top(b.out, b.functions, b.spent.total(), b.top)
	}
	byArea := map[string]any{}
	for a := range b.spent {
		byArea[a] = float64(b.spent.area(a)) / float64(b.spent.total()) * serverMillis
	}
	return map[string]any{"settled": b.succeeded, "settle_seconds": seconds, "settled_per_second": rate, "settled_per_second_offering": inWindow, "settled_per_second_999": nearlyAll,
		"offered_seconds": b.d.Seconds(), "users": u.count, "rate": u.rate, "accepted": u.accepted.Load(), "ready": u.ready.Load(),
		"refused": u.refused.Load(), "unanswered": u.unanswered.Load(), "dropped": u.dropped.Load(), "not_ready_in_time": u.late.Load(),
		"accept_p50_millis": millis(u.accept.Quantile(.5)), "accept_p99_millis": millis(u.accept.Quantile(.99)),
		"ready_p50_millis": millis(u.readyAfter.Quantile(.5)), "ready_p99_millis": millis(u.readyAfter.Quantile(.99)),
		"server_cpu_millis": serverMillis, "load_and_simulator_cpu_millis": ownMillis, "server_cpu_millis_by_area": byArea,
		"server_rss_peak_mib": b.peakMiB, "logged_errors": b.server.LoggedErrors(), "violations": len(b.violations)}
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
