package api

import (
	"encoding/binary"
	"hash/maphash"
	"sync"

	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// recentKey is the natural key of an intent, as 128 bits of hash whose seed nobody
// knows: of the trade's X, which is itself a MAC of traffic, merchant and order, the
// form, and the idempotency key.
type recentKey struct{ hash, check uint64 }

// recentVoucher is what a key was accepted as. Like its key it holds no pointer, so
// that the garbage collector does not look at tens of thousands of them.
type recentVoucher struct {
	check uint64 // of the key: another one with the same hash is not remembered
	y     [ids.CodeLen]byte
}

// ambiguous stands for a key under which two vouchers were committed here: which
// of them was first, core alone knows.
const ambiguous = '?'

// recent remembers which voucher each natural key was accepted as, for the fast
// answers to repeats and conflicts. Only committed intents are put in. It is
// bounded by two generations of half the bound each: when the younger is full,
// the older is forgotten as a whole; what is asked for moves to the younger. Safe
// for concurrent use.
type recent struct {
	seeds      [2]maphash.Seed
	half       int
	mu         sync.Mutex
	young, old map[uint64]recentVoucher
}

func newRecent(most int) *recent {
	return &recent{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, half: max(1, most/2),
		young: map[uint64]recentVoucher{}, old: map[uint64]recentVoucher{}}
}

// keyOf makes the key of an intent.
func (r *recent) keyOf(x *[ids.CodeLen]byte, form traffic.Form, key string) recentKey {
	// Two parts of X, 40 bits each, and the form's first letter, beside 128 bits of
	// the idempotency key: with X given, the form and the hashes tell keys apart.
	return recentKey{hash: maphash.String(r.seeds[0], key) ^ binary.LittleEndian.Uint64(x[3:]) ^ uint64(form[0]),
		check: maphash.String(r.seeds[1], key) ^ binary.LittleEndian.Uint64(x[11:]) ^ uint64(form[0])<<32}
}

// get gives the voucher of a key; empty if it is not remembered, or ambiguous.
func (r *recent) get(k recentKey) ids.Code {
	r.mu.Lock()
	v, young := r.young[k.hash]
	known := young
	if !young {
		if v, known = r.old[k.hash]; known && v.check == k.check {
			r.store(k.hash, &v, false)
		}
	}
	r.mu.Unlock()
	if !known || v.check != k.check || v.y[0] == ambiguous {
		return ""
	}
	return ids.Code(v.y[:])
}

// put remembers the committed voucher of a key. Two of one key make it ambiguous:
// the order in which requests are answered is not that in which they were kept.
func (r *recent) put(k recentKey, y ids.Code) {
	v := recentVoucher{check: k.check}
	copy(v.y[:], y)
	r.mu.Lock()
	defer r.mu.Unlock()
	have, young := r.young[k.hash]
	known := young
	if !young {
		have, known = r.old[k.hash]
	}
	if known && have.check == v.check {
		if young && have.y == v.y {
			return
		}
		if have.y != v.y {
			v.y = [ids.CodeLen]byte{ambiguous}
		}
	}
	r.store(k.hash, &v, young)
}

func (r *recent) store(hash uint64, v *recentVoucher, there bool) {
	if !there && len(r.young) >= r.half {
		r.old, r.young = r.young, r.old
		clear(r.young)
	}
	r.young[hash] = *v
}
