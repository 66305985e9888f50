package app

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/fault"
)

// RetentionConfig is for the areas' logs: what everyone who must read it has
// committed is kept for a while, so that a reader that is restored from a backup
// finds it.
type RetentionConfig struct {
	LogAge      time.Duration `yaml:"log_age"`
	LogBytesMax int64         `yaml:"log_bytes_max"` // of one topic in one database, about
	Every       time.Duration `yaml:"every"`         // between two looks
	RowsMax     int           `yaml:"rows_max"`      // looked at in one step
}

func defaultRetention() RetentionConfig {
	return RetentionConfig{LogAge: 30 * 24 * time.Hour, LogBytesMax: 16 << 30, Every: time.Minute, RowsMax: 500}
}

func (c *Config) validateRetention() error {
	bad := func(field, code, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "configuration", Field: field, Code: code, Fix: fix}
	}
	r := c.Retention
	switch {
	case r.LogAge <= 0:
		return bad("retention.log_age", "not_positive", "give a duration such as 720h: a backup that is older cannot be restored beside newer stores")
	case r.LogBytesMax <= 0:
		return bad("retention.log_bytes_max", "not_positive", "give a number of bytes")
	case r.Every <= 0 || r.Every > time.Hour:
		return bad("retention.every", "out_of_range", "give a duration of at most 1h, such as 1m")
	case r.RowsMax < 1:
		return bad("retention.rows_max", "not_positive", "set it to at least 1")
	case c.Bus == BusKafka && c.Intake.UnreadAgeMax > c.Kafka.Retention/4:
		return bad("intake.unread_age_max", "too_large", "keep it to a quarter of kafka.retention: what core has not read by then is deleted by the brokers")
	}
	return nil
}

// nearShare is the part of a bound at which an alarm is raised.
const nearShare = 0.8

// keeper trims the log of a topic, as far as an area is on duty for it. Step is not
// safe for concurrent use.
type keeper struct {
	app     *App
	topic   bus.Topic
	log     *embedded.Log
	relay   *kafka.Relay // of the topic; nil where readers read the log itself
	groups  []int        // nil is all
	trimmer *embedded.Trimmer
	nextAt  time.Time // when it has come to the end of what may go

	mu            sync.Mutex
	size          embedded.Size
	near, waiting bool // an alarm was raised
}

func (a *App) newKeeper(topic bus.Topic, log *embedded.Log, relay *kafka.Relay, groups []int) *keeper {
	return &keeper{app: a, topic: topic, log: log, relay: relay, groups: groups, trimmer: log.Trimmer(topic, groups)}
}

// Step measures the log and deletes some of what may go: what was committed by
// everyone who must read it, and is too old, or more than there may be.
func (k *keeper) Step(ctx context.Context) (worked bool, err error) {
	now, r := k.app.Now(), k.app.Config.Retention
	if now.Before(k.nextAt) {
		return false, nil
	}
	k.nextAt = now.Add(r.Every) // also after an error
	committed, err := k.app.bus.committed(ctx, k.log.Source(k.topic), k.relay)
	if err != nil {
		return false, fault.Wrap("retention", err)
	}
	size, err := k.log.Size(ctx, k.topic, k.groups, committed)
	if err != nil {
		return false, fault.Wrap("retention", err)
	}
	k.note(size)
	w := embedded.Trim{UpTo: committed, BeforeMillis: now.Add(-r.LogAge).UnixMilli(), RowsMax: r.RowsMax}
	if size.Bytes > r.LogBytesMax {
		w.BeforeMillis = embedded.Everything
	}
	deleted, more, err := k.trimmer.Step(ctx, w)
	if err == nil && more {
		k.nextAt = time.Time{}
	}
	return deleted > 0, fault.Wrap("retention", err)
}

// note keeps the figures, and raises an alarm when a bound comes near.
func (k *keeper) note(size embedded.Size) {
	r, log := k.app.Config.Retention, k.app.Log.With("topic", string(k.topic))
	k.mu.Lock()
	defer k.mu.Unlock()
	k.size = size
	near := float64(size.Bytes) > nearShare*float64(r.LogBytesMax)
	if near && !k.near {
		log.Error("a log comes near its bound: above it, what was read goes before its time", "bytes", size.Bytes, "log_bytes_max", r.LogBytesMax,
			"oldest_at_millis", size.OldestMillis)
	}
	keep := k.app.bus.keeps()
	waiting := keep > 0 && size.WaitingMillis > 0 && float64(k.app.Now().UnixMilli()-size.WaitingMillis) > nearShare*float64(keep.Milliseconds())
	if waiting && !k.waiting {
		log.Error("a reader is behind by nearly as long as its topic is kept", "since_millis", size.WaitingMillis, "kept", keep.String())
	}
	k.near, k.waiting = near, waiting
}

// run steps until ctx ends.
func (k *keeper) run(ctx context.Context) error {
	for ctx.Err() == nil {
		_, err := k.Step(ctx)
		if fault.Is(err, fault.Unknown) {
			return err
		}
		if err != nil && ctx.Err() == nil && !fault.Is(err, fault.Fenced) {
			k.app.Log.Error("a log is not trimmed", "topic", string(k.topic), "error", err)
		}
		pause := k.app.Config.Retention.Every
		if k.nextAt.IsZero() {
			pause = keeperPause
		}
		bus.Sleep(ctx, pause)
	}
	return nil
}

// keeperPause lets others write between two steps of a pass.
const keeperPause = 10 * time.Millisecond

// figures are those that were last measured.
func (k *keeper) figures() embedded.Size {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.size
}

// readersOf are the areas that must have read a topic before it may go.
func readersOf(t bus.Topic) (out []Role) {
	for _, role := range allRoles() {
		if slices.Contains(reads()[role], t) {
			out = append(out, role)
		}
	}
	return out
}

// earlier is, by group, the earlier one of two places.
func earlier(a, b map[int]bus.Place) map[int]bus.Place {
	out := map[int]bus.Place{}
	for g, p := range a {
		if q, both := b[g]; both {
			if q.Seq < p.Seq {
				p = q
			}
			out[g] = p
		}
	}
	return out
}

// headsOf are the ends of all groups.
func headsOf(ctx context.Context, src bus.Source) (map[int]bus.Place, error) {
	if err := src.Refresh(ctx); err != nil {
		return nil, err
	}
	out := map[int]bus.Place{}
	for g := range src.Groups() {
		out[g] = src.Head(g)
	}
	return out, nil
}

// registerRetention shows the figures of the logs that this process keeps: of several
// databases, those of the one that comes nearest to its bound.
func (a *App) registerRetention() {
	for role, topics := range writes() {
		if !a.Config.has(role) {
			continue
		}
		for _, t := range topics {
			most := func(of func(embedded.Size) float64) func() float64 {
				return func() (n float64) {
					for _, d := range a.atWork() {
						for _, k := range d.keepers {
							if k.topic == t {
								n = max(n, of(k.figures()))
							}
						}
					}
					return n
				}
			}
			age := func(atMillis int64) float64 {
				if atMillis == 0 {
					return 0
				}
				return max(0, a.Now().Sub(time.UnixMilli(atMillis)).Seconds())
			}
			label := `{topic="` + string(t) + `"}`
			a.Metrics.GetOrCreateGauge(`tallystick_log_bytes`+label, most(func(s embedded.Size) float64 { return float64(s.Bytes) }))
			a.Metrics.GetOrCreateGauge(`tallystick_log_messages`+label, most(func(s embedded.Size) float64 { return float64(s.Messages) }))
			a.Metrics.GetOrCreateGauge(`tallystick_log_oldest_seconds`+label, most(func(s embedded.Size) float64 { return age(s.OldestMillis) }))
			a.Metrics.GetOrCreateGauge(`tallystick_log_uncommitted_seconds`+label, most(func(s embedded.Size) float64 { return age(s.WaitingMillis) }))
		}
	}
}
