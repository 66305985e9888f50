// Package cluster measures the cluster profile on one machine: how soon a voucher is
// ready through three relayed hops, how many payments are settled, and what each
// costs, by role and by engine.
package cluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
)

// bench is one run.
type bench struct {
	out io.Writer
	rig.ClusterConfig
	rate    float64
	d, warm time.Duration
	profile string

	cluster *rig.Cluster
	driver  *load.Driver
	figures map[string]any
}

// drainMax is how long everything may take to end after the last accept.
const drainMax = 2 * time.Minute

// Run is the bench.
func Run(ctx context.Context, fs *flag.FlagSet, args []string, out io.Writer) (map[string]any, error) {
	b := &bench{out: out, figures: map[string]any{}}
	short := fs.Bool("short", false, "offer for 10 s instead of 40, and 5 s instead of 30 to get warm")
	b.Flags(fs, 2)
	fs.Float64Var(&b.rate, "rate", 200, "payments per second")
	fs.DurationVar(&b.d, "for", 40*time.Second, "how long they are offered")
	fs.DurationVar(&b.warm, "warm", 30*time.Second, "how long they are offered before anything is measured: a JVM that has just started compiles as much as it works")
	grow := fs.Bool("scale", false, "1, 2 and 4 processes of each role and 2 databases, each with as much load for each process: the CPU of a payment may not grow by more than a tenth; -rate is that of the largest")
	fs.StringVar(&b.profile, "profile", "", "roles, with commas, to take CPU profiles of: the first of each one's processes, into ROLE.pprof")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if *short {
		b.d, b.warm = 10*time.Second, 5*time.Second
	}
	if *grow {
		if b.profile != "" {
			return nil, errors.New("bench cluster: -profile goes without -scale: each size would write the same files")
		}
		return scale(ctx, *b)
	}
	return b.figures, b.alone(ctx)
}

// alone runs in a folder of its own.
func (b *bench) alone(ctx context.Context) error {
	dir, remove, err := rig.TempDir("cluster")
	if err != nil {
		return err
	}
	defer remove()
	b.Dir = dir
	return b.run(ctx)
}

// run starts everything, measures, and ends everything.
func (b *bench) run(ctx context.Context) (err error) {
	if b.Exe, err = rig.Build(ctx, b.Dir); err != nil {
		return err
	}
	b.print("starting engines (%d PostgreSQL), and %d processes of each role", b.Databases, b.Each)
	b.cluster, err = rig.NewCluster(ctx, b.ClusterConfig)
	defer func() { err = errors.Join(err, b.cluster.Close()) }()
	if err != nil {
		return err
	}
	// The PSP answers at once, and its payers pay at once.
	_, stop, err := b.cluster.StartPSP(ctx, sim.Faults{AutoPayShare: 1}, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := b.cluster.Start(ctx); err != nil {
		return err
	}
	return b.measure(ctx)
}

func (b *bench) print(format string, args ...any) { _, _ = fmt.Fprintf(b.out, format+"\n", args...) }

func (b *bench) drive(ctx context.Context, seed uint64, d time.Duration) *load.Driver {
	driver := &load.Driver{Client: load.NewClient(b.cluster.Addrs(), b.cluster.APIKey, 8192), Rate: b.rate, For: d, InFlightMax: 50_000,
		Order: load.Orders(seed), FollowMax: d + drainMax}
	driver.Run(ctx)
	return driver
}

// posted is how many entries were booked so far, by all processes.
func (b *bench) posted(ctx context.Context) (float64, error) {
	f, err := rig.SumFigures(ctx, b.cluster.OperatorAddrs(app.RoleAccounting)...)
	return f[`tallystick_accounting_entries_total{result="posted"}`], err
}

// settled waits until so many are booked, and says whether they were.
func (b *bench) settled(ctx context.Context, want float64) (bool, error) {
	for begun := time.Now(); time.Since(begun) < drainMax; {
		n, err := b.posted(ctx)
		if err != nil || n >= want {
			return err == nil, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false, nil
}

func (b *bench) measure(ctx context.Context) error {
	b.print("offering %.0f/s for %s to get warm", b.rate, b.warm)
	warm := b.drive(ctx, 1, b.warm)
	before := float64(warm.Stats.Paid.Load())
	if ok, err := b.settled(ctx, before); !ok {
		return errors.Join(err, errors.New("what warmed it up was not settled"))
	}
	used, err := b.cluster.CPU()
	if err != nil {
		return err
	}
	for role := range strings.SplitSeq(b.profile, ",") {
		if role != "" {
			go b.takeProfile(ctx, app.Role(role))
		}
	}
	begun := time.Now()
	b.driver = b.drive(ctx, 2, b.d)
	s := &b.driver.Stats
	if ok, err := b.settled(ctx, before+float64(s.Paid.Load())); !ok {
		return errors.Join(err, fmt.Errorf("of %d payments not all were settled", s.Paid.Load()))
	}
	took := time.Since(begun)
	after, err := b.cluster.CPU()
	if err != nil {
		return err
	}
	b.tell(took, used, after)
	return b.verify(ctx)
}

func (b *bench) takeProfile(ctx context.Context, role app.Role) {
	members := b.cluster.Members(role)
	if len(members) == 0 {
		b.print("no role %s", role)
		return
	}
	text, err := rig.Profile(ctx, members[0].OperatorAddr, b.d)
	if err == nil {
		err = os.WriteFile(string(role)+".pprof", text, 0o600)
	}
	if err != nil {
		b.print("no profile: %v", err)
	}
}

// tell prints and keeps the figures.
func (b *bench) tell(took time.Duration, before, after rig.CPU) {
	s := &b.driver.Stats
	paid := float64(s.Paid.Load())
	millis := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.figures["each"], b.figures["databases"], b.figures["groups"], b.figures["rate"] = b.Each, b.Databases, b.Groups, b.rate
	b.figures["offered"], b.figures["accepted"], b.figures["settled"] = s.Offered.Load(), s.Accepted.Load(), s.Paid.Load()
	b.figures["refused"], b.figures["unanswered"] = s.Refused.Load(), s.Unanswered.Load()
	b.figures["settled_per_second"] = paid / took.Seconds()
	for name, h := range map[string]*load.Histogram{"accept": &s.Accept, "ready": &s.ReadyAfter} {
		b.figures[name+"_p50_millis"], b.figures[name+"_p99_millis"] = millis(h.Quantile(.5)), millis(h.Quantile(.99))
	}
	servers, engines := after.Tell(b.out, before, paid, b.figures)
	b.print("offered %.0f/s for %s: %d accepted, %.0f settled, %.0f/s from the first accept to the last posting; %.2f ms CPU of ours and %.2f ms of engines each",
		b.rate, b.d, s.Accepted.Load(), paid, paid/took.Seconds(), servers, engines)
	b.print("accepted in p50 %.1f ms, p99 %.1f ms; ready in p50 %.1f ms, p99 %.1f ms", b.figures["accept_p50_millis"], b.figures["accept_p99_millis"],
		b.figures["ready_p50_millis"], b.figures["ready_p99_millis"])
}

func (b *bench) verify(ctx context.Context) error {
	all, err := b.cluster.Databases(ctx)
	if err != nil {
		return err
	}
	defer all.Close() //nolint:errcheck // it was read
	if err := b.cluster.Stop(); err != nil {
		return err
	}
	v, err := all.Verify(ctx)
	if err != nil {
		return err
	}
	b.figures["violations"] = len(v.Violations)
	return rig.Join(v.Violations)
}
