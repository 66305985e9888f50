package sqlstore

import (
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// save writes what changed: new rows set-wise, old ones guarded by the version
// (and status) that they were loaded with.
func save(tx *sqldb.Tx, trades []*core.Trade) error {
	var s saver
	for _, t := range trades {
		s.sort(t)
	}
	for _, f := range []func(*sqldb.Tx) error{s.insertTrades, s.insertPayments, s.updateTrades, s.updatePayments, s.attempts, s.exceptions} {
		if err := f(tx); err != nil {
			return err
		}
	}
	return nil
}

// paymentOf and its kin keep a row beside the one it belongs to.
type paymentOf struct {
	*core.Payment
	trade *core.Trade
}

type attemptOf struct {
	*core.Attempt
	payment *core.Payment
	n       int
}

type exceptionOf struct {
	core.Exception
	payment *core.Payment
}

type saver struct {
	newTrades, oldTrades     []*core.Trade
	newPayments, oldPayments []paymentOf
	newAttempts, oldAttempts []attemptOf
	newExceptions            []exceptionOf
}

func (s *saver) sort(t *core.Trade) {
	switch {
	case t.Row == 0:
		s.newTrades = append(s.newTrades, t)
	case t.Version != t.Stored:
		s.oldTrades = append(s.oldTrades, t)
	}
	for _, p := range t.Payments {
		switch {
		case p.Row == 0:
			s.newPayments = append(s.newPayments, paymentOf{p, t})
		case p.Version != p.Stored:
			s.oldPayments = append(s.oldPayments, paymentOf{p, t})
		}
		for n, a := range p.Attempts {
			switch {
			case a.Stored == 0:
				s.newAttempts = append(s.newAttempts, attemptOf{a, p, n})
			case a.Version != a.Stored:
				s.oldAttempts = append(s.oldAttempts, attemptOf{a, p, n})
			}
		}
		for _, e := range p.Exceptions {
			if !e.Stored {
				s.newExceptions = append(s.newExceptions, exceptionOf{e, p})
			}
		}
	}
}

func (s *saver) insertTrades(tx *sqldb.Tx) error {
	err := tx.NewIDs("trade_orders", len(s.newTrades), func(i int, id int64) { s.newTrades[i].Row = id })
	if err != nil {
		return err
	}
	_, err = tx.Insert("trade_orders", tradeColumns, len(s.newTrades), "", func(dst []any, i int) []any {
		t := s.newTrades[i]
		dst = t.Context.AppendValues(append(dst, t.Row, t.Version))
		return append(dst, t.OrderID, string(t.Amount.Currency), t.Amount.Minor, t.Paid.Minor, t.Status, t.AcceptedAtMillis, t.ExpiresAtMillis)
	})
	return err
}

func (s *saver) insertPayments(tx *sqldb.Tx) error {
	err := tx.NewIDs("payment_orders", len(s.newPayments), func(i int, id int64) { s.newPayments[i].Row = id })
	if err != nil {
		return err
	}
	_, err = tx.Insert("payment_orders", paymentColumns, len(s.newPayments), "", func(dst []any, i int) []any {
		p := s.newPayments[i]
		beside := ""
		if p.Beside() {
			beside = string(p.Y)
		}
		dst = p.Context.AppendValues(append(dst, p.Row, p.trade.Row, p.Version, string(p.Y)))
		return append(dst, p.IdempotencyKey, p.Canonical, string(p.Status), p.Reason, string(p.AliasOf), string(p.Amount.Currency), p.Amount.Minor,
			string(p.Method), p.Subject, p.ReturnURL, metadata(p.Metadata), string(p.Credential.Method), p.Credential.Value, int64(p.FeeRate),
			p.Fee.Minor, p.AcceptedAtMillis, p.ExpiresAtMillis, p.NextAction, p.NextAtMillis, beside)
	})
	return err
}

func metadata(m map[string]string) string {
	if len(m) == 0 {
		return ""
	}
	b, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		return "" // strings of valid UTF-8 always can be encoded
	}
	return string(b)
}

// An update names only the columns that can have changed: a column that is named
// costs, the more so when an index is on it. Each has a short form, for what happens
// to most rows, and a long one, with more columns.
var (
	tradeKeys    = sqldb.Columns{"id BIGINT", "version BIGINT"}
	settledTrade = sqldb.Columns{"version BIGINT", "paid_minor BIGINT", "status TEXT"}
	fixedTrade   = append(slices.Clone(settledTrade), "order_type TEXT", "order_scene TEXT", "institution TEXT", "trace_id TEXT",
		"currency TEXT", "amount_minor BIGINT", "accepted_at_millis BIGINT", "expires_at_millis BIGINT")
	paymentKeys    = sqldb.Columns{"id BIGINT", "version BIGINT", "status TEXT"}
	movedPayment   = sqldb.Columns{"version BIGINT", "institution TEXT", "status TEXT", "reason TEXT", "credential_method TEXT", "credential_value TEXT"}
	plannedPayment = append(slices.Clone(movedPayment), "fee_minor BIGINT", "next_action TEXT", "next_at_millis BIGINT")
	attemptKeys    = sqldb.Columns{"payment_id BIGINT", "n BIGINT", "version BIGINT"}
	movedAttempt   = sqldb.Columns{"version BIGINT", "status TEXT", "reason TEXT"}
	paidAttempt    = append(slices.Clone(movedAttempt), "transaction_id TEXT", "currency TEXT", "paid_minor BIGINT", "psp_fee_minor BIGINT")
)

// update updates rows, each in the short or the long form.
func update[R any](tx *sqldb.Tx, table string, short, long, keys sqldb.Columns, rows []R, isShort func(R) bool,
	values func(dst []any, r R, short bool) []any) error {
	var some []R
	for _, want := range []bool{true, false} {
		some = some[:0]
		for _, r := range rows {
			if isShort(r) == want {
				some = append(some, r)
			}
		}
		columns := long
		if want {
			columns = short
		}
		err := tx.Update(table, columns, keys, len(some), func(dst []any, i int) []any { return values(dst, some[i], want) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *saver) updateTrades(tx *sqldb.Tx) error {
	return update(tx, "trade_orders", settledTrade, fixedTrade, tradeKeys, s.oldTrades, func(t *core.Trade) bool { return t.StoredFixed },
		func(dst []any, t *core.Trade, short bool) []any {
			dst = append(dst, t.Version, t.Paid.Minor, t.Status)
			if !short {
				dst = append(dst, t.Context.OrderType, t.Context.OrderScene, t.Context.Institution, t.Context.TraceID,
					string(t.Amount.Currency), t.Amount.Minor, t.AcceptedAtMillis, t.ExpiresAtMillis)
			}
			return append(dst, t.Row, t.Stored)
		})
}

// updatePayments plans anew what has another next action, or none any more; an
// order that is still open has no fee yet.
func (s *saver) updatePayments(tx *sqldb.Tx) error {
	return update(tx, "payment_orders", movedPayment, plannedPayment, paymentKeys, s.oldPayments,
		func(p paymentOf) bool { return p.Open() && p.NextAtMillis == p.StoredNextAtMillis },
		func(dst []any, p paymentOf, short bool) []any {
			dst = append(dst, p.Version, p.Context.Institution, string(p.Status), p.Reason, string(p.Credential.Method), p.Credential.Value)
			if !short {
				dst = append(dst, p.Fee.Minor, p.NextAction, p.NextAtMillis)
			}
			return append(dst, p.Row, p.Stored, string(p.StoredStatus))
		})
}

func (s *saver) attempts(tx *sqldb.Tx) error {
	_, err := tx.Insert("attempts", attemptColumns, len(s.newAttempts), "", func(dst []any, i int) []any {
		a := s.newAttempts[i]
		c := a.payment.Context
		c.Institution = a.Channel
		dst = c.AppendValues(append(dst, a.payment.Row, a.n, a.Version))
		return append(dst, a.OutTradeNo, a.Account, string(a.Status), a.Reason, a.TransactionID, string(a.Paid.Currency), a.Paid.Minor,
			int64(a.PSPFeeRate), a.PSPFee.Minor)
	})
	if err != nil {
		return err
	}
	// What was paid has a transaction, for ever.
	return update(tx, "attempts", movedAttempt, paidAttempt, attemptKeys, s.oldAttempts, func(a attemptOf) bool { return a.TransactionID == "" },
		func(dst []any, a attemptOf, short bool) []any {
			dst = append(dst, a.Version, string(a.Status), a.Reason)
			if !short {
				dst = append(dst, a.TransactionID, string(a.Paid.Currency), a.Paid.Minor, a.PSPFee.Minor)
			}
			return append(dst, a.payment.Row, a.n, a.Stored)
		})
}

func (s *saver) exceptions(tx *sqldb.Tx) error {
	_, err := tx.Insert("exceptions", exceptionColumns, len(s.newExceptions), "", func(dst []any, i int) []any {
		e := s.newExceptions[i]
		dst = e.payment.Context.AppendValues(append(dst, e.payment.Row))
		return append(dst, e.OutTradeNo, e.Account, e.TransactionID, e.Why, string(e.Paid.Currency), e.Paid.Minor, e.AtMillis)
	})
	return err
}
