package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/fault"
)

const (
	binaryPackage = "github.com/tallystick/tallystick/cmd/tallystick"
	crashVariable = app.EnvCrashAt
)

// rig is what outlives every child: the folder, the addresses, the PSPs and the
// merchants.
type rig struct {
	cfg              Config
	dir, data, exe   string
	listen, operator string
	log              *os.File // what all children say
	psps             map[string]*sim.Sim
	stopPSPs         func()
	shop             *shop
}

func newRig(ctx context.Context, cfg Config) (r *rig, err error) {
	r = &rig{cfg: cfg}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.dir, err = os.MkdirTemp("", "tallystick-crash-"); err != nil {
		return r, fault.Wrap("crash", err)
	}
	r.data, r.exe = filepath.Join(r.dir, "data"), filepath.Join(r.dir, "tallystick")
	build := exec.CommandContext(ctx, "go", "build", "-o", r.exe, binaryPackage)
	if out, err := build.CombinedOutput(); err != nil {
		return r, fmt.Errorf("build: %w: %s", err, out)
	}
	if r.log, err = os.Create(filepath.Join(r.dir, "serve.log")); err != nil {
		return r, fault.Wrap("crash", err)
	}
	made, err := app.Init(r.data)
	if err != nil {
		return r, err
	}
	if r.listen, err = quietAddress(); err != nil {
		return r, err
	}
	if r.operator, err = quietAddress(); err != nil {
		return r, err
	}
	if err := r.startPSPs(ctx); err != nil {
		return r, err
	}
	if err := r.writeDirectory(); err != nil {
		return r, err
	}
	r.shop = newShop(load.NewClient(r.listen, made.APIKey, 4096), cfg.Seed)
	return r, nil
}

// quietAddress is free, and outside of the ports that the system hands out: with
// the child dead, no connection of ours can take, or even meet itself on, its port.
func quietAddress() (string, error) {
	for range 200 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)) //nolint:gosec // any that is free
		if ln, err := net.Listen("tcp", addr); err == nil {
			return addr, ln.Close()
		}
	}
	return "", errors.New("no free port from 10000 to 29999")
}

// faults are those of the demo, quicker, and more of those that a crash meets.
func faults() sim.Faults {
	f := sim.Realistic()
	f.LatencyBaseMillis, f.LatencyTailMillis, f.LatencyMaxMillis = 10, 40, 600
	f.HangMaxMillis, f.DuplicateCallbackShare, f.EarlyCallbackShare = 3_000, 0.03, 0.03
	f.AutoPayDelayMillis, f.AutoPayTailMillis = 20, 200
	return f
}

// startPSPs starts one simulator for each channel account, so that one can refuse
// connections while the other takes them.
func (r *rig) startPSPs(ctx context.Context) error {
	secrets := app.NewSecrets(filepath.Join(r.data, app.SecretsDir), func(string) (string, bool) { return "", false })
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.psps = map[string]*sim.Sim{}
	ended := make(chan error, len(app.ExampleAccounts()))
	started := 0
	r.stopPSPs = func() {
		cancel()
		for range started {
			<-ended
		}
	}
	for _, name := range app.ExampleAccounts() {
		key, err := secrets.PSP(name)
		if err != nil {
			return err
		}
		s, err := sim.New(sim.Config{Now: time.Now, Log: slog.New(slog.DiscardHandler), Desk: sim.DeskConfig{Seed: r.cfg.Seed,
			CallbackBackoffMillis: 200, Accounts: []sim.Account{{Name: name, Keys: [][]byte{key}, Faults: faults()}}}})
		if err != nil {
			return err
		}
		if err := s.Listen("127.0.0.1:0"); err != nil {
			return err
		}
		r.psps[name] = s
		started++
		go func() { ended <- s.Run(own) }()
	}
	return nil
}

// writeDirectory points the accounts at their simulators, and bounds calls so that
// one which hangs is given up within a second.
func (r *rig) writeDirectory() error {
	path := filepath.Join(r.data, app.DirectoryFile)
	text, err := os.ReadFile(path) //nolint:gosec // made by Init
	if err != nil {
		return fault.Wrap("crash", err)
	}
	s := strings.ReplaceAll(string(text), "deadline_millis: 4000", "deadline_millis: 1000")
	for _, name := range app.ExampleAccounts() {
		s = strings.Replace(s, "endpoint: http://127.0.0.1:9090", "endpoint: "+r.psps[name].URL(), 1)
	}
	if strings.Contains(s, ":9090") || !strings.Contains(s, "deadline_millis: 1000") {
		return errors.New("directory.yaml of init is not what this bench edits")
	}
	return fault.Wrap("crash", os.WriteFile(path, []byte(s), 0o600)) //nolint:gosec // the path is ours
}

// environ configures the children. What asks is quick, and what polls is off.
func (r *rig) environ() []string {
	return []string{"TALLYSTICK_LISTEN=" + r.listen, "TALLYSTICK_LISTEN_OPERATOR=" + r.operator, "TALLYSTICK_PUBLIC_URL=http://" + r.listen,
		"TALLYSTICK_LOG_LEVEL=warn", "TALLYSTICK_PREPAY_BACKOFF_ASK_FIRST_MILLIS=25", "TALLYSTICK_PREPAY_BACKOFF_POLL_FIRST_MILLIS=3600000",
		"TALLYSTICK_CORE_NOT_SENT_PAUSE_MAX_MILLIS=2000"}
}

// refuseOne lets one PSP refuse connections from now until half of the time given
// has passed, or the function that it gives is called.
func (r *rig) refuseOne(about time.Duration) (end func(), err error) {
	psp := r.psps[app.ExampleAccounts()[0]]
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

func (r *rig) close() {
	if r.shop != nil {
		close(r.shop.bankrupt)
	}
	if r.stopPSPs != nil {
		r.stopPSPs()
	}
	if r.log != nil {
		_ = r.log.Close()
	}
	switch {
	case r.dir == "":
	case r.cfg.Keep:
		fmt.Fprintln(r.cfg.Out, "left:", r.dir)
	default:
		_ = os.RemoveAll(r.dir)
	}
}

// report prints what stands after a round.
func (r *rig) report(res *Result) {
	fmt.Fprintf(r.cfg.Out, "compared: %d kills, %d vouchers acknowledged (%d final, %d open), PSPs took %d payments; %d violations\n",
		res.Kills, res.Acknowledged, res.Final, res.Open, res.Paid, len(res.Violations))
	for i, v := range res.Violations {
		if i == 20 {
			fmt.Fprintf(r.cfg.Out, "  ... and %d more\n", len(res.Violations)-i)
			break
		}
		fmt.Fprintf(r.cfg.Out, "  %s: %s\n", v.Kind, v.What)
	}
}

// explain shows the end of what the children said.
func (r *rig) explain() {
	if text, err := os.ReadFile(r.log.Name()); err == nil {
		_, _ = fmt.Fprintf(r.cfg.Out, "the children's last words:\n%s\n", tail(text, 4_000))
	}
}

func tail(b []byte, n int) []byte {
	if len(b) <= n {
		return b
	}
	b = b[len(b)-n:]
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[i+1:]
	}
	return b
}
