package load

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Driver offers payments at a constant rate, whatever the gateway does (an open
// model), and follows each voucher until it is final.
type Driver struct {
	Client *Client
	// Rate is payments per second; For is how long they are offered.
	Rate float64
	For  time.Duration
	// InFlightMax bounds payments that are being followed; what would exceed it is
	// counted as Dropped.
	InFlightMax int
	// Order makes the n-th order.
	Order func(n int) Order
	// RepeatEvery sends every n-th payment twice, with the same key; 0 for none.
	RepeatEvery int
	// FollowMax is how long a voucher is followed after its accept.
	FollowMax time.Duration

	Stats Stats

	mu       sync.Mutex
	vouchers map[string]string // voucher ▸ last status seen
}

// Stats count what happened. All fields may be read at any time.
type Stats struct {
	Offered, Accepted, Ready, Paid, Declined, Other atomic.Int64
	Refused, Unanswered, Dropped, Mismatch          atomic.Int64
	InFlight                                        atomic.Int64
	Accept, ReadyAfter                              Histogram
}

// Run offers and follows until For has passed, or ctx ends, and everything in
// flight was followed.
func (d *Driver) Run(ctx context.Context) {
	d.vouchers = map[string]string{}
	var wg sync.WaitGroup
	defer wg.Wait()
	start := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		elapsed := time.Since(start)
		if elapsed >= d.For {
			return
		}
		for due := int(elapsed.Seconds() * d.Rate); n < due; n++ {
			d.Stats.Offered.Add(1)
			if d.Stats.InFlight.Load() >= int64(d.InFlightMax) {
				d.Stats.Dropped.Add(1)
				continue
			}
			d.Stats.InFlight.Add(1)
			order, repeat := d.Order(n), d.RepeatEvery > 0 && n%d.RepeatEvery == 0
			wg.Go(func() {
				defer d.Stats.InFlight.Add(-1)
				d.one(ctx, order, repeat)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// one pays one order and follows it.
func (d *Driver) one(ctx context.Context, o Order, repeat bool) {
	start := time.Now()
	a, status, err := d.Client.Pay(o)
	switch {
	case status == 0 || status == 504:
		d.Stats.Unanswered.Add(1)
		// Nobody knows: the same key again, once.
		if a, status, _ = d.Client.Pay(o); status != 202 {
			return
		}
	case status != 202 || err != nil:
		d.Stats.Refused.Add(1)
		return
	default:
		d.Stats.Accept.Record(time.Since(start))
	}
	d.Stats.Accepted.Add(1)
	d.note(a.Voucher, "accepted")
	if repeat {
		if b, status, _ := d.Client.Pay(o); status == 202 && b.Voucher != a.Voucher {
			d.Stats.Mismatch.Add(1)
		}
	}
	d.follow(ctx, a, start)
}

func (d *Driver) follow(ctx context.Context, a Accepted, start time.Time) {
	since, ready := int64(0), false
	for ctx.Err() == nil && time.Since(start) < d.FollowMax {
		v, status, err := d.Client.Await(a, since, 20*time.Second)
		if err != nil || status != 200 {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		since = v.Version
		d.note(a.Voucher, v.Status)
		if v.Status == "ready" && !ready {
			ready = true
			d.Stats.Ready.Add(1)
			d.Stats.ReadyAfter.Record(time.Since(start))
		}
		if v.Final() {
			switch v.Status {
			case "paid":
				d.Stats.Paid.Add(1)
			case "declined":
				d.Stats.Declined.Add(1)
			default:
				d.Stats.Other.Add(1)
			}
			return
		}
	}
}

func (d *Driver) note(voucher, status string) {
	d.mu.Lock()
	d.vouchers[voucher] = status
	d.mu.Unlock()
}

// Vouchers is every voucher that was promised, with the last status seen.
func (d *Driver) Vouchers() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[string]string, len(d.vouchers))
	for v, s := range d.vouchers {
		out[v] = s
	}
	return out
}

// Orders gives unique orders of a run: seed and number, amounts from 1 to
// 500.00 in steps that a reader can follow.
func Orders(seed uint64) func(n int) Order {
	return func(n int) Order {
		return Order{OrderID: fmt.Sprintf("run-%d-%07d", seed, n), Amount: 100 + int64(n*37%49_901), Currency: "CNY",
			Subject: "Coffee mug no. " + fmt.Sprint(n), Key: fmt.Sprintf("key-%d-%07d", seed, n)}
	}
}
