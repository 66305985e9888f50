package coord

import "sync"

// Subscribers are those of one replica, for adapters. The zero value has none.
// Safe for concurrent use.
type Subscribers struct {
	mu     sync.Mutex
	byName map[string]map[chan struct{}]bool
}

// Subscribe is that of Wakes.
func (s *Subscribers) Subscribe(name string) (wake <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byName == nil {
		s.byName = map[string]map[chan struct{}]bool{}
	}
	if s.byName[name] == nil {
		s.byName[name] = map[chan struct{}]bool{}
	}
	s.byName[name][c] = true
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(s.byName[name], c); len(s.byName[name]) == 0 {
			delete(s.byName, name)
		}
	}
}

// Wake wakes those of a name, and waits for nobody.
func (s *Subscribers) Wake(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wakeAll(s.byName[name])
}

// WakeAll wakes everybody: something may have been missed.
func (s *Subscribers) WakeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, subs := range s.byName {
		wakeAll(subs)
	}
}

func wakeAll(subs map[chan struct{}]bool) {
	for c := range subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// CheckName panics for a name that Notify does not take.
func CheckName(name string) {
	if !ValidName(name) {
		panic("coord: not the name of a wake-up: " + name)
	}
}

// ValidName reports whether Notify takes a name.
func ValidName(name string) bool {
	if name == "" || len(name) > NameLenMax {
		return false
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' {
			return false
		}
	}
	return true
}
