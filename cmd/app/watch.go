package app

import (
	"context"

	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// topics are all topics.
func topics() []bus.Topic {
	return []bus.Topic{bus.Intents, bus.Callbacks, bus.Dispatch, bus.Outcomes, bus.Payments, bus.Postings}
}

// relayArea is the name of relays beside those of areas.
const relayArea = "relay"

// buildWatchdogs sets one beside each consumer and each relay.
func (a *App) buildWatchdogs() {
	watch := func(area string, topic bus.Topic, standings func() []bus.Standing) {
		w := &bus.Watchdog{Who: area, Topic: topic, Standings: standings, After: a.Config.Consumers.StallAlarm, Now: a.Now, Log: a.Log}
		a.watchdogs = append(a.watchdogs, w)
		a.Metrics.GetOrCreateGauge(`tallystick_stalled_groups{area="`+area+`",topic="`+string(topic)+`"}`, func() float64 { return float64(len(w.Stalled())) })
	}
	for _, c := range a.consumers {
		watch(c.Area, c.Source.Topic(), c.Standings)
	}
	for _, r := range a.bus.relays() {
		watch(relayArea, r.Source.Topic(), r.Standings)
		a.Metrics.GetOrCreateGauge(`tallystick_relay_lag{topic="`+string(r.Source.Topic())+`"}`, func() float64 { return float64(r.Lag()) })
	}
}

// openRelays holds the areas' logs against what was published of them.
func (a *App) openRelays(ctx context.Context) error {
	for _, r := range a.bus.relays() {
		if err := r.Open(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stalled are the probes that name the topics of groups that stand still.
func (a *App) stalled() (out []api.Probe) {
	for _, t := range topics() {
		out = append(out, api.Probe{Name: string(t) + "_stalled", Check: func() error {
			for _, w := range a.watchdogs {
				if groups := w.Stalled(); w.Topic == t && len(groups) > 0 {
					return fault.New(fault.Unavailable, "watchdog", "groups %v of %s stand still for %s: the log says why", groups, t, w.Who)
				}
			}
			return nil
		}})
	}
	return out
}
