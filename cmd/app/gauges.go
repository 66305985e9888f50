package app

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// openStates are the states that a payment order can wait in.
func openStates() []event.Status {
	return []event.Status{event.Created, event.Dispatched, event.Pending, event.Unknown}
}

// gauges are figures that are read from stores every few seconds.
type gauges struct {
	mu     sync.Mutex
	work   map[*Stores]*storeFigures // of each store at work
	stores map[string]error          // by area, and "disk": why it cannot be written to
}

// storeFigures are what a store said when it last answered.
type storeFigures struct {
	asked  bool // and has not answered yet
	open   []core.Age
	parked map[string]int64 // by area
}

// store is what was last found out about a store.
func (g *gauges) store(area string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stores[area]
}

// gaugesEvery is how old the figures of open payment orders may be.
const gaugesEvery = 2 * time.Second

func (a *App) registerGauges() {
	for _, role := range a.Config.areas() {
		area := string(role)
		a.Metrics.GetOrCreateGauge(`tallystick_parked_messages{area="`+area+`"}`, func() float64 { return float64(a.parked(area)) })
	}
	a.Metrics.GetOrCreateGauge(`tallystick_directory_refused_total`, func() float64 { return float64(a.directory.Refused()) })
	a.Metrics.GetOrCreateGauge(`tallystick_directory_version`, func() float64 { return float64(a.Directory.Current().Version) })
	for _, s := range openStates() {
		label := `{status="` + string(s) + `"}`
		a.Metrics.GetOrCreateGauge(`tallystick_core_open_payments`+label, func() float64 { return float64(a.Open(s).Orders) })
		a.Metrics.GetOrCreateGauge(`tallystick_core_open_payments_oldest_seconds`+label, func() float64 {
			if o := a.Open(s); o.Orders > 0 {
				return a.Now().Sub(time.UnixMilli(o.OldestMillis)).Seconds()
			}
			return 0
		})
	}
	for _, t := range entering() {
		label := `{topic="` + string(t) + `"}`
		a.Metrics.GetOrCreateGauge(`tallystick_intake_unread_bytes`+label, func() float64 { n, _ := a.bus.backlog(t); return float64(n) })
		a.Metrics.GetOrCreateGauge(`tallystick_intake_oldest_unread_seconds`+label, func() float64 { _, age := a.bus.backlog(t); return age.Seconds() })
	}
	for area, db := range a.Stores.databases() {
		a.Metrics.GetOrCreateGauge(`tallystick_store_commits_total{area="`+area+`"}`, func() float64 { return float64(db.Commits()) })
	}
	for role, topics := range reads() {
		if !a.Config.has(role) {
			continue
		}
		for _, t := range topics {
			label := `{area="` + string(role) + `",topic="` + string(t) + `"}`
			sum := func(of func(*bus.Consumer) int64) func() float64 {
				return func() (n float64) {
					for _, c := range a.consumers() {
						if c.Area == string(role) && c.Source.Topic() == t {
							n += float64(of(c))
						}
					}
					return n
				}
			}
			stopped := sum(func(c *bus.Consumer) int64 { return int64(len(c.Stopped())) })
			a.Metrics.GetOrCreateGauge(`tallystick_consumer_lag`+label, sum((*bus.Consumer).Lag))
			a.Metrics.GetOrCreateGauge(`tallystick_consumer_stopped_groups`+label, func() float64 {
				return stopped() + float64(a.refusedOf(role)) // which nobody reads
			})
		}
	}
	a.registerStalls()
	a.registerRetention()
	a.registerCells()
}

// reads is what each area reads.
func reads() map[Role][]bus.Topic {
	return map[Role][]bus.Topic{RoleCore: {bus.Callbacks, bus.Outcomes, bus.Intents}, RolePrepay: {bus.Dispatch}, RoleAccounting: {bus.Payments}}
}

// registerCells shows which groups this process is on duty for, and which it cannot be.
func (a *App) registerCells() {
	for _, c := range a.cells {
		label := fmt.Sprintf(`{area=%q,database="%d"}`, c.role, c.db.number)
		a.Metrics.GetOrCreateGauge(`tallystick_lease_groups`+label, func() (n float64) {
			for _, d := range a.atWork() {
				if d.role == c.role && d.stores.db().Number() == c.db.number {
					n += float64(len(d.groups))
				}
			}
			return n
		})
		a.Metrics.GetOrCreateGauge(`tallystick_lease_duties_total`+label, func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return float64(c.duties)
		})
		a.Metrics.GetOrCreateGauge(`tallystick_lease_refused_groups`+label, func() float64 { return float64(len(c.refusedGroups())) })
		a.Metrics.GetOrCreateGauge(`tallystick_lease_groups_owned_twice`+label, func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return float64(len(c.twice))
		})
	}
}

// Open is the number of payment orders that wait in a state, at most a few
// seconds old where the store answers.
func (a *App) Open(s event.Status) (sum core.Age) {
	a.gauges.mu.Lock()
	defer a.gauges.mu.Unlock()
	sum.Status = s
	for _, f := range a.gauges.work {
		for _, o := range f.open {
			if o.Status != s {
				continue
			}
			if sum.Orders == 0 || o.OldestMillis < sum.OldestMillis {
				sum.OldestMillis = o.OldestMillis
			}
			sum.Orders += o.Orders
		}
	}
	return sum
}

// parked is the number of messages that an area has put aside.
func (a *App) parked(area string) (n int64) {
	a.gauges.mu.Lock()
	defer a.gauges.mu.Unlock()
	for _, f := range a.gauges.work {
		n += f.parked[area]
	}
	return n
}

func (a *App) runGauges(ctx context.Context) error {
	tick := time.NewTicker(gaugesEvery)
	defer tick.Stop()
	for {
		if err := a.ReadGauges(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("gauges not read", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ReadGauges reads what /metrics and /readyz show and is not at hand. Run does it
// every few seconds. Stores are asked side by side; what has not answered within
// storePatience keeps its last figures, and is not asked again before it has.
func (a *App) ReadGauges(ctx context.Context) error {
	for _, d := range a.atWork() {
		for _, w := range d.watchdogs {
			w.Step()
		}
	}
	stores := a.checkStores(ctx)
	a.gauges.mu.Lock()
	a.gauges.stores = stores // also when what follows cannot be read
	a.gauges.mu.Unlock()
	patient, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	var asks []func() (struct{}, error)
	for _, s := range a.gauges.ask(a.storesAtWork()) {
		asks = append(asks, func() (struct{}, error) { return struct{}{}, a.gauges.read(ctx, s) })
	}
	_, err := sideBySide(patient, asks)
	return err
}

// ask gives the stores that are to be asked, and forgets those that are not at work any
// more.
func (g *gauges) ask(stores []*Stores) (out []*Stores) {
	g.mu.Lock()
	defer g.mu.Unlock()
	work := map[*Stores]*storeFigures{}
	for _, s := range stores {
		work[s] = g.work[s]
		if work[s] == nil {
			work[s] = &storeFigures{}
		}
		if !work[s].asked {
			work[s].asked = true
			out = append(out, s)
		}
	}
	g.work = work
	return out
}

// read reads the figures of a store.
func (g *gauges) read(ctx context.Context, s *Stores) (err error) {
	now := storeFigures{parked: map[string]int64{}}
	if s.Core != nil {
		now.open, err = s.Core.Open(ctx)
	}
	for area, p := range s.Parked() {
		if err == nil {
			now.parked[area], err = p.Count(ctx)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.work[s]
	switch {
	case f == nil: // its duty has ended
	case err != nil:
		f.asked = false
	default:
		*f = now
	}
	return err
}

// storesAtWork are the stores of all duties, each once.
func (a *App) storesAtWork() (out []*Stores) {
	for _, d := range a.atWork() {
		if !slices.Contains(out, d.stores) {
			out = append(out, d.stores)
		}
	}
	return out
}

// Drained reports whether every consumer has read everything, and no call is out.
func (a *App) Drained() bool {
	for _, d := range a.atWork() {
		for _, c := range d.consumers {
			if c.Lag() > 0 {
				return false
			}
		}
		if d.prepay != nil && d.prepay.InFlight() > 0 {
			return false
		}
	}
	return true
}

// CatchUp lets every consumer apply what is in the logs already, until none has
// anything left to do. Nothing may run any more, and no PSP is called: afterwards
// the areas have come equally far, and can be held against each other.
func (a *App) CatchUp(ctx context.Context) error {
	for worked := true; worked; {
		worked = false
		for _, c := range a.consumers() {
			c.CheckReplays()
			did, err := c.Step(ctx)
			if err != nil {
				return fault.Wrap("catch up", err)
			}
			worked = worked || did
		}
	}
	return nil
}
