package accounting

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// Config is what a poster may do.
type Config struct {
	Book string `yaml:"book"` // that entries are booked in
	// Traffic is the only kind that this ledger books: the other's stores are
	// elsewhere, so a message of the other kind went astray and is parked.
	Traffic traffic.Kind `yaml:"traffic"`
	// WatchEveryMillis is the time between two trial balances.
	WatchEveryMillis int64 `yaml:"watch_every_millis"`
}

// DefaultConfig books real traffic in book main.
func DefaultConfig() Config {
	return Config{Book: "main", Traffic: traffic.Real, WatchEveryMillis: 5_000}
}

// Validate names the first field that cannot be.
func (c Config) Validate() error {
	bad := func(field, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "accounting: config", Code: "config_invalid", Field: "accounting." + field, Fix: fix}
	}
	switch {
	case len(c.Book) == 0 || len(c.Book) > 32:
		return bad("book", "name the book with 1 to 32 characters, such as main")
	case c.Traffic.Validate() != nil:
		return bad("traffic", "write real or shadow")
	case c.WatchEveryMillis < 100 || c.WatchEveryMillis > 3_600_000:
		return bad("watch_every_millis", "choose 100 to 3600000")
	}
	return nil
}

// Deps is what a Poster needs. All are required.
type Deps struct {
	Store   Store
	Rules   Rules
	IDs     *ids.Source
	Now     func() time.Time
	Groups  int // the slots are divided into
	Metrics *metrics.Set
	Log     *slog.Logger
	Config  Config
}

// Poster books the events of the topics that it is given. Its Apply belongs to a
// bus.Consumer, or to several: safe for concurrent use.
type Poster struct {
	d  Deps
	mu sync.Mutex // one batch at a time

	posted, rejected, repeated, poison *metrics.Counter
	failed, stopped                    *metrics.Counter
	batchEntries                       *metrics.Histogram
	postSeconds                        *metrics.PrometheusHistogram
}

// NewPoster checks its configuration and registers its metrics.
func NewPoster(d Deps) (*Poster, error) {
	if err := d.Config.Validate(); err != nil {
		return nil, err
	}
	if d.Groups < 1 || d.Groups > ids.Slots {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "accounting", Code: "config_invalid", Field: "groups",
			Fix: fmt.Sprintf("choose 1 to %d", ids.Slots)}
	}
	m := d.Metrics
	return &Poster{d: d,
		posted:       m.GetOrCreateCounter(`tallystick_accounting_entries_total{result="posted"}`),
		rejected:     m.GetOrCreateCounter(`tallystick_accounting_entries_total{result="rejected"}`),
		repeated:     m.GetOrCreateCounter(`tallystick_accounting_entries_total{result="repeated"}`),
		poison:       m.GetOrCreateCounter(`tallystick_accounting_poison_total`),
		failed:       m.GetOrCreateCounter(`tallystick_accounting_batches_failed_total`),
		stopped:      m.GetOrCreateCounter(`tallystick_accounting_groups_stopped_total`),
		batchEntries: m.GetOrCreateHistogram(`tallystick_accounting_batch_entries`),
		postSeconds:  m.GetOrCreatePrometheusHistogram(`tallystick_accounting_post_seconds`),
	}, nil
}

// Apply books a batch of messages in one transaction, moves its places, and
// tells what became of each entry. It fails as Store.Post does, and with
// *bus.PoisonError for the first message that can never be booked: then nothing
// was done, and the consumer parks it and comes again.
func (p *Poster) Apply(ctx context.Context, b *bus.Batch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.d.Now()
	batch := &Batch{Source: b, NowMillis: now.UnixMilli()}
	seen := make(map[string]bool, len(b.Messages))
	err := b.Live(func(i int, m *bus.Message) error {
		if seen[m.ID] {
			return nil // delivered twice in one batch: booked once
		}
		seen[m.ID] = true
		d, err := p.draft(m)
		if err != nil {
			p.poison.Inc()
			return &bus.PoisonError{Index: i, Err: err}
		}
		if d != nil {
			batch.Entries = append(batch.Entries, p.entry(m, d, batch.NowMillis))
		}
		return nil
	})
	if err != nil {
		return err
	}
	results, err := p.d.Store.Post(ctx, batch)
	if err != nil {
		p.failed.Inc()
		var stop *bus.StopError
		if errors.As(err, &stop) {
			p.stopped.Inc()
		}
		return fault.Wrap("accounting: post", err)
	}
	p.account(batch, results)
	p.postSeconds.Update(p.d.Now().Sub(now).Seconds())
	return nil
}

// draft asks the rules, and refuses what must not reach the ledger.
func (p *Poster) draft(m *bus.Message) (*Draft, error) {
	if m.Context.Traffic != p.d.Config.Traffic {
		return nil, fault.New(fault.Poison, "accounting: draft", "%s traffic in the ledger of %s traffic", m.Context.Traffic, p.d.Config.Traffic)
	}
	if err := m.Context.Validate(); err != nil {
		return nil, fault.New(fault.Poison, "accounting: draft", "%w", err)
	}
	if m.Context.BizCode.Slot() < 0 {
		return nil, fault.New(fault.Poison, "accounting: draft", "%q is no code", string(m.Context.BizCode))
	}
	d, err := p.d.Rules.Draft(m)
	if err != nil || d == nil {
		return nil, err
	}
	if err := CheckLines(d.Lines); err != nil {
		return nil, fault.New(fault.Poison, "accounting: rule "+d.Rule, "%w", err)
	}
	return d, nil
}

func (p *Poster) entry(m *bus.Message, d *Draft, nowMillis int64) Entry {
	return Entry{ID: p.d.IDs.New(ids.EntryID), NoticeID: p.d.IDs.New(ids.EventID), EventID: m.ID,
		Group: m.Context.BizCode.Group(p.d.Groups), Book: p.d.Config.Book, Rule: d.Rule,
		ChannelAccount: d.ChannelAccount, Context: m.Context, AtMillis: nowMillis, Lines: d.Lines}
}

// account counts what became of a batch; a rejection is a matter for someone to look at.
func (p *Poster) account(b *Batch, results []Result) {
	p.batchEntries.Update(float64(len(results)))
	for i, r := range results {
		switch {
		case r.Repeated:
			p.repeated.Inc()
		case r.Reason != "":
			p.rejected.Inc()
			e := &b.Entries[i]
			p.d.Log.Warn("entry rejected", append([]any{"entry", r.EntryID, "event", e.EventID, "rule", e.Rule,
				"reason", r.Reason}, e.Context.LogAttrs()...)...)
		default:
			p.posted.Inc()
		}
	}
}
