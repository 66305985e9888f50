package app

import (
	"slices"

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

// watch sets a watchdog beside each consumer and each relay of a duty.
func (a *App) watch(d *duty) {
	add := func(area string, topic bus.Topic, standings func() []bus.Standing) {
		d.watchdogs = append(d.watchdogs, &bus.Watchdog{Who: area, Topic: topic, Standings: standings, After: a.Config.Consumers.StallAlarm, Now: a.Now, Log: a.Log})
	}
	for _, c := range d.consumers {
		add(c.Area, c.Source.Topic(), c.Standings)
	}
	for _, r := range d.relays {
		add(relayArea, r.Source.Topic(), r.Standings)
	}
}

// writes is what each area writes.
func writes() map[Role][]bus.Topic {
	return map[Role][]bus.Topic{RoleCore: {bus.Dispatch, bus.Payments}, RolePrepay: {bus.Outcomes}, RoleAccounting: {bus.Postings}}
}

// registerStalls shows groups that stand still, and how far relays are behind.
func (a *App) registerStalls() {
	stalls := func(area string, topic bus.Topic) {
		a.Metrics.GetOrCreateGauge(`tallystick_stalled_groups{area="`+area+`",topic="`+string(topic)+`"}`, func() float64 { return float64(len(a.stalledOf(area, topic))) })
	}
	for _, role := range a.Config.areas() {
		for _, t := range reads()[role] {
			stalls(string(role), t)
		}
		for _, t := range writes()[role] {
			if a.Config.Bus != BusKafka {
				continue
			}
			stalls(relayArea, t)
			a.Metrics.GetOrCreateGauge(`tallystick_relay_lag{topic="`+string(t)+`"}`, func() (lag float64) {
				for _, d := range a.atWork() {
					for _, r := range d.relays {
						if r.Source.Topic() == t {
							lag += float64(r.Lag())
						}
					}
				}
				return lag
			})
		}
	}
}

// stalledOf are the groups in which an area, or a relay, stands still.
func (a *App) stalledOf(area string, topic bus.Topic) (out []int) {
	for _, d := range a.atWork() {
		for _, w := range d.watchdogs {
			if w.Who == area && w.Topic == topic {
				out = append(out, w.Stalled()...)
			}
		}
	}
	slices.Sort(out)
	return out
}

// stalled are the probes that name the topics of groups that stand still.
func (a *App) stalled() (out []api.Probe) {
	for _, t := range topics() {
		out = append(out, api.Probe{Name: string(t) + "_stalled", Check: func() error {
			for _, area := range []string{string(RoleCore), string(RolePrepay), string(RoleAccounting), relayArea} {
				if groups := a.stalledOf(area, t); len(groups) > 0 {
					return fault.New(fault.Unavailable, "watchdog", "groups %v of %s stand still for %s: the log says why", groups, t, area)
				}
			}
			return nil
		}})
	}
	return out
}
