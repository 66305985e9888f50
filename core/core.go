package core

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	prepay "github.com/tallystick/tallystick/prepay/event"
)

// Config bounds core.
type Config struct {
	// PaymentsMax bounds the payment orders of one trade, OpenPaymentsMax those
	// that are not final.
	PaymentsMax     int `yaml:"payments_max"`
	OpenPaymentsMax int `yaml:"open_payments_max"`
	// CloseGraceMillis is how long after the expiry that the channel was given we
	// begin to close; CloseAgainMillis how long after that we ask again.
	CloseGraceMillis int64 `yaml:"close_grace_millis"`
	CloseAgainMillis int64 `yaml:"close_again_millis"`
	// NotSentPauseMillis is the first pause before an attempt that never reached
	// its PSP is sent again; it doubles up to NotSentPauseMaxMillis.
	NotSentPauseMillis    int64 `yaml:"not_sent_pause_millis"`
	NotSentPauseMaxMillis int64 `yaml:"not_sent_pause_max_millis"`
	// TimersMax bounds the trades whose timers one step handles.
	TimersMax int `yaml:"timers_max"`
}

// DefaultConfig is what an installation starts with.
func DefaultConfig() Config {
	return Config{PaymentsMax: 64, OpenPaymentsMax: 8, CloseGraceMillis: 5_000, CloseAgainMillis: 3_600_000,
		NotSentPauseMillis: 500, NotSentPauseMaxMillis: 30_000, TimersMax: 200}
}

// Validate refuses bounds that are not positive.
func (c Config) Validate() error {
	for _, f := range []struct {
		name string
		v    int64
	}{{"payments_max", int64(c.PaymentsMax)}, {"open_payments_max", int64(c.OpenPaymentsMax)}, {"close_grace_millis", c.CloseGraceMillis},
		{"close_again_millis", c.CloseAgainMillis}, {"not_sent_pause_millis", c.NotSentPauseMillis},
		{"not_sent_pause_max_millis", c.NotSentPauseMaxMillis}, {"timers_max", int64(c.TimersMax)}} {
		if f.v <= 0 {
			return &fault.Error{Kind: fault.Invalid, Field: "core." + f.name, Code: "not_positive", Fix: "set it to at least 1"}
		}
	}
	return nil
}

// Deps are what core is made of.
type Deps struct {
	Store     Store
	Directory *merchant.Directory
	IDs       *ids.Source
	Now       func() time.Time
	Config    Config
	Log       *slog.Logger
	Metrics   *metrics.Set
}

// Core applies batches of messages to trades. Its methods may be called from
// several goroutines: the store lets one transaction through at a time.
type Core struct {
	Deps
	payments machine
	attempts machine
}

// New checks the configuration.
func New(d Deps) (*Core, error) {
	if err := d.Config.Validate(); err != nil {
		return nil, err
	}
	return &Core{Deps: d, payments: newMachine(Transitions()), attempts: newMachine(AttemptTransitions())}, nil
}

// ApplyIntents, ApplyOutcomes and ApplyCallbacks apply a batch of their topic in
// one transaction. A batch that was applied before changes nothing: its places
// are behind. Errors: fault.Fenced when another process was faster;
// *bus.PoisonError for a message that can never be applied.
func (c *Core) ApplyIntents(ctx context.Context, b *bus.Batch) error {
	return c.apply(ctx, b, func(m *bus.Message, w *Want) {
		w.Trades = append(w.Trades, m.Context.BizCode)
		if i, err := readIntent(m); err == nil {
			w.Keys = append(w.Keys, NaturalKey{X: m.Context.BizCode, Y: i.Y, Form: string(m.Context.Form), Key: i.IdempotencyKey})
		}
	}, event.TypeIntent, (*rules).applyIntent)
}

// ApplyOutcomes applies what prepay's calls came to.
func (c *Core) ApplyOutcomes(ctx context.Context, b *bus.Batch) error {
	return c.apply(ctx, b, func(m *bus.Message, w *Want) {
		w.Trades = append(w.Trades, m.Context.BizCode)
	}, prepay.TypeOutcome, (*rules).applyOutcome)
}

// ApplyCallbacks applies what PSPs told us.
func (c *Core) ApplyCallbacks(ctx context.Context, b *bus.Batch) error {
	return c.apply(ctx, b, func(m *bus.Message, w *Want) {
		// The context came back from outside; the number is what counts.
		if c, err := readCallback(m); err == nil {
			if y, _, err := ids.ParseOutTradeNo(c.Event.OutTradeNo); err == nil {
				w.Payments = append(w.Payments, y)
			}
		}
	}, event.TypeCallback, (*rules).applyCallback)
}

func (c *Core) apply(ctx context.Context, b *bus.Batch, want func(*bus.Message, *Want), typ string, rule func(*rules, *bus.Message) error) error {
	var w Want
	_ = b.Live(func(_ int, m *bus.Message) error { want(m, &w); return nil })
	w.Trades = compact(w.Trades)
	w.Payments = compact(w.Payments)
	var alarms []Alarm
	err := c.Store.Apply(ctx, b, w, func(work *Work) error {
		r := c.rules(work)
		before := len(work.Alarms)
		defer func() { alarms = work.Alarms[before:] }() // of the last try, and of this batch alone
		return b.Live(func(i int, m *bus.Message) error {
			if m.Type != typ {
				return &bus.PoisonError{Index: i, Err: errors.New("unknown type " + m.Type)}
			}
			if err := rule(r, m); err != nil {
				return &bus.PoisonError{Index: i, Err: err}
			}
			return nil
		})
	})
	if err == nil && c.Metrics != nil {
		c.Metrics.GetOrCreateCounter(`tallystick_core_messages_total{topic="` + string(b.Topic) + `"}`).Add(len(b.Messages) - len(b.Parked))
		c.Metrics.GetOrCreateCounter(`tallystick_core_batches_total{topic="` + string(b.Topic) + `"}`).Inc()
	}
	if err == nil {
		c.tell(alarms)
	}
	return err
}

// tell logs and counts what somebody must look at.
func (c *Core) tell(alarms []Alarm) {
	for _, a := range alarms {
		if c.Metrics != nil {
			c.Metrics.GetOrCreateCounter("tallystick_core_contradictions_total").Inc()
		}
		if c.Log != nil {
			c.Log.Error("a PSP contradicts itself", append([]any{"out_trade_no", a.OutTradeNo, "what", a.What}, a.Context.LogAttrs()...)...)
		}
	}
}

func (c *Core) rules(w *Work) *rules {
	return &rules{cfg: c.Config, now: c.Now().UnixMilli(), directory: c.Directory.Current(), ids: c.IDs,
		payments: c.payments, attempts: c.attempts, work: w}
}

// compact sorts and removes repetitions: one order of reads for one batch.
func compact(codes []ids.Code) []ids.Code {
	slices.Sort(codes)
	return slices.Compact(codes)
}

// StepTimers handles trades with something due: worked is false when there is
// none.
func (c *Core) StepTimers(ctx context.Context) (worked bool, err error) {
	due, err := c.Store.Due(ctx, c.Now().UnixMilli(), c.Config.TimersMax)
	if err != nil || len(due) == 0 {
		return false, fault.Wrap("core: timers", err)
	}
	err = c.Store.Apply(ctx, &bus.Batch{}, Want{Trades: compact(due)}, func(w *Work) error {
		r := c.rules(w)
		for _, x := range compact(due) {
			if t := w.trade(x); t != nil {
				if err := r.applyTimer(t); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return err == nil, fault.Wrap("core: timers", err)
}

// RunTimers steps until ctx ends, looking every interval.
func (c *Core) RunTimers(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		worked, err := c.StepTimers(ctx)
		if fault.Is(err, fault.Unknown) {
			return err
		}
		if err != nil && ctx.Err() == nil && !fault.Is(err, fault.Fenced) {
			c.Log.Error("timers will be tried again", "area", "core", "error", err)
		}
		if worked && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
