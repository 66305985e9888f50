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
	open   map[event.Status]core.Age
	parked map[string]int64 // by area
	stores map[string]error // by area, and "disk": why it cannot be written to
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
	a.gauges.open, a.gauges.parked = map[event.Status]core.Age{}, map[string]int64{}
	for _, role := range a.Config.areas() {
		area := string(role)
		a.Metrics.GetOrCreateGauge(`tallystick_parked_messages{area="`+area+`"}`, func() float64 {
			a.gauges.mu.Lock()
			defer a.gauges.mu.Unlock()
			return float64(a.gauges.parked[area])
		})
	}
	a.Metrics.GetOrCreateGauge(`tallystick_directory_files_refused_total`, func() float64 { return float64(a.directory.Refused()) })
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
			a.Metrics.GetOrCreateGauge(`tallystick_consumer_lag`+label, sum((*bus.Consumer).Lag))
			a.Metrics.GetOrCreateGauge(`tallystick_consumer_stopped_groups`+label, sum(func(c *bus.Consumer) int64 { return int64(len(c.Stopped())) }))
		}
	}
	a.registerStalls()
	a.registerCells()
}

// reads is what each area reads.
func reads() map[Role][]bus.Topic {
	return map[Role][]bus.Topic{RoleCore: {bus.Callbacks, bus.Outcomes, bus.Intents}, RolePrepay: {bus.Dispatch}, RoleAccounting: {bus.Payments}}
}

// registerCells shows which groups this process is on duty for.
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
	}
}

// Open is the number of payment orders that wait in a state, at most a few
// seconds old.
func (a *App) Open(s event.Status) core.Age {
	a.gauges.mu.Lock()
	defer a.gauges.mu.Unlock()
	return a.gauges.open[s]
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
// every few seconds.
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
	var ages []core.Age
	parked := map[string]int64{}
	for _, s := range a.storesAtWork() {
		if s.Core != nil {
			more, err := s.Core.Open(ctx)
			if err != nil {
				return err
			}
			ages = append(ages, more...)
		}
		for area, p := range s.Parked() {
			n, err := p.Count(ctx)
			if err != nil {
				return err
			}
			parked[area] += n
		}
	}
	a.gauges.mu.Lock()
	defer a.gauges.mu.Unlock()
	clear(a.gauges.open)
	for _, o := range ages {
		sum := a.gauges.open[o.Status]
		if sum.Orders == 0 || o.OldestMillis < sum.OldestMillis {
			sum.OldestMillis = o.OldestMillis
		}
		sum.Status, sum.Orders = o.Status, sum.Orders+o.Orders
		a.gauges.open[o.Status] = sum
	}
	a.gauges.parked = parked
	return nil
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
