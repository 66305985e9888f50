package api

import (
	"sync"
	"sync/atomic"
	"time"
)

// deadline gives out channels that are closed after a time, or up to a sixteenth
// of it later. All who ask within such a sixteenth share one: a timer for each
// request was 3 % of the CPU of accepting it. Safe for concurrent use.
type deadline struct {
	after   time.Duration
	mu      sync.Mutex
	current atomic.Pointer[chan struct{}] // nil when it is too old to be given out
}

// channel gives a channel that is closed when the time is over.
func (d *deadline) channel() <-chan struct{} {
	if c := d.current.Load(); c != nil {
		return *c
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.current.Load(); c != nil {
		return *c
	}
	c := make(chan struct{})
	d.current.Store(&c)
	share := d.after / 16
	time.AfterFunc(share, func() { d.current.Store(nil) })
	time.AfterFunc(d.after+share, func() { close(c) })
	return c
}
