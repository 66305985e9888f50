package e2e

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
)

// The figures that are read while it runs.
const (
	metricPosted = `tallystick_accounting_entries_total{result="posted"}`
	metricOpen   = "tallystick_core_open_payments"
	metricUnread = "tallystick_intake_unread_bytes"
	metricLag    = "tallystick_consumer_lag"
)

// sampleEvery is how often they are read: also how late the last posting may be seen.
const sampleEvery = 200 * time.Millisecond

// drainMax is how long everything may take to end after the last accept. A call
// that hung is asked after with growing distance.
const drainMax = 2 * time.Minute

// course is how it went: from the first payment that users offer until nothing of
// what was accepted is open any more.
type course struct {
	before        int64 // posted before it began
	posted        int64
	postedAtEnd   int64 // when the offering ended
	lastPosting   time.Time
	samples       []sample
	offeringEnded time.Time
}

// sample is how much was posted at a time.
type sample struct {
	at     time.Time
	posted int64
}

// postedBy is when all but one in a thousand payments were booked. The very last
// ones are those whose call hung more than once: their wait is the PSP's.
func (c *course) postedBy() sample {
	for _, s := range c.samples {
		if s.posted >= c.posted-c.posted/1000 {
			return s
		}
	}
	return sample{at: c.lastPosting, posted: c.posted}
}

// note takes a figure of what is posted in all.
func (c *course) note(now time.Time, posted int64) {
	if n := posted - c.before; n > c.posted {
		c.posted, c.lastPosting = n, now
		c.samples = append(c.samples, sample{now, n})
	}
	if now.Before(c.offeringEnded) {
		c.postedAtEnd = c.posted
	}
}

// offer runs the load until all that it accepted has ended.
func (b *bench) offer(ctx context.Context, u *users, d time.Duration) (*course, error) {
	f, err := b.read(ctx)
	if err != nil {
		return nil, err
	}
	c := &course{before: int64(f[metricPosted])}
	offered := make(chan struct{})
	go func() { defer close(offered); u.run(ctx, d) }()
	c.offeringEnded = time.Now().Add(d)
	return c, b.watch(ctx, c, u, offered)
}

// read asks all servers for their figures. One that has ended is an error.
func (b *bench) read(ctx context.Context) (rig.Figures, error) {
	addrs := make([]string, 0, len(b.servers))
	for _, s := range b.servers {
		select {
		case <-s.Done():
			return nil, errors.New("a server ended")
		default:
			addrs = append(addrs, s.operatorAddr)
		}
	}
	return rig.SumFigures(ctx, addrs...)
}

// watch reads figures until everything was offered, followed and worked on.
func (b *bench) watch(ctx context.Context, c *course, u *users, offered <-chan struct{}) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	quiet := time.Time{} // since when nothing is open
	printed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		f, err := b.read(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		c.note(now, int64(f[metricPosted]))
		if now.Sub(printed) > 2*time.Second {
			printed = now
			_, _ = fmt.Fprintf(b.out, "  accepted %d, ready %d, posted %d; open %.0f, unread %.0f KiB, lag %.0f\n", u.accepted.Load(), u.ready.Load(), c.posted,
				f.Sum(metricOpen), f.Sum(metricUnread)/1024, f.Sum(metricLag))
		}
		select {
		case <-offered:
		default:
			continue
		}
		if f.Sum(metricOpen)+f.Sum(metricUnread)+f.Sum(metricLag) > 0 {
			quiet = time.Time{}
		} else if quiet.IsZero() {
			quiet = now
		}
		// The gauge of open payments is a few seconds old: it must stay at nothing.
		if !quiet.IsZero() && now.Sub(quiet) > 5*time.Second {
			return nil
		}
		if now.Sub(c.offeringEnded) > drainMax {
			return nil // verify tells what is still open
		}
	}
}
