package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/fault"
)

type demoCmd struct {
	For   time.Duration `help:"How long payments are offered." default:"20s"`
	Rate  float64       `help:"Payments offered per second." default:"300"`
	Seed  uint64        `help:"Seed of the orders and of the PSP's faults." default:"1"`
	Data  string        `help:"Data folder to make: one that was initialised already is refused. A temporary one by default." placeholder:"DIR" type:"path"`
	Keep  bool          `help:"Keep the temporary data folder, and go on serving until interrupted."`
	Drain time.Duration `help:"How long the payments in flight may take to end." default:"60s" hidden:""`
}

// demo is everything that one run starts.
type demo struct {
	demoCmd
	dir    string
	apiKey string
	sim    *sim.Sim
	app    *app.App
	driver *load.Driver
	log    *os.File

	stop func() error // stops app and simulator, and gives the first error; the stores stay open
}

// Run shows one payment system at work, and judges it.
func (c *demoCmd) Run(ctx context.Context) error {
	if c.For <= 0 || c.Rate <= 0 || c.Rate > 20_000 {
		return &fault.Error{Kind: fault.Invalid, Op: "demo", Field: "--for, --rate", Code: "out_of_range", Fix: "use a positive time, and a rate above 0 and up to 20000"}
	}
	d := &demo{demoCmd: *c}
	if err := d.start(ctx); err != nil {
		return err
	}
	if !c.Keep && c.Data == "" {
		defer os.RemoveAll(d.dir) //nolint:errcheck // a temporary folder
	}
	d.introduce()
	offering, cancel := context.WithTimeout(ctx, c.For+c.Drain)
	defer cancel()
	d.drive(offering)
	d.drain(offering)
	interrupted := ctx.Err() != nil
	if c.Keep && !interrupted {
		fmt.Printf("\nStill serving %s; interrupt to stop it and to see the books.\n", d.dir)
		<-ctx.Done()
	}
	return d.judge(context.WithoutCancel(ctx), interrupted)
}

// judge stops everything and then looks at the books: those of a running system
// never stand still, and one area is always ahead of another.
func (d *demo) judge(ctx context.Context, interrupted bool) error {
	if interrupted {
		fmt.Println("\nInterrupted: stopping ...")
	}
	err := d.stop()
	if err == nil {
		err = d.app.CatchUp(ctx)
	}
	if err == nil {
		err = d.summary(ctx, interrupted)
	}
	return errors.Join(err, d.app.Close(), d.log.Close())
}

// start makes the folder, and starts the simulator and the app.
func (d *demo) start(ctx context.Context) (err error) {
	d.dir = d.Data
	if d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "tallystick-demo-"); err != nil {
			return err
		}
	}
	made, err := app.Init(d.dir)
	if err != nil {
		return err
	}
	d.apiKey = made.APIKey
	if d.log, err = os.Create(filepath.Join(d.dir, "demo.log")); err != nil {
		return err
	}
	deps, err := app.Production(d.dir, []string{"TALLYSTICK_LISTEN=127.0.0.1:0", "TALLYSTICK_LISTEN_OPERATOR=127.0.0.1:0", "TALLYSTICK_LOG_LEVEL=warn"}, d.log)
	if err != nil {
		return err
	}
	if d.sim, err = d.simulator(deps); err != nil {
		return err
	}
	d.pointAtSimulator(deps.Directory)
	// The public address is known only once it is open, and the PSP calls back there.
	ln, err := app.FreeAddress()
	if err != nil {
		return err
	}
	deps.Config.Listen, deps.Config.PublicURL = ln, "http://"+ln
	// Nobody waits for hours here: an unknown payment is asked after every 5 s at least.
	deps.Config.Prepay.Backoff.PollFirstMillis, deps.Config.Prepay.Backoff.MaxMillis = 5_000, 5_000
	if d.app, err = app.New(ctx, deps); err != nil {
		return err
	}
	if err := d.app.Listen(); err != nil {
		return errors.Join(err, d.app.Close())
	}
	d.run(ctx)
	d.driver = &load.Driver{Client: load.NewClient(d.app.Addr(), d.apiKey, 16_384), Rate: d.Rate, For: d.For, InFlightMax: 15_000,
		Order: load.Orders(d.Seed), RepeatEvery: 100, FollowMax: d.For + d.Drain}
	return nil
}

func (d *demo) simulator(deps app.Deps) (*sim.Sim, error) {
	secrets := app.NewSecrets(filepath.Join(d.dir, app.SecretsDir), func(string) (string, bool) { return "", false })
	var accounts []sim.Account
	for _, name := range app.ExampleAccounts() {
		key, err := secrets.PSP(name)
		if err != nil {
			return nil, err
		}
		accounts = append(accounts, sim.Account{Name: name, Keys: [][]byte{key}, Faults: sim.Realistic()})
	}
	s, err := sim.New(sim.Config{Desk: sim.DeskConfig{Accounts: accounts, Seed: d.Seed}, Now: time.Now, Log: deps.Log})
	if err != nil {
		return nil, err
	}
	return s, s.Listen("127.0.0.1:0")
}

// pointAtSimulator puts a directory in force whose accounts are at the simulator.
func (d *demo) pointAtSimulator(dir *merchant.Directory) {
	s := *dir.Current()
	s.Version++
	s.Accounts = append([]merchant.ChannelAccount(nil), s.Accounts...)
	for i := range s.Accounts {
		s.Accounts[i].Endpoint = d.sim.URL()
	}
	s.Merchants = append([]merchant.Merchant(nil), s.Merchants...)
	for i := range s.Merchants {
		s.Merchants[i].RequestsPerSecond, s.Merchants[i].Burst = 2*d.Rate+100, int(2*d.Rate)+100
	}
	dir.Replace(&s)
}

// run starts simulator and app on goroutines, and makes stop.
func (d *demo) run(ctx context.Context) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	simDone, appDone := make(chan error, 1), make(chan error, 1)
	simCtx, stopSim := context.WithCancel(context.WithoutCancel(ctx))
	go func() { simDone <- d.sim.Run(simCtx) }()
	go func() { appDone <- d.app.Run(own) }()
	d.stop = sync.OnceValue(func() error {
		cancel()
		err := <-appDone
		stopSim()
		return errors.Join(err, <-simDone)
	})
}

func (d *demo) introduce() {
	base := "http://" + d.app.Addr()
	fmt.Printf(`Tallystick demo: everything in one process, data in %[1]s
  API        %[2]s        operators  http://%[3]s/metrics
  PSP        %[4]s        (a simulator with faults; its log and ours: %[1]s/demo.log)

Try by hand while it runs:
  curl -s %[2]s/v1/payments -H 'Authorization: Bearer %[5]s' \
    -H 'Content-Type: application/json' -d '{"order_id":"mug-1","amount":1999,"currency":"CNY","subject":"Coffee mug"}'
  curl -s '%[2]s/v1/vouchers/VOUCHER?wait=20' -H 'Authorization: Bearer %[5]s'
  curl -s %[2]s/v1/trades/VOUCHER -H 'Authorization: Bearer %[5]s'
  curl -s %[4]s/admin/faults

Offering %[6]g payments/s for %[7]s ...
`, d.dir, base, d.app.OperatorAddr(), d.sim.URL(), d.apiKey, d.Rate, d.For)
}

// drive offers the load and prints progress until every payment was followed.
func (d *demo) drive(ctx context.Context) {
	done := make(chan struct{})
	go func() { defer close(done); d.driver.Run(ctx) }()
	terminal := isTerminal(os.Stdout)
	every := 2 * time.Second
	if terminal {
		every = 250 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	start, lines := time.Now(), 0
	for {
		select {
		case <-done:
			if terminal {
				d.progress(start, lines)
			}
			return
		case <-tick.C:
			if !terminal {
				fmt.Println(strings.Join(d.figures(start), " | "))
				continue
			}
			lines = d.progress(start, lines)
		}
	}
}

// progress prints the figures over the last ones.
func (d *demo) progress(start time.Time, before int) int {
	f := d.figures(start)
	if before > 0 {
		fmt.Printf("\x1b[%dA", before)
	}
	for _, line := range f {
		fmt.Printf("\x1b[2K%s\n", line)
	}
	return len(f)
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// drain waits until nothing is on its way any more, or until ctx ends: whoever pays
// by hand meanwhile does not hold it up for ever.
func (d *demo) drain(ctx context.Context) {
	for ctx.Err() == nil {
		open := int64(0)
		ages, err := d.app.Stores.Core.Open(ctx)
		for _, a := range ages {
			open += a.Orders
		}
		if err == nil && open == 0 && d.app.Drained() {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// taken is what the PSP's simulator took from payers: the third half.
func (d *demo) taken() (minor map[string]int64, n int) {
	minor = map[string]int64{}
	for _, r := range d.sim.Payments() {
		if r.State == channels.StatePaid {
			minor[r.Account] += r.Taken.Minor
			n++
		}
	}
	return minor, n
}
