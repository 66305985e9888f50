package voucher

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// Config bounds the view. All bounds must be positive.
type Config struct {
	// ViewBytesMax is about what all entries take. The least recently used go
	// first; entries with waiters stay, so that these bounds must fit together.
	ViewBytesMax          int64 `yaml:"view_bytes_max"`
	WaitersPerVoucherMax  int   `yaml:"waiters_per_voucher_max"`
	WaitersPerMerchantMax int   `yaml:"waiters_per_merchant_max"`
	WaitersMax            int   `yaml:"waiters_max"`
	BatchMessagesMax      int   `yaml:"batch_messages_max"` // of payments, read in one step
	// AskAfter is how long the first news of a voucher that this replica has just
	// accepted may take before core is asked for it.
	AskAfter time.Duration `yaml:"ask_after"`
	// AskElsewhereAfter is that for a voucher of which this replica knows nothing: most
	// were accepted by another one a moment ago.
	AskElsewhereAfter time.Duration `yaml:"ask_elsewhere_after"`
	// AskAfterMax is the most that both grow to while first news take longer: a core that
	// has much to do is not given questions to which it has no answer yet. At least both.
	AskAfterMax time.Duration `yaml:"ask_after_max"`
	// QueryTimeout bounds one question to core.
	QueryTimeout time.Duration `yaml:"query_timeout"`
}

// DefaultConfig is for one replica of a few thousand payments per second.
func DefaultConfig() Config {
	return Config{ViewBytesMax: 32 << 20, WaitersPerVoucherMax: 16, WaitersPerMerchantMax: 10_000, WaitersMax: 20_000,
		BatchMessagesMax: 1000, AskAfter: 500 * time.Millisecond, AskElsewhereAfter: 250 * time.Millisecond, AskAfterMax: 5 * time.Second, QueryTimeout: 2 * time.Second}
}

// Validate names the bound that is not positive, or too small for the others.
func (c Config) Validate() error {
	for _, f := range []struct {
		name  string
		value int64
	}{{"view_bytes_max", c.ViewBytesMax}, {"waiters_per_voucher_max", int64(c.WaitersPerVoucherMax)},
		{"waiters_per_merchant_max", int64(c.WaitersPerMerchantMax)}, {"waiters_max", int64(c.WaitersMax)},
		{"batch_messages_max", int64(c.BatchMessagesMax)}, {"ask_after", int64(c.AskAfter)}, {"ask_elsewhere_after", int64(c.AskElsewhereAfter)}, {"ask_after_max", int64(c.AskAfterMax)}, {"query_timeout", int64(c.QueryTimeout)}} {
		if f.value <= 0 {
			return &fault.Error{Kind: fault.Invalid, Op: "voucher", Field: "voucher." + f.name, Code: "not_positive", Fix: "set it to at least 1"}
		}
	}
	if c.AskAfterMax < max(c.AskAfter, c.AskElsewhereAfter) {
		return &fault.Error{Kind: fault.Invalid, Op: "voucher", Field: "voucher.ask_after_max", Code: "too_small", Fix: "set it to at least ask_after and ask_elsewhere_after"}
	}
	if need := int64(c.WaitersMax) * entryBytes; c.ViewBytesMax < need {
		return &fault.Error{Kind: fault.Invalid, Op: "voucher", Field: "voucher.view_bytes_max", Code: "too_small",
			Fix: fmt.Sprintf("set it to at least %d for waiters_max %d, or lower waiters_max", need, c.WaitersMax)}
	}
	return nil
}

// Queries is what the view asks core: the payment order of a voucher, its
// context, and whether there is one. It must read what is committed, never an
// older state than an event that was already published.
type Queries interface {
	Payment(ctx context.Context, y ids.Code) (event.Payment, ids.Context, bool, error)
}

// Views holds the entries. Safe for concurrent use, except Step and Run.
type Views struct {
	cfg     Config
	source  bus.Source
	queries Queries
	now     func() time.Time
	log     *slog.Logger
	ready   *metrics.PrometheusHistogram
	decided func(y ids.Code, s Status)

	mu        sync.Mutex
	tick      uint64 // counts uses, to know what was not used for longest
	held      holds  // accepted here, and nothing more; not in entries
	entries   map[ids.Code]*entry
	keys      map[ids.Code]int // entries per X: whose messages are decoded
	slots     map[ids.Code]int // entries of unknown X per first characters of their code, likewise
	merchants map[string]int   // waiters
	idle      entry            // ring of the entries without waiters, most recently used first
	bytes     int64
	waiters   int
	newsTake  time.Duration // from the acceptance here to the first message, smoothed
	newsAt    time.Time     // when the last such message came

	placed  bool // the places below are right
	places  []bus.Place
	rewound []int64 // how often each group had begun anew when its place was taken
	first   int     // group that the next step begins with
}

// entry is one voucher that is followed.
type entry struct {
	view View
	x    ids.Code // empty until known: then its whole slot is followed
	// accepted: this replica saw the intent committed.
	accepted bool
	// sure: what is here, be it nothing, was right at some moment since the entry
	// is followed, so that the fold keeps it right.
	sure    bool
	asking  bool
	heard   bool          // a message came of it, or may have; what core was asked for is none
	visible int64         // the version that last changed something a client sees
	changed chan struct{} // closed at the next change; nil while nobody waits
	waiters int
	bytes   int64
	used    uint64 // when, in Views.tick

	prev, next *entry // in the ring; nil while there are waiters
}

// slotPrefix is how much of a code is shared by all codes of its slot.
const slotPrefix = 3

// New makes an empty view of the topic payments that source reads. log and set
// may be nil.
func New(cfg Config, source bus.Source, queries Queries, now func() time.Time, set *metrics.Set, log *slog.Logger) (*Views, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if set == nil {
		set = metrics.NewSet()
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	v := &Views{cfg: cfg, source: source, queries: queries, now: now, log: log, held: newHolds(), entries: map[ids.Code]*entry{},
		keys: map[ids.Code]int{}, slots: map[ids.Code]int{}, merchants: map[string]int{},
		ready: set.GetOrCreatePrometheusHistogram("tallystick_voucher_ready_seconds")}
	v.idle.prev, v.idle.next = &v.idle, &v.idle
	gauge := func(name string, of func() float64) {
		set.GetOrCreateGauge(name, func() float64 {
			v.mu.Lock()
			defer v.mu.Unlock()
			return of()
		})
	}
	gauge("tallystick_voucher_view_entries", func() float64 { return float64(len(v.entries) + v.held.count()) })
	gauge("tallystick_voucher_view_bytes", func() float64 { return float64(v.bytes + v.held.bytes()) })
	gauge("tallystick_voucher_waiters", func() float64 { return float64(v.waiters) })
	return v, nil
}

// Decided names who is told of each voucher's first news from core: what was decided
// about its key. Once, before anything runs; f must be quick, and must not ask v. Of
// a voucher that is not followed nobody is told.
func (v *Views) Decided(f func(y ids.Code, s Status)) { v.decided = f }

// Hold follows a voucher that is being accepted. Called before its commit is
// awaited, so that no news of it is missed. c's BizCode is the trade's X. What it
// gives makes Confirm cheaper.
func (v *Views) Hold(c ids.Context, y ids.Code) (hold uint64) {
	var h held
	small := h.pack(&c, y)
	v.mu.Lock()
	defer v.mu.Unlock()
	if small && v.entries[y] == nil {
		v.tick++
		h.used = v.tick
		hold = v.held.add(&h) + 1
		v.evict()
		return hold
	}
	e := v.followIn(y, c)
	if e.x == "" {
		v.unindex(e)
		e.x = c.BizCode
		v.index(e)
	}
	if e.view.Context.BizCode == "" {
		e.view.Context = c
		v.measure(e)
	}
	v.touch(e)
	v.evict()
	return 0
}

// Confirm marks a held voucher as accepted: its intent is committed. hold is what
// Hold gave; 0 will do.
func (v *Views) Confirm(y ids.Code, hold uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if h := v.held.get(y, hold-1); h != nil {
		h.accepted = true
	} else if h := v.held.find(y); h != nil {
		h.accepted = true
	} else if e := v.entries[y]; e != nil {
		e.accepted = true
	}
}

// follow finds or makes the entry of y. From here on its messages are decoded.
func (v *Views) follow(y ids.Code) *entry { return v.followIn(y, ids.Context{}) }

// followIn is follow for a voucher whose context is known.
func (v *Views) followIn(y ids.Code, c ids.Context) *entry {
	e := v.entries[y]
	if e == nil {
		accepted := false
		if h := v.held.find(y); h != nil {
			c, accepted = h.context(), h.accepted
			v.held.remove(h)
		}
		e = &entry{view: View{Y: y, Context: c}, x: c.BizCode, accepted: accepted}
		v.entries[y] = e
		v.index(e)
		v.measure(e)
		v.touch(e)
	}
	return e
}

func (v *Views) index(e *entry) {
	if e.x != "" {
		v.keys[e.x]++
	} else {
		v.slots[e.view.Y[:slotPrefix]]++
	}
}

func (v *Views) unindex(e *entry) {
	m, k := v.slots, e.view.Y[:slotPrefix]
	if e.x != "" {
		m, k = v.keys, e.x
	}
	if m[k]--; m[k] == 0 {
		delete(m, k)
	}
}

func (v *Views) measure(e *entry) {
	v.bytes -= e.bytes
	e.bytes = e.view.bytes()
	v.bytes += e.bytes
}

// touch makes e the most recently used of those without waiters.
func (v *Views) touch(e *entry) {
	v.tick++
	e.used = v.tick
	e.unlink()
	if e.waiters == 0 {
		e.prev, e.next = &v.idle, v.idle.next
		e.prev.next, e.next.prev = e, e
	}
}

func (e *entry) unlink() {
	if e.next != nil {
		e.prev.next, e.next.prev = e.next, e.prev
		e.prev, e.next = nil, nil
	}
}

// evict drops the least recently used over the bound.
func (v *Views) evict() {
	for v.bytes+v.held.bytes() > v.cfg.ViewBytesMax {
		e, h := v.idle.prev, v.held.last()
		switch {
		case h != nil && (e == &v.idle || h.used < e.used):
			v.held.remove(h)
		case e != &v.idle:
			v.drop(e)
		default:
			return
		}
	}
}

func (v *Views) drop(e *entry) {
	e.unlink()
	v.unindex(e)
	v.bytes -= e.bytes
	delete(v.entries, e.view.Y)
	e.wake() // who waits through an alias follows it anew
}

// fold takes a newer version of a payment order, from the topic or from core.
func (v *Views) fold(p *event.Payment, c ids.Context) {
	e := v.entries[p.Y]
	if e == nil && v.held.find(p.Y) != nil {
		e = v.follow(p.Y)
	}
	if e == nil {
		return
	}
	e.sure = true
	if p.Version <= e.view.Version {
		return
	}
	next := ViewOf(p, c)
	if e.view.Version == 0 && v.decided != nil {
		v.decided(p.Y, next.Status)
	}
	if e.view.Version == 0 || e.view.differs(&next) {
		e.visible = p.Version
	}
	if next.Status == Ready && e.view.Status != Ready && e.accepted {
		v.ready.Update(float64(v.now().UnixMilli()-p.AcceptedAtMillis) / 1e3)
	}
	if e.x != c.BizCode {
		v.unindex(e)
		e.x = c.BizCode
		v.index(e)
	}
	e.view = next
	v.measure(e)
	e.wake()
	v.evict()
}

// newsSmoothed is how many first messages make up what they take, about.
const newsSmoothed = 16

// heard takes note of how long the first message of what was accepted here took. What
// core tells when it is asked says nothing about that: it comes when it is asked.
func (v *Views) heard(p *event.Payment) {
	e := v.entries[p.Y]
	if e == nil || e.heard {
		return
	}
	e.heard = true
	if e.accepted {
		v.newsAt = v.now()
		took := v.newsAt.Sub(time.UnixMilli(p.AcceptedAtMillis))
		v.newsTake += (max(0, min(took, v.cfg.AskAfterMax)) - v.newsTake) / newsSmoothed
	}
}

// askAfter is for how long news are waited for before core is asked: twice as long as
// they take now, within bounds. Of a while without any nobody knows how long they take.
func (v *Views) askAfter(fresh bool) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	after := v.cfg.AskElsewhereAfter
	if fresh {
		after = v.cfg.AskAfter
	}
	if v.now().Sub(v.newsAt) > 2*v.cfg.AskAfterMax {
		v.newsTake = 0
	}
	return max(after, min(2*v.newsTake, v.cfg.AskAfterMax))
}

func (e *entry) wake() {
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
}
