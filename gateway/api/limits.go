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
	times int // how many of these a merchant has for each payment request of his rate
	mu    sync.Mutex
	by    map[string]*rate.Limiter
}

// readsPerPayment is how many reads a merchant may make for each payment request
// that his rate allows: a checkout needs two or three.
const readsPerPayment = 8

func newLimits(times int) *limits { return &limits{times: times, by: map[string]*rate.Limiter{}} }

// allow takes one token of the merchant's. A changed rate applies at once.
func (l *limits) allow(m *merchant.Merchant, now time.Time) bool {
	limit, burst := rate.Limit(m.RequestsPerSecond*float64(l.times)), m.Burst*l.times
	l.mu.Lock()
	defer l.mu.Unlock()
	lim := l.by[m.ID]
	if lim == nil {
		lim = rate.NewLimiter(limit, burst)
		l.by[m.ID] = lim
	}
	if lim.Limit() != limit {
		lim.SetLimitAt(now, limit)
	}
	if lim.Burst() != burst {
		lim.SetBurstAt(now, burst)
	}
	return lim.AllowN(now, 1)
}
