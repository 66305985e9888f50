package sqlstore

import (
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
)

// CallsHeldMax bounds the calls held in memory, about 1 KiB each.
const CallsHeldMax = 16_384

// held keeps calls as they were last committed, so that a call's next step need
// not read it again: two generations, of which the older is let go when the
// younger is full. What is taken is held again after the commit alone. When
// another connection has written, nothing is held any more. It is used inside
// the writing transaction only, and so by one goroutine at a time.
type held struct {
	max        int   // of one generation
	foreign    int64 // of the writes that are known of
	young, old generation
	spare      []*prepay.Call // to be used again
}

type generation struct {
	numbers map[string]*prepay.Call
	ids     map[int64]*prepay.Call
}

func newGeneration() generation {
	return generation{map[string]*prepay.Call{}, map[int64]*prepay.Call{}}
}

func newHeld(callsMax int) *held {
	return &held{max: max(1, callsMax/2), young: newGeneration(), old: newGeneration()}
}

// check lets go of everything if another connection, say of another process, has
// committed since the last check.
func (h *held) check(tx *sqldb.Tx) {
	if v := tx.ForeignWrites(); v != h.foreign {
		h.young, h.old, h.foreign = newGeneration(), newGeneration(), v
	}
}

// byNumber takes the calls that are held onto dst, and gives the numbers of the others.
func (h *held) byNumber(dst []prepay.Call, numbers []string) (calls []prepay.Call, rest []string) {
	for _, n := range numbers {
		c := h.young.numbers[n]
		if c == nil {
			c = h.old.numbers[n]
		}
		if c == nil {
			rest = append(rest, n)
			continue
		}
		dst = append(dst, *c)
		h.drop(c)
	}
	return dst, rest
}

// byID takes a call.
func (h *held) byID(id int64) (c prepay.Call, ok bool) {
	p := h.find(id)
	if p == nil {
		return c, false
	}
	c = *p
	h.drop(p)
	return c, true
}

func (h *held) find(id int64) *prepay.Call {
	if c := h.young.ids[id]; c != nil {
		return c
	}
	return h.old.ids[id]
}

func (h *held) drop(c *prepay.Call) {
	for _, g := range []generation{h.young, h.old} {
		delete(g.numbers, c.OutTradeNo)
		delete(g.ids, c.ID)
	}
	if len(h.spare) < h.max {
		h.spare = append(h.spare, c)
	}
}

// put holds a call as it was just committed. Nobody asks for stopped ones again.
func (h *held) put(c *prepay.Call) {
	if p := h.find(c.ID); p != nil { // it was changed without being taken
		h.drop(p)
	}
	if c.Status == prepay.Stopped {
		return
	}
	if len(h.young.ids) >= h.max {
		h.old, h.young = h.young, newGeneration()
	}
	var p *prepay.Call
	if n := len(h.spare); n > 0 {
		p, h.spare = h.spare[n-1], h.spare[:n-1]
	} else {
		p = new(prepay.Call)
	}
	*p = *c
	h.young.numbers[p.OutTradeNo], h.young.ids[p.ID] = p, p
}
