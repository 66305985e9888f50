package redis

import (
	"sync"

	"github.com/tallystick/tallystick/internal/coord"
)

// queue is what waits for the next call. Safe for concurrent use.
type queue struct {
	cfg      *Config
	kick     chan struct{} // of one place
	mu       sync.Mutex
	draws    []*bucket // each at most once: see bucket.drawing
	hints    []coord.Hint
	wakes    []string
	wakesSet map[string]bool
}

func newQueue(cfg *Config) *queue {
	return &queue{cfg: cfg, kick: make(chan struct{}, 1), wakesSet: map[string]bool{}}
}

// batch is what one call takes along.
type batch struct {
	draws []*bucket
	hints []coord.Hint
	wakes []string
}

func (b *batch) empty() bool { return len(b.draws)+len(b.hints)+len(b.wakes) == 0 }

func (q *queue) wake() {
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

func (q *queue) draw(b *bucket) {
	q.mu.Lock()
	q.draws = append(q.draws, b)
	q.mu.Unlock()
	q.wake()
}

// hint reports whether there was a place.
func (q *queue) hint(h coord.Hint) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.hints) >= q.cfg.HintsQueueMax {
		return false
	}
	q.hints = append(q.hints, h)
	q.wake()
	return true
}

// notify reports whether there was a place; a name that waits needs no second one.
func (q *queue) notify(name string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.wakesSet[name] {
		return true
	}
	if len(q.wakes) >= q.cfg.WakesQueueMax {
		return false
	}
	q.wakes = append(q.wakes, name)
	q.wakesSet[name] = true
	q.wake()
	return true
}

// take takes what goes along with one call.
func (q *queue) take() batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	var b batch
	b.draws, q.draws = cut(q.draws, q.cfg.BatchMax)
	b.hints, q.hints = cut(q.hints, q.cfg.BatchMax)
	b.wakes, q.wakes = cut(q.wakes, q.cfg.BatchMax)
	for _, name := range b.wakes {
		delete(q.wakesSet, name)
	}
	if len(q.draws)+len(q.hints)+len(q.wakes) > 0 {
		q.wake()
	}
	return b
}

// cut takes the first of a list. What is left keeps no memory of it.
func cut[T any](list []T, most int) (first, rest []T) {
	if len(list) <= most {
		return list, nil
	}
	return list[:most:most], append([]T(nil), list[most:]...)
}
