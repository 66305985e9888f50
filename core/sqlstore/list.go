package sqlstore

import (
	"context"
	"math"
	"slices"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/internal/traffic"
)

// List implements core.Store.
func (s *Store) List(ctx context.Context, l event.Listing) (out []event.Listed, err error) {
	err = s.db.Snapshot(ctx, func(tx *sqldb.Tx) error {
		out, err = list(tx, l, "", nil)
		return err
	})
	return out, fault.Wrap("core: list", err)
}

// OwnList is List of a PostgreSQL database that owns some of the groups: it tells which,
// and gives what is in them, whatever else is in its tables.
func (s *Store) OwnList(ctx context.Context, l event.Listing) (out []event.Listed, owned []int, err error) {
	err = s.db.Snapshot(ctx, func(tx *sqldb.Tx) error {
		owned, err = lease.OwnedIn(tx)
		if err != nil || len(owned) == 0 {
			return err
		}
		among, args := ids.InGroups("biz_code", owned, s.groups())
		out, err = list(tx, l, among, args)
		return err
	})
	return out, owned, fault.Wrap("core: list", err)
}

func listSQL(among string) string {
	return `SELECT y, trade_id FROM payment_orders WHERE merchant = ? AND traffic = ? AND accepted_at_millis >= ? AND (accepted_at_millis, y) < (?, ?) AND alias_of = ''` +
		among + ` ORDER BY accepted_at_millis DESC, y DESC LIMIT ?`
}

// list finds the payment orders by an index, and reads them and the rows of their trades.
func list(tx *sqldb.Tx, l event.Listing, among string, args []any) ([]event.Listed, error) {
	if l.Limit < 1 || l.Limit > event.ListMax {
		return nil, fault.New(fault.Invalid, "list", "a limit of %d, use 1 to %d", l.Limit, event.ListMax)
	}
	until := int64(math.MaxInt64)
	if l.UntilMillis > 0 {
		until = l.UntilMillis
	}
	afterMillis, afterY := l.AfterMillis, string(l.AfterY)
	if afterY == "" || until <= afterMillis {
		afterMillis, afterY = until, "" // no Y is lower
	}
	var page []ids.Code
	var trades []int64
	all := slices.Concat([]any{l.Merchant, string(traffic.Real), l.FromMillis, afterMillis, afterY}, args, []any{l.Limit})
	err := tx.Query(listSQL(among), all, func(scan sqldb.Scan) error {
		var y ids.Code
		var trade int64
		err := scan(&y, &trade)
		page, trades = append(page, y), append(trades, trade)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(trades)
	rows := loader{tx: tx, trades: map[int64]*core.Trade{}, payments: map[int64]*core.Payment{}}
	if err := sqldb.QueryIn(tx, selectTrades+`id IN (?*)`, slices.Compact(trades), rows.trade); err != nil {
		return nil, err
	}
	if err := sqldb.QueryIn(tx, selectPayments+`y IN (?*)`, page, rows.payment); err != nil {
		return nil, err
	}
	var out []event.Listed
	for _, p := range rows.payments {
		out = append(out, event.Listed{Payment: p.Snapshot(), Context: p.Context})
	}
	return l.InOrder(out), nil
}
