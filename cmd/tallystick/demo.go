package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
)

type demoCmd struct {
	Profile string `help:"embedded: everything in one process, nothing to install. cluster: PostgreSQL, Kafka and Redis, which are installed if they are missing, and two processes of each role; from the project's folder." enum:"embedded,cluster" default:"embedded"`

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
	driver *load.Driver
	log    *os.File
	system system

	stopSim func() error
}

// system is what is shown: everything in one process, or a cluster.
type system interface {
	// addrs are the gateways, with spaces between them.
	addrs() string
	// introduce says where everything is.
	introduce(d *demo)
	// figures are what it counts.
	figures(ctx context.Context) figures
	// drained reports whether nothing is on its way any more.
	drained(ctx context.Context) bool
	// books stops everything, and opens what it left behind.
	books(ctx context.Context) (books, error)
	// close ends whatever still runs.
	close() error
}

// figures are a system's part of the progress.
type figures struct {
	unknown  int64
	posted   int64
	breakers string
	unread   time.Duration // the age of the oldest intent that was not read
}

// books are what a system left behind.
type books interface {
	CheckVouchers(ctx context.Context, vouchers []string) (byStatus map[event.Status]int, violations []string, err error)
	Verify(ctx context.Context) (app.Verification, error)
}

// Run shows one payment system at work, and judges it.
func (c *demoCmd) Run(ctx context.Context) error {
	if c.For <= 0 || c.Rate <= 0 || c.Rate > 20_000 {
		return &fault.Error{Kind: fault.Invalid, Op: "demo", Field: "--for, --rate", Code: "out_of_range", Fix: "use a positive time, and a rate above 0 and up to 20000"}
	}
	d := &demo{demoCmd: *c}
	defer d.tidy()
	if err := d.start(ctx); err != nil {
		return err
	}
	d.system.introduce(d)
	fmt.Printf("Offering %g payments/s for %s ...\n", d.Rate, d.For)
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
	b, err := d.system.books(ctx)
	err = errors.Join(err, d.stopSim())
	if err == nil {
		err = d.summary(ctx, b, interrupted)
	}
	return err
}

// tidy ends what runs, and removes a temporary folder.
func (d *demo) tidy() {
	if d.system != nil {
		if err := d.system.close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if d.log != nil {
		_ = d.log.Close()
	}
	if !d.Keep && d.Data == "" && d.dir != "" {
		_ = os.RemoveAll(d.dir)
	}
}

// start makes the folder, and starts the simulator and the system.
func (d *demo) start(ctx context.Context) (err error) {
	d.dir = d.Data
	if d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "tallystick-demo-"); err != nil {
			return err
		}
	}
	start := d.startEmbedded
	if d.Profile == "cluster" {
		start = d.startCluster
	}
	if err := start(ctx); err != nil {
		return err
	}
	d.driver = &load.Driver{Client: load.NewClient(d.system.addrs(), d.apiKey, 16_384), Rate: d.Rate, For: d.For, InFlightMax: 15_000,
		Order: load.Orders(d.Seed), RepeatEvery: 100, FollowMax: d.For + d.Drain}
	return nil
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
				d.progress(ctx, start, lines)
			}
			return
		case <-tick.C:
			if !terminal {
				fmt.Println(strings.Join(d.progressLines(ctx, start), " | "))
				continue
			}
			lines = d.progress(ctx, start, lines)
		}
	}
}

// progress prints the figures over the last ones.
func (d *demo) progress(ctx context.Context, start time.Time, before int) int {
	f := d.progressLines(ctx, start)
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
	for ctx.Err() == nil && !d.system.drained(ctx) {
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
