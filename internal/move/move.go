package move

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Area is what an area's store knows of the rows of its groups.
type Area struct {
	Name string
	// Portions are a group's rows, in an order in which they can be added.
	Portions func(group int) []sqldb.Portion
	// Prepare, if set, makes at the target what these rows point to, and is not of a
	// group, and says how they are carried over.
	Prepare func(ctx context.Context, from, to *sqldb.DB, group int) ([]sqldb.Portion, error)
	// Check refuses rows of a group that contradict each other.
	Check func(tx *sqldb.Tx, group int) error
	// Finish, if set, takes over what is not of a group, and must not be less at the target.
	Finish func(from, to *sqldb.Tx) error
}

// Mover moves groups of one area. Its databases are opened by a user who owns the
// tables, and without a guard.
type Mover struct {
	Area      Area
	Databases map[int]*sqldb.DB // by number; those that can be reached
	Missing   []int             // those that cannot
	TTL       time.Duration     // of leases
	WaitMax   time.Duration     // for a holder, or another mover, to let go
	LookEvery time.Duration     // while it waits
	Points    fault.Points      // "move.AREA.STEP", behind each step
	// Did, if set, is told of each step.
	Did func(Step)
}

// Step is one step that was done.
type Step struct {
	Area, Name string
	Group      int
	Database   int   // in which
	Rows       int64 // that were copied or removed
}

// move is a move of one group.
type move struct {
	*Mover
	group, to int
	claimed   map[int]bool
	waited    time.Duration
	moved     bool
}

// Move brings a group to a database. Moved is false when there was nothing to do.
// fault.Conflict says what stands in its way, fault.Unavailable which database, or
// which holder, did not answer: after that it may have come half-way, and is
// resumed by the same call. A group that a move has frozen, and that has not left
// yet, is taken back by moving it to where it is.
func (m *Mover) Move(ctx context.Context, group, to int) (moved bool, err error) {
	op := fmt.Sprintf("move group %d of %s to database %d", group, m.Area.Name, to)
	if m.Databases[to] == nil {
		if slices.Contains(m.Missing, to) {
			return false, fault.New(fault.Unavailable, op, "database %d cannot be reached", to)
		}
		return false, &fault.Error{Kind: fault.Invalid, Op: op, Field: "to", Code: "unknown_database", Fix: fmt.Sprintf("choose one of %v, or add it to postgres.databases", m.Numbers())}
	}
	v := &move{Mover: m, group: group, to: to, claimed: map[int]bool{}}
	defer func() {
		// Should it fail, the end of the connections does the same.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.WaitMax)
		defer cancel()
		for _, n := range slices.Sorted(maps.Keys(v.claimed)) {
			_ = lease.Unclaim(bounded, m.Databases[n], group)
		}
	}()
	for {
		next, err := v.next(ctx)
		if err != nil || next == nil {
			return v.moved, fault.Wrap(op, err)
		}
		if err := next(); err != nil {
			return v.moved, fault.Wrap(op, err)
		}
	}
}

// Numbers are those of all databases, in order.
func (m *Mover) Numbers() []int {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(m.Databases)), m.Missing...)))
}

// States is what each database says of a group.
func (m *Mover) States(ctx context.Context, group int) (map[int]lease.State, error) {
	out := map[int]lease.State{}
	for n, db := range m.Databases {
		err := db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			out[n], err = lease.At(tx, group)
			return err
		})
		if err != nil {
			return nil, fault.Wrap(fmt.Sprintf("database %d", n), err)
		}
	}
	return out, nil
}

// next looks at all databases and gives the next step; none when it is done.
func (v *move) next(ctx context.Context) (func() error, error) {
	states, err := v.States(ctx, v.group)
	if err != nil {
		return nil, err
	}
	owner := 0
	for _, n := range slices.Sorted(maps.Keys(states)) {
		if !states[n].Owned {
			continue
		}
		if owner != 0 {
			return nil, fault.New(fault.Internal, "owner", "databases %d and %d both own the group: nothing may run, and the rows of one of them are wrong", owner, n)
		}
		owner = n
	}
	if owner == 0 {
		return v.settle(ctx, states)
	}
	// What lies about: rows that were left behind, and copies for which a move ended.
	for _, n := range slices.Sorted(maps.Keys(states)) {
		if n != owner && states[n].Way != "" && !v.good(states, owner, n) {
			return v.step(ctx, "forgotten", []int{n}, func() (int64, error) { return v.forget(ctx, n, states[n]) }, n), nil
		}
	}
	from := states[owner]
	switch {
	case owner == v.to && from.Frozen:
		return v.step(ctx, "thawed", []int{owner}, func() (int64, error) { return 0, lease.Thaw(ctx, v.Databases[owner], v.group) }, owner), nil
	case owner == v.to:
		return nil, nil
	case !from.Frozen:
		return v.step(ctx, "frozen", []int{owner, v.to}, func() (int64, error) { return 0, lease.Freeze(ctx, v.Databases[owner], v.group) }, owner), nil
	case from.Member != "":
		return func() error { return v.wait(ctx, owner, from) }, nil
	case states[v.to].Way == "":
		return v.step(ctx, "copied", []int{owner, v.to}, func() (int64, error) { return v.copy(ctx, owner, from.Epoch+1) }, v.to), nil
	}
	return v.step(ctx, "departed", []int{owner, v.to}, func() (int64, error) {
		return 0, lease.Depart(ctx, v.Databases[owner], v.group, v.to, from.Epoch+1)
	}, owner), nil
}

// good says that a database has a copy for this move, of what the owner has.
func (v *move) good(states map[int]lease.State, owner, n int) bool {
	s, from := states[n], states[owner]
	return n == v.to && s.Way == lease.In && s.Other == owner && from.Frozen && from.Member == "" && s.MoveEpoch == from.Epoch+1
}

// settle is for a group that has departed, and has not settled.
func (v *move) settle(ctx context.Context, states map[int]lease.State) (func() error, error) {
	var unseen error
	for n, out := range states {
		if out.Way != lease.Out {
			continue
		}
		in, seen := states[out.Other]
		switch {
		case !seen:
			unseen = fault.New(fault.Unavailable, "settle", "the group has left database %d for %d, which cannot be reached", n, out.Other)
			continue
		case in.Way != lease.In || in.Other != n || in.MoveEpoch != out.MoveEpoch:
			continue // an older one
		case out.Other != v.to:
			return nil, &fault.Error{Kind: fault.Conflict, Op: "settle", Code: "move_unfinished", Fix: fmt.Sprintf("move it to database %d first", out.Other),
				Err: fmt.Errorf("the group is on its way from database %d to %d", n, out.Other)}
		}
		return v.step(ctx, "settled", []int{n, v.to}, func() (int64, error) {
			return 0, lease.Settle(ctx, v.Databases[v.to], v.group, n, in.MoveEpoch)
		}, v.to), nil
	}
	if unseen != nil {
		return nil, unseen
	}
	if len(v.Missing) > 0 {
		return nil, fault.New(fault.Unavailable, "owner", "none of the databases that can be reached owns the group, and databases %v cannot", v.Missing)
	}
	return nil, &fault.Error{Kind: fault.NotFound, Op: "owner", Code: "unknown_group", Fix: "name all databases of the installation, and bring back the one that had it",
		Err: errors.New("no database owns the group")}
}

// step is one step: databases are claimed for it first. As they are claimed once, and
// looked at before, what was seen is looked at again after the first time.
func (v *move) step(ctx context.Context, name string, claims []int, fn func() (int64, error), in int) func() error {
	return func() error {
		fresh := false
		for _, n := range slices.Sorted(slices.Values(claims)) {
			if v.claimed[n] {
				continue
			}
			fresh = true
			if err := v.claim(ctx, n); err != nil {
				return err
			}
		}
		if fresh {
			return nil // to the next look
		}
		rows, err := fn()
		if err != nil {
			return fault.Wrap(fmt.Sprintf("database %d", in), err)
		}
		v.moved = true
		if v.Did != nil {
			v.Did(Step{Area: v.Area.Name, Name: name, Group: v.group, Database: in, Rows: rows})
		}
		v.Points.At("move." + v.Area.Name + "." + name)
		return nil
	}
}

// claim waits for another mover: the connections of one that was killed end a moment
// later.
func (v *move) claim(ctx context.Context, n int) error {
	for waited := time.Duration(0); ; waited += v.LookEvery {
		claimed, err := lease.Claim(ctx, v.Databases[n], v.group)
		if err != nil {
			return fault.Wrap(fmt.Sprintf("database %d", n), err)
		}
		if claimed {
			v.claimed[n] = true
			return nil
		}
		if waited >= v.WaitMax {
			return lease.ErrOther(v.group)
		}
		if err := v.pause(ctx); err != nil {
			return err
		}
	}
}

func (v *move) pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(v.LookEvery):
		return nil
	}
}

// wait waits for the holder to give the group up; one that is dead is taken out.
func (v *move) wait(ctx context.Context, owner int, s lease.State) error {
	if v.waited >= v.WaitMax {
		return &fault.Error{Kind: fault.Unavailable, Op: "wait", Code: "group_held",
			Fix: fmt.Sprintf("run the command again, or take the group back by moving it to database %d", owner),
			Err: fmt.Errorf("%s (%s) holds it still, after %s", s.Name, s.Member, v.waited)}
	}
	if err := lease.Expire(ctx, v.Databases[owner], v.group, v.TTL); err != nil {
		return err
	}
	v.waited += v.LookEvery
	return v.pause(ctx)
}

// copy copies everything of the group in one transaction at the target, and
// compares both sides, as of one snapshot of the source.
func (v *move) copy(ctx context.Context, owner int, epoch int64) (rows int64, err error) {
	from, to := v.Databases[owner], v.Databases[v.to]
	if err := follow(ctx, from, to); err != nil {
		return 0, err
	}
	portions := v.Area.Portions(v.group)
	if v.Area.Prepare != nil {
		if portions, err = v.Area.Prepare(ctx, from, to, v.group); err != nil {
			return 0, err
		}
	}
	err = from.Survey(ctx, func(src *sqldb.Tx) error {
		s, err := lease.At(src, v.group)
		if err == nil && (!s.Owned || !s.Frozen || s.Member != "" || s.Epoch+1 != epoch) {
			err = fault.New(fault.Conflict, "copy", "the group is not any more as it was seen")
		}
		if err == nil {
			err = v.Area.Check(src, v.group)
		}
		if err != nil {
			return err
		}
		return to.Write(ctx, func(dst *sqldb.Tx) error {
			rows = 0
			for _, p := range portions {
				n, err := carry(src, dst, p)
				rows += n
				if err != nil {
					return err
				}
			}
			if err := v.Area.Check(dst, v.group); err != nil {
				return err
			}
			if v.Area.Finish != nil {
				if err := v.Area.Finish(src, dst); err != nil {
					return err
				}
			}
			return lease.Arrive(dst, v.group, owner, epoch)
		})
	})
	return rows, err
}

// follow lets the target give only ids above those that the source has given: of a
// group's rows, the later ones have the higher ids.
func follow(ctx context.Context, from, to *sqldb.DB) error {
	var last int64
	err := from.Read(ctx, func(tx *sqldb.Tx) (err error) {
		last, err = tx.LastID()
		return err
	})
	if err != nil {
		return err
	}
	return to.Write(ctx, func(tx *sqldb.Tx) error { return tx.RaiseIDs(last) })
}

func carry(src, dst *sqldb.Tx, p sqldb.Portion) (int64, error) {
	n, err := sqldb.Carry(src, dst, p)
	if err != nil {
		return 0, err
	}
	want, err := src.Digest(p, true)
	if err != nil {
		return n, err
	}
	have, err := dst.Digest(p, false)
	if err == nil && (have != want || n != want.Rows) {
		err = fault.New(fault.Internal, "compare", "table %s has %d rows (%s) at the source, %d were copied, and %d (%s) are at the target", p.Table,
			want.Rows, want.Sum, n, have.Rows, have.Sum)
	}
	return n, err
}

// forget removes what a database has of a group that it does not own.
func (v *move) forget(ctx context.Context, n int, s lease.State) (rows int64, err error) {
	err = lease.Forget(ctx, v.Databases[n], s, func(tx *sqldb.Tx) error {
		rows, err = tx.Remove(v.Area.Portions(v.group))
		return err
	})
	return rows, err
}
