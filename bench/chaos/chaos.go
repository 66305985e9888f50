package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
)

// bench is one run.
type bench struct {
	out    io.Writer
	rate   float64
	hold   time.Duration // how long a trouble lasts
	calm   time.Duration // before each
	report string
	disk   string // a small file system for the database
	chosen func(trouble string) bool
	// allowLeftOut: those that the machine does not allow are left out.
	allowLeftOut bool
	// patient is for a machine that does other things as well: what is promised is held to,
	// but not how soon.
	patient bool

	cluster *rig.Cluster
	psp     *sim.Sim
	pspLink *rig.Link // on the way to it
	shop    *shop
	usual   float64 // payments that are open in calm times
	results []result
	leftOut []string  // troubles that the machine does not allow
	late    []sim.Key // calls that came to the PSP when others had taken over
	failed  []string
}

// result is what one trouble came to.
type result struct {
	Name           string   `json:"name"`
	Seconds        float64  `json:"seconds"` // that it lasted
	Offered        int      `json:"offered"`
	Accepted       int      `json:"accepted"`
	Refused        int      `json:"refused"`
	Unknown        int      `json:"unknown"`
	Late           int      `json:"late"`
	Elsewhere      int      `json:"elsewhere"`
	Wrong          int      `json:"wrong"` // this and the next two also while what had piled up was worked off
	Cut            int      `json:"cut"`
	Unreached      int      `json:"unreached"`
	SlowestMillis  float64  `json:"slowest_millis"`
	Reads          readings `json:"reads"` // also while what had piled up was worked off
	AcceptsAfter   float64  `json:"accepting_again_after_seconds"`
	DrainedAfter   float64  `json:"backlog_drained_after_seconds"`
	from, to, calm time.Time
	failed         failures
}

// Failed is how many requests came to what none may come to.
func (r *result) Failed() int { return r.failed.sum() }

// drainMax is how long what has piled up may take.
const drainMax = 3 * time.Minute

// Run is the bench.
func Run(ctx context.Context, fs *flag.FlagSet, args []string, out io.Writer) (map[string]any, error) {
	b := &bench{out: out}
	short := fs.Bool("short", false, "each trouble lasts for 10 s instead of 30, at half the rate")
	fs.Float64Var(&b.rate, "rate", 200, "payments per second")
	fs.DurationVar(&b.hold, "hold", 30*time.Second, "how long each trouble lasts")
	fs.StringVar(&b.report, "report", "", "file for the report with its chart (HTML)")
	only := fs.String("only", "", "only troubles whose name has this in it")
	fs.BoolVar(&b.allowLeftOut, "allow-left-out", false, "do without the troubles that this machine does not allow")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	b.chosen = func(trouble string) bool { return strings.Contains(trouble, *only) }
	b.calm = 8 * time.Second
	if *short {
		b.rate, b.hold, b.calm = b.rate/2, 10*time.Second, 4*time.Second
	}
	err := b.all(ctx)
	return b.figures(), err
}

// all is the whole of it, in a folder of its own.
func (b *bench) all(ctx context.Context) error {
	dir, remove, err := rig.TempDir("chaos")
	if err != nil {
		return err
	}
	defer remove()
	unmount, err := b.mount(filepath.Join(dir, "disk"))
	if err != nil {
		if err := b.leaveOut(diskFull, err); err != nil {
			return err
		}
	}
	defer unmount()
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // the database's user passes through
		return err
	}
	return b.run(ctx, dir)
}

// mount makes a small file system for the database, which not everybody may.
func (b *bench) mount(dir string) (unmount func(), err error) {
	unmount = func() {}
	if err := os.Mkdir(dir, 0o711); err != nil { //nolint:gosec // as above
		return unmount, err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3g,mode=0711"); err != nil {
		return unmount, fmt.Errorf("mount a file system of its own: %w", err)
	}
	b.disk = dir
	return func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }, nil
}

// leaveOut is for a trouble that this machine does not allow. It must be allowed to be
// left out: what is not shown is not shown.
func (b *bench) leaveOut(trouble string, why error) error {
	if !b.chosen(trouble) {
		return nil
	}
	b.leftOut = append(b.leftOut, trouble)
	if !b.allowLeftOut {
		return fmt.Errorf("%s cannot be shown here: %w; -allow-left-out does without", trouble, why)
	}
	b.print("LEFT OUT: %s: %v", trouble, why)
	return nil
}

func (b *bench) run(ctx context.Context, dir string) (err error) {
	exe, err := rig.Build(ctx, dir)
	if err != nil {
		return err
	}
	b.print("starting engines and two processes of each role")
	cfg := rig.ClusterConfig{Dir: dir, Exe: exe, Each: 2, Databases: 1, Groups: groups, Brief: b.patient, Linked: true, Env: []string{"TALLYSTICK_LEASE_TTL=3s", "TALLYSTICK_POSTGRES_IDLE_TIMEOUT=3s",
		"TALLYSTICK_PREPAY_BACKOFF_POLL_FIRST_MILLIS=5000", "TALLYSTICK_PREPAY_BACKOFF_MAX_MILLIS=5000"}}
	if b.patient {
		cfg.Env = append(cfg.Env, "TALLYSTICK_API_ACCEPT_TIMEOUT=20s", "TALLYSTICK_API_ACCEPT_DEADLINE=30s")
	}
	if b.disk != "" {
		cfg.PostgresDirs = []string{b.disk}
	}
	b.cluster, err = rig.NewCluster(ctx, cfg)
	defer func() { err = errors.Join(err, b.cluster.Close()) }()
	if err != nil {
		return err
	}
	psp, stop, err := b.cluster.StartPSP(ctx, sim.Faults{LatencyBaseMillis: 20, LatencyTailMillis: 30, LatencyMaxMillis: 500, AutoPayShare: 1,
		AutoPayDelayMillis: 200, LostReplyShare: .01, DuplicateCallbackShare: .02, EarlyCallbackShare: .01}, 1)
	if err != nil {
		return err
	}
	b.psp = psp
	defer func() { err = errors.Join(err, stop()) }()
	unlink, err := b.linkPSP(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlink()) }()
	if err := b.cluster.Start(ctx); err != nil {
		return err
	}
	return b.trouble(ctx)
}

// trouble offers payments and lets one thing after the other go wrong.
func (b *bench) trouble(ctx context.Context) error {
	troubles := slices.DeleteFunc(b.troubles(), func(t trouble) bool { return !b.chosen(t.name) })
	if len(troubles) == 0 {
		return errors.New("no trouble has such a name")
	}
	b.shop = newShop(newClient(b.cluster.Addrs(), b.cluster.APIKey), b.rate)
	offering, closeShop := context.WithCancel(ctx)
	shopClosed := make(chan struct{})
	go func() {
		defer close(shopClosed)
		b.shop.run(offering, time.Minute)
	}()
	defer closeShop()
	go b.watch(offering)
	for _, t := range troubles {
		if err := b.one(ctx, t); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	closeShop()
	<-shopClosed
	b.measureRest()
	if err := b.judge(ctx); err != nil {
		return err
	}
	if b.report != "" {
		if err := b.writeReport(); err != nil {
			return err
		}
		b.print("report: %s", b.report)
	}
	return rig.Join(b.failed)
}

// one lets one thing go wrong, and waits until nothing of it is left.
func (b *bench) one(ctx context.Context, t trouble) error {
	if err := pause(ctx, b.calm); err != nil {
		return err
	}
	b.usual = max(b.usual, b.open(ctx))
	r := result{Name: t.name, from: time.Now()}
	if err := t.begin(ctx); err != nil {
		return err
	}
	if left := b.hold - time.Since(r.from); left > 0 && !t.over {
		if err := pause(ctx, left); err != nil {
			return err
		}
	}
	r.to = time.Now()
	if err := t.end(ctx); err != nil {
		return err
	}
	back := time.Now() // the engine answers
	if err := b.drained(ctx, back); err != nil {
		b.fail("%s: %v", t.name, err)
	}
	r.calm = time.Now()
	if t.after != nil {
		if err := t.after(ctx); err != nil {
			b.fail("%s: %v", t.name, err)
		}
	}
	r.DrainedAfter, r.Seconds = r.calm.Sub(back).Seconds(), r.to.Sub(r.from).Seconds()
	b.measure(t, &r, back)
	b.results = append(b.results, r)
	b.print("%-26s %3.0f s: offered %d, accepted %d, refused %d, unknown %d, wrong %d, cut %d, unreached %d, to another gateway %d, later than 1 s %d (slowest %.0f ms); accepting %.1f s after, backlog drained %.1f s after; questions asked %v, refused %v, failed %v, to another gateway %d",
		r.Name, r.Seconds, r.Offered, r.Accepted, r.Refused, r.Unknown, r.Wrong, r.Cut, r.Unreached, r.Elsewhere, r.Late, r.SlowestMillis, r.AcceptsAfter, r.DrainedAfter, r.Reads.Asked, r.Reads.Refused, r.Reads.Failed, r.Reads.Elsewhere)
	return nil
}

// measure holds what clients saw against what was promised to them.
func (b *bench) measure(t trouble, r *result, back time.Time) {
	seen := b.shop.between(r.from, r.to)
	r.Offered, r.Accepted, r.Refused, r.Unknown, r.Late = seen.Offered, seen.Accepted, seen.Refused, seen.Unknown, seen.Late
	r.SlowestMillis, r.Elsewhere = float64(seen.slowest.Microseconds())/1000, seen.Elsewhere
	r.failed = b.shop.between(r.from, r.calm).failures
	r.Wrong, r.Cut, r.Unreached = r.failed.Wrong, r.failed.Cut, r.failed.Unreached
	r.Reads = b.shop.readBetween(r.from, r.calm)
	after, _ := b.shop.acceptingSince(back)
	r.AcceptsAfter = after.Seconds()
	for _, what := range t.promise.broken(r, !b.patient) {
		b.fail("%s: %s", t.name, what)
	}
}

// measureRest is for what must not be between the troubles either.
func (b *bench) measureRest() {
	rest := b.shop.between(b.shop.begun, time.Now()).failures
	reads := b.shop.readBetween(b.shop.begun, time.Now())
	failed := sumOf(reads.Failed)
	for _, r := range b.results {
		rest.Wrong, rest.Cut, rest.Unreached = rest.Wrong-r.Wrong, rest.Cut-r.Cut, rest.Unreached-r.Unreached
		failed -= sumOf(r.Reads.Failed)
	}
	if rest.sum() > 0 {
		b.fail("between the troubles: %s", rest)
	}
	if failed > 0 {
		b.fail("between the troubles: %d questions came to what must not be, such as %s", failed, reads.failure)
	}
}

func (b *bench) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.print("NOT AS PROMISED: %s", text)
	b.failed = append(b.failed, text)
}

func (b *bench) print(format string, args ...any) { _, _ = fmt.Fprintf(b.out, format+"\n", args...) }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (b *bench) open(ctx context.Context) float64 {
	n, _ := b.cluster.Sum(ctx, "tallystick_core_open_payments", app.RoleCore)
	return n
}

// groups are those of the installation, each at work in the areas core, prepay and
// accounting.
const groups, areas = 16, 3

// drained waits until no more is open and unread than usual, every client has been told
// a voucher, and everything is accepted again.
func (b *bench) drained(ctx context.Context, back time.Time) error {
	for begun := time.Now(); time.Since(begun) < drainMax; {
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return err
		}
		open, silent := b.cluster.Sum(ctx, "tallystick_core_open_payments", app.RoleCore)
		lag, dumb := b.cluster.Sum(ctx, "tallystick_consumer_lag")
		// What nobody is on duty for shows no lag.
		atWork, mute := b.cluster.Sum(ctx, "tallystick_lease_groups")
		b.shop.mu.Lock()
		waiting := b.shop.waiting
		b.shop.mu.Unlock()
		_, accepts := b.shop.acceptingSince(back)
		if accepts && silent+dumb+mute == 0 && atWork == float64(groups*areas) && open <= b.usual*1.5+b.rate/2 && lag <= 2*b.rate && waiting <= int(b.rate/4) {
			return nil
		}
	}
	return fmt.Errorf("what had piled up was not worked off within %s", drainMax)
}

// watch counts what is booked, every second.
func (b *bench) watch(ctx context.Context) {
	last := map[string]float64{}
	for pause(ctx, time.Second) == nil {
		more := 0.0
		for _, m := range b.cluster.Members(app.RoleAccounting) {
			bounded, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			f, err := rig.ReadFigures(bounded, m.OperatorAddr)
			cancel()
			if err != nil {
				continue
			}
			now := f[`tallystick_accounting_entries_total{result="posted"}`]
			if now > last[m.Name] { // less: it was restarted
				more += now - last[m.Name]
			}
			last[m.Name] = now
		}
		b.shop.settled(int(more))
	}
}
