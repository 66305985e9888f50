package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/lease"
)

// Databases are all areas' stores of the cluster, one Stores for each database, to
// be looked at from outside: without a lease, beside the processes that work on them.
type Databases struct {
	All []*Stores
	// Unreachable are databases that could not be asked: they are not among All.
	Unreachable []Unreachable
	owned       []map[int]bool // groups, by database, as core has them
	apart       []string       // groups that have not all areas in one database
	groups      int
}

// OpenDatabases opens those that can be reached. Each must be of this build's version.
func OpenDatabases(ctx context.Context, d Deps) (*Databases, error) {
	list, err := d.Config.Postgres.list()
	if err != nil {
		return nil, err
	}
	all := &Databases{groups: d.Config.Groups}
	for _, at := range list {
		if err := all.open(ctx, d, at); err != nil {
			return nil, errors.Join(fault.Wrap(fmt.Sprintf("database %d", at.number), err), all.Close())
		}
	}
	return all, nil
}

// open opens all areas of a database, or none.
func (d *Databases) open(ctx context.Context, deps Deps, at database) error {
	s := &Stores{}
	for _, role := range storedRoles() {
		o := deps.storeOptions()
		o.Postgres = deps.place(at, role)
		if err := s.open(ctx, deps, role, o); err != nil {
			return errors.Join(d.unreachable(at.number, role, err), s.Close())
		}
	}
	if err := d.look(ctx, s); err != nil {
		return errors.Join(d.unreachable(at.number, RoleCore, err), s.Close())
	}
	d.All = append(d.All, s)
	return nil
}

// unreachable takes note of a database that cannot be reached; it gives back what is
// wrong otherwise.
func (d *Databases) unreachable(number int, role Role, err error) error {
	if !fault.Is(err, fault.Unavailable) {
		return err
	}
	d.Unreachable = append(d.Unreachable, Unreachable{number, role, err.Error()})
	return nil
}

// look looks which groups a database owns.
func (d *Databases) look(ctx context.Context, s *Stores) error {
	owned := map[int]bool{}
	of := map[string][]int{}
	for area, db := range s.databases() {
		groups, err := lease.Owned(ctx, db)
		if err != nil {
			return err
		}
		of[area] = groups
	}
	for _, g := range of[string(RoleCore)] {
		owned[g] = true
	}
	for _, role := range []Role{RolePrepay, RoleAccounting} {
		if !slices.Equal(of[string(role)], of[string(RoleCore)]) {
			d.apart = append(d.apart, fmt.Sprintf("database %d owns groups %v of core and %v of %s: a move is unfinished", s.Core.DB().Number(),
				of[string(RoleCore)], of[string(role)], role))
		}
	}
	d.owned = append(d.owned, owned)
	return nil
}

// Close closes them.
func (d *Databases) Close() error {
	var errs []error
	for _, s := range d.All {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// Verify is Stores.Verify of each database, summed up: all that belongs to a group
// is in the one that owns it, and so are the two sides of each equation. What cannot be
// reached is a violation that says what is not verified.
func (d *Databases) Verify(ctx context.Context) (sum Verification, err error) {
	sum.Parked = map[string]int{}
	sum.Violations = append(sum.Violations, d.apart...)
	owners, unreachable := map[int]int{}, slices.Clone(d.Unreachable)
	for i, s := range d.All {
		v, err := s.Verify(ctx)
		if fault.Is(err, fault.Unavailable) {
			unreachable = append(unreachable, Unreachable{s.db().Number(), RoleCore, err.Error()})
			continue
		}
		if err != nil {
			return sum, err
		}
		sum.add(&v)
		for g := range d.groups {
			if d.owned[i][g] {
				owners[g]++
				continue
			}
			for _, src := range s.Sources() {
				if src.Head(g).Seq > 0 {
					sum.Violations = append(sum.Violations, fmt.Sprintf("database %d has messages of topic %s, group %d, and does not own it",
						s.Core.DB().Number(), src.Topic(), g))
				}
			}
		}
	}
	var unseen []int
	for g := range d.groups {
		switch {
		case owners[g] == 0 && len(unreachable) > 0:
			unseen = append(unseen, g)
		case owners[g] != 1:
			sum.Violations = append(sum.Violations, fmt.Sprintf("group %d is owned by %d databases", g, owners[g]))
		}
	}
	for _, u := range unreachable {
		sum.Violations = append(sum.Violations, fmt.Sprintf("database %d cannot be reached: groups %v, which no other database owns, are not verified, nor whether it owns others: %s",
			u.Database, unseen, u.Reason))
	}
	return sum, nil
}

// add adds what was found in another database.
func (v *Verification) add(o *Verification) {
	v.Core.Payments, v.Core.Events = v.Core.Payments+o.Core.Payments, v.Core.Events+o.Core.Events
	v.Prepay.Calls, v.Prepay.Dispatches, v.Prepay.Outcomes = v.Prepay.Calls+o.Prepay.Calls, v.Prepay.Dispatches+o.Prepay.Dispatches, v.Prepay.Outcomes+o.Prepay.Outcomes
	l, m := &v.Ledger, &o.Ledger
	l.Entries, l.Rejected, l.Postings, l.Accounts = l.Entries+m.Entries, l.Rejected+m.Rejected, l.Postings+m.Postings, l.Accounts+m.Accounts
	v.Dispatches, v.Notices, v.Moved = v.Dispatches+o.Dispatches, v.Notices+o.Notices, v.Moved || o.Moved
	v.Violations = append(v.Violations, o.Violations...)
	for area, n := range o.Parked {
		v.Parked[area] += n
	}
	for _, line := range o.Orders {
		v.addOrders(line)
	}
	for _, line := range o.Money {
		v.addMoney(line)
	}
	for _, t := range o.Trimmed {
		i := slices.IndexFunc(v.Trimmed, func(w Trimmed) bool { return w.Topic == t.Topic })
		if i < 0 {
			v.Trimmed = append(v.Trimmed, t)
			continue
		}
		v.Trimmed[i].Messages += t.Messages
	}
	for _, u := range o.Unread {
		i := slices.IndexFunc(v.Unread, func(w Unread) bool { return w.Topic == u.Topic && w.Reader == u.Reader })
		if i < 0 {
			v.Unread = append(v.Unread, u)
			continue
		}
		v.Unread[i].Count += u.Count
	}
}

func (v *Verification) addOrders(o OrdersLine) {
	i := slices.IndexFunc(v.Orders, func(l OrdersLine) bool { return l.Merchant == o.Merchant })
	if i < 0 {
		v.Orders = append(v.Orders, o)
		return
	}
	l := &v.Orders[i]
	l.Accepted += o.Accepted
	l.Rejected += o.Rejected
	l.Declined += o.Declined
	l.Expired += o.Expired
	l.Closed += o.Closed
	l.Succeeded += o.Succeeded
	l.InFlight += o.InFlight
	l.Aliases += o.Aliases
}

func (v *Verification) addMoney(o MoneyLine) {
	i := slices.IndexFunc(v.Money, func(l MoneyLine) bool {
		return l.Merchant == o.Merchant && l.Account == o.Account && l.Currency == o.Currency
	})
	if i < 0 {
		v.Money = append(v.Money, o)
		return
	}
	l := &v.Money[i]
	l.Settled += o.Settled
	l.Surplus += o.Surplus
	l.Told.Settled += o.Told.Settled
	l.Told.Surplus += o.Told.Surplus
	l.Told.Unread += o.Told.Unread
	l.Told.PSPFees += o.Told.PSPFees
	l.Told.Fees += o.Told.Fees
	l.Ledger.Received += o.Ledger.Received
	l.Ledger.Payable += o.Ledger.Payable
	l.Ledger.FeeIncome += o.Ledger.FeeIncome
	l.Ledger.Suspense += o.Ledger.Suspense
	l.Ledger.PSPFees += o.Ledger.PSPFees
}

// Trade implements core.Trades.
func (d *Databases) Trade(ctx context.Context, code ids.Code) (*core.Trade, error) {
	s, err := d.Owner(code)
	if err != nil {
		return nil, err
	}
	return s.Core.Trade(ctx, code)
}

// Owner are the stores of the database that owns a code's group; fault.Unavailable if
// none that can be reached does.
func (d *Databases) Owner(code ids.Code) (*Stores, error) {
	group := code.Group(d.groups)
	for i, s := range d.All {
		if d.owned[i][group] {
			return s, nil
		}
	}
	var errs []error
	for _, u := range d.Unreachable {
		errs = append(errs, fault.New(fault.Unavailable, "trade", "%s", u))
	}
	return nil, errNoOwner(code, group, errors.Join(errs...))
}

// CheckVouchers is Stores.CheckVouchers over all databases.
func (d *Databases) CheckVouchers(ctx context.Context, vouchers []string) (byStatus map[event.Status]int, violations []string, err error) {
	return checkVouchers(ctx, d, vouchers)
}

// Open is the number of payment orders that wait, by state, in all databases.
func (d *Databases) Open(ctx context.Context) (sum []core.Age, err error) {
	for _, u := range d.Unreachable {
		return nil, fault.New(fault.Unavailable, "open payments", "%s", u)
	}
	for _, s := range d.All {
		ages, err := s.Core.Open(ctx)
		if err != nil {
			return nil, err
		}
		sum = append(sum, ages...)
	}
	return sum, nil
}
