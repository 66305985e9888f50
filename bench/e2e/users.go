package e2e

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/bench/load"
)

// readyMax is how long a user waits for one voucher to become ready. A PSP that
// hangs, and is asked again, takes seconds.
const readyMax = 60 * time.Second

// users ask for payments and long-poll each until it is ready, or final.
type users struct {
	client *load.Client
	count  int
	rate   float64 // payments per second; 0 for as many as they can
	order  func(n int) load.Order

	offered, accepted, ready, final    atomic.Int64
	refused, unanswered, late, dropped atomic.Int64
	accept, readyAfter                 load.Histogram
	first                              atomic.Int64 // Unix nanoseconds of the first 202

	mu       sync.Mutex
	vouchers []string
}

// run offers until the time is over, and returns when the last voucher was
// followed.
func (u *users) run(ctx context.Context, d time.Duration) {
	offering, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var tokens chan struct{}
	var wg sync.WaitGroup
	defer wg.Wait()
	if u.rate > 0 {
		tokens = make(chan struct{}, u.count)
		wg.Go(func() { u.pace(offering, tokens) })
	}
	for range u.count {
		wg.Go(func() { u.one(ctx, offering, tokens) })
	}
}

// pace hands out payments at the rate. One for which no user is free is dropped.
func (u *users) pace(offering context.Context, tokens chan<- struct{}) {
	start := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		for due := int(time.Since(start).Seconds() * u.rate); n < due; n++ {
			select {
			case tokens <- struct{}{}:
			default:
				u.dropped.Add(1)
			}
		}
		select {
		case <-offering.Done():
			return
		case <-tick.C:
		}
	}
}

// one is one user, from payment to payment.
func (u *users) one(ctx, offering context.Context, tokens <-chan struct{}) {
	var vouchers []string
	defer func() {
		u.mu.Lock()
		u.vouchers = append(u.vouchers, vouchers...)
		u.mu.Unlock()
	}()
	for {
		if tokens != nil {
			select {
			case <-tokens:
			case <-offering.Done():
			}
		}
		if offering.Err() != nil {
			return
		}
		if v := u.pay(ctx); v != "" {
			vouchers = append(vouchers, v)
		}
	}
}

// pay makes one payment and waits until it is ready. It gives the voucher, if
// there was one.
func (u *users) pay(ctx context.Context) string {
	start := time.Now()
	a, status, err := u.client.Pay(u.order(int(u.offered.Add(1))))
	if status != 202 || err != nil {
		counter := &u.refused
		if status == 0 || status == 504 {
			counter = &u.unanswered
		}
		counter.Add(1)
		sleep(ctx, 100*time.Millisecond)
		return ""
	}
	now := time.Now()
	u.first.CompareAndSwap(0, now.UnixNano())
	u.accept.Record(now.Sub(start))
	u.accepted.Add(1)
	for since := int64(0); ctx.Err() == nil; {
		if time.Since(start) > readyMax {
			u.late.Add(1)
			break
		}
		v, status, err := u.client.Await(a, since, 20*time.Second)
		if status != 200 || err != nil {
			sleep(ctx, 100*time.Millisecond)
			continue
		}
		since = v.Version
		if v.Status == "ready" || v.Status == "paid" {
			u.ready.Add(1)
			u.readyAfter.Record(time.Since(start))
			break
		}
		if v.Final() {
			u.final.Add(1)
			break
		}
	}
	return a.Voucher
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
