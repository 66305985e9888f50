package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// movePauses are the pauses between looks for a group that no database owns: it is
// on its way, for the time of two commits.
func movePauses() []time.Duration {
	return []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond}
}

// Trade implements core.Trades over all databases: it asks the one that owns the
// code's group, and no other. Where that was last seen is asked first, and says
// itself if it is not so any more.
func (a *App) Trade(ctx context.Context, code ids.Code) (*core.Trade, error) {
	group := code.Group(a.Config.Groups)
	c, why := a.owner(ctx, RoleCore, group, false)
	for _, pause := range movePauses() {
		if c == nil {
			if bus.Sleep(ctx, pause); ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if c, why = a.owner(ctx, RoleCore, group, true); c == nil {
				if why != nil {
					break // it is in one that cannot be reached, as far as anybody knows
				}
				continue
			}
		}
		read, err := c.readStores(ctx)
		if err != nil {
			return nil, err
		}
		t, owned, err := read.Core.OwnTrade(ctx, code)
		if err != nil || owned {
			return t, err
		}
		c = nil
	}
	return nil, errNoOwner(code, group, why)
}

// List implements core.Trades over all databases: a page of each is merged. It takes all
// groups: where one is missing, as it is on its way or its database does not answer,
// there is no list, and never one without it.
func (a *App) List(ctx context.Context, l event.Listing) ([]event.Listed, error) {
	var missing []int
	for _, pause := range movePauses() {
		if bus.Sleep(ctx, pause); ctx.Err() != nil {
			return nil, ctx.Err()
		}
		all, owned, err := a.lists(ctx, l)
		if err != nil {
			return nil, err
		}
		missing = nil
		for g := range a.Config.Groups {
			if !slices.Contains(owned, g) {
				missing = append(missing, g)
			}
		}
		if len(missing) == 0 {
			return l.InOrder(all), nil
		}
	}
	return nil, &fault.Error{Kind: fault.Unavailable, Op: "list", Code: "group_unreachable", Err: fmt.Errorf("no database owns groups %v now", missing)}
}

// lists asks all databases for a list, side by side.
func (a *App) lists(ctx context.Context, l event.Listing) (all []event.Listed, owned []int, err error) {
	type part struct {
		listed []event.Listed
		owned  []int
	}
	var asks []func() (part, error)
	for _, c := range a.cells {
		if c.role != RoleCore {
			continue
		}
		asks = append(asks, func() (p part, err error) {
			read, err := c.readStores(ctx)
			if err == nil {
				p.listed, p.owned, err = read.Core.OwnList(ctx, l)
			}
			return p, fault.Wrap(c.name(), err)
		})
	}
	parts, err := sideBySide(ctx, asks)
	for _, p := range parts {
		all, owned = append(all, p.listed...), append(owned, p.owned...)
	}
	return all, owned, err
}

// owner is the cell whose database owns a group; nil if none is known to, and then
// why some could not be asked. Where the group has come to last is known without asking
// anybody.
func (a *App) owner(ctx context.Context, role Role, group int, anew bool) (owner *cell, err error) {
	var last time.Time
	for _, c := range a.cells {
		if since, ok := c.seen().since[group]; ok && c.role == role && !anew && !since.Before(last) {
			owner, last = c, since
		}
	}
	if owner != nil {
		return owner, nil
	}
	var errs []error
	for _, c := range a.cells {
		if c.role != role {
			continue
		}
		owned, err := c.groups(ctx, anew)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if slices.Contains(owned, group) {
			return c, nil
		}
	}
	return nil, errors.Join(errs...)
}

// trials are the trial balances of all databases of this installation.
type trials struct{ app *App }

// TrialBalance implements accounting.Trials. Each database balances by itself, as
// its groups do. They are asked side by side; what has not answered when a connection and
// a statement should have is missing, and the error says so.
func (t trials) TrialBalance(ctx context.Context) ([]accounting.Trial, error) {
	bounds := t.app.Config.Postgres
	patient, cancel := context.WithTimeout(ctx, bounds.ConnectTimeout+bounds.StatementTimeout)
	defer cancel()
	var asks []func() ([]accounting.Trial, error)
	for _, c := range t.app.cells {
		if c.role != RoleAccounting {
			continue
		}
		asks = append(asks, func() ([]accounting.Trial, error) {
			read, err := c.readStores(patient)
			if err != nil {
				return nil, err
			}
			part, err := read.Accounting.TrialBalance(patient)
			return part, fault.Wrap(c.name(), err)
		})
	}
	parts, err := sideBySide(patient, asks)
	return slices.Concat(parts...), err
}

// sideBySide asks all at once, and gives what has answered when ctx ends. The error is
// what went wrong, and that something has not answered.
func sideBySide[T any](ctx context.Context, asks []func() (T, error)) (out []T, err error) {
	type answer struct {
		of  T
		err error
	}
	answers := make(chan answer, len(asks))
	for _, ask := range asks {
		go func() {
			of, err := ask()
			answers <- answer{of, err}
		}()
	}
	for range asks {
		select {
		case a := <-answers:
			out, err = append(out, a.of), errors.Join(err, a.err)
		case <-ctx.Done():
			return out, errors.Join(err, fault.New(fault.Unavailable, "stores", "one does not answer: %w", ctx.Err()))
		}
	}
	return out, err
}
