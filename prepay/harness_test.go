package prepay_test

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
	prepayevent "github.com/tallystick/tallystick/prepay/event"
	"github.com/tallystick/tallystick/prepay/sqlstore"
)

// tb is what the harness needs of testing.T and rapid.T.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

// request is one call that a PSP got.
type request struct {
	Op, Number string
	Pay        channels.PayRequest
	AtMillis   int64
}

// psp is a channel account's other end: it answers as answer says.
type psp struct {
	w        *world
	requests []request
	answer   func(r request) channels.Outcome
}

func (s *psp) ask(r request) channels.Outcome {
	r.AtMillis = s.w.now.UnixMilli()
	s.requests = append(s.requests, r)
	return s.answer(r)
}

func (s *psp) Prepay(_ context.Context, r channels.PayRequest) channels.Outcome {
	return s.ask(request{Op: "pay", Number: r.OutTradeNo, Pay: r})
}

func (s *psp) Query(_ context.Context, r channels.QueryRequest) channels.Outcome {
	return s.ask(request{Op: "query", Number: r.OutTradeNo})
}

func (s *psp) Close(_ context.Context, r channels.QueryRequest) channels.Outcome {
	return s.ask(request{Op: "close", Number: r.OutTradeNo})
}

// ops lists what the PSP was asked, in order.
func (s *psp) ops() (out []string) {
	for _, r := range s.requests {
		out = append(out, r.Op)
	}
	return out
}

// world is prepay with everything around it under the test's hand: the clock
// stands, calls run when the test says so, and the process can be ended.
type world struct {
	t          tb
	now        time.Time
	path       string
	store      *sqlstore.Store
	pp         *prepay.Prepay
	psps       map[string]*psp
	limits     merchant.AccountLimits
	features   channels.Features
	config     prepay.Config
	log        *bytes.Buffer
	metrics    *metrics.Set
	points     fault.Points
	executor   prepay.Executor
	queue      []func()
	notify     string // the start of notify URLs
	ids        *ids.Source
	rand       *rand.Rand
	seq        map[int]int64
	read       map[int]bus.Place
	decorated  map[string]channels.Payer // in place of the psp itself
	turnPoints fault.Points
}

func newWorld(t tb, dir string, accounts ...string) *world {
	w := &world{t: t, now: time.UnixMilli(1_700_000_000_000).UTC(), path: filepath.Join(dir, "prepay.db"), psps: map[string]*psp{},
		limits: merchant.AccountLimits{ConcurrentMax: 4, DeadlineMillis: 5000}, features: channels.Features{PayRepeatable: true},
		config: prepay.Defaults(), log: &bytes.Buffer{}, seq: map[int]int64{}, read: map[int]bus.Place{},
		decorated: map[string]channels.Payer{},
		notify:    "https://us.example/v1/callbacks/"}
	w.rand = rand.New(rand.NewPCG(7, 7)) //nolint:gosec // a test
	w.ids = ids.NewSource(func() time.Time { return w.now }, rand.NewChaCha8([32]byte{1}))
	w.executor = w
	for _, a := range accounts {
		w.psps[a] = &psp{w: w, answer: func(request) channels.Outcome {
			return channels.Outcome{Result: channels.Done, State: channels.StatePending}
		}}
	}
	w.open()
	return w
}

func (w *world) Go(f func()) { w.queue = append(w.queue, f) }

func (w *world) Accounts() (out []string) {
	for a := range w.psps {
		out = append(out, a)
	}
	slices.Sort(out)
	return out
}

func (w *world) Channel(a string) (*channels.Channel, bool) {
	s := w.psps[a]
	if s == nil {
		return nil, false
	}
	var payer channels.Payer = s
	if d := w.decorated[a]; d != nil {
		payer = d
	}
	return &channels.Channel{Name: "sandbox", Account: a, Pay: payer, Features: w.features}, true
}

func (w *world) Limits(string) merchant.AccountLimits { return w.limits }

func (w *world) open() {
	w.t.Helper()
	var err error
	w.store, err = sqlstore.Open(context.Background(), sqlstore.Config{Groups: groups,
		NowMillis: func() int64 { return w.now.UnixMilli() },
		Options:   sqldb.Options{Path: w.path, NoSync: true, Points: func(n string) { w.points.At(n) }}})
	w.must(err)
	w.metrics = metrics.NewSet()
	w.queue = nil
	w.pp, err = prepay.New(prepay.Deps{Store: w.store, Channels: w, Executor: w.executor, IDs: w.ids, Now: func() time.Time { return w.now },
		Rand: w.rand, NotifyURL: func(c, a string) string { return w.notify + c + "/" + a },
		Points: func(n string) { w.points.At(n) }, Metrics: w.metrics,
		Log: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{ReplaceAttr: timeless})), Config: w.config})
	w.must(err)
}

// restart ends the process where it is, as a kill would, and starts another.
func (w *world) restart() {
	w.t.Helper()
	w.points = nil
	w.must(w.store.Close())
	w.open()
}

// crash runs f and ends the process at the point, which must be passed.
func (w *world) crash(point string, f func()) {
	w.t.Helper()
	type crashed struct{}
	w.points = func(n string) {
		if n == point {
			panic(crashed{})
		}
	}
	hit := func() (hit bool) {
		defer func() {
			switch r := recover(); r.(type) {
			case nil:
			case crashed:
				hit = true
			default:
				panic(r)
			}
		}()
		f()
		return false
	}()
	if !hit {
		w.t.Fatalf("point %s was never passed", point)
	}
	w.restart()
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%v", err)
	}
}

func (w *world) after(millis int64) { w.now = w.now.Add(time.Duration(millis) * time.Millisecond) }

func (w *world) apply(ds ...dispatch) {
	w.t.Helper()
	w.must(w.pp.Apply(context.Background(), w.batch(ds...)))
}

func (w *world) pay(order, account string) {
	w.t.Helper()
	w.apply(dispatch{order: order, account: account, op: event.OpPay})
}

func (w *world) ask(order, account string, op event.Op) {
	w.t.Helper()
	w.apply(dispatch{order: order, account: account, op: op})
}

// draw steps the lanes, which commits calls as sending and queues them.
func (w *world) draw() {
	w.t.Helper()
	_, err := w.pp.StepLanes(context.Background())
	w.must(err)
}

// run makes the queued calls.
func (w *world) run() {
	q := w.queue
	w.queue = nil
	for _, f := range q {
		f()
	}
}

func (w *world) record() {
	w.t.Helper()
	for {
		worked, err := w.pp.StepRecord(context.Background())
		w.must(err)
		if !worked {
			return
		}
	}
}

// turn does all that there is to do at this instant.
func (w *world) turn() {
	w.t.Helper()
	for {
		w.draw()
		if len(w.queue) == 0 {
			return
		}
		w.run()
		w.record()
	}
}

func (w *world) call(order string) prepay.Call {
	w.t.Helper()
	c, ok, err := w.store.Find(context.Background(), no(order))
	w.must(err)
	if !ok {
		w.t.Fatalf("no call for %s", order)
	}
	return c
}

// told gives the outcomes that core can read, of all groups.
func (w *world) told() (out []prepayevent.Outcome) {
	w.t.Helper()
	src := w.store.Outcomes()
	w.must(src.Refresh(context.Background()))
	for g := range groups {
		msgs, err := src.Read(context.Background(), g, bus.Place{}, 10_000)
		w.must(err)
		for i := range msgs {
			o, err := prepayevent.Decode(msgs[i].Payload)
			w.must(err)
			w.must(msgs[i].Context.Validate())
			out = append(out, o)
		}
	}
	return out
}

// story is told in short words: "pay unknown", "query done pending".
func (w *world) story() (out []string) {
	w.t.Helper()
	for _, o := range w.told() {
		s := o.Op + " " + string(o.Outcome.Result)
		for _, x := range []string{string(o.Outcome.State), o.Outcome.Code} {
			if x != "" {
				s += " " + x
			}
		}
		out = append(out, s)
	}
	return out
}

// hangs runs f unless it would call the account named "hangs".
func (w *world) hangs(f func()) (hangs bool) {
	type hanging struct{}
	w.decorated["hangs"] = nil
	old := w.psps["hangs"].answer
	w.psps["hangs"].answer = func(request) channels.Outcome { panic(hanging{}) }
	defer func() {
		w.psps["hangs"].answer = old
		if _, ok := recover().(hanging); ok {
			hangs = true
		}
	}()
	f()
	return false
}

func countStatus(w *world, s prepay.Status) (n int, err error) {
	calls, err := w.store.ListOpen(context.Background(), prepay.Filter{}, 0, 1000)
	for i := range calls {
		if calls[i].Status == s {
			n++
		}
	}
	return n, err
}

// newWorldOn is another process on the same data.
func newWorldOn(t tb, w *world) *world {
	o := &world{t: t, now: w.now, path: w.path, psps: map[string]*psp{}, limits: w.limits, features: w.features, config: w.config,
		log: &bytes.Buffer{}, seq: map[int]int64{}, read: map[int]bus.Place{}, ids: w.ids, rand: w.rand}
	o.executor = o
	o.open()
	return o
}
