package accounting

import (
	"context"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/internal/fault"
)

// Watch takes the trial balance again and again, and raises an alarm when it is
// not zero.
type Watch struct {
	store     Trials
	log       *slog.Logger
	every     time.Duration
	imbalance atomic.Int64
}

// Trials is the part of a Store that is watched. With an error, what could be read is
// given all the same.
type Trials interface {
	TrialBalance(ctx context.Context) ([]Trial, error)
}

// NewWatch registers the gauge tallystick_accounting_imbalance_minor: the sum of
// all imbalances, in minor units and without signs. It is 0, always.
func NewWatch(m *metrics.Set, log *slog.Logger, c Config, store Trials) *Watch {
	w := &Watch{store: store, log: log, every: time.Duration(c.WatchEveryMillis) * time.Millisecond}
	m.GetOrCreateGauge(`tallystick_accounting_imbalance_minor`, func() float64 { return float64(w.imbalance.Load()) })
	return w
}

// Step takes one trial balance, of what can be read. There is never more to do at once:
// worked is false.
func (w *Watch) Step(ctx context.Context) (worked bool, err error) {
	trials, err := w.store.TrialBalance(ctx)
	var sum int64
	for _, t := range trials {
		d := t.Imbalance()
		if d == 0 {
			continue
		}
		w.log.Error("ledger out of balance", "book", t.Book, "currency", string(t.Currency), "debits_minor", t.Debits, "credits_minor", t.Credits)
		if d < 0 {
			d = -d
		}
		if sum += d; sum < 0 {
			sum = math.MaxInt64
		}
	}
	if err != nil { // what could not be read may be as it was
		sum = max(sum, w.imbalance.Load())
	}
	w.imbalance.Store(sum)
	return false, fault.Wrap("accounting: watch", err)
}

// Run steps until ctx ends. An error is logged and the next step comes in time.
func (w *Watch) Run(ctx context.Context) error {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		if _, err := w.Step(ctx); err != nil && ctx.Err() == nil {
			w.log.Error("watch failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
