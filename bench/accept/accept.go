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
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
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
	windows     map[string][]window
	violations  []string
}

// window is what one server came to in one turn.
type window struct {
	perSecond, p50Millis, p99Millis  float64
	cpuMicros, allocs                float64 // of the server, per accept
	perCommit                        float64 // accepts
	accepted, repeats, limited, shed int
	checked, inCore                  int
	unreadBytes, oldestUnread        float64 // at the end of the load
}

// Run is the bench.
func Run(ctx context.Context, fs *flag.FlagSet, args []string, out io.Writer) (map[string]any, error) {
	b := &bench{out: out, windows: map[string][]window{}}
	short := fs.Bool("short", false, "windows of 2 s instead of 5")
	fs.IntVar(&b.connections, "c", 256, "keep-alive connections")
	fs.IntVar(&b.rounds, "rounds", 5, "turns of each server")
	only := fs.String("only", "", "some servers instead of all: echo, gateway, all")
	fs.DurationVar(&b.width, "for", 5*time.Second, "length of a window")
	fs.StringVar(&b.profiles, "profiles", "", "folder to keep the servers' CPU profiles in; costs the server a little")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	b.warm = time.Second
	if *short {
		b.warm, b.width = time.Second/2, 2*time.Second
	}
	dir, remove, err := rig.TempDir("accept")
	if err != nil {
		return nil, err
	}
	defer remove()
	b.dir = dir
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	kinds := []string{kindEcho, kindGateway, kindAll}
	if *only != "" {
		kinds = strings.Split(*only, ",")
	}
	for round := range b.rounds {
		for _, kind := range kinds {
			if err := b.turn(ctx, kind, round); err != nil {
				return b.figures(), fmt.Errorf("%s: %w", kind, err)
			}
		}
	}
	b.print(kinds)
	return b.figures(), rig.Join(b.violations)
}

// prepare builds the product and takes a sample of its 202 for the echo.
func (b *bench) prepare(ctx context.Context) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.binary, err = rig.Build(ctx, b.dir); err != nil {
		return err
	}
	b.sample = filepath.Join(b.dir, "sample.http")
	f, p, err := b.start(ctx, kindGateway, "sample", nil)
	if err != nil {
		return err
	}
	raw, err := sampleOf(f)
	if err := errors.Join(err, p.Stop(30*time.Second)); err != nil {
		return err
	}
	return os.WriteFile(b.sample, raw, 0o600)
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

// start starts a server of a kind on a folder of its own.
func (b *bench) start(ctx context.Context, kind, name string, psp func(rig.Folder) error) (f rig.Folder, p *rig.Process, err error) {
	if f, err = rig.MakeFolder(filepath.Join(b.dir, name)); err != nil {
		return f, nil, err
	}
	if psp != nil {
		if err := psp(f); err != nil {
			return f, nil, err
		}
	}
	// What is accepted may pile up: a bench of accepting is not one of draining.
	f.Env = append(f.Env, "TALLYSTICK_INTAKE_UNREAD_BYTES_MAX=17179869184", "TALLYSTICK_INTAKE_UNREAD_AGE_MAX=1h")
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

// turn loads one server and checks what it kept.
func (b *bench) turn(ctx context.Context, kind string, round int) (err error) {
	var psp func(rig.Folder) error
	stopPSP := func() error { return nil }
	if kind == kindAll {
		psp = func(f rig.Folder) (err error) {
			_, stopPSP, err = f.StartPSP(ctx, sim.Faults{AutoPayShare: 1, AutoPayDelayMillis: 20}, 1)
			return err
		}
	}
	f, p, err := b.start(ctx, kind, fmt.Sprintf("%s-%d", kind, round), psp)
	if err != nil {
		return err
	}
	defer os.RemoveAll(f.Dir) //nolint:errcheck // the whole folder goes later
	defer func() { err = errors.Join(err, stopPSP()) }()
	c, err := newClient(f.Addr, f.APIKey, b.connections, kind != kindEcho)
	if err != nil {
		return errors.Join(err, p.Stop(time.Second))
	}
	defer c.close()
	profiled := b.profile(ctx, f, fmt.Sprintf("%s-%d.pprof", kind, round+1))
	w, err := b.measure(ctx, c, p, f)
	err = errors.Join(err, <-profiled)
	if kind != kindEcho {
		err = errors.Join(err, backlog(ctx, &w, f))
	}
	if err := errors.Join(err, p.Stop(2*time.Minute)); err != nil {
		return err
	}
	if kind != kindEcho {
		if err := b.check(ctx, &w, f, c); err != nil {
			return err
		}
	}
	b.windows[kind] = append(b.windows[kind], w)
	_, _ = fmt.Fprintf(b.out, "%d %-8s %7.0f req/s  p50 %5.2f ms  p99 %5.2f ms  server %5.1f µs and %5.1f allocations per accept", round+1, kind,
		w.perSecond, w.p50Millis, w.p99Millis, w.cpuMicros, w.allocs)
	if kind != kindEcho {
		_, _ = fmt.Fprintf(b.out, "  (%d accepted, all found: %d; 429 %d, 503 %d; %.0f in a commit; unread at the end: %.0f MiB)", w.accepted, w.checked,
			w.limited, w.shed, w.perCommit, w.unreadBytes/(1<<20))
	}
	_, _ = fmt.Fprintln(b.out)
	return nil
}

// measure runs the load, and reads the server's figures around the window.
func (b *bench) measure(ctx context.Context, c *client, p *rig.Process, f rig.Folder) (w window, err error) {
	done := make(chan error, 1)
	go func() { done <- c.run() }()
	read := func() (cpu time.Duration, allocs, commits float64, err error) {
		figures, err := rig.ReadFigures(ctx, f.OperatorAddr)
		if err != nil {
			return 0, 0, 0, err
		}
		cpu, err = p.CPU()
		return cpu, figures["go_memstats_mallocs_total"], figures[`tallystick_store_commits_total{area="intake"}`], err
	}
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
	cpu0, allocs0, commits0, err1 := read()
	start := time.Now()
	c.phase.Store(measuring)
	err = errors.Join(err, err1, sleep(b.width))
	c.phase.Store(stopping)
	took := time.Since(start)
	cpu1, allocs1, commits1, err2 := read()
	if err := errors.Join(err, err2, <-done); err != nil {
		return w, err
	}
	n := float64(c.result.measured)
	r := &c.result
	return window{perSecond: n / took.Seconds(), p50Millis: millis(r.latency.Quantile(.5)), p99Millis: millis(r.latency.Quantile(.99)),
		cpuMicros: float64((cpu1 - cpu0).Microseconds()) / n, allocs: (allocs1 - allocs0) / n, perCommit: n / max(1, commits1-commits0), repeats: r.repeats, limited: r.limited, shed: r.shed}, nil
}

// profile takes a CPU profile of a server's window, if that is asked for.
func (b *bench) profile(ctx context.Context, f rig.Folder, name string) <-chan error {
	done := make(chan error, 1)
	if b.profiles == "" {
		done <- nil
		return done
	}
	go func() {
		time.Sleep(b.warm)
		raw, err := rig.Profile(ctx, f.OperatorAddr, b.width)
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
	checked, err := checkFolder(ctx, f, c.result.fates)
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

// median is of one figure over the turns of a kind.
func (b *bench) median(kind string, of func(window) float64) float64 {
	values := make([]float64, 0, b.rounds)
	for _, w := range b.windows[kind] {
		values = append(values, of(w))
	}
	return median(values)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// ratio is the median, over the turns, of a figure of a kind over the echo's.
func (b *bench) ratio(kind string, of func(window) float64) float64 {
	var ratios []float64
	for i := range min(len(b.windows[kind]), len(b.windows[kindEcho])) {
		ratios = append(ratios, of(b.windows[kind][i])/of(b.windows[kindEcho][i]))
	}
	return median(ratios)
}

func perSecond(w window) float64 { return w.perSecond }
func cpuMicros(w window) float64 { return w.cpuMicros }

func (b *bench) figures() map[string]any {
	out := map[string]any{"connections": b.connections, "rounds": b.rounds, "window_seconds": b.width.Seconds()}
	for kind := range b.windows {
		out[kind+"_per_second"] = b.median(kind, perSecond)
		out[kind+"_p50_millis"] = b.median(kind, func(w window) float64 { return w.p50Millis })
		out[kind+"_p99_millis"] = b.median(kind, func(w window) float64 { return w.p99Millis })
		out[kind+"_server_cpu_micros"] = b.median(kind, cpuMicros)
		out[kind+"_allocs"] = b.median(kind, func(w window) float64 { return w.allocs })
		if kind == kindEcho {
			continue
		}
		out[kind+"_per_commit"] = b.median(kind, func(w window) float64 { return w.perCommit })
		total := window{}
		for _, w := range b.windows[kind] {
			total.accepted += w.accepted
			total.checked += w.checked
			total.inCore += w.inCore
			total.repeats += w.repeats
			total.limited += w.limited
			total.shed += w.shed
		}
		out[kind+"_ratio"], out[kind+"_server_cpu_ratio"] = b.ratio(kind, perSecond), b.ratio(kind, cpuMicros)
		out[kind+"_accepted"], out[kind+"_found"], out[kind+"_found_in_core"], out[kind+"_repeats"] = total.accepted, total.checked, total.inCore, total.repeats
		out[kind+"_429"], out[kind+"_503"] = total.limited, total.shed
		out[kind+"_unread_bytes_at_end"] = b.median(kind, func(w window) float64 { return w.unreadBytes })
		out[kind+"_oldest_unread_seconds_at_end"] = b.median(kind, func(w window) float64 { return w.oldestUnread })
	}
	out["violations"] = len(b.violations)
	return out
}

func (b *bench) print(kinds []string) {
	if len(b.windows[kindEcho]) == 0 {
		return
	}
	for _, kind := range kinds {
		if kind == kindEcho {
			continue
		}
		_, _ = fmt.Fprintf(b.out, "%s: %.2f of the echo's requests per second, at %.2f times its server CPU (medians of %d pairs)\n", kind,
			b.ratio(kind, perSecond), b.ratio(kind, cpuMicros), len(b.windows[kind]))
	}
}
