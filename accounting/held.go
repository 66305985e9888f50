package accounting

import (
	"cmp"
	"slices"

	"github.com/tallystick/tallystick/internal/money"
)

// Held is the balances that a store holds while it posts: the guards are checked
// on them, one entry at a time, and they are netted into one change per shard.
// It holds about max of them between batches. Not safe for concurrent use.
//
// Whatever goes wrong with a batch, Drop all: what is held must be what is stored.
type Held struct {
	max        int
	young, old map[int64]*held // a shard that is used moves from old to young
	touched    []*held
	entry      []effect // scratch of Try
}

type held struct {
	shard   int64
	minor   int64 // with what the batch at hand has added
	net     int64 // what it has added
	version int64
	touched bool
}

type effect struct {
	h   *held
	l   HeldLine
	net int64
}

// HeldLine is a posting to a shard, a number that the store gives it.
type HeldLine struct {
	Shard  int64
	Amount money.Amount
	Side   Side
	Kind   Kind
}

// Change is the new state of a shard. It replaces a state with version-1 and
// minor-net; a new shard begins with version 1.
type Change struct {
	Shard   int64
	Minor   int64
	Net     int64
	Version int64
}

// NewHeld holds about shardsMax balances between batches.
func NewHeld(shardsMax int) *Held {
	return &Held{max: shardsMax, young: map[int64]*held{}, old: map[int64]*held{}}
}

func (h *Held) find(shard int64) *held {
	if s := h.young[shard]; s != nil {
		return s
	}
	s := h.old[shard]
	if s != nil {
		delete(h.old, shard)
		h.young[shard] = s
	}
	return s
}

// Has reports whether a shard is held; what is not must be Set before Try.
func (h *Held) Has(shard int64) bool { return h.find(shard) != nil }

// Set holds a shard as it is stored; version 0 for one that does not exist yet.
func (h *Held) Set(shard, minor, version int64) {
	h.young[shard] = &held{shard: shard, minor: minor, version: version}
}

// Try applies an entry to the held balances, all of it or, with a reason,
// nothing. Every shard must be held.
func (h *Held) Try(lines []HeldLine) (reason string) {
	h.entry = h.entry[:0]
	for _, l := range lines {
		i := slices.IndexFunc(h.entry, func(e effect) bool { return e.l.Shard == l.Shard })
		if i < 0 {
			h.entry = append(h.entry, effect{h: h.find(l.Shard), l: l, net: l.Amount.Minor})
			continue
		}
		sum, err := money.Of(h.entry[i].net, l.Amount.Currency).Add(l.Amount)
		if err != nil {
			return ReasonOverflow
		}
		h.entry[i].net = sum.Minor
	}
	for _, e := range h.entry {
		add := money.Of(e.net, e.l.Amount.Currency)
		after, err := money.Of(e.h.minor, add.Currency).Add(add)
		if err != nil {
			return ReasonOverflow
		}
		if _, err := money.Of(e.h.net, add.Currency).Add(add); err != nil {
			return ReasonOverflow
		}
		// Only what takes from a guarded account can overdraw it.
		if e.l.Kind == Homed && e.l.Side.Normal(e.net) < 0 && e.l.Side.Normal(after.Minor) < 0 {
			return ReasonOverdraft
		}
	}
	for _, e := range h.entry {
		if !e.h.touched {
			e.h.touched = true
			h.touched = append(h.touched, e.h)
		}
		e.h.minor += e.net
		e.h.net += e.net
	}
	return ""
}

// Changes are the shards that the batch has touched, by number: one change each,
// however many entries touched it.
func (h *Held) Changes() []Change {
	slices.SortFunc(h.touched, func(a, b *held) int { return cmp.Compare(a.shard, b.shard) })
	out := make([]Change, len(h.touched))
	for i, s := range h.touched {
		out[i] = Change{Shard: s.shard, Minor: s.minor, Net: s.net, Version: s.version + 1}
	}
	return out
}

// Commit begins the next batch, after the changes were written.
func (h *Held) Commit() {
	for _, s := range h.touched {
		s.version, s.net, s.touched = s.version+1, 0, false
	}
	h.touched = h.touched[:0]
	if len(h.young) > h.max/2 {
		h.old, h.young = h.young, make(map[int64]*held, h.max/2)
	}
}

// Drop forgets everything.
func (h *Held) Drop() {
	clear(h.young)
	clear(h.old)
	h.touched = h.touched[:0]
}

// Len is the number of balances held.
func (h *Held) Len() int { return len(h.young) + len(h.old) }
