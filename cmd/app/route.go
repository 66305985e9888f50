package app

import (
	"context"
	"errors"
	"slices"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/internal/ids"
)

// Trade implements core.Trades over all databases: it asks the one that owns the
// code's group, and no other. Where that was last seen elsewhere, or nowhere, it
// looks again, once.
func (a *App) Trade(ctx context.Context, code ids.Code) (*core.Trade, error) {
	group := code.Group(a.Config.Groups)
	var why error
	for _, anew := range []bool{false, true} {
		c, err := a.owner(ctx, RoleCore, group, anew)
		why = errors.Join(why, err)
		if c == nil {
			continue
		}
		read, err := c.readStores(ctx)
		if err != nil {
			return nil, err
		}
		t, err := read.Core.Trade(ctx, code)
		if err != nil || t != nil {
			return t, err
		}
		// It is not there: perhaps as the group has moved.
		if next, err := a.owner(ctx, RoleCore, group, true); err != nil || next == c {
			return nil, err
		}
	}
	return nil, errNoOwner(code, group, why)
}

// owner is the cell whose database owns a group; nil if none is known to, and then
// why some could not be asked.
func (a *App) owner(ctx context.Context, role Role, group int, anew bool) (*cell, error) {
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
// its groups do.
func (t trials) TrialBalance(ctx context.Context) (out []accounting.Trial, err error) {
	for _, c := range t.app.cells {
		if c.role != RoleAccounting {
			continue
		}
		read, e := c.readStores(ctx)
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		part, e := read.Accounting.TrialBalance(ctx)
		out, err = append(out, part...), errors.Join(err, e)
	}
	return out, err
}
