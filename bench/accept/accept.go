package accept

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/internal/bus"
)

// ServerBench is the name by which the bench binary runs Server.
const ServerBench = "accept-server"

// The servers that take turns.
const (
	kindEcho    = "echo"    // the same bytes, nothing done
	kindGateway = "gateway" // the gateway alone
	kindAll     = "all"     // every role, draining to a PSP that answers at once
)

// bench is one run.
type bench struct {
	out         io.Writer
	dir         string
	binary      string // the product
	self        string // this program
	connections int
	rounds      int
	warm, width time.Duration
	sample      string // file of a 202 as the gateway writes it
	profiles    string // folder; empty for none
	onCluster   bool
	making      rig.ClusterConfig
	heat        time.Duration // of load on a cluster's gateway before the first turn
	cluster     *rig.Cluster  // nil on the embedded profile
	intents     *intents      // of the cluster
	windows     map[string][]window
	violations  []string
}

// Run is the bench.
func Run(ctx context.Context, fs *flag.FlagSet, args []string, out io.Writer) (map[string]any, error) {
	b := &bench{out: out, windows: map[string][]window{}}
	short := fs.Bool("short", false, "windows of 2 s instead of 5, and 5 s instead of 20 to get warm with -cluster")
	fs.IntVar(&b.connections, "c", 256, "keep-alive connections")
	fs.IntVar(&b.rounds, "rounds", 5, "turns of each server")
	only := fs.String("only", "", "some servers instead of all: echo, gateway, all (which is not there with -cluster)")
	fs.DurationVar(&b.width, "for", 5*time.Second, "length of a window")
	fs.StringVar(&b.profiles, "profiles", "", "folder to keep the servers' CPU profiles in; costs the server a little")
	fs.BoolVar(&b.onCluster, "cluster", false, "one gateway on Kafka, and Redis, instead of the embedded profile")
	fs.IntVar(&b.making.Groups, "groups", 16, "groups of the cluster")
	fs.DurationVar(&b.heat, "warm", 20*time.Second, "load before the first turn, with -cluster: Kafka's JVM compiles meanwhile")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	b.warm = time.Second
	if *short {
		b.warm, b.width, b.heat = time.Second/2, 2*time.Second, 5*time.Second
	}
	dir, remove, err := rig.TempDir("accept")
	if err != nil {
		return nil, err
	}
	defer remove()
	b.dir = dir
	kinds := []string{kindEcho, kindGateway, kindAll}
	if b.onCluster {
		kinds = kinds[:2]
	}
	if *only != "" {
		kinds = strings.Split(*only, ",")
	}
	if err := b.run(ctx, kinds); err != nil {
		return b.figures(), err
	}
	b.print(kinds)
	return b.figures(), rig.Join(b.violations)
}

// run gives every server its turns.
func (b *bench) run(ctx context.Context, kinds []string) (err error) {
	end, err := b.prepare(ctx)
	defer func() { err = errors.Join(err, end()) }()
	if err != nil {
		return err
	}
	for round := range b.rounds {
		for _, kind := range kinds {
			w, err := b.turn(ctx, kind, strconv.Itoa(round+1), b.width)
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			b.windows[kind] = append(b.windows[kind], w)
		}
	}
	return nil
}

// prepare builds the product, makes a cluster if there is to be one, takes a sample of
// the 202 for the echo, and warms the cluster up. end ends the cluster.
func (b *bench) prepare(ctx context.Context) (end func() error, err error) {
	end = func() error { return nil }
	if b.self, err = os.Executable(); err != nil {
		return end, err
	}
	if b.binary, err = rig.Build(ctx, b.dir); err != nil {
		return end, err
	}
	if b.onCluster {
		end, err = b.makeCluster(ctx)
		if err != nil {
			return end, err
		}
	}
	b.sample = filepath.Join(b.dir, "sample.http")
	f, p, err := b.start(ctx, kindGateway, "sample", nil)
	if err != nil {
		return end, err
	}
	raw, err := sampleOf(f)
	if err := errors.Join(err, p.Stop(30*time.Second)); err != nil {
		return end, err
	}
	if err := os.WriteFile(b.sample, raw, 0o600); err != nil || !b.onCluster {
		return end, err
	}
	if _, err := b.intents.news(ctx, func(*bus.Event) error { return nil }); err != nil || b.heat <= 0 {
		return end, err // the sample is no part of a turn
	}
	_, _ = fmt.Fprintf(b.out, "warming up for %s\n", b.heat)
	_, err = b.turn(ctx, kindGateway, "warm", b.heat)
	return end, err
}

// sampleOf asks for one payment and gives the raw response.
func sampleOf(f rig.Folder) ([]byte, error) {
	conn, err := net.Dial("tcp", f.Addr) //nolint:noctx // loopback
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // it was read
	r := newRequest(f.Addr, f.APIKey)
	r.set(0)
	if _, err := conn.Write(r.bytes); err != nil {
		return nil, err
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var buf bytes.Buffer
	for chunk := make([]byte, responseBytesMax); ; {
		n, err := conn.Read(chunk)
		buf.Write(chunk[:n])
		a := readAnswer(buf.Bytes())
		switch {
		case a.size > 0 && a.status != 202:
			return nil, fmt.Errorf("the gateway does not accept: %s", buf.Bytes())
		case a.size > 0:
			return buf.Bytes(), nil
		case err != nil:
			return nil, err
		}
	}
}

// start starts a server of a kind on a folder of its own, or the cluster's gateway.
func (b *bench) start(ctx context.Context, kind, name string, psp func(rig.Folder) error) (f rig.Folder, p *rig.Process, err error) {
	if b.onCluster && kind != kindEcho {
		return b.startGateway(ctx, kind)
	}
	if f, err = rig.MakeFolder(filepath.Join(b.dir, name)); err != nil {
		return f, nil, err
	}
	if psp != nil {
		if err := psp(f); err != nil {
			return f, nil, err
		}
	}
	// What is accepted may pile up: a bench of accepting is not one of draining.
	f.Env = append(f.Env, boundless...)
	log := filepath.Join(b.dir, name+".log")
	switch kind {
	case kindEcho:
		p, err = rig.Start(b.self, nil, log, ServerBench, "-json", "-echo", b.sample, "-listen", f.Addr, "-operator", f.OperatorAddr)
	case kindGateway:
		p, err = rig.Start(b.self, f.Env, log, ServerBench, "-json", "-data", f.Dir)
	case kindAll:
		p, err = rig.Start(b.binary, f.Env, log, "serve", "--data", f.Dir)
	default:
		err = fmt.Errorf("-only: no server %q", kind)
	}
	if err != nil {
		return f, nil, err
	}
	if err := p.Ready(ctx, f.Addr, 30*time.Second); err != nil {
		return f, nil, errors.Join(err, p.Stop(time.Second))
	}
	return f, p, nil
}

// turn loads one server, and checks what it kept.
func (b *bench) turn(ctx context.Context, kind, round string, width time.Duration) (w window, err error) {
	var psp func(rig.Folder) error
	stopPSP := func() error { return nil }
	if kind == kindAll {
		psp = func(f rig.Folder) (err error) {
			_, stopPSP, err = f.StartPSP(ctx, sim.Faults{AutoPayShare: 1, AutoPayDelayMillis: 20}, 1)
			return err
		}
	}
	name := kind + "-" + round
	f, p, err := b.start(ctx, kind, name, psp)
	if err != nil {
		return w, err
	}
	defer os.RemoveAll(filepath.Join(b.dir, name)) //nolint:errcheck // the whole folder goes later
	defer func() { err = errors.Join(err, stopPSP()) }()
	c, err := newClient(f.Addr, f.APIKey, b.connections, kind != kindEcho)
	if err != nil {
		return w, errors.Join(err, p.Stop(time.Second))
	}
	defer c.close()
	profiled := b.profile(ctx, f, name+".pprof", width)
	w, err = b.measure(ctx, c, p, f, width)
	err = errors.Join(err, <-profiled)
	if kind != kindEcho {
		err = errors.Join(err, backlog(ctx, &w, f))
	}
	if err := errors.Join(err, p.Stop(2*time.Minute)); err != nil {
		return w, err
	}
	if kind != kindEcho {
		if err := b.check(ctx, &w, f, c); err != nil {
			return w, err
		}
	}
	_, _ = fmt.Fprintf(b.out, "%s %-8s %7.0f req/s  p50 %5.2f ms  p99 %5.2f ms  server %5.1f µs and %5.1f allocations per accept", round, kind,
		w.perSecond, w.p50Millis, w.p99Millis, w.cpuMicros, w.allocs)
	if kind != kindEcho {
		_, _ = fmt.Fprintf(b.out, "  (%d accepted, all found: %d; 429 %d, 503 %d; %.0f in a commit; unread at the end: %.0f MiB)", w.accepted, w.checked,
			w.limited, w.shed, w.perCommit, w.unreadBytes/(1<<20))
	}
	if b.onCluster && kind != kindEcho {
		_, _ = fmt.Fprintf(b.out, "  Kafka %.1f µs (%.1f compile it), Redis %.1f µs", w.kafkaMicros, w.compilingMicros, w.redisMicros)
	}
	_, _ = fmt.Fprintln(b.out)
	return w, nil
}

// measure runs the load, and reads the server's figures around the window.
func (b *bench) measure(ctx context.Context, c *client, p *rig.Process, f rig.Folder, width time.Duration) (w window, err error) {
	done := make(chan error, 1)
	go func() { done <- c.run() }()
	sleep := func(d time.Duration) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-done:
			done <- err
			return fmt.Errorf("the load ended early: %w", err)
		case <-time.After(d):
			return nil
		}
	}
	err = sleep(b.warm)
	before, err1 := b.readings(ctx, p, f)
	start := time.Now()
	c.phase.Store(measuring)
	err = errors.Join(err, err1, sleep(width))
	c.phase.Store(stopping)
	took := time.Since(start)
	after, err2 := b.readings(ctx, p, f)
	if err := errors.Join(err, err2, <-done); err != nil {
		return w, err
	}
	n := float64(c.result.measured)
	r := &c.result
	micros := func(name string) float64 { return float64((after.cpu[name] - before.cpu[name]).Microseconds()) / n }
	return window{perSecond: n / took.Seconds(), p50Millis: millis(r.latency.Quantile(.5)), p99Millis: millis(r.latency.Quantile(.99)),
		cpuMicros: micros(theServer), allocs: (after.allocs - before.allocs) / n, perCommit: n / max(1, after.commits-before.commits),
		kafkaMicros: micros(rig.EngineKafka), compilingMicros: micros(rig.Compiling), redisMicros: micros(rig.EngineRedis), repeats: r.repeats, limited: r.limited, shed: r.shed}, nil
}

// theServer is the name of a turn's server in rig.CPU.
const theServer = "server"

// readings are what servers have come to at a moment.
type readings struct {
	cpu             rig.CPU
	allocs, commits float64
}

func (b *bench) readings(ctx context.Context, p *rig.Process, f rig.Folder) (r readings, err error) {
	figures, err := rig.ReadFigures(ctx, f.OperatorAddr)
	if err != nil {
		return r, err
	}
	r = readings{cpu: rig.CPU{}, allocs: figures["go_memstats_mallocs_total"], commits: figures[`tallystick_store_commits_total{area="intake"}`]}
	if b.onCluster {
		if r.cpu, err = b.cluster.CPU(); err != nil {
			return r, err
		}
	}
	r.cpu[theServer], err = p.CPU()
	return r, err
}

// profile takes a CPU profile of a server's window, if that is asked for.
func (b *bench) profile(ctx context.Context, f rig.Folder, name string, width time.Duration) <-chan error {
	done := make(chan error, 1)
	if b.profiles == "" {
		done <- nil
		return done
	}
	go func() {
		time.Sleep(b.warm)
		raw, err := rig.Profile(ctx, f.OperatorAddr, width)
		if err == nil {
			err = os.WriteFile(filepath.Join(b.profiles, name), raw, 0o600)
		}
		done <- err
	}()
	return done
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// backlog reads how much the server has accepted and not worked on.
func backlog(ctx context.Context, w *window, f rig.Folder) error {
	figures, err := rig.ReadFigures(ctx, f.OperatorAddr)
	w.unreadBytes = figures[`tallystick_intake_unread_bytes{topic="intents"}`]
	w.oldestUnread = figures[`tallystick_intake_oldest_unread_seconds{topic="intents"}`]
	return err
}

// check looks for every 202 of a turn in the stores.
func (b *bench) check(ctx context.Context, w *window, f rig.Folder, c *client) error {
	look := func() (*check, error) { return checkFolder(ctx, f, c.result.fates) }
	if b.onCluster {
		look = func() (k *check, err error) {
			k, w.perCommit, err = checkTopic(ctx, b.intents, c.result.fates)
			return k, err
		}
	}
	checked, err := look()
	if err != nil {
		return err
	}
	for n := range c.result.fates {
		if c.result.fates[n].status == 202 {
			w.accepted++
			if checked.found[n] {
				w.checked++
			}
		}
	}
	w.inCore = checked.inCore
	b.violations = append(b.violations, checked.violations...)
	if c.result.mismatched > 0 {
		b.violations = append(b.violations, fmt.Sprintf("%d repeats of a key got another voucher", c.result.mismatched))
	}
	for status, n := range c.result.other {
		b.violations = append(b.violations, fmt.Sprintf("%d requests were answered with %d", n, status))
	}
	if w.repeats == 0 {
		b.violations = append(b.violations, "no repeat was made: the run is too short for its 1 %")
	}
	return nil
}
