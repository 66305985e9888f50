package sqlstore

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// The columns of each table after its id, in the order in which rows are written
// and read.
var (
	tradeColumns = append(append([]string{"id", "version"}, ids.Columns...), "order_id", "currency", "amount_minor", "paid_minor", "status",
		"accepted_at_millis", "expires_at_millis")
	paymentColumns = append(append([]string{"id", "trade_id", "version", "y"}, ids.Columns...), "idempotency_key", "canonical", "status", "reason",
		"alias_of", "currency", "amount_minor", "method", "subject", "return_url", "metadata", "credential_method", "credential_value",
		"fee_rate_ppm", "fee_minor", "accepted_at_millis", "expires_at_millis", "next_action", "next_at_millis", "beside")
	attemptColumns = append(append([]string{"payment_id", "n", "version"}, ids.Columns...), "out_trade_no", "account", "status", "reason",
		"transaction_id", "currency", "paid_minor", "psp_fee_rate_ppm", "psp_fee_minor")
	exceptionColumns = append(append([]string{"payment_id"}, ids.Columns...), "out_trade_no", "account", "transaction_id", "why", "currency", "paid_minor", "at_millis")

	selectTrades     = `SELECT ` + strings.Join(tradeColumns, ", ") + ` FROM trade_orders WHERE `
	selectPayments   = `SELECT ` + strings.Join(without(paymentColumns, []string{"beside"}), ", ") + ` FROM payment_orders WHERE `
	selectAttempts   = `SELECT institution, ` + strings.Join(without(attemptColumns, ids.Columns), ", ") + ` FROM attempts WHERE payment_id IN (?*) ORDER BY payment_id, n`
	selectExceptions = `SELECT ` + strings.Join(without(exceptionColumns, ids.Columns), ", ") + ` FROM exceptions WHERE payment_id IN (?*) ORDER BY id`
)

func without(all, drop []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(c string) bool { return slices.Contains(drop, c) })
}

// load reads the wanted trades, in a stable order, with their payment orders but for
// the rejected ones that are not wanted by their Y.
func load(tx *sqldb.Tx, want core.Want) ([]*core.Trade, error) {
	l := loader{tx: tx, trades: map[int64]*core.Trade{}, payments: map[int64]*core.Payment{}}
	if err := sqldb.QueryIn(tx, selectTrades+`biz_code IN (?*)`, want.Trades, l.trade); err != nil {
		return nil, err
	}
	var more []int64
	var rejected []ids.Code
	err := sqldb.QueryIn(tx, `SELECT trade_id, y, status = 'rejected' FROM payment_orders WHERE y IN (?*)`, want.Payments, func(scan sqldb.Scan) error {
		var id int64
		var y ids.Code
		var no bool
		if err := scan(&id, &y, &no); err != nil {
			return err
		}
		if l.trades[id] == nil && !slices.Contains(more, id) {
			more = append(more, id)
		}
		if no {
			rejected = append(rejected, y)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := sqldb.QueryIn(tx, selectTrades+`id IN (?*)`, more, l.trade); err != nil {
		return nil, err
	}
	if err := sqldb.QueryIn(tx, selectPayments+`trade_id IN (?*) AND status <> 'rejected' ORDER BY id`, l.tradeRows, l.payment); err != nil {
		return nil, err
	}
	if err := l.rejected(rejected); err != nil {
		return nil, err
	}
	if err := sqldb.QueryIn(tx, selectAttempts, l.paymentRows, l.attempt); err != nil {
		return nil, err
	}
	if err := sqldb.QueryIn(tx, selectExceptions, l.paymentRows, l.exception); err != nil {
		return nil, err
	}
	for _, t := range l.out {
		t.Committed()
	}
	return l.out, nil
}

type loader struct {
	tx          *sqldb.Tx
	out         []*core.Trade
	trades      map[int64]*core.Trade
	payments    map[int64]*core.Payment
	tradeRows   []int64
	paymentRows []int64
}

func (l *loader) trade(scan sqldb.Scan) error {
	t := &core.Trade{}
	var c money.Currency
	err := scan(append(append([]any{&t.Row, &t.Version}, t.Context.Targets()...), &t.OrderID, &c, &t.Amount.Minor, &t.Paid.Minor, &t.Status,
		&t.AcceptedAtMillis, &t.ExpiresAtMillis)...)
	if err != nil {
		return err
	}
	if l.trades[t.Row] != nil {
		return nil // keys are padded: a row may come twice
	}
	t.Amount.Currency, t.Paid.Currency = c, c
	l.trades[t.Row] = t
	l.tradeRows = append(l.tradeRows, t.Row)
	l.out = append(l.out, t)
	return nil
}

func (l *loader) payment(scan sqldb.Scan) error {
	p := &core.Payment{}
	var trade int64
	var metadata string
	err := scan(append(append([]any{&p.Row, &trade, &p.Version, &p.Y}, p.Context.Targets()...), &p.IdempotencyKey, &p.Canonical, &p.Status,
		&p.Reason, &p.AliasOf, &p.Amount.Currency, &p.Amount.Minor, &p.Method, &p.Subject, &p.ReturnURL, &metadata, &p.Credential.Method,
		&p.Credential.Value, &p.FeeRate, &p.Fee.Minor, &p.AcceptedAtMillis, &p.ExpiresAtMillis, &p.NextAction, &p.NextAtMillis)...)
	if err != nil {
		return err
	}
	if l.payments[p.Row] != nil {
		return nil
	}
	if metadata != "" {
		if err := json.Unmarshal([]byte(metadata), &p.Metadata); err != nil {
			return err
		}
	}
	t := l.trades[trade]
	p.Fee.Currency, p.OrderID = p.Amount.Currency, t.OrderID
	t.Payments = append(t.Payments, p)
	l.payments[p.Row] = p
	l.paymentRows = append(l.paymentRows, p.Row)
	return nil
}

func (l *loader) attempt(scan sqldb.Scan) error {
	a := &core.Attempt{}
	var payment int64
	var n int
	var c money.Currency
	err := scan(&a.Channel, &payment, &n, &a.Version, &a.OutTradeNo, &a.Account, &a.Status, &a.Reason, &a.TransactionID, &c,
		&a.Paid.Minor, &a.PSPFeeRate, &a.PSPFee.Minor)
	if err != nil {
		return err
	}
	a.Paid.Currency, a.PSPFee.Currency = c, c
	if p := l.payments[payment]; n == len(p.Attempts) {
		p.Attempts = append(p.Attempts, a)
	}
	return nil
}

func (l *loader) exception(scan sqldb.Scan) error {
	var e core.Exception
	var payment int64
	if err := scan(&payment, &e.OutTradeNo, &e.Account, &e.TransactionID, &e.Why, &e.Paid.Currency, &e.Paid.Minor, &e.AtMillis); err != nil {
		return err
	}
	p := l.payments[payment]
	if !slices.Contains(p.Exceptions, e) {
		p.Exceptions = append(p.Exceptions, e)
	}
	return nil
}
