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
		sum.Add(&v)
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
