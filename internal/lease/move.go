package lease

import (
	"context"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// MovesSchema is the SQL of the table of groups that are on their way between
// databases, with at most one row of a group in each.
//
// in: the database has a whole copy of the group's rows, as the other one left them,
// and does not own it. out: it has given the group to the other one, for good, and
// may still have rows of it. epoch is the one that the lease has over there.
const MovesSchema = `
CREATE TABLE moves (grp INTEGER NOT NULL PRIMARY KEY, way TEXT NOT NULL CHECK (way IN ('in', 'out')), other INTEGER NOT NULL, epoch INTEGER NOT NULL);
`

// The ways of a group.
const (
	In  = "in"
	Out = "out"
)

// State is what the rows of one database say of a group.
type State struct {
	Group int
	// Owned says that there is a lease, and then Member who holds it, if anybody does,
	// Name and RenewedMillis (how long ago) what is known of that member.
	Owned         bool
	Member, Name  string
	RenewedMillis int64
	Frozen        bool
	Epoch         int64
	// Way is In, Out or empty, and then Other and MoveEpoch are that row's.
	Way       string
	Other     int
	MoveEpoch int64
}

// States gives what a database says of the groups that it says anything of.
func States(tx *sqldb.Tx, ttl time.Duration) (map[int]State, error) {
	out := map[int]State{}
	err := tx.Query(`SELECT l.grp, l.member, coalesce(m.name, ''), CAST(coalesce(extract(epoch FROM clock_timestamp() - m.until) * 1000 + ?, 0) AS BIGINT), l.frozen, l.epoch
		FROM leases l LEFT JOIN members m ON m.id = l.member`, []any{ttl.Milliseconds()}, func(scan sqldb.Scan) error {
		s := State{Owned: true}
		err := scan(&s.Group, &s.Member, &s.Name, &s.RenewedMillis, &s.Frozen, &s.Epoch)
		out[s.Group] = s
		return err
	})
	if err != nil {
		return nil, fault.Wrap("states of groups", err)
	}
	err = tx.Query(`SELECT grp, way, other, epoch FROM moves`, nil, func(scan sqldb.Scan) error {
		var g int
		var m State
		err := scan(&g, &m.Way, &m.Other, &m.MoveEpoch)
		s := out[g]
		s.Group, s.Way, s.Other, s.MoveEpoch = g, m.Way, m.Other, m.MoveEpoch
		out[g] = s
		return err
	})
	return out, fault.Wrap("states of groups", err)
}

// Owns reports whether the database owns a group.
func Owns(tx *sqldb.Tx, group int) (owns bool, err error) {
	err = tx.Query(`SELECT EXISTS (SELECT 1 FROM leases WHERE grp = ?)`, []any{group}, func(scan sqldb.Scan) error { return scan(&owns) })
	return owns, fault.Wrap("owner", err)
}

// Moving are the groups of which a database has a row in moves.
func Moving(ctx context.Context, db *sqldb.DB) (groups []int, err error) {
	err = db.Read(ctx, func(tx *sqldb.Tx) error {
		groups, err = column(tx, `SELECT grp FROM moves ORDER BY grp`)
		return err
	})
	return groups, fault.Wrap("moving groups", err)
}

// Live are the names of the members whose time is not over.
func Live(tx *sqldb.Tx) (names []string, err error) {
	err = tx.Query(`SELECT name FROM members WHERE until >= clock_timestamp() ORDER BY name`, nil, func(scan sqldb.Scan) error {
		var name string
		err := scan(&name)
		names = append(names, name)
		return err
	})
	return names, fault.Wrap("members", err)
}

// moverKey is what movers of one group of one area exclude each other by.
const moverKey = `(hashtext(current_schema()), ?)`

// Claim makes this the one mover of a group for as long as the writing connection of
// the database lives, or until Unclaim. claimed is false when there is another.
func Claim(ctx context.Context, db *sqldb.DB, group int) (claimed bool, err error) {
	err = db.Write(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT pg_try_advisory_lock`+moverKey, []any{group}, func(scan sqldb.Scan) error { return scan(&claimed) })
	})
	return claimed, fault.Wrap("claim a group", err)
}

// Unclaim takes Claim back.
func Unclaim(ctx context.Context, db *sqldb.DB, group int) error {
	return fault.Wrap("unclaim a group", db.Write(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT pg_advisory_unlock`+moverKey, []any{group}, func(scan sqldb.Scan) error { return scan(new(bool)) })
	}))
}

// mover makes a transaction that of the one mover of a group: also if the connection
// that claimed it broke meanwhile.
func mover(tx *sqldb.Tx, group int) error {
	ours := false
	err := tx.Query(`SELECT pg_try_advisory_xact_lock`+moverKey, []any{group}, func(scan sqldb.Scan) error { return scan(&ours) })
	if err == nil && !ours {
		return ErrOther(group)
	}
	return err
}

// ErrOther says that another process moves the group.
func ErrOther(group int) error {
	return &fault.Error{Kind: fault.Conflict, Op: "move", Code: "move_under_way", Fix: "let it end, or end it and run the command again",
		Err: fmt.Errorf("another process moves group %d", group)}
}

// changed changes exactly one row, or refuses: the rows are not any more as they were
// seen.
func changed(tx *sqldb.Tx, group int, query string, args ...any) error {
	n, err := tx.Exec(query, args...)
	if err == nil && n != 1 {
		return &fault.Error{Kind: fault.Conflict, Op: "move", Code: "move_changed", Fix: "run the command again",
			Err: fmt.Errorf("the rows about group %d are not any more as they were seen", group)}
	}
	return err
}

// dividing is mover, while nobody divides the database's groups.
func dividing(ctx context.Context, db *sqldb.DB, group int, fn func(*sqldb.Tx) error) error {
	return alone(ctx, db, func(tx *sqldb.Tx) error { return mover(tx, group) }, fn)
}

// Freeze makes that nobody takes the group any more, and that who holds it gives it
// up the next time it renews.
func Freeze(ctx context.Context, db *sqldb.DB, group int) error {
	return fault.Wrap("freeze", dividing(ctx, db, group, func(tx *sqldb.Tx) error {
		return changed(tx, group, `UPDATE leases SET frozen = TRUE WHERE grp = ? AND frozen = FALSE`, group)
	}))
}

// Thaw takes Freeze back. What was copied meanwhile is older than the epoch from now on.
func Thaw(ctx context.Context, db *sqldb.DB, group int) error {
	return fault.Wrap("thaw", dividing(ctx, db, group, func(tx *sqldb.Tx) error {
		return changed(tx, group, `UPDATE leases SET frozen = FALSE, epoch = epoch + 1 WHERE grp = ? AND frozen = TRUE`, group)
	}))
}

// Expire takes out members whose time is over, as any other member does: there may
// be none.
func Expire(ctx context.Context, db *sqldb.DB, group int, ttl time.Duration) error {
	return fault.Wrap("expire members", dividing(ctx, db, group, func(tx *sqldb.Tx) error { return (&Member{}).takeOut(tx, ttl.Milliseconds()) }))
}

// At looks at a group in one transaction, which may be one that reads.
func At(tx *sqldb.Tx, group int) (State, error) {
	all, err := States(tx, 0)
	s := all[group]
	s.Group = group
	return s, err
}

// Arrive notes, at the end of the transaction that has copied all rows of a group
// from the other database, that they are whole.
func Arrive(tx *sqldb.Tx, group, other int, epoch int64) error {
	if err := mover(tx, group); err != nil {
		return err
	}
	s, err := At(tx, group)
	if err == nil && (s.Owned || s.Way != "") {
		err = fault.New(fault.Conflict, "arrive", "the database has rows about group %d already", group)
	}
	if err != nil {
		return err
	}
	return changed(tx, group, `INSERT INTO moves (grp, way, other, epoch) VALUES (?, 'in', ?, ?)`, group, other, epoch)
}

// Depart is the last act of the database that a group leaves: it owns it no more, and
// nobody can take a lease of it, whatever it believes. Nobody may hold it, and the
// epoch is the one with which it was copied.
func Depart(ctx context.Context, db *sqldb.DB, group, other int, epoch int64) error {
	return fault.Wrap("depart", dividing(ctx, db, group, func(tx *sqldb.Tx) error {
		err := changed(tx, group, `DELETE FROM leases WHERE grp = ? AND frozen = TRUE AND member = '' AND epoch = ?`, group, epoch-1)
		if err != nil {
			return err
		}
		return changed(tx, group, `INSERT INTO moves (grp, way, other, epoch) VALUES (?, 'out', ?, ?)`, group, other, epoch)
	}))
}

// Settle makes a database the owner of what has come to it whole, after the other one
// has given it up.
func Settle(ctx context.Context, db *sqldb.DB, group, other int, epoch int64) error {
	return fault.Wrap("settle", dividing(ctx, db, group, func(tx *sqldb.Tx) error {
		err := changed(tx, group, `DELETE FROM moves WHERE grp = ? AND way = 'in' AND other = ? AND epoch = ?`, group, other, epoch)
		if err != nil {
			return err
		}
		return changed(tx, group, `INSERT INTO leases (grp, epoch) VALUES (?, ?)`, group, epoch)
	}))
}

// Forget removes, by fn, the rows of a group from a database that does not own it,
// and with them the row of moves that says that they are there.
func Forget(ctx context.Context, db *sqldb.DB, s State, fn func(*sqldb.Tx) error) error {
	return fault.Wrap("forget", db.Write(ctx, func(tx *sqldb.Tx) error {
		if err := mover(tx, s.Group); err != nil {
			return err
		}
		owns, err := Owns(tx, s.Group)
		if err == nil && owns {
			err = fault.New(fault.Conflict, "forget", "group %d is owned here", s.Group)
		}
		if err != nil {
			return err
		}
		// An owner of the tables may do this, and only to the group that it names.
		if _, err := tx.Exec(`SELECT set_config('tallystick.forget', ?, TRUE)`, fmt.Sprint(s.Group)); err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		return changed(tx, s.Group, `DELETE FROM moves WHERE grp = ? AND way = ? AND other = ? AND epoch = ?`, s.Group, s.Way, s.Other, s.MoveEpoch)
	}))
}
