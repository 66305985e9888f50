// Package local coordinates replicas that are in one process: of the embedded
// profile there is one. Nothing is lost and nothing is late, and together they get
// exactly what a rate says.
package local

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tallystick/tallystick/internal/coord"
)

// Hub is what the replicas of a process share.
type Hub struct {
	mu       sync.Mutex
	buckets  map[bucketID]*bucket
	replicas []*Replica
}

type bucketID struct{ role, name string }

// New makes a hub without replicas.
func New() *Hub { return &Hub{buckets: map[bucketID]*bucket{}} }

// Replica is one of a hub: all three ports. Safe for concurrent use.
type Replica struct {
	hub  *Hub
	subs coord.Subscribers
	mu   sync.Mutex // held while hearing: by one at a time
	hear func(coord.Hint)
}

// Replica adds one.
func (h *Hub) Replica() *Replica {
	r := &Replica{hub: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.replicas = append(h.replicas, r)
	return r
}

// all are the replicas of now.
func (h *Hub) all() []*Replica {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.replicas[:len(h.replicas):len(h.replicas)]
}

// Bucket implements coord.Limits.
func (r *Replica) Bucket(role, name string, rt coord.Rate) coord.Bucket {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	id := bucketID{role, name}
	b := r.hub.buckets[id]
	if b == nil {
		b = &bucket{limiter: rate.NewLimiter(rate.Limit(rt.PerSecond), rt.Burst)}
		r.hub.buckets[id] = b
	}
	return b
}

// Tell implements coord.Hints.
func (r *Replica) Tell(h coord.Hint) {
	for _, other := range r.hub.all() {
		if other != r {
			other.heard(h)
		}
	}
}

func (r *Replica) heard(h coord.Hint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hear != nil {
		r.hear(h)
	}
}

// Hear implements coord.Hints.
func (r *Replica) Hear(hear func(coord.Hint)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hear = hear
}

// Notify implements coord.Wakes.
func (r *Replica) Notify(name string) {
	coord.CheckName(name)
	for _, each := range r.hub.all() {
		each.subs.Wake(name)
	}
}

// Subscribe implements coord.Wakes.
func (r *Replica) Subscribe(name string) (<-chan struct{}, func()) { return r.subs.Subscribe(name) }

// bucket is that of x/time.
type bucket struct{ limiter *rate.Limiter }

func (b *bucket) Take(now time.Time) bool { return b.limiter.AllowN(now, 1) }

func (b *bucket) Reserve(now time.Time) (wait time.Duration, cancel func(time.Time)) {
	token := b.limiter.ReserveN(now, 1)
	return token.DelayFrom(now), token.CancelAt
}

func (b *bucket) SetRate(r coord.Rate, now time.Time) {
	if limit := rate.Limit(r.PerSecond); b.limiter.Limit() != limit {
		b.limiter.SetLimitAt(now, limit)
	}
	if b.limiter.Burst() != r.Burst {
		b.limiter.SetBurstAt(now, r.Burst)
	}
}
