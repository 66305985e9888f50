package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/bench/judge"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
)

// judge waits until nothing is open any more, and holds all sides against each other.
func (b *bench) judge(ctx context.Context) error {
	all, err := b.cluster.Databases(ctx)
	if err != nil {
		return err
	}
	defer all.Close() //nolint:errcheck // it was read
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
	deps, err := b.cluster.Deps()
	if err != nil {
		return err
	}
	psps := map[string]*sim.Sim{}
	for _, account := range app.ExampleAccounts() {
		psps[account] = b.psp
	}
	v, err := judge.Case{Orders: b.shop.log(), PSPs: psps, Secret: deps.Secret, Books: all, Out: b.out}.Judge(ctx)
	if err != nil {
		return err
	}
	for _, violation := range v.Violations {
		b.fail("%s: %s", violation.Kind, violation.What)
	}
	for _, m := range v.Books.Money {
		if m.Surplus != 0 {
			b.fail("%d minor units were taken twice over %s", m.Surplus, m.Account)
		}
	}
	if err := b.judgeLate(ctx, all); err != nil {
		return err
	}
	if v.Acknowledged != v.Orders {
		b.fail("%d payments were asked for, and %d vouchers promised: each client asked until it had one", v.Orders, v.Acknowledged)
	}
	b.print("judged: %d vouchers (%d final, %d open), %d entries, parked %v; the PSP took %d payments, %d minor units", v.Acknowledged, v.Final, v.Open,
		v.Books.Ledger.Entries, v.Books.Parked, v.Paid, v.PaidMinor)
	return nil
}

// quiet waits until everything that was told is read.
func (b *bench) quiet(ctx context.Context) error {
	for begun := time.Now(); time.Since(begun) < drainMax; {
		lag, silent := b.cluster.Sum(ctx, "tallystick_consumer_lag")
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
	out := map[string]any{"rate": b.rate, "hold_seconds": b.hold.Seconds(), "troubles": b.results, "left_out": b.leftOut, "failed": b.failed}
	if b.shop != nil {
		out["vouchers"] = b.shop.promised()
	}
	return out
}
