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
	taken      map[int64]*prepay.Call // what the transaction has picked, as it was
	spare      []*prepay.Call         // to be used again
}

type generation struct {
	numbers map[string]*prepay.Call
	ids     map[int64]*prepay.Call
}

func newGeneration() generation {
	return generation{map[string]*prepay.Call{}, map[int64]*prepay.Call{}}
}

func newHeld(callsMax int) *held {
	return &held{max: max(1, callsMax/2), young: newGeneration(), old: newGeneration(), taken: map[int64]*prepay.Call{}}
}

// begin starts a transaction. It lets go of everything if another connection, say
// of another process, has committed since the last one.
func (h *held) begin(tx *sqldb.Tx) {
	for _, c := range h.taken { // which was not written, or not committed
		if len(h.spare) < h.max {
			h.spare = append(h.spare, c)
		}
	}
	clear(h.taken)
	if v := tx.ForeignWrites(); v != h.foreign {
		h.young, h.old, h.foreign = newGeneration(), newGeneration(), v
	}
}

// read takes a call that comes from the tables.
func (h *held) read(c *prepay.Call) {
	if p := h.find(c.ID); p != nil {
		h.take(p)
		return
	}
	p := h.fresh()
	*p = *c
	h.taken[c.ID] = p
}

func (h *held) fresh() *prepay.Call {
	n := len(h.spare)
	if n == 0 {
		return new(prepay.Call)
	}
	p := h.spare[n-1]
	h.spare = h.spare[:n-1]
	return p
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
		h.take(c)
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
	h.take(p)
	return c, true
}

func (h *held) find(id int64) *prepay.Call {
	if c := h.young.ids[id]; c != nil {
		return c
	}
	return h.old.ids[id]
}

func (h *held) take(c *prepay.Call) {
	for _, g := range []generation{h.young, h.old} {
		delete(g.numbers, c.OutTradeNo)
		delete(g.ids, c.ID)
	}
	h.taken[c.ID] = c
}

// put holds a call as it was just committed. Nobody asks for stopped ones again.
func (h *held) put(c *prepay.Call) {
	if p := h.find(c.ID); p != nil { // it was changed without being picked
		h.take(p)
	}
	if c.Status == prepay.Stopped {
		return
	}
	p := h.taken[c.ID]
	delete(h.taken, c.ID)
	if p == nil {
		p = h.fresh()
	}
	*p = *c
	if len(h.young.ids) >= h.max {
		h.old, h.young = h.young, newGeneration()
	}
	h.young.numbers[p.OutTradeNo], h.young.ids[p.ID] = p, p
}
