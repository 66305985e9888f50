package app

import (
	"context"
	"sync"
	"time"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/api"
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
}

// gaugesEvery is how old the figures of open payment orders may be.
const gaugesEvery = 2 * time.Second

func (a *App) registerGauges() {
	a.gauges.open, a.gauges.parked = map[event.Status]core.Age{}, map[string]int64{}
	for area := range a.Stores.Parked() {
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
	for _, t := range []bus.Topic{bus.Intents, bus.Callbacks} {
		label := `{topic="` + string(t) + `"}`
		a.Metrics.GetOrCreateGauge(`tallystick_intake_unread_bytes`+label, func() float64 { n, _ := a.bus.backlog(t); return float64(n) })
		a.Metrics.GetOrCreateGauge(`tallystick_intake_oldest_unread_seconds`+label, func() float64 { _, age := a.bus.backlog(t); return age.Seconds() })
	}
	for area, commits := range a.Stores.commits() {
		a.Metrics.GetOrCreateGauge(`tallystick_store_commits_total{area="`+area+`"}`, func() float64 { return float64(commits()) })
	}
	for _, c := range a.consumers {
		label := `{area="` + c.Area + `",topic="` + string(c.Source.Topic()) + `"}`
		a.Metrics.GetOrCreateGauge(`tallystick_consumer_lag`+label, func() float64 { return float64(c.Lag()) })
		a.Metrics.GetOrCreateGauge(`tallystick_consumer_stopped_groups`+label, func() float64 { return float64(len(c.Stopped())) })
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
		if err := a.readGauges(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("gauges not read", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *App) readGauges(ctx context.Context) error {
	var ages []core.Age
	var err error
	if a.Stores.Core != nil {
		if ages, err = a.Stores.Core.Open(ctx); err != nil {
			return err
		}
	}
	parked := map[string]int64{}
	for area, p := range a.Stores.Parked() {
		if parked[area], err = p.Count(ctx); err != nil {
			return err
		}
	}
	a.gauges.mu.Lock()
	defer a.gauges.mu.Unlock()
	clear(a.gauges.open)
	for _, o := range ages {
		a.gauges.open[o.Status] = o
	}
	a.gauges.parked = parked
	return nil
}

// probes are what /readyz asks for.
func (a *App) probes() []api.Probe {
	return []api.Probe{{Name: "intake", Check: func() error {
		if bytes, age := a.bus.backlog(bus.Intents); bytes > a.Config.Intake.UnreadBytesMax || age > a.Config.Intake.UnreadAgeMax {
			return fault.New(fault.Unavailable, "intake", "%d bytes are unread, the oldest for %s", bytes, age)
		}
		return nil
	}}}
}

// Drained reports whether every consumer has read everything, and no call is out.
func (a *App) Drained() bool {
	for _, c := range a.consumers {
		if c.Lag() > 0 {
			return false
		}
	}
	return a.Prepay == nil || a.Prepay.InFlight() == 0
}
