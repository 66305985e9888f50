package sqlstore

import (
	"cmp"
	"slices"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// rejected reads payment orders that were rejected, by Y.
func (l *loader) rejected(ys []ids.Code) error {
	if len(ys) == 0 {
		return nil
	}
	err := sqldb.QueryIn(l.tx, selectPayments+`y IN (?*)`, ys, l.payment)
	l.sort()
	return err
}

// sort puts payment orders into the order in which they came.
func (l *loader) sort() {
	for _, t := range l.trades {
		slices.SortStableFunc(t.Payments, func(a, b *core.Payment) int { return cmp.Compare(a.Row, b.Row) })
	}
}

// loadKeys adds to trades the rejected payment orders that intents are about: the
// intent's own, if it came before, and the one that has its natural key. What is
// not rejected is there already.
func loadKeys(tx *sqldb.Tx, trades []*core.Trade, keys []core.NaturalKey) error {
	l := loader{tx: tx, trades: map[int64]*core.Trade{}, payments: map[int64]*core.Payment{}}
	byX := make(map[ids.Code]*core.Trade, len(trades))
	for _, t := range trades {
		byX[t.Context.BizCode] = t
		l.trades[t.Row] = t
	}
	var ys []ids.Code
	for _, k := range keys {
		t := byX[k.X]
		if t == nil {
			continue // a new trade, as most are
		}
		if t.Payment(k.Y) == nil {
			ys = append(ys, k.Y)
		}
		if t.ByKey(k.Form, k.Key) != nil {
			continue
		}
		err := tx.Query(selectPayments+`trade_id = ? AND form = ? AND idempotency_key = ? AND beside = ''`, []any{t.Row, k.Form, k.Key}, l.payment)
		if err != nil {
			return err
		}
	}
	if err := l.rejected(ys); err != nil {
		return err
	}
	l.sort()
	for _, p := range l.payments { // as they are in the store
		p.Committed()
	}
	return nil
}

// loadLast adds the last payment orders of a trade that were rejected, to be shown.
func loadLast(tx *sqldb.Tx, t *core.Trade) error {
	l := loader{tx: tx, trades: map[int64]*core.Trade{t.Row: t}, payments: map[int64]*core.Payment{}}
	for _, p := range t.Payments {
		l.payments[p.Row] = p
	}
	n := 0
	err := tx.Query(selectPayments+`trade_id = ? AND status = 'rejected' ORDER BY id DESC LIMIT ?`, []any{t.Row, core.RejectedShownMax + 1}, func(scan sqldb.Scan) error {
		if n++; n > core.RejectedShownMax {
			t.RejectedMore = true
			return nil
		}
		return l.payment(scan)
	})
	l.sort()
	return err
}
