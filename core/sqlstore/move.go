package sqlstore

import (
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/move"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Moves says which of core's rows go with a group to another database. groups is
// the installation's number.
func Moves(groups int) move.Area {
	portions := func(group int) []sqldb.Portion {
		trades, args := ids.InGroup("t.biz_code", group, groups)
		payments, _ := ids.InGroup("t.y", group, groups)
		of, _ := ids.InGroup("y", group, groups)
		of = "t.payment_id IN (SELECT id FROM payment_orders WHERE " + of + ")"
		return append([]sqldb.Portion{
			{Table: "trade_orders", Where: trades, Args: args},
			{Table: "payment_orders", Where: payments, Args: args},
			{Table: "attempts", Where: of, Args: args},
			{Table: "exceptions", Where: of, Args: args},
		}, embedded.Portions(group, bus.Dispatch, bus.Payments)...)
	}
	return move.Area{
		Name:     "core",
		Portions: portions,
		Check: func(tx *sqldb.Tx, group int) error {
			where, args := ids.InGroup("p.y", group, groups)
			var astray int64
			err := tx.Query(`SELECT count(*) FROM payment_orders p JOIN trade_orders t ON t.id = p.trade_id WHERE `+where+` AND t.biz_code <> p.biz_code`, args,
				func(scan sqldb.Scan) error { return scan(&astray) })
			if err == nil && astray > 0 {
				err = fault.New(fault.Internal, "core: check", "%d payment orders of group %d hang on another trade's row", astray, group)
			}
			return err
		},
	}
}
