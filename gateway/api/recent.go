package api

import (
	"hash/maphash"
	"sync"

	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// recentKey is the natural key of an intent: the trade's X, which is a MAC of
// traffic, merchant and order; the form's first letter; and 64 bits of hash of the
// idempotency key, whose seed nobody knows. It holds no pointer, so that the
// garbage collector does not look at tens of thousands of them.
type recentKey [ids.CodeLen + 1 + 8]byte

// recentCode is a voucher's code, without a pointer as well; zero for none.
type recentCode [ids.CodeLen]byte

// ambiguous stands for a key under which two vouchers were committed here: which
// of them was first, core alone knows.
const ambiguous = "?"

// recent remembers which voucher each natural key was accepted as, for the fast
// answers to repeats and conflicts. Only committed intents are put in. It is
// bounded by two generations of half the bound each: when the younger is full,
// the older is forgotten as a whole; what is asked for moves to the younger. Safe
// for concurrent use.
type recent struct {
	seed       maphash.Seed
	half       int
	mu         sync.Mutex
	young, old map[recentKey]recentCode
}

func newRecent(most int) *recent {
	return &recent{seed: maphash.MakeSeed(), half: max(1, most/2), young: map[recentKey]recentCode{}, old: map[recentKey]recentCode{}}
}

// keyOf makes the key of an intent.
func (r *recent) keyOf(x ids.Code, form traffic.Form, key string) (k recentKey) {
	n := copy(k[:], x)
	k[n] = form[0]
	h := maphash.String(r.seed, key)
	for i := range 8 {
		k[n+1+i] = byte(h >> (8 * i))
	}
	return k
}

// get gives the voucher of a key; empty if it is not remembered, or ambiguous.
func (r *recent) get(k *recentKey) ids.Code {
	r.mu.Lock()
	y, ok := r.young[*k]
	if !ok {
		if y, ok = r.old[*k]; ok {
			r.store(k, &y)
		}
	}
	r.mu.Unlock()
	if !ok || y[0] == ambiguous[0] {
		return ""
	}
	return ids.Code(y[:])
}

// put remembers the committed voucher of a key. Two of one key make it ambiguous:
// the order in which requests are answered is not that in which they were kept.
func (r *recent) put(k *recentKey, code ids.Code) {
	var y recentCode
	copy(y[:], code)
	r.mu.Lock()
	defer r.mu.Unlock()
	have, young := r.young[*k]
	known := young
	if !young {
		have, known = r.old[*k]
	}
	switch {
	case known && have != y:
		y = recentCode{}
		copy(y[:], ambiguous)
		r.store(k, &y)
	case !young:
		r.store(k, &y)
	}
}

func (r *recent) store(k *recentKey, y *recentCode) {
	if _, there := r.young[*k]; !there && len(r.young) >= r.half {
		r.old, r.young = r.young, r.old
		clear(r.young)
	}
	r.young[*k] = *y
}
