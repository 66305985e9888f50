package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/channels"
)

// judge waits until nothing is open any more, and holds all sides against each other.
func (b *bench) judge(ctx context.Context) error {
	all, err := b.cluster.Databases(ctx)
	if err != nil {
		return err
	}
	defer all.Close() //nolint:errcheck // it was read
	promised := b.shop.list()
	for begun := time.Now(); ; {
		open, err := all.Open(ctx)
		if err != nil {
			return err
		}
		n := int64(0)
		for _, a := range open {
			n += a.Orders
		}
		if n == 0 {
			break
		}
		if time.Since(begun) > drainMax {
			b.fail("%d payments are still open", n)
			break
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	if err := b.quiet(ctx); err != nil {
		b.fail("%v", err)
	}
	if err := b.cluster.Stop(); err != nil {
		b.fail("a process did not stop well: %v", err)
	}
	status, lost, err := all.CheckVouchers(ctx, promised)
	if err != nil {
		return err
	}
	v, err := all.Verify(ctx)
	if err != nil {
		return err
	}
	for _, what := range append(v.Violations, lost...) {
		b.fail("%s", what)
	}
	accepted := int64(0)
	heard := int64(0)
	for _, o := range v.Orders {
		accepted += o.Accepted
	}
	for _, m := range v.Money {
		heard += m.Settled + m.Surplus
		if m.Surplus != 0 {
			b.fail("%d minor units were taken twice over %s", m.Surplus, m.Account)
		}
	}
	if accepted != int64(len(promised)) {
		b.fail("%d payments were accepted, and %d vouchers promised: each client asked until it had one", accepted, len(promised))
	}
	taken, payments := int64(0), map[string]int{}
	for _, r := range b.psp.Payments() {
		if r.State == channels.StatePaid {
			taken += r.Taken.Minor
			payments[r.OutTradeNo[:len(r.OutTradeNo)-1]]++
		}
	}
	for y, n := range payments {
		if n > 1 {
			b.fail("payment order %s was paid %d times", y, n)
		}
	}
	if taken != heard {
		b.fail("the PSP took %d minor units from payers, core heard of %d", taken, heard)
	}
	b.print("judged: %d vouchers %v, %d entries, parked %v; the PSP's takings and core's are %d and %d minor units", len(promised), status, v.Ledger.Entries, v.Parked,
		taken, heard)
	return nil
}

// quiet waits until everything that was told is read.
func (b *bench) quiet(ctx context.Context) error {
	for begun := time.Now(); time.Since(begun) < drainMax; {
		lag, silent := b.sum(ctx, "tallystick_consumer_lag")
		if lag == 0 && silent == 0 {
			return nil
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("not everything was read within %s", drainMax)
}

func (b *bench) figures() map[string]any {
	out := map[string]any{"rate": b.rate, "hold_seconds": b.hold.Seconds(), "troubles": b.results, "failed": b.failed}
	if b.shop != nil {
		out["vouchers"] = len(b.shop.list())
	}
	return out
}
