package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	accountingstore "github.com/tallystick/tallystick/accounting/sqlstore"
	corestore "github.com/tallystick/tallystick/core/sqlstore"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/move"
	"github.com/tallystick/tallystick/internal/sqldb"
	prepaystore "github.com/tallystick/tallystick/prepay/sqlstore"
)

// MoveOptions say how groups are moved.
type MoveOptions struct {
	// As and Password are the user who made the schemas, or one who may act as that
	// user; empty means whoever the URLs name. Processes that serve may not do it.
	As, Password string
	// Unserved lets groups go to a database that nobody works on yet.
	Unserved bool
	// Did, if set, is told of each step.
	Did func(MoveStep)
}

// MoveStep is one step of a move that was done.
type MoveStep = move.Step

// moveOrder is the order in which a group's areas are moved, each for itself: they
// meet on the bus, wherever they are. Accounting first, for which nobody waits, and
// core last: what it owns is where a group is looked for.
func moveOrder() []Role { return []Role{RoleAccounting, RolePrepay, RoleCore} }

// MoveGroup moves one group to a database, area by area. It is resumed, after
// whatever has happened, by the same call. moved is false when there was nothing to do.
func MoveGroup(ctx context.Context, d Deps, group, to int, o MoveOptions) (moved bool, err error) {
	if d.Config.Stores != StoresPostgres {
		return false, &fault.Error{Kind: fault.Invalid, Op: "groups move", Field: "stores", Code: "config_invalid",
			Fix: "set stores: postgres; the groups of a data folder stay together"}
	}
	if group < 0 || group >= d.Config.Groups {
		return false, &fault.Error{Kind: fault.Invalid, Op: "groups move", Field: "group", Code: "unknown_group",
			Fix: fmt.Sprintf("groups are 0 to %d", d.Config.Groups-1), Err: fmt.Errorf("%d", group)}
	}
	for _, role := range moveOrder() {
		did, err := d.moveArea(ctx, role, group, to, o)
		moved = moved || did
		if err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// moveArea moves one area's part of a group.
func (d Deps) moveArea(ctx context.Context, role Role, group, to int, o MoveOptions) (bool, error) {
	m, err := d.mover(ctx, role, o)
	if err != nil {
		return false, err
	}
	defer func() {
		for _, db := range m.Databases {
			_ = db.Close() // everything was committed, or was not
		}
	}()
	if err := served(ctx, m, role, group, to, o.Unserved); err != nil {
		return false, err
	}
	return m.Move(ctx, group, to)
}

// mover opens an area's schema in every database that can be reached.
func (d Deps) mover(ctx context.Context, role Role, o MoveOptions) (*move.Mover, error) {
	list, err := d.Config.Postgres.list()
	if err != nil {
		return nil, err
	}
	c := d.Config.Move
	m := &move.Mover{Area: d.moves(role), Databases: map[int]*sqldb.DB{}, TTL: d.Config.Lease.TTL, WaitMax: c.WaitMax, LookEvery: c.LookEvery,
		Points: d.Points, Did: o.Did}
	for _, at := range list {
		db, err := d.openToMove(ctx, at, role, o)
		switch {
		case err == nil:
			m.Databases[at.number] = db
		case fault.Is(err, fault.Unavailable):
			m.Missing = append(m.Missing, at.number)
			d.Log.Warn("a database cannot be reached", "database", at.number, "error", err)
		default:
			errs := []error{fault.Wrap(fmt.Sprintf("database %d, %s", at.number, role), err)}
			for _, db := range m.Databases {
				errs = append(errs, db.Close())
			}
			return nil, errors.Join(errs...)
		}
	}
	return m, nil
}

func (d Deps) openToMove(ctx context.Context, at database, role Role, o MoveOptions) (*sqldb.DB, error) {
	so := d.storeOptions()
	p := *d.place(at, role)
	p.User, p.Password = o.As, o.Password
	p.StatementTimeout, p.IdleTimeout = d.Config.Move.CopyTimeout, d.Config.Move.CopyTimeout
	so.Postgres = &p
	s := &Stores{}
	err := s.open(ctx, d, role, so)
	return s.db(), err
}

func (d Deps) moves(role Role) move.Area {
	switch role {
	case RolePrepay:
		return prepaystore.Moves(d.Config.Groups)
	case RoleAccounting:
		return accountingstore.Moves()
	}
	return corestore.Moves(d.Config.Groups)
}

// served refuses to begin a move to where nobody would take the group. One that has
// begun goes on.
func served(ctx context.Context, m *move.Mover, role Role, group, to int, unserved bool) error {
	db := m.Databases[to]
	if unserved || db == nil {
		return nil
	}
	states, err := m.States(ctx, group)
	if err != nil {
		return err
	}
	begins := slices.ContainsFunc(m.Numbers(), func(n int) bool { return n != to && states[n].Owned && !states[n].Frozen })
	var live []string
	if err := db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		live, err = lease.Live(tx)
		return err
	}); err != nil {
		return err
	}
	if !begins || len(live) > 0 {
		return nil
	}
	return &fault.Error{Kind: fault.Conflict, Op: "groups move", Code: "nobody_serves",
		Fix: "add the database to postgres.databases of the processes, and restart them; or give --unserved",
		Err: fmt.Errorf("no process with role %s works on database %d", role, to)}
}
