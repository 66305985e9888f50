package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
)

// bench is one run.
type bench struct {
	out       io.Writer
	d         time.Duration
	users     users
	top       int
	profile   string // file to keep the profile in
	least     float64
	keep      string // folder to leave the stores in
	onCluster bool
	making    rig.ClusterConfig
	warm      time.Duration // of load on a cluster before anything is measured

	cluster *rig.Cluster // nil on the embedded profile
	folder  rig.Folder
	servers []server
	psp     *sim.Sim

	warmed     *users // nil if nothing was warmed up
	course     *course
	cpu0, cpu1 rig.CPU
	peakMiB    float64
	spent      spent
	functions  []function
	succeeded  int64
	violations []string
}

// Run is the bench.
func Run(ctx context.Context, fs *flag.FlagSet, args []string, out io.Writer) (map[string]any, error) {
	b := &bench{out: out}
	short := fs.Bool("short", false, "offer for 10 s instead of 60, and 5 s instead of 30 to get warm with -cluster")
	fs.DurationVar(&b.d, "for", time.Minute, "how long payments are offered")
	fs.IntVar(&b.users.count, "users", 2048, "payments that are not ready yet, at most")
	fs.Float64Var(&b.users.rate, "rate", 0, "offer at a constant rate per second; 0: as many as the users can")
	fs.IntVar(&b.top, "top", 0, "print so many functions with the most CPU")
	fs.StringVar(&b.profile, "profile", "", "file to keep the CPU profile of our processes in")
	fs.Float64Var(&b.least, "least", 0, "fail below so many settled payments per second")
	fs.StringVar(&b.keep, "keep", "", "new folder in which to keep the data, to look at afterwards; not with -cluster")
	fs.BoolVar(&b.onCluster, "cluster", false, "on Kafka, PostgreSQL and Redis, with processes of each role, instead of the embedded profile")
	b.making.Flags(fs, 1)
	fs.DurationVar(&b.warm, "warm", 30*time.Second, "load before anything is measured, with -cluster: Kafka's JVM compiles meanwhile")
	seed := fs.Uint64("seed", 1, "seed of the orders and of the PSP's faults")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if b.onCluster && b.keep != "" {
		return nil, errors.New("-keep: with -cluster the data is in engines that end with the bench")
	}
	if *short {
		b.d, b.warm = 10*time.Second, 5*time.Second
	}
	dir, remove, err := rig.TempDir("e2e")
	if err != nil {
		return nil, err
	}
	defer remove()
	if err := b.run(ctx, dir, *seed); err != nil {
		return nil, err
	}
	figures := b.report()
	if rate := figures["settled_per_second"].(float64); rate < b.least {
		b.violations = append(b.violations, fmt.Sprintf("%.0f settled payments per second are under %.0f", rate, b.least))
	}
	return figures, rig.Join(b.violations)
}

// run starts everything, measures, ends the servers, and verifies what they left.
func (b *bench) run(ctx context.Context, dir string, seed uint64) (err error) {
	stop, engines, err := b.start(ctx, dir, seed)
	defer func() { err = errors.Join(err, engines()) }()
	if err == nil {
		err = b.measure(ctx, seed)
	}
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	return b.verify(ctx)
}

// measure runs the load until all that it accepted has ended; on a cluster after a
// warm-up.
func (b *bench) measure(ctx context.Context, seed uint64) (err error) {
	if b.onCluster && b.warm > 0 {
		_, _ = fmt.Fprintf(b.out, "warming up for %s, %d users\n", b.warm, b.users.count)
		b.warmed = &users{client: b.users.client, count: b.users.count, rate: b.users.rate, order: load.Orders(seed + 1)}
		if _, err := b.offer(ctx, b.warmed, b.warm); err != nil {
			return err
		}
	}
	if b.cpu0, err = b.cpu(); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(b.out, "offering for %s, %d users\n", b.d, b.users.count)
	profiled := make(chan error, 1)
	go func() { profiled <- b.takeProfile(ctx) }()
	if b.course, err = b.offer(ctx, &b.users, b.d); err != nil {
		return err
	}
	b.cpu1, err = b.cpu()
	for _, s := range b.servers {
		peak, err2 := s.PeakRSS()
		b.peakMiB, err = b.peakMiB+float64(peak)/(1<<20), errors.Join(err, err2)
	}
	return errors.Join(err, <-profiled)
}

// report prints what was measured, and gives the figures.
func (b *bench) report() map[string]any {
	u := &b.users
	first := time.Unix(0, u.first.Load())
	seconds, n := b.course.lastPosting.Sub(first).Seconds(), float64(b.succeeded)
	rate := n / seconds
	nearly := b.course.postedBy()
	nearlyAll := float64(nearly.posted) / nearly.at.Sub(first).Seconds()
	inWindow := float64(b.course.postedAtEnd) / b.course.offeringEnded.Sub(first).Seconds()
	figures := map[string]any{"cluster": b.onCluster}
	millisOf := func(name string) float64 { return 1e3 * (b.cpu1[name] - b.cpu0[name]).Seconds() / n }
	serverMillis, ownMillis := millisOf(theServer), millisOf(rig.Ourselves)
	if b.onCluster {
		figures["each"], figures["databases"], figures["groups"], figures["warm_seconds"] = b.making.Each, b.making.Databases, b.making.Groups, b.warm.Seconds()
		var engines float64
		serverMillis, engines = b.cpu1.Tell(b.out, b.cpu0, n, figures)
		_, _ = fmt.Fprintf(b.out, "CPU per settled payment: %.3f ms of ours, %.3f ms of engines\n", serverMillis, engines)
	}
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
	maps.Copy(figures, map[string]any{"settled": b.succeeded, "settle_seconds": seconds, "settled_per_second": rate, "settled_per_second_offering": inWindow, "settled_per_second_999": nearlyAll,
		"offered_seconds": b.d.Seconds(), "users": u.count, "rate": u.rate, "accepted": u.accepted.Load(), "ready": u.ready.Load(),
		"refused": u.refused.Load(), "unanswered": u.unanswered.Load(), "dropped": u.dropped.Load(), "not_ready_in_time": u.late.Load(),
		"accept_p50_millis": millis(u.accept.Quantile(.5)), "accept_p99_millis": millis(u.accept.Quantile(.99)),
		"ready_p50_millis": millis(u.readyAfter.Quantile(.5)), "ready_p99_millis": millis(u.readyAfter.Quantile(.99)),
		"server_cpu_millis": serverMillis, "load_and_simulator_cpu_millis": ownMillis, "server_cpu_millis_by_area": byArea,
		"server_rss_peak_mib": b.peakMiB, "logged_errors": b.loggedErrors(), "violations": len(b.violations)})
	return figures
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
