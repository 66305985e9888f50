package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/rules"
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/gateway/callback"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/prepay"
)

// Channels are the channel accounts of this installation, ready to be called and
// to be called back by.
type Channels interface {
	prepay.Channels
	// Parser reads the callbacks of an account of a channel.
	Parser(channel, account string) (channels.CallbackParser, bool)
}

// Deps is everything that comes from outside: in production from the folder, the
// clock and the operating system; in a simulation from its seed.
type Deps struct {
	Dir    string
	Config Config
	Secret *ids.Secret
	Tokens *api.TokenRing
	// KafkaPassword is that of kafka.sasl.username; empty without it.
	KafkaPassword string
	Directory     *merchant.Directory
	Channels      Channels
	Executor      prepay.Executor
	Now           func() time.Time
	Random        io.Reader  // for ids
	Rand          *rand.Rand // for jitter; used by prepay alone
	Points        fault.Points
	NoSync        bool // only the simulation may
	// CommitFault fails commits of all stores; see sqldb.Options. For the simulation.
	CommitFault func() error
	Log         *slog.Logger
	Metrics     *metrics.Set
}

// App is all areas, wired together in one process.
type App struct {
	Deps
	Stores    *Stores
	Intake    *embedded.Intake // of the embedded bus
	Core      *core.Core
	Prepay    *prepay.Prepay
	Poster    *accounting.Poster
	Watch     *accounting.Watch
	Views     *voucher.Views
	API       *api.Server
	Callback  *callback.Receiver
	consumers []*bus.Consumer
	watchdogs []*bus.Watchdog
	ids       *ids.Source
	bus       transport
	queries   queries
	gauges    gauges
	directory *merchant.Watcher
	public    net.Listener
	operator  net.Listener
}

// New opens the stores and wires the areas. Close closes them.
func New(ctx context.Context, d Deps) (a *App, err error) {
	a = &App{Deps: d, ids: ids.NewSource(d.Now, d.Random)}
	if a.Stores, err = OpenStores(ctx, d); err != nil {
		return nil, err
	}
	stores, done := a.Stores, false // a return sets a
	defer func() {
		if !done { // also when a crash point panics
			_ = stores.Close()
		}
	}()
	open := a.openEmbedded
	if d.Config.Bus == BusKafka {
		open = a.openKafka
	}
	if a.bus, err = open(ctx); err != nil {
		return nil, err
	}
	for _, build := range []struct {
		role Role
		run  func() error
	}{{RoleCore, a.buildCore}, {RolePrepay, a.buildPrepay}, {RoleAccounting, a.buildAccounting}, {RoleGateway, a.buildGateway}} {
		if !d.Config.has(build.role) {
			continue
		}
		if err = build.run(); err != nil {
			return nil, err
		}
	}
	a.buildConsumers()
	a.directory = merchant.NewWatcher(filepath.Join(a.Dir, DirectoryFile), a.Directory, a.Log)
	for _, c := range a.consumers { // a store from another backup is refused before anything moves
		if err = c.Open(ctx); err != nil {
			return nil, err
		}
	}
	if err = a.openRelays(ctx); err != nil {
		return nil, err
	}
	a.buildWatchdogs()
	a.registerGauges()
	done = true
	return a, nil
}

func (a *App) buildCore() (err error) {
	a.Core, err = core.New(core.Deps{Store: a.Stores.Core, Directory: a.Directory, IDs: a.ids, Now: a.Now, Config: a.Config.Core, Log: a.Log, Metrics: a.Metrics})
	return err
}

func (a *App) buildPrepay() (err error) {
	base := strings.TrimSuffix(a.Config.PublicURL, "/")
	a.Prepay, err = prepay.New(prepay.Deps{Store: a.Stores.Prepay, Channels: a.Channels, Executor: a.Executor, IDs: a.ids, Now: a.Now, Rand: a.Rand,
		NotifyURL: func(channel, account string) string { return base + "/v1/callbacks/" + channel + "/" + account },
		Points:    a.Points, Metrics: a.Metrics, Log: a.Log, Config: a.Config.Prepay})
	return err
}

func (a *App) buildAccounting() (err error) {
	a.Poster, err = accounting.NewPoster(accounting.Deps{Store: a.Stores.Accounting, Rules: rules.Payments{}, IDs: a.ids, Now: a.Now,
		Groups: a.Config.Groups, Metrics: a.Metrics, Log: a.Log, Config: a.Config.Accounting})
	a.Watch = accounting.NewWatch(a.Stores.Accounting, a.Metrics, a.Log, a.Config.Accounting)
	return err
}

func (a *App) buildGateway() (err error) {
	a.queries = newRemoteQueries(a.Config.CoreURL)
	if a.Config.has(RoleCore) {
		a.queries = core.Queries{Store: a.Stores.Core}
	}
	a.Views, err = voucher.New(a.Config.Voucher, a.bus.source(bus.Payments), a.queries, a.Now, a.Metrics, a.Log)
	if err != nil {
		return err
	}
	a.Callback, err = callback.New(callback.Deps{Parsers: a.Channels, Intake: a.bus.intake(), Secret: a.Secret, IDs: a.ids, Now: a.Now, Random: a.Random,
		Points: a.Points, Metrics: a.Metrics, Log: a.Log, Config: a.Config.Callback})
	if err != nil {
		return err
	}
	a.API, err = api.New(api.Deps{Directory: a.Directory, Intake: a.bus.intake(), Secret: a.Secret, Tokens: a.Tokens, Views: a.Views, Queries: a.queries,
		Callbacks: a.Callback, Probes: a.probes(), Now: a.Now, Random: a.Random, Points: a.Points, Metrics: a.Metrics, Log: a.Log, Config: a.Config.API})
	return err
}

// reader is an area that reads a topic.
type reader struct {
	role     Role
	topic    bus.Topic
	places   bus.Places
	apply    func(context.Context, *bus.Batch) error
	pauseMin time.Duration
}

// buildConsumers lists who reads what.
func (a *App) buildConsumers() {
	bounds := a.Config.Consumers
	var readers []reader
	if a.Config.has(RoleCore) {
		c := a.Stores.Core
		readers = append(readers, reader{RoleCore, bus.Callbacks, c, a.Core.ApplyCallbacks, 0}, reader{RoleCore, bus.Outcomes, c, a.Core.ApplyOutcomes, 0},
			reader{RoleCore, bus.Intents, c, a.Core.ApplyIntents, 0})
	}
	if a.Config.has(RolePrepay) {
		readers = append(readers, reader{RolePrepay, bus.Dispatch, a.Stores.Prepay.Places(), a.Prepay.Apply, 0})
	}
	if a.Config.has(RoleAccounting) {
		readers = append(readers, reader{RoleAccounting, bus.Payments, a.Stores.Accounting.Places(), a.Poster.Apply, bounds.LedgerPause})
	}
	for _, r := range readers {
		a.consumers = append(a.consumers, &bus.Consumer{Area: string(r.role), Source: a.bus.source(r.topic), Places: r.places, Apply: r.apply,
			MessagesMax: bounds.MessagesMax, ParkedMax: bounds.ParkedMax, PauseMin: r.pauseMin, PauseMax: max(r.pauseMin, bounds.PauseMax), Now: a.Now,
			Log: a.Log, Advanced: a.bus.passed})
	}
}

// Step is one bounded piece of work of one part of the app.
type Step struct {
	Name string
	Run  func(ctx context.Context) (worked bool, err error)
}

// Steps are all parts that work by themselves, in a fixed order. A simulation
// calls them in an order of its own, one at a time, instead of Run.
func (a *App) Steps() []Step {
	steps := append(a.bus.steps(), Step{"voucher", a.Views.Step})
	for _, c := range a.consumers {
		steps = append(steps, Step{c.Area + "." + string(c.Source.Topic()), c.Step})
	}
	return append(steps, Step{"core.timers", a.Core.StepTimers}, Step{"prepay.lanes", a.Prepay.StepLanes},
		Step{"prepay.record", a.Prepay.StepRecord}, Step{"prepay.sweep", a.Prepay.StepSweep})
}

// Close closes the stores. Nothing may run any more.
func (a *App) Close() error { return errors.Join(a.bus.close(), a.Stores.Close()) }
