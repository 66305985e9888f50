package sqlstore

import (
	"slices"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/ids"
)

// held keeps trades as they were last committed, so that a payment's next
// message need not read them again: two generations, of which the older is let
// go when the younger is full. What is held may be behind the tables, if another
// process writes them: every change of a trade, a new payment order included,
// moves its version, every write is guarded by the version that it was read with,
// and what a refused one decided on is held no more. It is used inside the writing
// transaction only, and so by one goroutine at a time.
type held struct {
	max        int // of one generation
	young, old generation
}

type generation struct {
	trades   map[ids.Code]*core.Trade // by X
	payments map[ids.Code]*core.Trade // by Y
}

func newGeneration() generation {
	return generation{map[ids.Code]*core.Trade{}, map[ids.Code]*core.Trade{}}
}

func newHeld(tradesMax int) *held {
	return &held{max: max(1, tradesMax/2), young: newGeneration(), old: newGeneration()}
}

// take gives the wanted trades that are held, each once, and what is left to be
// read. The taken ones are not held any more until they are put back.
func (h *held) take(want core.Want) (have []*core.Trade, rest core.Want) {
	taken := map[*core.Trade]bool{}
	find := func(codes []ids.Code, in func(g generation) map[ids.Code]*core.Trade, left *[]ids.Code) {
		for _, code := range codes {
			t := in(h.young)[code]
			if t == nil {
				t = in(h.old)[code]
			}
			switch {
			case t == nil:
				*left = append(*left, code)
			case !taken[t]:
				taken[t] = true
				have = append(have, t)
			}
		}
	}
	find(want.Trades, func(g generation) map[ids.Code]*core.Trade { return g.trades }, &rest.Trades)
	find(want.Payments, func(g generation) map[ids.Code]*core.Trade { return g.payments }, &rest.Payments)
	for _, t := range have {
		h.drop(t)
	}
	return have, rest
}

func (h *held) drop(t *core.Trade) {
	for _, g := range []generation{h.young, h.old} {
		delete(g.trades, t.Context.BizCode)
		for _, p := range t.Payments {
			delete(g.payments, p.Y)
		}
	}
}

// put holds trades as they were just committed, without what was rejected: of
// that there may be any number.
func (h *held) put(trades []*core.Trade) {
	for _, t := range trades {
		if len(h.young.trades) >= h.max {
			h.old, h.young = h.young, newGeneration()
		}
		t.Committed()
		t.Payments = slices.DeleteFunc(t.Payments, func(p *core.Payment) bool { return p.Status == event.Rejected })
		h.young.trades[t.Context.BizCode] = t
		for _, p := range t.Payments {
			h.young.payments[p.Y] = t
		}
	}
}
