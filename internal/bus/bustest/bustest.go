// Package bustest is what every bus must do, whatever it is made of: order by
// key, durability, delivery at least once and effects exactly once, fences
// between consumers, gaps that stop a group, poison that waits with its key.
//
// An adapter runs all Cases. That the cases find what they look for is proven by
// running them on buses that are broken on purpose.
package bustest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// Bus is one topic with one writer and one reading area, over durable state.
type Bus struct {
	Source bus.Source
	Places bus.Places

	// Publish commits events, all or none; after nil they are durable. It wraps
	// fault.Unavailable when the bus is full.
	Publish func(ctx context.Context, events []bus.Event) error
	// PublishAndFail emits events in a transaction that then fails; nil for a bus
	// without a transaction around it.
	PublishAndFail func(ctx context.Context, events []bus.Event) error
	// Apply records an effect for each live message of the batch and advances, in
	// one transaction.
	Apply func(ctx context.Context, b *bus.Batch) error
	// Effects are what Apply recorded, oldest first.
	Effects func(ctx context.Context) ([]bus.Message, error)
	// Parked are the parked messages, oldest first.
	Parked func(ctx context.Context) ([]bus.Message, error)
	// RequestReplay asks for a key's parked messages to be applied again.
	RequestReplay func(ctx context.Context, key ids.Code) (int64, error)
	// Passed, if set, is told of each move.
	Passed func(topic bus.Topic, moves []bus.Move)
	// Bounded says that Publish is refused while too much is unread.
	Bounded bool

	Close func() error
}

// Open opens the bus whose state is in dir, or makes it. points is passed at
// every place where a crash would be awkward, and may panic.
type Open func(tb testing.TB, dir string, points fault.Points) *Bus

// Case is one thing that a bus must do.
type Case struct {
	Name string
	Run  func(tb testing.TB, open Open)
}

// Run runs all cases on a bus.
func Run(t *testing.T, open Open) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) { c.Run(t, open) })
	}
}

// Cases are all cases.
func Cases() []Case {
	return []Case{
		{"content and order by key", orderByKey},
		{"sequences have no gaps", sequences},
		{"concurrent writers", concurrentWriters},
		{"a failed transaction leaves nothing", failedTransaction},
		{"bounds of a read", readBounds},
		{"reopening", reopening},
		{"a failed batch is delivered again", redelivery},
		{"a crash at any commit", crashAnywhere},
		{"consumers fence each other", fences},
		{"wake-ups", wakeUps},
		{"heads", heads},
		{"a lost message stops its group alone", gapStopsGroup},
		{"a lost end stops its group alone", lostEnd},
		{"poison waits with its key", poison},
		{"poison that stays poison", poisonAgain},
		{"a replay and news take turns", replayUnderLoad},
		{"a replay that fails holds up nobody", failingReplay},
		{"parked is what is stored as parked", parkedOnlyWhenStored},
		{"what may be parked is bounded", parkedIsBounded},
		{"parked is the whole message", parkedWhole},
		{"another log in its place is refused", replacedLog},
		{"a full bus refuses and recovers", full},
	}
}

// Events makes n events over some keys, in turn: event i is of key i mod keys.
// Names keep the events of several calls apart.
func Events(name string, n, keys int) []bus.Event {
	secret, err := ids.NewSecret(make([]byte, ids.SecretLen))
	if err != nil {
		panic(err)
	}
	out := make([]bus.Event, n)
	for i := range out {
		out[i] = bus.Event{ID: fmt.Sprintf("evt_%s_%06d", name, i), Type: "test.happened", Version: bus.EnvelopeVersion,
			AtMillis: int64(1_700_000_000_000 + i), Payload: []byte(fmt.Sprintf(`{"i":%d}`, i)),
			Context: ids.Context{BizCode: secret.Trade(traffic.Real, "m", fmt.Sprint("order", i%keys)), Merchant: "m", OrderType: "general",
				OrderScene: "online", Institution: "sandbox", TraceID: fmt.Sprintf("%032x", i), Form: traffic.Deposit, Traffic: traffic.Real}}
	}
	return out
}

func key(e *bus.Event) string { return string(e.Context.BizCode) }

// fixture is a bus in a folder, and what the case has published.
type fixture struct {
	testing.TB
	*Bus
	open      Open
	dir       string
	published []bus.Event
	alarms    *alarms
}

func newFixture(tb testing.TB, open Open) *fixture {
	tb.Helper()
	f := &fixture{TB: tb, open: open, dir: tb.TempDir(), alarms: &alarms{}}
	f.Bus = open(tb, f.dir, nil)
	tb.Cleanup(func() {
		if f.Bus != nil {
			_ = f.Close()
		}
	})
	return f
}

func (f *fixture) reopen(points fault.Points) {
	f.Helper()
	if err := f.Close(); err != nil {
		f.Fatalf("close: %v", err)
	}
	f.Bus = f.open(f.TB, f.dir, points)
}

func (f *fixture) publish(events []bus.Event) {
	f.Helper()
	if err := f.Publish(f.Context(), events); err != nil {
		f.Fatalf("publish: %v", err)
	}
	f.published = append(f.published, events...)
}

// consumer is a fresh consumer of the bus.
func (f *fixture) consumer(messagesMax int) *bus.Consumer {
	return &bus.Consumer{Area: "test", Source: f.Source, Places: f.Places, Apply: f.Apply, MessagesMax: messagesMax,
		Advanced: f.Passed, Log: slog.New(f.alarms)}
}

// drain steps until there is nothing to do; an error ends it.
func drain(ctx context.Context, c *bus.Consumer) error {
	for range 100_000 {
		worked, err := c.Step(ctx)
		if err != nil || !worked {
			return err
		}
	}
	return fmt.Errorf("a consumer does not come to an end")
}

func (f *fixture) drain(c *bus.Consumer) {
	f.Helper()
	if err := drain(f.Context(), c); err != nil {
		f.Fatalf("consume: %v", err)
	}
}

func (f *fixture) effects() []bus.Message {
	f.Helper()
	out, err := f.Effects(f.Context())
	if err != nil {
		f.Fatalf("effects: %v", err)
	}
	return out
}

func (f *fixture) parked() []bus.Message {
	f.Helper()
	out, err := f.Parked(f.Context())
	if err != nil {
		f.Fatalf("parked: %v", err)
	}
	return out
}

// allOnce checks that what was published had its effect, each once and in the
// order of its key.
func (f *fixture) allOnce() {
	f.Helper()
	f.sameByKey(f.published, f.effects())
}

func (f *fixture) sameByKey(want []bus.Event, have []bus.Message) {
	f.Helper()
	wantIDs, haveIDs := map[string][]string{}, map[string][]string{}
	for i := range want {
		wantIDs[key(&want[i])] = append(wantIDs[key(&want[i])], want[i].ID)
	}
	for i := range have {
		haveIDs[key(&have[i].Event)] = append(haveIDs[key(&have[i].Event)], have[i].ID)
	}
	for k, w := range wantIDs {
		if h := haveIDs[k]; fmt.Sprint(h) != fmt.Sprint(w) {
			f.Errorf("key %s: have %v, want %v", k, h, w)
		}
	}
	if len(have) != len(want) {
		f.Errorf("%d effects, want %d", len(have), len(want))
	}
}

// alarms counts what is logged as an error.
type alarms struct {
	mu    sync.Mutex
	count map[string]int
}

func (a *alarms) Enabled(context.Context, slog.Level) bool { return true }
func (a *alarms) WithAttrs([]slog.Attr) slog.Handler       { return a }
func (a *alarms) WithGroup(string) slog.Handler            { return a }
func (a *alarms) Handle(_ context.Context, r slog.Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count == nil {
		a.count = map[string]int{}
	}
	if r.Level >= slog.LevelError {
		a.count[r.Message]++
	}
	return nil
}
