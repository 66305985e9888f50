package app

import (
	"context"
	"path/filepath"
	"time"

	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/bus/kafka"
)

// transport is how the areas of this process hear of each other, and of those in
// other processes.
type transport interface {
	// intake takes what enters from outside; gateways alone ask for it.
	intake() bus.Intake
	// sources read some groups of topics, nil for all, each for one reader; what runs for
	// them comes with them.
	sources(topics []bus.Topic, groups []int) ([]bus.Source, []runner)
	// relays bring what is told of some groups to readers in other processes, one for
	// each log; none where readers read the logs themselves.
	relays(logs []bus.Source, groups []int) ([]*kafka.Relay, []runner)
	// bind refuses stores whose places are in another bus.
	bind(ctx context.Context, s *Stores) error
	// tellers tell how far an area has come, where those who keep the log cannot look.
	tellers(role Role, topic bus.Topic, places embedded.Places, groups []int) []runner
	// committed is, by group, up to where everyone who must read an area's log has
	// committed it, and does not need the log itself any more. relay is the log's, where
	// there is one.
	committed(ctx context.Context, log bus.Source, relay *kafka.Relay) (map[int]bus.Place, error)
	// keeps is for how long something that nobody has read is certainly kept; with 0
	// there is no end to it.
	keeps() time.Duration
	// passed is told how far core has come in a topic.
	passed(topic bus.Topic, moves []bus.Move)
	// ready is closed once everything is there that messages go through: before that
	// nothing may be read or told.
	ready() <-chan struct{}
	// directory is where newer directories come from.
	directory() directorySource
	// reachable says why messages do not go through; nil if they do.
	reachable() error
	// backlog is what is unread of a topic that enters from outside.
	backlog(bus.Topic) (bytes int64, age time.Duration)
	// full says why nothing of such a topic is taken; nil while something is.
	full(bus.Topic) error
	// first are runners that start before all readers and end after them.
	first() []runner
	steps() []Step
	close() error
}

// directorySource puts newer directories in force: in the embedded profile its file, and
// else what is published. See merchant.Watcher and merchant.Follower.
type directorySource interface {
	Run(ctx context.Context, every time.Duration) error
	// Refused counts what was refused.
	Refused() int64
	// Settled is closed once there is a directory that does not fall behind what there was
	// at the start: what asks it whether something is allowed must not begin before.
	Settled() <-chan struct{}
	// Missing says why no directory is in force, or has not settled; nil if all is well.
	Missing() error
}

// embeddedBus is the areas' own logs, and an intake in the same process.
type embeddedBus struct {
	app *App
	log *embedded.Intake
}

// openEmbedded opens the intake in its store.
func (a *App) openEmbedded(ctx context.Context) (transport, error) {
	log, err := embedded.OpenIntake(ctx, a.Config.intake(), a.Stores.Intake, a.Now, a.Points, a.Log, func(_ string, t bus.Topic) (int64, error) {
		places, err := a.Stores.Core.Places(ctx, t)
		return places[0].Seq, err
	})
	if err != nil {
		return nil, err
	}
	a.Intake = log
	return &embeddedBus{app: a, log: log}, nil
}

func (e *embeddedBus) intake() bus.Intake { return e.log }

func (e *embeddedBus) sources(topics []bus.Topic, _ []int) (out []bus.Source, run []runner) {
	for _, t := range topics {
		switch t {
		case bus.Dispatch, bus.Payments:
			out = append(out, e.app.Stores.Core.Log().Source(t))
		case bus.Outcomes:
			out = append(out, e.app.Stores.Prepay.Outcomes())
		case bus.Postings:
			out = append(out, e.app.Stores.Accounting.Source())
		default:
			out = append(out, e.log.Source(t))
		}
	}
	return out, nil
}

func (e *embeddedBus) relays([]bus.Source, []int) ([]*kafka.Relay, []runner) { return nil, nil }

// bind has nothing to do: see storeOptions.
func (e *embeddedBus) bind(context.Context, *Stores) error { return nil }

func (e *embeddedBus) tellers(Role, bus.Topic, embedded.Places, []int) []runner { return nil }

// committed asks the readers' stores.
func (e *embeddedBus) committed(ctx context.Context, log bus.Source, _ *kafka.Relay) (map[int]bus.Place, error) {
	all, err := headsOf(ctx, log)
	if err != nil {
		return nil, err
	}
	stores := e.app.Stores.Parked()
	for _, role := range readersOf(log.Topic()) {
		places, err := stores[string(role)].Committed(ctx, log.Topic())
		if err != nil {
			return nil, err
		}
		all = earlier(all, places)
	}
	return all, nil
}

func (e *embeddedBus) keeps() time.Duration { return 0 }

func (e *embeddedBus) passed(topic bus.Topic, moves []bus.Move) {
	for _, m := range moves {
		e.log.Passed(intakeReader, topic, m.To.Seq)
	}
}

func (e *embeddedBus) ready() <-chan struct{} {
	there := make(chan struct{})
	close(there)
	return there
}

func (e *embeddedBus) directory() directorySource {
	return merchant.NewWatcher(filepath.Join(e.app.Dir, DirectoryFile), e.app.Directory, e.app.Log)
}

func (e *embeddedBus) reachable() error { return nil }

func (e *embeddedBus) backlog(t bus.Topic) (int64, time.Duration) { return e.log.Backlog(t) }

func (e *embeddedBus) full(t bus.Topic) error { return e.log.Full(t) }

func (e *embeddedBus) first() []runner {
	return []runner{{"intake", func(ctx context.Context) error { return e.log.Run(ctx, e.app.Config.Intake.MeasureEvery) }}}
}

func (e *embeddedBus) steps() []Step {
	return []Step{{"intake", e.log.Step}, {"intake.trim", e.log.Trim}}
}

func (e *embeddedBus) close() error { return nil }
