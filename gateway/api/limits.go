package api

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tallystick/tallystick/core/merchant"
)

// limits holds each merchant's rate limiter. Only authenticated merchants have
// one, so that their number is bounded by the directory.
type limits struct {
	mu sync.Mutex
	by map[string]*rate.Limiter
}

func newLimits() *limits { return &limits{by: map[string]*rate.Limiter{}} }

// allow takes one token of the merchant's. A changed rate applies at once.
func (l *limits) allow(m *merchant.Merchant, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	lim := l.by[m.ID]
	if lim == nil {
		lim = rate.NewLimiter(rate.Limit(m.RequestsPerSecond), m.Burst)
		l.by[m.ID] = lim
	}
	if lim.Limit() != rate.Limit(m.RequestsPerSecond) {
		lim.SetLimitAt(now, rate.Limit(m.RequestsPerSecond))
	}
	if lim.Burst() != m.Burst {
		lim.SetBurstAt(now, m.Burst)
	}
	return lim.AllowN(now, 1)
}
