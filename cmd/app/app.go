package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/gateway/callback"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/coord/local"
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
	Dir       string
	Config    Config
	Secret    *ids.Secret
	Passwords map[Role]string // of the areas that are served or looked at, for stores: postgres
	// KafkaPassword is that of kafka.sasl.username; empty without it.
	KafkaPassword string
	Tokens        *api.TokenRing      // for gateways
	Directory     *merchant.Directory // with bus: kafka, empty until New reads the snapshot, or Run what is published
	Channels      Channels            // for gateways and prepay
	Executor      prepay.Executor
	Coord         Coordinator // nil for a replica that is alone
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
	ids       *ids.Source
	bus       transport
	queries   queries
	gauges    gauges
	directory directorySource
	public    net.Listener
	operator  net.Listener
	cells     []*cell  // of the cluster
	carriers  []runner // of the voucher view

	mu     sync.Mutex
	duties []*duty // at work
}

// New opens the stores and wires the areas. Close closes them.
func New(ctx context.Context, d Deps) (a *App, err error) {
	if d.Coord == nil {
		d.Coord = oneReplica{local.New().Replica()}
	}
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
	a.directory = a.bus.directory()
	build := a.buildAreas
	if d.Config.Stores == StoresPostgres {
		build = a.buildCells
	}
	if err = build(ctx); err != nil {
		return nil, err
	}
	if d.Config.has(RoleGateway) {
		if err = a.buildGateway(); err != nil {
			return nil, err
		}
	}
	a.registerGauges()
	done = true
	return a, nil
}

// buildAreas puts this process's areas to work on all groups.
func (a *App) buildAreas(ctx context.Context) error {
	areas := a.Config.areas()
	if len(areas) == 0 { // a gateway starts without brokers
		return nil
	}
	if err := a.bus.bind(ctx, a.Stores); err != nil {
		return err
	}
	for _, role := range areas {
		d, err := a.newDuty(role, a.Stores, nil)
		if err != nil {
			return err
		}
		if err := d.open(ctx); err != nil {
			return err
		}
		a.take(d)
		switch role {
		case RoleCore:
			a.Core = d.core
		case RolePrepay:
			a.Prepay = d.prepay
		case RoleAccounting:
			a.Poster = d.poster
			a.Watch = accounting.NewWatch(a.Metrics, a.Log, a.Config.Accounting, a.Stores.Accounting)
		}
	}
	return nil
}

// buildCells lists the areas in each database. One that cannot be reached now is
// joined later; one that is not of this installation, or not of this build's
// version, is refused.
func (a *App) buildCells(ctx context.Context) error {
	list, err := a.Config.Postgres.list()
	if err != nil {
		return err
	}
	for _, db := range list {
		for _, role := range a.Config.areas() {
			c := &cell{app: a, role: role, db: db, connecting: make(chan struct{}, 1), asking: make(chan struct{}, 1), refused: map[int]error{}, state: fault.New(fault.Unavailable, "cell", "not joined yet")}
			a.cells = append(a.cells, c)
			if _, err := c.readStores(ctx); err != nil {
				if !fault.Is(err, fault.Unavailable) {
					return err
				}
				a.Log.Error("a database cannot be reached: its groups stand still", "cell", c.name(), "error", err)
			}
		}
	}
	if a.Config.has(RoleAccounting) {
		a.Watch = accounting.NewWatch(a.Metrics, a.Log, a.Config.Accounting, trials{a})
	}
	return nil
}

func (a *App) buildGateway() (err error) {
	a.queries = newRemoteQueries(a.Config.CoreURL)
	if a.Config.has(RoleCore) {
		a.queries = core.Queries{Store: a.trades()}
	}
	sources, carriers := a.bus.sources([]bus.Topic{bus.Payments}, nil)
	a.carriers = carriers
	a.Views, err = voucher.New(a.Config.Voucher, sources[0], a.queries, a.Now, a.Metrics, a.Log)
	if err != nil {
		return err
	}
	a.Callback, err = callback.New(callback.Deps{Parsers: a.Channels, Intake: a.bus.intake(), Secret: a.Secret, IDs: a.ids, Now: a.Now, Random: a.Random,
		Points: a.Points, Metrics: a.Metrics, Log: a.Log, Config: a.Config.Callback})
	if err != nil {
		return err
	}
	a.API, err = api.New(api.Deps{Directory: a.Directory, Intake: a.bus.intake(), Secret: a.Secret, Tokens: a.Tokens, Views: a.Views, Queries: a.queries,
		Callbacks: a.Callback, Probes: a.probes(), Buckets: a.merchantBuckets, Hint: a.hint(), Others: a.Config.Bus == BusKafka, Now: a.Now, Random: a.Random, Points: a.Points,
		Metrics: a.Metrics, Log: a.Log, Config: a.Config.API})
	if err != nil {
		return err
	}
	a.connectHints()
	return nil
}

// trades are where core's questions are answered from.
func (a *App) trades() core.Trades {
	if a.Config.Stores == StoresPostgres {
		return a
	}
	return a.Stores.Core
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
	for _, c := range a.consumers() {
		steps = append(steps, Step{c.Area + "." + string(c.Source.Topic()), c.Step})
	}
	for _, d := range a.atWork() {
		for _, k := range d.keepers {
			steps = append(steps, Step{"retention." + string(k.topic), k.Step})
		}
	}
	return append(steps, Step{"core.timers", a.Core.StepTimers}, Step{"prepay.lanes", a.Prepay.StepLanes},
		Step{"prepay.record", a.Prepay.StepRecord}, Step{"prepay.sweep", a.Prepay.StepSweep})
}

// Close closes the stores. Nothing may run any more.
func (a *App) Close() error {
	errs := []error{a.Coord.Close(), a.bus.close(), a.Stores.Close()}
	for _, c := range a.cells {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}
