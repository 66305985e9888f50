package sqlstore

import (
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

// What may change of a row that is there, over what it was read as.
var (
	tradeUpdates = updateTexts("trade_orders", []string{"id", "version"}, []string{"version", "order_type", "order_scene", "institution", "trace_id",
		"currency", "amount_minor", "paid_minor", "status", "accepted_at_millis", "expires_at_millis"})
	paymentUpdates = updateTexts("payment_orders", []string{"id", "version", "status"}, []string{"version", "institution", "status", "reason",
		"credential_method", "credential_value", "fee_minor", "next_action", "next_at_millis"})
	attemptUpdates = updateTexts("attempts", []string{"payment_id", "n", "version"}, []string{"version", "status", "reason", "transaction_id",
		"currency", "paid_minor", "psp_fee_minor"})
)

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

// number gives new rows of a table the next keys: they increase, as one
// transaction at a time writes, and two processes that both do are fenced by
// their places, if not by the key.
func number(tx *sqldb.Tx, table string, n int, set func(i int, id int64)) error {
	if n == 0 {
		return nil
	}
	var last int64
	err := tx.Query(`SELECT coalesce(max(id), 0) FROM `+table, nil, func(scan sqldb.Scan) error { return scan(&last) })
	for i := range n {
		set(i, last+1+int64(i))
	}
	return err
}

func (s *saver) insertTrades(tx *sqldb.Tx) error {
	err := number(tx, "trade_orders", len(s.newTrades), func(i int, id int64) { s.newTrades[i].Row = id })
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
	err := number(tx, "payment_orders", len(s.newPayments), func(i int, id int64) { s.newPayments[i].Row = id })
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

func (s *saver) updateTrades(tx *sqldb.Tx) error {
	return update(tx, tradeUpdates, len(s.oldTrades), func(dst []any, i int) []any {
		t := s.oldTrades[i]
		return append(dst, t.Row, t.Stored, t.Version, t.Context.OrderType, t.Context.OrderScene, t.Context.Institution, t.Context.TraceID,
			string(t.Amount.Currency), t.Amount.Minor, t.Paid.Minor, t.Status, t.AcceptedAtMillis, t.ExpiresAtMillis)
	})
}

func (s *saver) updatePayments(tx *sqldb.Tx) error {
	return update(tx, paymentUpdates, len(s.oldPayments), func(dst []any, i int) []any {
		p := s.oldPayments[i]
		return append(dst, p.Row, p.Stored, string(p.StoredStatus), p.Version, p.Context.Institution, string(p.Status), p.Reason,
			string(p.Credential.Method), p.Credential.Value, p.Fee.Minor, p.NextAction, p.NextAtMillis)
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
	return update(tx, attemptUpdates, len(s.oldAttempts), func(dst []any, i int) []any {
		a := s.oldAttempts[i]
		return append(dst, a.payment.Row, a.n, a.Stored, a.Version, string(a.Status), a.Reason, a.TransactionID, string(a.Paid.Currency),
			a.Paid.Minor, a.PSPFee.Minor)
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
