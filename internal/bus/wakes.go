package bus

import "sync"

// Wakes are the channels of those who subscribed to a Source. The zero value has
// none. Safe for concurrent use.
type Wakes struct {
	mu   sync.Mutex
	subs map[chan struct{}]bool
}

// Subscribe implements Source.
func (w *Wakes) Subscribe() (wake <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.subs == nil {
		w.subs = map[chan struct{}]bool{}
	}
	w.subs[c] = true
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs, c)
	}
}

// Wake wakes all, and waits for nobody.
func (w *Wakes) Wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
