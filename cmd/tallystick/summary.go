package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/event"
)

// progressLines are the lines of progress.
func (d *demo) progressLines(ctx context.Context, start time.Time) []string {
	s := &d.driver.Stats
	f := d.system.figures(ctx)
	return []string{
		fmt.Sprintf("%4.0f s  accepted %d, ready %d, paid %d, declined %d, unknown %d, posted %d", time.Since(start).Seconds(), s.Accepted.Load(),
			s.Ready.Load(), s.Paid.Load(), s.Declined.Load(), f.unknown, f.posted),
		fmt.Sprintf("        accept p50 %s p99 %s; ready p50 %s p99 %s", short(s.Accept.Quantile(.5)), short(s.Accept.Quantile(.99)),
			short(s.ReadyAfter.Quantile(.5)), short(s.ReadyAfter.Quantile(.99))),
		fmt.Sprintf("        breakers:%s; oldest unread %s; in flight %d", f.breakers, short(f.unread), s.InFlight.Load()),
	}
}

// short shows a duration with three digits.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// summary explains every voucher and every cent, or says what it cannot explain. It
// does not claim that everything is explained while payments were in flight.
func (d *demo) summary(ctx context.Context, b books, interrupted bool) error {
	s := &d.driver.Stats
	vouchers := d.driver.Vouchers()
	promised := make([]string, 0, len(vouchers))
	for v := range vouchers {
		promised = append(promised, v)
	}
	slices.Sort(promised)
	byStatus, wrong, err := b.CheckVouchers(ctx, promised)
	if err != nil {
		return err
	}
	v, err := b.Verify(ctx)
	if err != nil {
		return err
	}
	v.Violations = append(v.Violations, wrong...)
	inFlight := int64(0)
	for _, o := range v.Orders {
		inFlight += o.InFlight
	}
	v.Violations = append(v.Violations, d.compareWithPSP(v, interrupted || inFlight > 0)...)
	if n := s.Mismatch.Load(); n > 0 {
		v.Violations = append(v.Violations, fmt.Sprintf("%d repeats of a key got another voucher", n))
	}
	fmt.Printf("\nSummary\noffered %d: accepted %d, refused %d, unanswered %d, dropped by the load generator %d\n", s.Offered.Load(), s.Accepted.Load(),
		s.Refused.Load(), s.Unanswered.Load(), s.Dropped.Load())
	fmt.Printf("vouchers promised %d, known to core:", len(promised))
	for _, st := range []event.Status{event.Succeeded, event.Declined, event.Closed, event.Expired, event.Rejected, event.Dispatched, event.Pending, event.Unknown} {
		if byStatus[st] > 0 {
			fmt.Printf(" %s %d", st, byStatus[st])
		}
	}
	fmt.Println()
	printVerification(os.Stdout, v)
	d.faults()
	switch {
	case len(v.Violations) > 0 || v.Moved:
		return errUnexplained
	case interrupted:
		fmt.Printf("Interrupted, with %d payments in flight: what has ended is explained, they are not yet.\n", inFlight)
		return errUnexplained
	case inFlight > 0:
		fmt.Printf("%d payments were still in flight at the end: what has ended is explained, they are not yet.\n", inFlight)
		return errUnexplained
	}
	fmt.Println("Everything is explained: every voucher accounted for, every cent booked, the ledger balanced.")
	return nil
}

// compareWithPSP holds what the payers paid, as the PSP knows it, against what
// core heard of. While payments are in flight, core may not have heard of all yet;
// it never hears of more than was taken.
func (d *demo) compareWithPSP(v app.Verification, inFlight bool) (wrong []string) {
	minor, n := d.taken()
	heard := map[string]int64{}
	for _, m := range v.Money {
		heard[m.Account] += m.Settled + m.Surplus
	}
	for _, a := range app.ExampleAccounts() {
		switch {
		case inFlight && heard[a] < minor[a]:
			fmt.Printf("on its way from %s: %s were taken from payers, and core has not heard of them yet\n", a, amount(minor[a]-heard[a], "CNY"))
		case minor[a] != heard[a]:
			wrong = append(wrong, fmt.Sprintf("%s took %d minor units from payers, core heard of %d", a, minor[a], heard[a]))
		}
	}
	fmt.Printf("PSP: %d payments taken, %s\n", n, amount(sum(minor), "CNY"))
	return wrong
}

func sum(m map[string]int64) (total int64) {
	for _, v := range m {
		total += v
	}
	return total
}

// faults tells what the PSP did to us meanwhile.
func (d *demo) faults() {
	total := map[string]uint64{}
	for _, a := range app.ExampleAccounts() {
		for what, n := range d.sim.Injected(a) {
			total[what] += n
		}
	}
	names := make([]string, 0, len(total))
	for what := range total {
		names = append(names, what)
	}
	slices.Sort(names)
	fmt.Print("faults that the PSP injected:")
	for _, what := range names {
		fmt.Printf(" %s %d", what, total[what])
	}
	fmt.Println()
}
