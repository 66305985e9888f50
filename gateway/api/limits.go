package api

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tallystick/tallystick/core/merchant"
)

// Bucket is the limit of one merchant, which gateways may share. Safe for concurrent
// use; no method waits.
type Bucket interface {
	// Take takes one token; false if there is none now.
	Take(now time.Time) bool
	// SetRate changes the rate, at once.
	SetRate(perSecond float64, burst int, now time.Time)
}

// Buckets makes the bucket of a name; another call for a name gives the same one.
type Buckets func(name string, perSecond float64, burst int) Bucket

// ownBuckets are of this gateway alone.
func ownBuckets(_ string, perSecond float64, burst int) Bucket {
	return ownBucket{rate.NewLimiter(rate.Limit(perSecond), burst)}
}

type ownBucket struct{ limiter *rate.Limiter }

func (b ownBucket) Take(now time.Time) bool { return b.limiter.AllowN(now, 1) }

func (b ownBucket) SetRate(perSecond float64, burst int, now time.Time) {
	b.limiter.SetLimitAt(now, rate.Limit(perSecond))
	b.limiter.SetBurstAt(now, burst)
}

// limits holds each merchant's rate limit. Only authenticated merchants have one,
// so that their number is bounded by the directory.
type limits struct {
	what  string // of the names of buckets
	times int    // how many of these a merchant has for each payment request of his rate
	make  Buckets
	mu    sync.Mutex
	by    map[string]*limited
}

// limited is a merchant's bucket, with the rate that it has.
type limited struct {
	bucket    Bucket
	perSecond float64
	burst     int
}

// readsPerPayment is how many reads a merchant may make for each payment request
// that his rate allows: a checkout needs two or three.
const readsPerPayment = 8

func newLimits(what string, times int, buckets Buckets) *limits {
	return &limits{what: what, times: times, make: buckets, by: map[string]*limited{}}
}

// allow takes one token of the merchant's. A changed rate applies at once.
func (l *limits) allow(m *merchant.Merchant, now time.Time) bool {
	perSecond, burst := m.RequestsPerSecond*float64(l.times), m.Burst*l.times
	l.mu.Lock()
	has := l.by[m.ID]
	if has == nil {
		has = &limited{l.make(l.what+"/"+m.ID, perSecond, burst), perSecond, burst}
		l.by[m.ID] = has
	}
	if has.perSecond != perSecond || has.burst != burst {
		has.perSecond, has.burst = perSecond, burst
		has.bucket.SetRate(perSecond, burst, now)
	}
	l.mu.Unlock()
	return has.bucket.Take(now)
}
