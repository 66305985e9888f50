package e2e

import (
	"context"
	"fmt"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/event"
)

// stores are all stores of one server, or of a cluster.
type stores interface {
	Verify(ctx context.Context) (app.Verification, error)
	CheckVouchers(ctx context.Context, vouchers []string) (byStatus map[event.Status]int, violations []string, err error)
	Close() error
}

func (b *bench) stores(ctx context.Context) (stores, error) {
	if b.cluster != nil {
		return b.cluster.Databases(ctx)
	}
	return b.folder.Stores(ctx)
}

// verify holds the stores against themselves, against what the users were
// promised, and against what the PSP took.
func (b *bench) verify(ctx context.Context) error {
	s, err := b.stores(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // nothing was written
	v, err := s.Verify(ctx)
	if err != nil {
		return err
	}
	byStatus, wrong, err := s.CheckVouchers(ctx, b.users.vouchers)
	if err != nil {
		return err
	}
	b.succeeded = int64(byStatus[event.Succeeded])
	vouchers := len(b.users.vouchers)
	if b.warmed != nil {
		more, wrongToo, err := s.CheckVouchers(ctx, b.warmed.vouchers)
		if err != nil {
			return err
		}
		for status, n := range more {
			byStatus[status] += n
		}
		wrong, vouchers = append(wrong, wrongToo...), vouchers+len(b.warmed.vouchers)
	}
	b.violations = append(append(b.violations, v.Violations...), wrong...)
	b.violations = append(b.violations, b.compareWithPSP(v)...)
	for status, n := range byStatus {
		if !status.Final() {
			b.violations = append(b.violations, fmt.Sprintf("%d payment orders are still %s", n, status))
		}
	}
	if v.Ledger.Rejected > 0 {
		b.violations = append(b.violations, fmt.Sprintf("the ledger rejected %d entries", v.Ledger.Rejected))
	}
	if n := int64(byStatus[event.Succeeded]); v.Ledger.Entries < n {
		b.violations = append(b.violations, fmt.Sprintf("%d payments succeeded, and only %d were booked", n, v.Ledger.Entries))
	}
	_, _ = fmt.Fprintf(b.out, "verified: %d vouchers, by status %v; %d entries, %d postings; %d violations\n", vouchers, byStatus,
		v.Ledger.Entries, v.Ledger.Postings, len(b.violations))
	return nil
}

// compareWithPSP holds what payers paid, as the PSP knows it, against core.
func (b *bench) compareWithPSP(v app.Verification) (wrong []string) {
	took, heard := map[string]int64{}, map[string]int64{}
	for _, p := range b.psp.Payments() {
		if p.State == channels.StatePaid {
			took[p.Account] += p.Taken.Minor
		}
	}
	for _, m := range v.Money {
		heard[m.Account] += m.Settled + m.Surplus
	}
	for _, a := range app.ExampleAccounts() {
		if took[a] != heard[a] {
			wrong = append(wrong, fmt.Sprintf("%s took %d minor units from payers, core heard of %d", a, took[a], heard[a]))
		}
	}
	return wrong
}
