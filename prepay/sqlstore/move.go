package sqlstore

import (
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/move"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Moves says which of prepay's rows go with a group to another database. groups is
// the installation's number.
func Moves(groups int) move.Area {
	portions := func(group int) []sqldb.Portion {
		calls, args := ids.InGroup("t.out_trade_no", group, groups)
		return append([]sqldb.Portion{
			{Table: "calls", Where: calls, Args: args},
			{Table: "progress", Where: "t.grp = ?", Args: []any{group}},
		}, embedded.Portions(group, bus.Outcomes)...)
	}
	return move.Area{
		Name:     "prepay",
		Portions: portions,
		Check: func(tx *sqldb.Tx, group int) error {
			where, args := ids.InGroup("out_trade_no", group, groups)
			var astray int64
			err := tx.Query(`SELECT count(*) FROM (SELECT id FROM calls WHERE `+where+`) AS c FULL JOIN (SELECT id FROM progress WHERE grp = ?) AS p ON p.id = c.id
				WHERE p.id IS NULL OR c.id IS NULL`, append(args, group), func(scan sqldb.Scan) error { return scan(&astray) })
			if err == nil && astray > 0 {
				err = fault.New(fault.Internal, "prepay: check", "%d calls of group %d are there by half", astray, group)
			}
			return err
		},
		// Calls that were cleaned away are missed at the target neither.
		Finish: func(from, to *sqldb.Tx) error {
			var before int64
			err := from.Query(`SELECT before_millis FROM cleaned`, nil, func(scan sqldb.Scan) error { return scan(&before) })
			if err != nil || before == 0 {
				return err
			}
			_, err = to.Exec(`INSERT INTO cleaned (id, before_millis) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET before_millis = excluded.before_millis
				WHERE cleaned.before_millis < excluded.before_millis`, before)
			return err
		},
	}
}
