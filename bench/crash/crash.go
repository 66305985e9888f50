package crash

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/fault"
)

// Points are the named places to die at, in the order of a payment's way.
func Points(cluster bool) (names []string) {
	if cluster {
		for _, p := range clusterPoints() {
			names = append(names, p.name)
		}
		return names
	}
	return []string{
		"intake.sealed", "intake.before_commit", "intake.after_commit", "gateway.committed_not_answered",
		"core.before_commit", "core.after_commit",
		"prepay.before_commit", "prepay.after_commit", "prepay.sending_not_called", "prepay.called_not_recorded",
		"gateway.callback_appended_not_acked",
		"accounting.before_commit", "accounting.after_commit",
	}
}

// Config says how often and where to kill. All bounds must be positive.
type Config struct {
	Cluster bool // two processes of each role, on PostgreSQL, Kafka and Redis, instead of one that plays all roles
	Seed    uint64
	Points  []string // once each, in an order drawn from the seed
	Random  int      // kills at random instants
	Rate    float64  // payments offered per second
	// Flushes runs a first part under strace, and counts: of the embedded profile.
	Flushes bool
	// RoundKills is after how many kills everything is drained and compared.
	RoundKills int
	// PointMax is how long a process may take to die at a point, DrainMax how long
	// what is under way may take to end, ReadyMax how long a start may take.
	PointMax, DrainMax, ReadyMax time.Duration
	Keep                         bool // leaves the data folder
	Out                          io.Writer
}

// Defaults are all points, and five random kills; in the cluster one of each role.
func Defaults(cluster bool, out io.Writer) Config {
	c := Config{Cluster: cluster, Seed: 1, Points: Points(cluster), Random: 5, Rate: 80, Flushes: true, RoundKills: 50,
		PointMax: 40 * time.Second, DrainMax: 90 * time.Second, ReadyMax: 40 * time.Second, Out: out}
	if cluster {
		c.Random, c.Rate, c.Flushes = 4, 30, false
		c.PointMax, c.DrainMax, c.ReadyMax = 2*time.Minute, 3*time.Minute, time.Minute
	}
	return c
}

// Validate names the field that cannot be.
func (c *Config) Validate() error {
	bad := func(field, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "crash", Field: field, Code: "bad_value", Fix: fix}
	}
	for _, p := range c.Points {
		if !slices.Contains(Points(c.Cluster), p) {
			return bad("-point "+p, "use some of "+strings.Join(Points(c.Cluster), ","))
		}
	}
	switch {
	case c.Random < 0 || c.Random > 100_000:
		return bad("-n", "use 0 to 100000")
	case c.Rate <= 0 || c.Rate > 2_000:
		return bad("-rate", "use more than 0, at most 2000 payments per second")
	case c.RoundKills < 1 || c.PointMax <= 0 || c.DrainMax <= 0 || c.ReadyMax <= 0:
		return bad("bounds", "use positive ones")
	}
	return nil
}

// Bench is `go run ./bench crash`.
func Bench(ctx context.Context, fs *flag.FlagSet, args []string, out io.Writer) (map[string]any, error) {
	cluster := fs.Bool("cluster", false, "real engines, and two processes of each role, instead of one process")
	short := fs.Bool("short", false, "all points and 5 random kills, instead of 25; in the cluster 4 instead of 84")
	n := fs.Int("n", -1, "kills at random instants; with -point none by default")
	points := fs.String("point", "", "only these points, separated by commas; one may come several times")
	seed := fs.Uint64("seed", 1, "seed of the kills, the orders and the PSPs' faults")
	rate := fs.Float64("rate", 0, "payments offered per second; 80, in the cluster 30 by default")
	flushes := fs.Bool("flushes", true, "count flushes under strace first; not in the cluster")
	drain := fs.Duration("drain", 0, "how long what is under way may take to end")
	keep := fs.Bool("keep", false, "leave the data folder")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	c := Defaults(*cluster, out)
	c.Seed, c.Keep, c.Flushes = *seed, *keep, c.Flushes && *flushes
	switch {
	case *points == "none":
		c.Points = nil
	case *points != "":
		c.Points, c.Random = strings.Split(*points, ","), 0
	case *short:
	case c.Cluster:
		c.Random = 84
	default:
		c.Random = 25
	}
	if *n >= 0 {
		c.Random = *n
	}
	if *rate > 0 {
		c.Rate = *rate
	}
	if *drain > 0 {
		c.DrainMax = *drain
	}
	r, err := Run(ctx, c)
	return r.Figures(), err
}

// stop is one way for a process to end: at a point, or some time after its start.
type stop struct {
	role    app.Role // in the cluster
	member  int      // which of the role's; a point is for any of them
	point   string
	passing int64 // of the point
	after   time.Duration
	refused bool // one PSP refuses connections meanwhile
}

// schedule draws all kills from the seed. The first passings of the points that
// every transaction passes belong to the start itself: random kills are for that.
func (c *Config) schedule() []stop {
	if c.Cluster {
		return c.clusterSchedule()
	}
	r := rand.New(rand.NewPCG(c.Seed, 0xdead)) //nolint:gosec // a bench
	var stops []stop
	for _, p := range c.Points {
		passing := 1 + r.Int64N(20)
		if strings.HasSuffix(p, "_commit") {
			passing += 5 + r.Int64N(80)
		}
		stops = append(stops, stop{point: p, passing: passing})
	}
	r.Shuffle(len(stops), func(i, j int) { stops[i], stops[j] = stops[j], stops[i] })
	for i := range c.Random {
		most := 1600 * time.Millisecond
		if i%5 == 4 {
			most = 80 * time.Millisecond // while it starts, and takes up what the last one left
		}
		stops = append(stops, stop{after: time.Duration(1 + r.Int64N(int64(most))), refused: i%4 == 3})
	}
	return stops
}

// Run builds, kills, starts again and compares. The error says that something did
// not hold, or that nothing could be shown.
func Run(ctx context.Context, c Config) (res Result, err error) {
	if err := c.Validate(); err != nil {
		return res, err
	}
	b, err := newBench(ctx, c)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	err = b.run(ctx)
	return b.res, err
}

func (b *bench) run(ctx context.Context) error {
	if e, ok := b.product.(*embedded); ok && b.cfg.Flushes {
		if err := e.countFlushes(ctx); err != nil {
			return err
		}
	}
	stops, res := b.cfg.schedule(), &b.res
	for len(stops) > 0 && ctx.Err() == nil && len(res.Violations) == 0 {
		n := min(len(stops), b.cfg.RoundKills)
		if err := b.round(ctx, stops[:n]); err != nil {
			b.explain()
			return err
		}
		stops = stops[n:]
		b.report()
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case len(res.Violations) > 0:
		b.accuse()
		b.explain()
		return fmt.Errorf("%d violations", len(res.Violations))
	case res.Acknowledged < enough(res.Kills):
		return fmt.Errorf("only %d vouchers over %d kills: this shows nothing", res.Acknowledged, res.Kills)
	}
	return nil
}

// round kills as the stops say, under load all the time, then drains and compares.
func (b *bench) round(ctx context.Context, stops []stop) error {
	load, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	closed := b.shop.open(load, b.cfg)
	if err := b.product.kills(ctx, stops); err != nil {
		return err
	}
	if err := b.product.serve(ctx); err != nil {
		_ = b.wrong("the last start: %v", err)
	}
	// However short the lives were: enough must have been promised to show something.
	for t := time.Now(); b.shop.acknowledged() < enough(b.res.Kills) && time.Since(t) < b.cfg.DrainMax && b.product.fate() == nil; {
		time.Sleep(20 * time.Millisecond)
	}
	stopLoad()
	if err := b.drain(ctx, closed); err != nil {
		_ = b.wrong("%v", err)
	}
	if err := b.product.stop(); err != nil {
		_ = b.wrong("asked to stop: %v", err)
	}
	return b.judge(ctx)
}

// enough is how many vouchers so many kills must have had a chance to lose.
func enough(kills int) int { return 10 * max(1, kills) }

func (s stop) name() string {
	if s.point != "" {
		return fmt.Sprintf("%s, passing %d", s.point, s.passing)
	}
	if s.refused {
		return "at random, one PSP refusing"
	}
	return "at random"
}
