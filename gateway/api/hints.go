package api

import (
	"encoding/binary"
	"math/bits"
	"sync"

	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// KeyHint is what gateways tell each other: core has opened payment Y for a natural
// key (trade, form, idempotency key). So another body under that key is a conflict,
// for ever.
//
// Not that Y was accepted: two bodies under one key may both be accepted, by two
// gateways, and only core knows which was first. And nobody is told "accepted" for a
// hint: a repeat that this gateway has not committed itself is appended again.
type KeyHint struct {
	Key         uint64 // a hash of the natural key
	Y           ids.Code
	Fingerprint ids.Fingerprint // of the body that Y belongs to
}

// naturalKey is the hash of a KeyHint. It is the same in all gateways, so that it
// does not change within a version of the messages between them.
func naturalKey(x *[ids.CodeLen]byte, form traffic.Form, key string) uint64 {
	const prime = 1099511628211 // of FNV-1a
	h := binary.LittleEndian.Uint64(x[3:]) ^ bits.RotateLeft64(binary.LittleEndian.Uint64(x[11:]), 32) ^ uint64(form[0])
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * prime
	}
	return h
}

// generations is a map of at most so many entries: when the younger half is full,
// the older is forgotten as a whole. Safe for concurrent use.
type generations[K comparable, V any] struct {
	half       int
	mu         sync.Mutex
	young, old map[K]V
}

func newGenerations[K comparable, V any](most int) *generations[K, V] {
	return &generations[K, V]{half: max(1, most/2), young: map[K]V{}, old: map[K]V{}}
}

func (g *generations[K, V]) put(k K, v V) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, there := g.young[k]; !there && len(g.young) >= g.half {
		g.old, g.young = g.young, g.old
		clear(g.young)
	}
	g.young[k] = v
}

func (g *generations[K, V]) get(k K) (v V, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v, known = g.young[k]; !known {
		v, known = g.old[k]
	}
	return v, known
}

func (g *generations[K, V]) remove(k K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.young, k)
	delete(g.old, k)
}

// opened is a hint that was heard, without a pointer.
type opened struct {
	y           [ids.CodeLen]byte
	fingerprint ids.Fingerprint
}

// undecided is what is told of a voucher once core has opened its payment.
type undecided struct {
	key         uint64
	fingerprint ids.Fingerprint
}

// hints is what this gateway has heard, and will tell.
type hints struct {
	tell   func(KeyHint)
	heard  *generations[uint64, opened]
	toTell *generations[[ids.CodeLen]byte, undecided]
}

// newHints remembers at most so many of each. tell may be nil.
func newHints(tell func(KeyHint), most int) *hints {
	return &hints{tell, newGenerations[uint64, opened](most), newGenerations[[ids.CodeLen]byte, undecided](most)}
}

// Heard takes what another gateway knows. Safe for concurrent use; it never waits.
func (s *Service) Heard(h KeyHint) {
	if len(h.Y) != ids.CodeLen {
		return
	}
	o := opened{fingerprint: h.Fingerprint}
	copy(o.y[:], h.Y)
	s.hints.heard.put(h.Key, o)
}

// Decided takes core's first news of a voucher (see voucher.Views.Decided), and tells
// other gateways of a payment that was opened. A rejected one fixes nothing.
func (s *Service) Decided(y ids.Code, status voucher.Status) {
	if s.hints.tell == nil || len(y) != ids.CodeLen {
		return
	}
	k := [ids.CodeLen]byte([]byte(y))
	u, known := s.hints.toTell.get(k)
	if !known {
		return
	}
	s.hints.toTell.remove(k)
	if status != voucher.Rejected {
		s.hints.tell(KeyHint{Key: u.key, Y: y, Fingerprint: u.fingerprint})
	}
}

// opened gives the voucher whose payment was opened for this request's key, if a
// hint proves it: Y is a MAC over this very key and the hint's fingerprint, so that
// who hinted had a request with this key and that body. Empty for none.
func (s *Service) opened(w *scratch, merchant, key string) ids.Code {
	if s.hints.tell == nil {
		return "" // there are no others
	}
	h, known := s.hints.heard.get(w.hintKey)
	if !known {
		return ""
	}
	var y [ids.CodeLen]byte
	s.d.Secret.PutIntent(&y, &w.x, merchant, w.request.OrderID, traffic.Deposit, key, &h.fingerprint)
	if y != h.y {
		s.metrics.hintsUnproven.Inc()
		return ""
	}
	return ids.Code(y[:])
}
