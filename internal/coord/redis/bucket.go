package redis

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tallystick/tallystick/internal/coord"
)

// bucket is a replica's side of one limit. See the package for how it works.
type bucket struct {
	c         *Coordinator
	key, role string

	mu       sync.Mutex
	rate     coord.Rate
	replicas int
	own      *rate.Limiter // rate ÷ replicas
	portion  int
	inHand   int // drawn, and not used yet
	drawnAt  time.Time
	untold   int // used of own and not told; below 0: to be given back
	drawing  bool
	noDraw   time.Time // before it no draw is worth it
}

// Bucket implements coord.Limits.
func (c *Coordinator) Bucket(role, name string, r coord.Rate) coord.Bucket {
	key := c.cfg.KeyPrefix + "limit:" + role + ":" + name
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.buckets[key]
	if b == nil {
		b = &bucket{c: c, key: key, role: role, rate: r, replicas: c.replicasOf(role)}
		limit, burst := b.share()
		b.own = rate.NewLimiter(limit, burst)
		b.fit(c.now())
		c.buckets[key] = b
	}
	return b
}

// share is this replica's part of the rate.
func (b *bucket) share() (perSecond rate.Limit, burst int) {
	return rate.Limit(b.rate.PerSecond / float64(b.replicas)), max(1, b.rate.Burst/b.replicas)
}

// fit makes the own share and the portion those of the rate.
func (b *bucket) fit(now time.Time) {
	limit, burst := b.share()
	b.own.SetLimitAt(now, limit)
	b.own.SetBurstAt(now, burst)
	within := b.rate.PerSecond * b.c.cfg.PortionAge.Seconds()
	b.portion = max(1, min(b.c.cfg.PortionMax, max(b.rate.Burst/4, int(math.Min(within, 1e9)))))
}

// SetRate implements coord.Bucket.
func (b *bucket) SetRate(r coord.Rate, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rate != r {
		b.rate = r
		b.fit(now)
	}
}

// divide says how many replicas there are now.
func (b *bucket) divide(replicas int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.replicas != replicas {
		b.replicas = replicas
		b.fit(now)
	}
}

// Take implements coord.Bucket.
func (b *bucket) Take(now time.Time) bool {
	b.mu.Lock()
	b.expire(now)
	ok := true
	switch {
	case b.own.AllowN(now, 1):
		b.untold++
	case b.inHand > 0:
		b.inHand--
	default:
		ok = false
	}
	draw := b.wantsDraw(now)
	b.mu.Unlock()
	if draw {
		b.c.queue.draw(b)
	}
	return ok
}

// Reserve implements coord.Bucket. Who must wait waits for the own share, whatever
// is drawn meanwhile: that is certain to come.
func (b *bucket) Reserve(now time.Time) (wait time.Duration, cancel func(time.Time)) {
	b.mu.Lock()
	b.expire(now)
	token := b.own.ReserveN(now, 1)
	wait = token.DelayFrom(now)
	if wait > 0 && b.inHand > 0 {
		token.CancelAt(now)
		b.inHand--
		wait, cancel = 0, func(time.Time) { b.giveBack() }
	} else {
		b.untold++
		cancel = func(at time.Time) {
			token.CancelAt(at)
			b.giveBack()
		}
	}
	draw := b.wantsDraw(now)
	b.mu.Unlock()
	if draw {
		b.c.queue.draw(b)
	}
	return wait, cancel
}

// giveBack returns a token with the next draw.
func (b *bucket) giveBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.untold--
}

// expire gives back what was drawn too long ago.
func (b *bucket) expire(now time.Time) {
	if b.inHand > 0 && now.Sub(b.drawnAt) > b.c.cfg.PortionAge {
		b.untold -= b.inHand
		b.inHand = 0
	}
}

// wantsDraw reports whether Redis should be asked: when what is left here would not
// last for a portion, or as much as that was used and not told.
func (b *bucket) wantsDraw(now time.Time) bool {
	if b.drawing || now.Before(b.noDraw) || b.left(now) >= b.portion && b.untold < b.portion {
		return false
	}
	b.drawing = true
	return true
}

func (b *bucket) left(now time.Time) int { return b.inHand + max(0, int(b.own.TokensAt(now))) }

// ask is what one draw says.
type ask struct {
	rate coord.Rate
	used int
	want int
}

// ask makes the draw of now.
func (b *bucket) ask(now time.Time) ask {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire(now)
	a := ask{rate: b.rate, used: b.untold}
	if b.left(now) < b.portion {
		a.want = b.portion - b.inHand
	}
	return a
}

// answered takes what Redis gave. More may have been used meanwhile than that.
func (b *bucket) answered(a ask, give int, wait time.Duration, now time.Time) {
	b.mu.Lock()
	b.drawing = false
	b.untold -= a.used
	if give > 0 {
		b.expire(now)
		b.inHand += give
		b.drawnAt = now
	}
	if give < a.want {
		b.noDraw = now.Add(max(wait, b.c.cfg.PauseMin))
	}
	draw := b.wantsDraw(now)
	b.mu.Unlock()
	if draw {
		b.c.queue.draw(b)
	}
}

// failed is a draw of which nobody knows whether Redis has seen it. What was used is
// told again, which errs to the side of fewer tokens; nothing is given back twice.
// Without Redis for long, a burst's worth is remembered.
func (b *bucket) failed(now time.Time, pause time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drawing = false
	b.untold = min(max(0, b.untold), b.rate.Burst)
	b.noDraw = now.Add(pause)
}
