// Package limit keeps calls of a channel account under the rate that its PSP
// allows. It is the outer decorator, the breaker the inner one; the bulkhead,
// prepay's slots, is around both. So what the limiter refuses is no failure for the breaker, and what
// the breaker refuses has cost a token, which is cheap, as it says that the PSP is
// down anyway.
package limit

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/internal/fault"
)

// Code is the code of the NotSent that a refused call ends with.
const Code = "rate_limited"

// Settings of one channel account.
type Settings struct {
	CallsPerSecond float64 // above 0
	Burst          int     // at least 1
	// WaitMax is how long a call waits for its token, within its context's
	// deadline; 0 refuses at once.
	WaitMax time.Duration
}

// Validate names the first field that is wrong.
func (s *Settings) Validate() error {
	bad := func(field, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "limit", Code: "config_invalid", Field: field, Fix: fix}
	}
	switch {
	case !(s.CallsPerSecond > 0):
		return bad("calls_per_second", "above 0")
	case s.Burst < 1:
		return bad("burst", "at least 1")
	case s.WaitMax < 0 || s.WaitMax > time.Minute:
		return bad("wait_max", "0 to 1 minute")
	}
	return nil
}

// Bucket is where an account's tokens come from; processes may share it. Safe for
// concurrent use, and it never waits.
type Bucket interface {
	// Reserve takes a token that may be used after wait: 0 for now. cancel gives back
	// one that is not used; it is called at most once.
	Reserve(now time.Time) (wait time.Duration, cancel func(now time.Time))
}

// newBucket makes one of this process alone.
func newBucket(callsPerSecond float64, burst int) Bucket {
	return bucket{rate.NewLimiter(rate.Limit(callsPerSecond), burst)}
}

type bucket struct{ limiter *rate.Limiter }

func (b bucket) Reserve(now time.Time) (wait time.Duration, cancel func(time.Time)) {
	token := b.limiter.ReserveN(now, 1)
	return token.DelayFrom(now), token.CancelAt
}

// Wrap gives a channel whose calls, all three sorts together, draw from one
// bucket: nil for one of this process alone, of the rate in s. now drives the bucket;
// c is not changed.
func Wrap(c *channels.Channel, s Settings, b Bucket, now func() time.Time) (*channels.Channel, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if b == nil {
		b = newBucket(s.CallsPerSecond, s.Burst)
	}
	w := *c
	w.Pay = &payer{next: c.Pay, bucket: b, waitMax: s.WaitMax, now: now}
	return &w, nil
}

type payer struct {
	next    channels.Payer
	bucket  Bucket
	waitMax time.Duration
	now     func() time.Time
}

func (p *payer) Prepay(ctx context.Context, r channels.PayRequest) channels.Outcome {
	if o, ok := p.admit(ctx); !ok {
		return o
	}
	return p.next.Prepay(ctx, r)
}

func (p *payer) Query(ctx context.Context, r channels.QueryRequest) channels.Outcome {
	if o, ok := p.admit(ctx); !ok {
		return o
	}
	return p.next.Query(ctx, r)
}

func (p *payer) Close(ctx context.Context, r channels.QueryRequest) channels.Outcome {
	if o, ok := p.admit(ctx); !ok {
		return o
	}
	return p.next.Close(ctx, r)
}

// admit takes a token, or says why not and leaves the bucket as it was.
func (p *payer) admit(ctx context.Context) (channels.Outcome, bool) {
	now := p.now()
	wait, cancel := p.bucket.Reserve(now)
	if wait == 0 {
		return channels.Outcome{}, true
	}
	if wait > p.waitMax {
		cancel(now)
		return refused("the next call is free in %v, longer than a call waits", wait), false
	}
	// A context's deadline is by the runtime's clock, whatever now is.
	if d, ok := ctx.Deadline(); ok && time.Until(d) <= wait {
		cancel(now)
		return refused("the next call is free in %v, after the deadline", wait), false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return channels.Outcome{}, true
	case <-ctx.Done():
		cancel(p.now())
		return refused("given up after waiting for %v: "+ctx.Err().Error(), p.now().Sub(now)), false
	}
}

func refused(format string, d time.Duration) channels.Outcome {
	return channels.Outcome{Result: channels.NotSent, Code: Code, Message: fmt.Sprintf(format, d.Round(time.Millisecond))}
}
