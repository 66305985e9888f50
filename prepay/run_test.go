package prepay_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/prepay"
)

// slow is a channel that takes its time, or until the deadline.
type slow struct {
	takes time.Duration
	began chan<- string
}

func (s slow) answer(ctx context.Context, op string) channels.Outcome {
	if s.began != nil {
		s.began <- op
	}
	select {
	case <-time.After(s.takes):
		return paid
	case <-ctx.Done():
		return unknown
	}
}

func (s slow) Prepay(ctx context.Context, _ channels.PayRequest) channels.Outcome {
	return s.answer(ctx, "pay")
}
func (s slow) Query(ctx context.Context, _ channels.QueryRequest) channels.Outcome {
	return s.answer(ctx, "query")
}
func (s slow) Close(ctx context.Context, _ channels.QueryRequest) channels.Outcome {
	return s.answer(ctx, "close")
}

// running is a world with goroutines on the bubble's clock.
func running(t *testing.T, dir string, payer channels.Payer, store func(prepay.Store) prepay.Store) *world {
	w := newWorld(t, dir, "a", "b")
	w.decorated["a"] = payer
	d := w.pp.Deps
	d.Now, d.Executor = time.Now, prepay.Goroutines{}
	if store != nil {
		d.Store = store(d.Store)
	}
	var err error
	w.pp, err = prepay.New(d)
	w.must(err)
	w.now = time.Now()
	return w
}

func TestRunStopsInOrder(t *testing.T) {
	for _, c := range []struct {
		name  string
		takes time.Duration
		told  string
	}{
		{"a running call ends and is recorded", 3 * time.Second, "[pay done paid]"},
		{"a hanging call ends at its deadline", time.Hour, "[pay unknown timeout]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				began := make(chan string, 1)
				w := running(t, dir, slow{c.takes, began}, nil)
				ctx, stop := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				go func() { ended <- w.pp.Run(ctx) }()
				w.pay("o", "a")
				<-began
				stop()
				synctest.Wait()
				w.pay("too late", "a")
				start := time.Now()
				if err := <-ended; err != nil {
					t.Errorf("Run: %v", err)
				}
				if took := time.Since(start); took > 6*time.Second {
					t.Errorf("Run took %v to end", took)
				}
				same(t, "told", w.story(), c.told)
				same(t, "drawn after the stop", w.call("too late").Tries, 0)
				w.must(w.store.Close())
			})
		})
	}
}

// The loops wake by themselves for what is due later, and keep going.
func TestRunPolls(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := running(t, dir, nil, nil)
		delete(w.decorated, "a")
		w.psps["a"].answer = func(r request) channels.Outcome {
			if r.Op == "pay" {
				return unknown
			}
			return pending
		}
		w.features.PayRepeatable = false
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.pp.Run(ctx) }()
		w.pay("o", "a")
		time.Sleep(100 * time.Second) // of the bubble's clock
		stop()
		w.must(<-ended)
		// 1 s after the pay, then 10, 20, 40 and 80 s later, each a little less.
		same(t, "asked", w.psps["a"].ops(), "[pay query query query query]")
		same(t, "told", w.story(), "[pay unknown timeout query done pending]")
		w.must(w.store.Close())
	})
}

// slowStore takes its time for each transaction, and remembers those that changed
// something.
type slowStore struct {
	prepay.Store
	draw, record   time.Duration
	mu             sync.Mutex
	draws, records []span
}

type span struct{ from, to time.Time }

func (s *slowStore) Update(ctx context.Context, pick prepay.Pick, decide func(prepay.Picked) (prepay.Change, error)) error {
	from, changed := time.Now(), false
	err := s.Store.Update(ctx, pick, func(p prepay.Picked) (prepay.Change, error) {
		ch, err := decide(p)
		changed = len(ch.Update) > 0
		return ch, err
	})
	spans, takes := &s.records, s.record
	if len(pick.Due) > 0 {
		spans, takes = &s.draws, s.draw
	}
	if changed {
		time.Sleep(takes)
		s.mu.Lock()
		defer s.mu.Unlock()
		*spans = append(*spans, span{from, time.Now()})
	}
	return err
}

// After a transaction that took all there was, the next one waits for as long as it
// took, with a bound; there is no pause while more waits than one of them can take.
func TestRunPauses(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name                string
		draw, record        time.Duration // for which a transaction takes
		first               int           // wait already
		slots, answers      int           // of a lane, and in a transaction
		every               time.Duration // one comes
		spans               func(s *slowStore) []span
		leastWait, mostWait time.Duration
	}{
		{"draws as long as one took", 10 * ms, 1 * ms, 0, 100, 100, 2 * ms, (*slowStore).drawn, 10 * ms, 12 * ms},
		{"draws with a bound", 50 * ms, 1 * ms, 0, 100, 100, 2 * ms, (*slowStore).drawn, 20 * ms, 22 * ms},
		{"draws as before when no more waits", 10 * ms, 1 * ms, 100, 100, 100, 2 * ms, (*slowStore).drawn, 10 * ms, 12 * ms},
		{"draws not while more waits", 10 * ms, 1 * ms, 0, 1, 100, 0, (*slowStore).drawn, 1 * ms, 1 * ms},
		{"records as long as one took", 1 * ms, 10 * ms, 0, 100, 100, 2 * ms, (*slowStore).recorded, 10 * ms, 12 * ms},
		{"records with a bound", 1 * ms, 50 * ms, 0, 100, 100, 2 * ms, (*slowStore).recorded, 20 * ms, 22 * ms},
		{"records not while more waits", 1 * ms, 10 * ms, 0, 200, 5, 0, (*slowStore).recorded, 0, 1 * ms},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				store := &slowStore{draw: c.draw, record: c.record}
				w := running(t, dir, slow{0, nil}, func(s prepay.Store) prepay.Store { store.Store = s; return store })
				w.limits.ConcurrentMax = c.slots
				d := w.pp.Deps
				d.PauseMax, d.Config.AnswersMax = 20*ms, c.answers
				var err error
				w.pp, err = prepay.New(d)
				w.must(err)
				ctx, stop := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				for i := range c.first {
					w.pay(fmt.Sprint("first", i), "a")
				}
				go func() { ended <- w.pp.Run(ctx) }()
				for i := range 100 {
					time.Sleep(c.every)
					w.pay(fmt.Sprint(i), "a")
				}
				time.Sleep(10 * time.Second)
				stop()
				w.must(<-ended)
				spans := c.spans(store)[min(c.first, 2):]
				for i := range len(spans) - 2 { // the last one may not be full
					if wait := spans[i+1].from.Sub(spans[i].to); wait < c.leastWait || wait > c.mostWait {
						t.Errorf("%d of %d: %v later, want %v to %v", i+1, len(spans), wait, c.leastWait, c.mostWait)
					}
				}
				w.must(w.store.Close())
			})
		})
	}
}

func (s *slowStore) drawn() []span    { return s.draws }
func (s *slowStore) recorded() []span { return s.records }

func TestRunEndsWhenACommitIsUnknown(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		broken := &brokenStore{}
		w := running(t, dir, slow{time.Second, nil}, func(s prepay.Store) prepay.Store { broken.Store = s; return broken })
		w.pay("o", "a")
		w.must(w.pp.Recover(context.Background()))
		broken.err = fault.New(fault.Unknown, "test", "fsync failed")
		if err := w.pp.Run(context.Background()); !fault.Is(err, fault.Unknown) {
			t.Errorf("have %v, want unknown", err)
		}
		same(t, "logged for the edge only", strings.Count(w.log.String(), "fsync failed"), 0)
		w.must(w.store.Close())
	})
}

func TestConfigNamesTheField(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	for _, c := range []struct {
		field string
		edit  func(c *prepay.Config)
	}{
		{"lanes_max", func(c *prepay.Config) { c.LanesMax = 0 }},
		{"backoff.ask_first_millis", func(c *prepay.Config) { c.Backoff.AskFirstMillis = -1 }},
		{"backoff.max_millis", func(c *prepay.Config) { c.Backoff.MaxMillis = 5 }},
	} {
		d := w.pp.Deps
		d.Config = prepay.Defaults()
		c.edit(&d.Config)
		if _, err := prepay.New(d); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.field+":") {
			t.Errorf("have %v, want %s named", err, c.field)
		}
	}
}

func TestDesk(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.psps["a"].answer = replies(unknown)
	w.pay("old", "a")
	w.turn()
	w.after(day - 1)
	w.sweep()
	same(t, "on the desk within the day", w.call("old").DeskAtMillis, 0)
	w.pay("young", "a")
	w.turn()
	for range 3 {
		w.after(6 * second)
		w.sweep()
	}
	if w.call("old").DeskAtMillis == 0 || w.call("young").DeskAtMillis != 0 {
		t.Errorf("old at %d, young at %d", w.call("old").DeskAtMillis, w.call("young").DeskAtMillis)
	}
	same(t, "told once", strings.Count(w.log.String(), "is on the desk"), 1)
	same(t, "counted once", w.metrics.GetOrCreateCounter("tallystick_prepay_desk_total").Get(), 1)
	same(t, "gauge", w.metrics.GetOrCreateGauge(`tallystick_prepay_calls_on_desk{account="a"}`, nil).Get(), 1)
	tries := w.call("old").Tries
	w.after(day)
	w.turn()
	if w.call("old").Tries <= tries {
		t.Error("on the desk, it is not asked after any more")
	}
	page, next, err := w.pp.List(context.Background(), prepay.Filter{Desk: true}, 0, 10)
	w.must(err)
	if len(page) != 1 || next != 0 || page[0].NextAction == "" || page[0].NextAtMillis == 0 || page[0].AgeMillis < day {
		t.Errorf("the desk shows %+v", page)
	}
}

func (w *world) sweep() {
	w.t.Helper()
	_, err := w.pp.StepSweep(context.Background())
	w.must(err)
}

func TestListAndFind(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.config.ListMax = 3
	w.restart()
	for i := range 7 {
		w.pay(fmt.Sprint(i), "a")
	}
	w.limits.ConcurrentMax = 1
	w.draw()
	var have []string
	for cursor, pages := int64(0), 0; ; pages++ {
		page, next, err := w.pp.List(context.Background(), prepay.Filter{}, cursor, 100)
		w.must(err)
		for _, c := range page {
			have = append(have, c.NextAction)
		}
		if cursor = next; next == 0 {
			same(t, "pages", pages, 2)
			break
		}
	}
	same(t, "next actions", have, "[await the reply to pay pay pay pay pay pay pay]")
	c, err := w.pp.Find(context.Background(), no("3"))
	w.must(err)
	same(t, "found", []any{c.OutTradeNo, c.Status, c.Standing, c.Amount}, []any{no("3"), "due", "never_sent", "1999 CNY"})
	if _, err := w.pp.Find(context.Background(), no("nobody")); !fault.Is(err, fault.NotFound) {
		t.Errorf("have %v, want not found", err)
	}
}

func TestAskNow(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.pay("o", "a")
	if err := w.pp.AskNow(context.Background(), no("o")); !fault.Is(err, fault.Conflict) {
		t.Errorf("never sent: have %v, want conflict", err)
	}
	w.turn()
	w.must(w.pp.AskNow(context.Background(), no("o")))
	w.must(w.pp.AskNow(context.Background(), no("o")))
	w.turn()
	same(t, "asked", w.psps["a"].ops(), "[pay query]")
	w.psps["a"].answer = replies(paid)
	w.must(w.pp.AskNow(context.Background(), no("o")))
	w.turn()
	if err := w.pp.AskNow(context.Background(), no("o")); !fault.Is(err, fault.Conflict) {
		t.Errorf("paid: have %v, want conflict", err)
	}
	if err := w.pp.AskNow(context.Background(), no("nobody")); !fault.Is(err, fault.NotFound) {
		t.Errorf("unknown: have %v, want not found", err)
	}
}

// A pay that is to be repeated is asked about first when someone asks.
func TestAskNowNeverPays(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a")
	w.psps["a"].answer = replies(unknown, notFound, paid)
	w.pay("o", "a")
	w.turn()
	w.after(second)
	w.turn()
	same(t, "next", w.call("o").Op, event.OpPay)
	w.must(w.pp.AskNow(context.Background(), no("o")))
	w.turn()
	same(t, "asked", w.psps["a"].ops(), "[pay query query]")
}

func TestFiguresAndLog(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a", "b")
	w.limits.ConcurrentMax = 2
	w.psps["a"].answer = replies(withQR, unknown)
	for i := range 5 {
		w.pay(fmt.Sprint(i), "a")
	}
	w.draw()
	w.run()
	w.record()
	w.draw() // two more are out
	w.after(2 * second)
	w.sweep()
	var b strings.Builder
	w.metrics.WritePrometheus(&b)
	for _, line := range []string{
		`tallystick_prepay_calls_total{account="a",op="pay",result="done"} 1`,
		`tallystick_prepay_calls_total{account="a",op="pay",result="unknown"} 1`,
		`tallystick_prepay_call_duration_seconds_count{account="a",op="pay"} 2`,
		`tallystick_prepay_calls_in_flight{account="a"} 2`, `tallystick_prepay_calls_in_flight{account="b"} 0`,
		`tallystick_prepay_calls_in_flight_oldest_seconds{account="a"} 2`,
		`tallystick_prepay_calls_due{account="a"} 2`, // one never drawn, and the query after the unknown
		`tallystick_prepay_calls_due_oldest_seconds{account="a"} 2`,
		`tallystick_prepay_calls_waiting{account="a"} 1`,
		`tallystick_prepay_calls_unknown{account="a"} 1`,
	} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("no line %s in:\n%s", line, b.String())
		}
	}
	log := w.log.String()
	if strings.Contains(log, "QR-SECRET") {
		t.Error("a credential is in the log")
	}
	ctx, _, _ := number("1")
	for _, line := range strings.Split(strings.TrimSpace(log), "\n") {
		for _, want := range []string{`"biz_code":"r`, `"merchant":"m1"`, `"order_type"`, `"order_scene"`, `"institution"`,
			`"trace_id":"` + ctx.TraceID, `"form":"deposit"`, `"traffic":"real"`, `"out_trade_no"`} {
			if !strings.Contains(line, want) {
				t.Errorf("no %s in log line %s", want, line)
			}
		}
	}
	if log == "" {
		t.Error("an unknown call is not logged")
	}
}

// Statements are per batch, not per call.
func TestStatementsPerBatch(t *testing.T) {
	w := newWorld(t, t.TempDir(), "a", "b")
	w.limits.ConcurrentMax = 64
	w.psps["a"].answer, w.psps["b"].answer = replies(withQR), replies(withQR)
	w.must(w.pp.Recover(context.Background()))
	var ds []dispatch
	for i := range 128 {
		ds = append(ds, dispatch{order: fmt.Sprint(i), account: []string{"a", "b"}[i%2], op: event.OpPay})
	}
	count := func(what string, most int64, f func()) {
		t.Helper()
		before := w.store.DB().Statements()
		f()
		if n := w.store.DB().Statements() - before; n > most {
			t.Errorf("%s: %d statements, want at most %d", what, n, most)
		}
	}
	count("apply", 2+2+2+groups, func() { w.apply(ds...) })
	count("draw", 2+2*2+2, w.draw)
	same(t, "out", len(w.queue), 128)
	w.run()
	count("record", 2+2+2+groups+2, w.record)
	w.draw() // every slot was used: there might have been more
	count("nothing due", 0, w.draw)
	count("nothing answered", 0, w.record)
}

// The same seed gives the same bytes.
func TestDeterministic(t *testing.T) {
	once := func() string {
		w := newWorld(t, t.TempDir(), "a", "b")
		w.psps["a"].answer = replies(unknown, pending, notSent, unknown, withQR)
		for i := range 20 {
			w.pay(fmt.Sprint(i), []string{"a", "b"}[i%2])
		}
		for range 10 {
			w.turn()
			w.after(7 * second)
		}
		w.restart()
		w.turn()
		page, _, err := w.pp.List(context.Background(), prepay.Filter{}, 0, 100)
		w.must(err)
		return fmt.Sprint(w.told(), page, w.log.String())
	}
	if a, b := once(), once(); a != b {
		t.Error("two runs of one seed differ")
	}
}
