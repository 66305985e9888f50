package crash

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
)

// Points are the named places to die at, in the order of a payment's way.
func Points() []string {
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
	Seed   uint64
	Points []string // once each, in an order drawn from the seed
	Random int      // kills at random instants
	Rate   float64  // payments offered per second
	// Flushes runs a first part under strace, and counts.
	Flushes bool
	// RoundKills is after how many kills everything is drained and compared.
	RoundKills int
	// PointMax is how long the child may take to die at a point, DrainMax how long
	// what is under way may take to end, ReadyMax how long a start may take.
	PointMax, DrainMax, ReadyMax time.Duration
	Keep                         bool // leaves the data folder
	Out                          io.Writer
}

// Defaults are all points, and five random kills.
func Defaults(out io.Writer) Config {
	return Config{Seed: 1, Points: Points(), Random: 5, Rate: 80, Flushes: true, RoundKills: 50,
		PointMax: 40 * time.Second, DrainMax: 90 * time.Second, ReadyMax: 40 * time.Second, Out: out}
}

// Validate names the field that cannot be.
func (c *Config) Validate() error {
	bad := func(field, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "crash", Field: field, Code: "bad_value", Fix: fix}
	}
	for _, p := range c.Points {
		if !slices.Contains(Points(), p) {
			return bad("-point "+p, "use some of "+strings.Join(Points(), ","))
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
	c := Defaults(out)
	short := fs.Bool("short", false, "all points and 5 random kills, instead of 25")
	n := fs.Int("n", -1, "kills at random instants; 5, 25 or, with -point, none by default")
	points := fs.String("point", "", "only these points, separated by commas; one may come several times")
	fs.Uint64Var(&c.Seed, "seed", c.Seed, "seed of the kills, the orders and the PSPs' faults")
	fs.Float64Var(&c.Rate, "rate", c.Rate, "payments offered per second")
	fs.BoolVar(&c.Flushes, "flushes", true, "count flushes under strace first")
	fs.DurationVar(&c.DrainMax, "drain", c.DrainMax, "how long what is under way may take to end")
	fs.BoolVar(&c.Keep, "keep", false, "leave the data folder")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case *points == "none":
		c.Points = nil
	case *points != "":
		c.Points, c.Random = strings.Split(*points, ","), 0
	case !*short:
		c.Random = 25
	}
	if *n >= 0 {
		c.Random = *n
	}
	r, err := Run(ctx, c)
	return r.Figures(), err
}

// stop is one way for a child to end: at a point, or some time after its start.
type stop struct {
	point   string
	passing int64 // of the point
	after   time.Duration
	refused bool // one PSP refuses connections meanwhile
}

// schedule draws all kills from the seed. The first passings of the points that
// every transaction passes belong to the start itself: random kills are for that.
func (c *Config) schedule() []stop {
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
func Run(ctx context.Context, c Config) (Result, error) {
	res := Result{}
	if err := c.Validate(); err != nil {
		return res, err
	}
	r, err := newRig(ctx, c)
	if err != nil {
		return res, err
	}
	defer r.close()
	if c.Flushes {
		if err := r.countFlushes(ctx, &res); err != nil {
			return res, err
		}
	}
	stops := c.schedule()
	for len(stops) > 0 && ctx.Err() == nil {
		n := min(len(stops), c.RoundKills)
		if err := r.round(ctx, stops[:n], &res); err != nil {
			return res, err
		}
		stops = stops[n:]
		r.report(&res)
		if len(res.Violations) > 0 {
			break
		}
	}
	switch {
	case ctx.Err() != nil:
		return res, ctx.Err()
	case len(res.Violations) > 0:
		r.explain()
		return res, fmt.Errorf("%d violations", len(res.Violations))
	case res.Acknowledged < enough(res.Kills):
		return res, fmt.Errorf("only %d vouchers over %d kills: this shows nothing", res.Acknowledged, res.Kills)
	}
	return res, nil
}

// round kills as the stops say, under load all the time, then drains and compares.
func (r *rig) round(ctx context.Context, stops []stop, res *Result) error {
	load, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	closed := r.shop.open(load, r.cfg)
	for _, s := range stops {
		if err := r.kill(ctx, s, res); err != nil {
			return err
		}
	}
	l, err := r.start(r.environ())
	if err != nil {
		return err
	}
	defer l.kill()
	ready := l.awaitReady(ctx, r)
	// However short the lives were: enough must have been promised to show something.
	for t := time.Now(); ready > 0 && r.shop.acknowledged() < enough(res.Kills) && time.Since(t) < r.cfg.DrainMax && l.alive(); {
		time.Sleep(20 * time.Millisecond)
	}
	stopLoad()
	if ready == 0 {
		return fmt.Errorf("the last start was not ready within %s: %s", r.cfg.ReadyMax, l.fate())
	}
	if err := r.drain(ctx, l, closed); err != nil {
		res.add(other, "%v", err)
	}
	if err := l.stopGracefully(r.cfg.ReadyMax); err != nil {
		res.add(other, "%v", err)
	}
	return r.judge(ctx, res)
}

// enough is how many vouchers so many kills must have had a chance to lose.
func enough(kills int) int { return 10 * max(1, kills) }

// kill lets one child live until its stop.
func (r *rig) kill(ctx context.Context, s stop, res *Result) error {
	if s.refused {
		unrefuse, err := r.refuseOne(s.after)
		if err != nil {
			return err
		}
		defer unrefuse()
	}
	env := r.environ()
	patience := s.after
	if s.point != "" {
		env = append(env, fmt.Sprintf("%s=%s:%d", crashVariable, s.point, s.passing))
		patience = r.cfg.PointMax
	}
	l, err := r.start(env)
	if err != nil {
		return err
	}
	defer l.kill()
	recovered := make(chan time.Duration, 1)
	go func() { recovered <- l.awaitReady(ctx, r) }()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ended:
	case <-time.After(patience):
	}
	switch {
	case s.point == "" && l.alive():
		l.kill()
		res.Kills++
	case s.point != "" && l.killed():
		res.Kills++
		res.Points = append(res.Points, s.point)
	case l.alive():
		l.kill()
		res.add(other, "%s was not passed %d times within %s", s.point, s.passing, r.cfg.PointMax)
	default:
		res.add(other, "the child ended by itself: %s", l.fate())
	}
	if d := <-recovered; d > 0 {
		res.recovered = append(res.recovered, d)
	}
	fmt.Fprintf(r.cfg.Out, "kill %3d  %-40s after %5d ms; acknowledged %d\n", res.Kills, s.name(), time.Since(l.started).Milliseconds(), r.shop.acknowledged())
	return nil
}

func (s stop) name() string {
	if s.point != "" {
		return fmt.Sprintf("%s, passing %d", s.point, s.passing)
	}
	if s.refused {
		return "at random, one PSP refusing"
	}
	return "at random"
}
