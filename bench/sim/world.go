package sim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

// Config says what to simulate.
type Config struct {
	Seed   uint64
	Dir    string // a temporary folder of the caller's
	Orders int    // how many orders are placed, about
	Steps  int    // how many steps are drawn before everything is healed
	// CrashShare is the share of passed points at which the app is abandoned.
	CrashShare float64
	// FaultShare is the share of commits that fail: on a full disk, or by an fsync
	// of which nobody knows what it did.
	FaultShare float64
	// Trim trims the areas' logs, by bounds so small that they are met. Without it
	// nothing does.
	Trim bool
	// Trace, if set, receives what happens, line by line.
	Trace io.Writer
}

// World is one simulated run.
type World struct {
	cfg     Config
	rand    *rand.Rand
	now     time.Time
	desk    *sim.Desk
	dir     *merchant.Directory
	secret  *ids.Secret
	tokens  *api.TokenRing
	app     *app.App
	steps   []app.Step
	calls   []func() // PSP calls that the executor was given
	healing bool
	crashes int
	auditor *Auditor
	clients clients
	posts   []delivery
	broken  bool // a commit of unknown outcome: the process must stop
	opening bool // a disk that is full while a process starts only delays the start
}

// abandoned is the panic that ends the app in the middle of something.
type abandoned struct{ point string }

// accounts of the simulated PSP.
func accounts() []string { return []string{"sim-a", "sim-b"} }

// start is when every simulation begins.
var start = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// reader gives bytes of the seed.
type reader struct{ r *rand.Rand }

func (b reader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b.r.Uint32()) //nolint:gosec // the low byte
	}
	return len(p), nil
}

// New makes a world and opens its app for the first time.
func New(cfg Config) (*World, error) {
	w := &World{cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0x7a11)), now: start, auditor: newAuditor()} //nolint:gosec // a simulation
	var err error
	if w.secret, err = ids.NewSecret([]byte(strings.Repeat("s", ids.SecretLen))); err != nil {
		return nil, err
	}
	if w.tokens, err = api.NewTokenRing("1", map[string][]byte{"1": []byte(strings.Repeat("t", ids.SecretLen))}); err != nil {
		return nil, err
	}
	w.dir = merchant.NewDirectory(directory())
	desk := sim.DeskConfig{Seed: cfg.Seed, PublicURL: "http://psp.invalid"}
	for i, name := range accounts() {
		desk.Accounts = append(desk.Accounts, sim.Account{Name: name, Keys: [][]byte{[]byte(strings.Repeat(fmt.Sprint(i), 32))}, Faults: w.drawFaults()})
	}
	if w.desk, err = sim.NewDesk(desk); err != nil {
		return nil, err
	}
	return w, w.reopen()
}

// drawFaults makes a PSP that is worse than any real one.
func (w *World) drawFaults() sim.Faults {
	share := func(most float64) float64 { return w.rand.Float64() * most }
	return sim.Faults{LostReplyShare: share(.2), HangShare: share(.2), HangMaxMillis: 30_000, ServerErrorShare: share(.2), DeclineShare: share(.1),
		DuplicateCallbackShare: share(.3), EarlyCallbackShare: share(.3), ForgedCallbackShare: share(.1), CallbackDelayMillis: w.rand.Int64N(3_000),
		AutoPayShare: 0.5 + share(.5), AutoPayDelayMillis: w.rand.Int64N(5_000), AutoPayTailMillis: w.rand.Int64N(60_000), PayerDeclinedShare: share(.1)}
}

func directory() *merchant.Snapshot {
	s := &merchant.Snapshot{Version: 1, Merchants: []merchant.Merchant{{ID: "shop", Name: "Shop", Enabled: true, KeyHashes: []string{merchant.HashKey("key")},
		Currencies: []money.Currency{"CNY", "USD"}, AmountMinorMax: 1_000_000, FeeRate: 6_000, RequestsPerSecond: 1e6, Burst: 1e6}}}
	for i, name := range accounts() {
		s.Accounts = append(s.Accounts, merchant.ChannelAccount{ID: name, Channel: sandbox.Name, Enabled: true, Traffic: traffic.Real,
			Currencies: []money.Currency{"CNY"}, Methods: []channels.Method{channels.MethodQRCode}, Weight: 1 + i, FeeRate: money.Rate(3_000 + i*500),
			Endpoint: "http://psp.invalid", KeyName: name, Limits: merchant.AccountLimits{CallsPerSecond: 1e6, Burst: 1e6, ConcurrentMax: 8,
				DeadlineMillis: 60_000, BreakerFailures: 10_000, BreakerOpenMillis: 1}})
	}
	return s
}

// config is the default one, with bounds so small that they are met.
func config(cfg Config) app.Config {
	c := app.DefaultConfig()
	if cfg.Trim {
		c.Groups = 2 // of which each has many rows
		c.Retention = app.RetentionConfig{LogAge: 100 * time.Millisecond, LogBytesMax: 100_000, Every: 20 * time.Millisecond, RowsMax: 5}
	}
	c.PublicURL = "http://gateway.invalid"
	c.Intake.BatchRecordsMax, c.Intake.TrimEveryBatches = 4, 3
	c.Consumers.MessagesMax = 7
	c.Prepay.AnswersMax = 5
	c.API.RecentMax = 8
	return c
}

// open wires an app on the stores as they are.
func (w *World) open() error {
	// A process takes a while to start. Without it, the ids that it makes could be
	// smaller than those of its predecessor in the same moment, and the auditor takes
	// them for the order of events.
	w.now = w.now.Add(time.Millisecond)
	w.calls, w.posts = nil, nil
	w.clients.lose()
	a, err := app.New(context.Background(), app.Deps{Dir: w.cfg.Dir, Config: config(w.cfg), Secret: w.secret, Tokens: w.tokens, Directory: w.dir,
		Channels: &psp{world: w}, Executor: w, Now: w.clock, Random: reader{w.rand}, Rand: w.rand, Points: w.point, NoSync: true, CommitFault: w.commitFault,
		Log: slog.New(slog.DiscardHandler), Metrics: metrics.NewSet()})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	w.app = a
	w.steps = slices.DeleteFunc(a.Steps(), func(s app.Step) bool { return !w.cfg.Trim && strings.HasPrefix(s.Name, "retention.") })
	return a.Prepay.Recover(context.Background())
}

// reopen opens the app until it is not abandoned while it opens.
func (w *World) reopen() (err error) {
	w.opening = true
	defer func() { w.opening = false }()
	for {
		point := catch(func() { err = w.open() })
		if point == "" {
			return err
		}
		w.crashes++
		w.trace("open: abandoned at %s", point)
		if w.app != nil {
			if err := w.app.Close(); err != nil {
				return fmt.Errorf("close after a crash: %w", err)
			}
			w.app = nil
		}
	}
}

// catch runs f and gives the point at which it was abandoned, or nothing.
func catch(f func()) (point string) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case abandoned:
			point = r.point
		default:
			panic(r)
		}
	}()
	f()
	return ""
}

func (w *World) clock() time.Time { return w.now }

// Go implements prepay.Executor: the call is made when its turn is drawn.
func (w *World) Go(f func()) { w.calls = append(w.calls, f) }

// point is passed by the app at each place where a crash is most awkward.
func (w *World) point(name string) {
	if !w.healing && w.rand.Float64() < w.cfg.CrashShare {
		panic(abandoned{name})
	}
}

// commitFault is what a disk answers to a commit. After an fsync of unknown
// outcome the process stops, and is started again.
func (w *World) commitFault() error {
	switch {
	case w.healing || w.opening || w.rand.Float64() >= w.cfg.FaultShare:
		return nil
	case w.rand.IntN(3) > 0:
		return &fault.Error{Kind: fault.Unavailable, Op: "simulation", Code: "disk_full"}
	}
	w.broken = true
	kind := fault.Internal // nothing was written
	if w.rand.IntN(2) == 0 {
		kind = fault.Unknown // everything was
	}
	return &fault.Error{Kind: kind, Op: "simulation", Code: "fsync_failed"}
}

func (w *World) trace(format string, args ...any) {
	if w.cfg.Trace != nil {
		_, _ = fmt.Fprintf(w.cfg.Trace, "%s "+format+"\n", append([]any{w.now.Sub(start)}, args...)...)
	}
}

// guard runs a piece of the app. If it is abandoned meanwhile, everything in
// memory is lost, and the app is opened again.
func (w *World) guard(what string, f func() error) (err error) {
	point := catch(func() { err = f() })
	if point == "" {
		return err
	}
	w.crashes++
	return w.restart(what + ": abandoned at " + point)
}

// restart loses all that is in memory, and opens the app again.
func (w *World) restart(why string) error {
	w.trace("%s", why)
	w.broken = false
	if err := w.app.Close(); err != nil {
		return fmt.Errorf("close before a restart: %w", err)
	}
	w.app = nil
	return w.reopen()
}

// Run draws steps, then heals everything and lets it come to rest, and asks the
// auditor. An error describes everything that is wrong.
func (w *World) Run() (err error) {
	defer func() {
		if w.app == nil {
			return // it could not be opened again
		}
		if closeErr := w.app.Close(); err == nil {
			err = closeErr
		}
	}()
	for i := range w.cfg.Steps {
		if err := w.step(); err != nil {
			return err
		}
		if i%500 == 250 {
			if err := w.auditor.midway(w); err != nil {
				return fmt.Errorf("after step %d: %w", i, err)
			}
		}
	}
	if err := w.heal(); err != nil {
		return err
	}
	return w.auditor.judge(w)
}

// step draws one thing that may happen.
func (w *World) step() error {
	if w.broken {
		return w.restart("stopped after a commit of unknown outcome")
	}
	switch n := w.rand.IntN(100); {
	case n < 60:
		s := w.steps[w.rand.IntN(len(w.steps))]
		return w.runStep(s)
	case n < 70:
		return w.runCall()
	case n < 80:
		return w.deliver()
	case n < 90:
		return w.guard("client", w.client)
	case n < 92:
		w.payByHand()
		return nil
	default:
		w.pass(time.Duration(w.rand.Int64N(int64(500 * time.Millisecond))))
		return nil
	}
}

// pass lets time go by, now and then a lot of it.
func (w *World) pass(d time.Duration) {
	if !w.healing && w.rand.IntN(200) == 0 {
		d = time.Duration(w.rand.Int64N(int64(20 * time.Minute)))
	}
	w.now = w.now.Add(d)
}

func (w *World) runStep(s app.Step) error {
	return w.guard(s.Name, func() error {
		worked, err := s.Run(context.Background())
		if worked || err != nil {
			w.trace("%s: worked %t, %v", s.Name, worked, err)
		}
		if err != nil && !fault.Is(err, fault.Unavailable) && !w.broken {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		return nil
	})
}

// runCall makes one of the PSP calls that wait.
func (w *World) runCall() error {
	if len(w.calls) == 0 {
		return nil
	}
	i := w.rand.IntN(len(w.calls))
	f := w.calls[i]
	w.calls = slices.Delete(w.calls, i, i+1)
	return w.guard("call", func() error { f(); return nil })
}

// heal ends all faults, and steps until nothing is left to do for two days.
func (w *World) heal() error {
	w.healing = true
	if err := w.restart("healed"); err != nil {
		return err
	}
	for _, a := range accounts() {
		if err := w.desk.SetFaults(a, sim.Faults{AutoPayShare: 0.5, AutoPayDelayMillis: 100}); err != nil {
			return err
		}
	}
	for end := w.now.Add(48 * time.Hour); w.now.Before(end); {
		busy := true
		for busy {
			var err error
			if busy, err = w.everything(); err != nil {
				return err
			}
		}
		open, err := w.app.Stores.Core.Open(context.Background())
		if err != nil {
			return err
		}
		if len(open) == 0 && w.clients.idle() && w.quiet() {
			return nil
		}
		w.now = w.now.Add(20 * time.Second)
	}
	return nil
}

// quiet reports whether the PSP has nothing more to tell.
func (w *World) quiet() bool {
	_, more := w.desk.NextAt()
	return !more && len(w.posts) == 0
}

// everything runs each part once.
func (w *World) everything() (busy bool, err error) {
	for _, s := range w.steps {
		worked, err := s.Run(context.Background())
		if err != nil {
			return false, fmt.Errorf("%s, healed: %w", s.Name, err)
		}
		busy = busy || worked
	}
	for len(w.calls) > 0 {
		busy = true
		if err := w.runCall(); err != nil {
			return false, err
		}
	}
	before := len(w.posts)
	if err := w.deliver(); err != nil {
		return false, err
	}
	if err := w.clients.settle(w); err != nil {
		return false, err
	}
	return busy || before > 0 || len(w.posts) > 0, nil
}

// EventLog is every event of every area, and the journal, in order: what the
// same seed must give again, byte for byte.
func (w *World) EventLog() ([]byte, error) {
	var out []byte
	a, err := app.OpenStores(context.Background(), app.Deps{Dir: w.cfg.Dir, Config: config(w.cfg), Secret: w.secret, Now: w.clock, NoSync: true})
	if err != nil {
		return nil, err
	}
	defer a.Close() //nolint:errcheck // only read
	for _, src := range a.Sources() {
		if err := src.Refresh(context.Background()); err != nil {
			return nil, err
		}
		for g := range src.Groups() {
			msgs, err := readAll(src, g)
			if err != nil {
				return nil, err
			}
			for _, m := range msgs {
				out = fmt.Appendf(out, "%s %d %d %s %s %v %d %s\n", m.Topic, m.Group, m.Place.Seq, m.ID, m.Type, m.Context, m.AtMillis, m.Payload)
			}
		}
	}
	return out, nil
}

// Crashes is how often the app was abandoned.
func (w *World) Crashes() int { return w.crashes }

// temporary makes a folder in memory where there is one.
func temporary() (string, error) {
	if dir, err := os.MkdirTemp("/dev/shm", "tallystick-sim-"); err == nil {
		return dir, nil
	}
	return os.MkdirTemp("", "tallystick-sim-")
}
