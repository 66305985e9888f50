package app

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/rules"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/prepay"
)

// duty is an area at work on the groups that this process has of it: on all of them
// in the embedded profile, and on those that it holds leases of in the cluster.
// While it lasts, its groups and its stores stay the same.
type duty struct {
	role      Role
	stores    *Stores
	groups    []int // nil is all
	core      *core.Core
	prepay    *prepay.Prepay
	poster    *accounting.Poster
	consumers []*bus.Consumer
	relays    []*kafka.Relay
	watchdogs []*bus.Watchdog // beside each consumer and relay
	keepers   []*keeper
	carriers  []runner // bring what is read, and take away what is told
}

// newDuty puts an area to work on its store. Nothing runs yet.
func (a *App) newDuty(role Role, stores *Stores, groups []int) (*duty, error) {
	d := a.newLook(role, stores, groups)
	apply := map[bus.Topic]func(context.Context, *bus.Batch) error{}
	var pauseMin time.Duration
	var err error
	switch role {
	case RoleCore:
		d.core, err = core.New(core.Deps{Store: stores.Core, Directory: a.Directory, IDs: a.ids, Now: a.Now, Config: a.Config.Core, Log: a.Log, Metrics: a.Metrics})
		if err != nil {
			return nil, err
		}
		apply[bus.Callbacks], apply[bus.Outcomes], apply[bus.Intents] = d.core.ApplyCallbacks, d.core.ApplyOutcomes, d.core.ApplyIntents
	case RolePrepay:
		d.prepay, err = prepay.New(a.prepayDeps(stores.Prepay))
		if err != nil {
			return nil, err
		}
		apply[bus.Dispatch] = d.prepay.Apply
	case RoleAccounting:
		d.poster, err = accounting.NewPoster(accounting.Deps{Store: stores.Accounting, Rules: rules.Payments{}, IDs: a.ids, Now: a.Now,
			Groups: a.Config.Groups, Metrics: a.Metrics, Log: a.Log, Config: a.Config.Accounting})
		if err != nil {
			return nil, err
		}
		apply[bus.Payments], pauseMin = d.poster.Apply, a.Config.Consumers.LedgerPause
	}
	for _, c := range d.consumers {
		c.Apply, c.PauseMin, c.PauseMax = apply[c.Source.Topic()], pauseMin, max(pauseMin, a.Config.Consumers.PauseMax)
	}
	a.watch(d)
	return d, nil
}

// newLook makes what reads and tells for an area, without the area itself: it can be
// opened, and says which groups are refused.
func (a *App) newLook(role Role, stores *Stores, groups []int) *duty {
	d := &duty{role: role, stores: stores, groups: groups}
	places, log := stores.Parked()[string(role)], stores.log(role)
	var logs []bus.Source
	for _, t := range writes()[role] {
		logs = append(logs, log.Source(t))
	}
	d.relays, d.carriers = a.bus.relays(logs, groups)
	for i, t := range writes()[role] {
		var relay *kafka.Relay
		if len(d.relays) > 0 {
			relay = d.relays[i]
		}
		d.keepers = append(d.keepers, a.newKeeper(t, log, relay, groups))
	}
	bounds := a.Config.Consumers
	sources, carriers := a.bus.sources(reads()[role], groups)
	d.carriers = append(d.carriers, carriers...)
	for _, source := range sources {
		d.carriers = append(d.carriers, a.bus.tellers(role, source.Topic(), places, groups)...)
		d.consumers = append(d.consumers, &bus.Consumer{Area: string(role), Source: source, Places: places, Groups: groups,
			MessagesMax: bounds.MessagesMax, ParkedMax: bounds.ParkedMax, Now: a.Now, Log: a.Log, Advanced: a.bus.passed})
	}
	return d
}

func (a *App) prepayDeps(store prepay.Store) prepay.Deps {
	a.mu.Lock()                                                       // several duties draw their own chance from one
	chance := rand.New(rand.NewPCG(a.Rand.Uint64(), a.Rand.Uint64())) //nolint:gosec // jitter
	a.mu.Unlock()
	base := strings.TrimSuffix(a.Config.PublicURL, "/")
	config := a.Config.Prepay
	if a.Config.Stores == StoresPostgres { // others wait for the groups: what is still out then is asked after
		config.DrainMillis = min(config.DrainMillis, max(1, a.Config.Lease.Patience.Milliseconds()*3/4))
	}
	return prepay.Deps{Store: store, Channels: a.Channels, Executor: a.Executor, IDs: a.ids, Now: a.Now, Rand: chance,
		NotifyURL: func(channel, account string) string { return base + "/v1/callbacks/" + channel + "/" + account },
		PauseMax:  a.Config.Consumers.PauseMax, Points: a.Points, Metrics: a.Metrics, Log: a.Log, Config: config}
}

// open looks whether the logs are those that were read and published: a store from
// another backup is refused before anything moves. The error is about all groups with
// which something is wrong.
func (d *duty) open(ctx context.Context) error {
	var errs []error
	for _, c := range d.consumers {
		errs = append(errs, c.Open(ctx))
	}
	for _, r := range d.relays {
		errs = append(errs, r.Open(ctx))
	}
	return errors.Join(errs...)
}

// refused are the groups that were refused by now, and why: in one of the topics that
// the area reads or writes.
func (d *duty) refused() map[int]error {
	out := map[int]error{}
	add := func(groups map[int]error) {
		for g, why := range groups {
			out[g] = errors.Join(out[g], why)
		}
	}
	for _, c := range d.consumers {
		add(c.Refused())
	}
	for _, r := range d.relays {
		add(r.Refused())
	}
	return out
}

// runnersOf are what runs for some duties, in the order of starting. Readers start
// before, and stop after, those whose events they read.
func (a *App) runnersOf(duties ...*duty) (out []runner) {
	c := a.Config.Consumers
	for _, d := range duties {
		out = append(out, d.carriers...)
	}
	for i := len(duties) - 1; i >= 0; i-- {
		for j := len(duties[i].consumers) - 1; j >= 0; j-- {
			consumer := duties[i].consumers[j]
			out = append(out, runner{consumer.Area + " of " + string(consumer.Source.Topic()), func(ctx context.Context) error {
				return consumer.Run(ctx, c.Idle, c.BackoffMax)
			}})
		}
	}
	for _, d := range duties {
		for _, k := range d.keepers {
			out = append(out, runner{"retention of " + string(k.topic), k.run})
		}
		if d.core != nil {
			out = append(out, runner{"core timers", func(ctx context.Context) error { return d.core.RunTimers(ctx, c.TimersEvery) }})
		}
		if d.prepay != nil {
			out = append(out, runner{"prepay", d.prepay.Run})
		}
	}
	return out
}

// take makes a duty one of those at work, and drop ends that.
func (a *App) take(d *duty) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.duties = append(a.duties, d)
}

func (a *App) drop(d *duty) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.duties {
		if a.duties[i] == d {
			a.duties = append(append([]*duty(nil), a.duties[:i]...), a.duties[i+1:]...)
			return
		}
	}
}

// holds reports whether this process is on duty for a group of an area.
func (a *App) holds(role Role, group int) bool {
	for _, d := range a.atWork() {
		if d.role == role && (d.groups == nil || slices.Contains(d.groups, group)) {
			return true
		}
	}
	return false
}

// atWork are the duties of this process, now.
func (a *App) atWork() []*duty {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.duties
}

// consumers are those of all duties, now.
func (a *App) consumers() (out []*bus.Consumer) {
	for _, d := range a.atWork() {
		out = append(out, d.consumers...)
	}
	return out
}
