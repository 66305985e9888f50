package api

import (
	"sync"

	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// recentKey is the natural key of an intent.
type recentKey struct {
	merchant, order string
	form            traffic.Form
	key             string
}

// ambiguous stands for a key under which two vouchers were committed here: which
// of them was first, core alone knows.
const ambiguous ids.Code = "?"

// recent remembers which voucher each natural key was accepted as, for the fast
// answers to repeats and conflicts. Only committed intents are put in. It is
// bounded by two generations of half the bound each: when the younger is full,
// the older is forgotten as a whole; what is asked for moves to the younger. Safe
// for concurrent use.
type recent struct {
	mu         sync.Mutex
	half       int
	young, old map[recentKey]ids.Code
}

func newRecent(most int) *recent {
	return &recent{half: max(1, most/2), young: map[recentKey]ids.Code{}}
}

// get gives the voucher of a key; empty if it is not remembered, or ambiguous.
func (r *recent) get(k recentKey) ids.Code {
	r.mu.Lock()
	defer r.mu.Unlock()
	if y, ok := r.young[k]; ok {
		return y
	}
	y, ok := r.old[k]
	if ok {
		r.store(k, y)
	}
	return y
}

// put remembers the committed voucher of a key. Two of one key make it ambiguous:
// the order in which requests are answered is not that in which they were kept.
func (r *recent) put(k recentKey, y ids.Code) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, ok := r.young[k]
	if !ok {
		have = r.old[k]
	}
	switch {
	case have == "" || !ok && have == y:
		r.store(k, y)
	case have != y:
		r.store(k, ambiguous)
	}
}

func (r *recent) store(k recentKey, y ids.Code) {
	if _, there := r.young[k]; !there && len(r.young) >= r.half {
		r.old, r.young = r.young, map[recentKey]ids.Code{}
	}
	r.young[k] = y
}
