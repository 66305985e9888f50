package sqlstore

import (
	"context"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// balanceSQL sums each account's shards; minor is debit positive.
const balanceSQL = `SELECT a.book, a.name, a.currency, a.class, a.side, a.kind,
	(SELECT CAST(COALESCE(SUM(b.minor), 0) AS BIGINT) FROM balances b WHERE b.id >= a.id << 10 AND b.id < (a.id + 1) << 10)
	FROM accounts a WHERE `

func scanBalance(scan sqldb.Scan) (accounting.Balance, error) {
	var b accounting.Balance
	var minor int64
	err := scan(&b.Key.Book, &b.Key.Name, &b.Key.Currency, &b.Class, &b.Side, &b.Kind, &minor)
	b.Amount = money.Of(b.Side.Normal(minor), b.Key.Currency)
	return b, err
}

// Balance implements accounting.Store.
func (s *Store) Balance(ctx context.Context, k accounting.Key) (accounting.Balance, error) {
	const op = "accounting/sqlstore: balance"
	var out accounting.Balance
	found := false
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(balanceSQL+`a.name = ? AND a.currency = ? AND a.book = ?`, []any{k.Name, string(k.Currency), k.Book},
			func(scan sqldb.Scan) (err error) {
				found = true
				out, err = scanBalance(scan)
				return err
			})
	})
	if err == nil && !found {
		err = &fault.Error{Kind: fault.NotFound, Op: op, Code: "account_unknown"}
	}
	return out, fault.Wrap(op, err)
}

// Balances implements accounting.Store.
func (s *Store) Balances(ctx context.Context, book, prefix string, after accounting.Key, limit int) ([]accounting.Balance, error) {
	const op = "accounting/sqlstore: balances"
	if err := checkPage(op, limit); err != nil {
		return nil, err
	}
	var out []accounting.Balance
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		// Names are of visible ASCII: what begins with prefix is below prefix and DEL.
		return tx.Query(balanceSQL+`a.name >= ? AND a.name < ? AND (a.name, a.currency) > (?, ?) AND a.book = ?
			ORDER BY a.name, a.currency LIMIT ?`,
			[]any{prefix, prefix + "\x7f", after.Name, string(after.Currency), book, limit},
			func(scan sqldb.Scan) error {
				b, err := scanBalance(scan)
				out = append(out, b)
				return err
			})
	})
	return out, fault.Wrap(op, err)
}

func checkPage(op string, limit int) error {
	if limit < 1 || limit > accounting.PageMax {
		return &fault.Error{Kind: fault.Invalid, Op: op, Code: "limit_invalid", Field: "limit", Fix: "ask for 1 to 1000"}
	}
	return nil
}

// debitSQL and creditSQL sum what is positive, and what is negative, of a column.
func debitSQL(minor string) string {
	return `CAST(SUM(CASE WHEN ` + minor + ` > 0 THEN ` + minor + ` ELSE 0 END) AS BIGINT)`
}

func creditSQL(minor string) string {
	return `CAST(SUM(CASE WHEN ` + minor + ` < 0 THEN -` + minor + ` ELSE 0 END) AS BIGINT)`
}

const contextSQL = `e.biz_code, e.merchant, e.order_type, e.order_scene, e.institution, e.trace_id, e.form, e.traffic`

// Statement implements accounting.Store.
func (s *Store) Statement(ctx context.Context, k accounting.Key, after int64, limit int) ([]accounting.StatementLine, error) {
	const op = "accounting/sqlstore: statement"
	if err := checkPage(op, limit); err != nil {
		return nil, err
	}
	var out []accounting.StatementLine
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT p.id, p.minor, e.entry_id, e.event_id, e.rule, e.at_millis, `+contextSQL+`
			FROM postings p JOIN entries e ON e.id = p.id >> 8
			WHERE p.account_id = (SELECT id FROM accounts WHERE name = ? AND currency = ? AND book = ?) AND p.id > ?
			ORDER BY p.id LIMIT ?`, []any{k.Name, string(k.Currency), k.Book, after, limit}, func(scan sqldb.Scan) error {
			l := accounting.StatementLine{Amount: money.Of(0, k.Currency)}
			err := scan(append([]any{&l.Cursor, &l.Amount.Minor, &l.EntryID, &l.EventID, &l.Rule, &l.AtMillis}, l.Context.Targets()...)...)
			out = append(out, l)
			return err
		})
	})
	return out, fault.Wrap(op, err)
}

// EntriesByBizCode implements accounting.Store.
func (s *Store) EntriesByBizCode(ctx context.Context, x ids.Code) ([]accounting.Booked, error) {
	out, err := s.entries(ctx, `e.biz_code = ?`, string(x))
	return out, fault.Wrap("accounting/sqlstore: entries of a trade", err)
}

// EntryByEvent implements accounting.Store.
func (s *Store) EntryByEvent(ctx context.Context, eventID string) (accounting.Booked, bool, error) {
	out, err := s.entries(ctx, `e.event_id = ?`, eventID)
	if err != nil || len(out) == 0 {
		return accounting.Booked{}, false, fault.Wrap("accounting/sqlstore: entry of an event", err)
	}
	return out[0], true, nil
}

// entries reads entries with their lines, from one snapshot.
func (s *Store) entries(ctx context.Context, where string, arg any) ([]accounting.Booked, error) {
	var out []accounting.Booked
	index := map[int64]int{}
	err := s.db.Snapshot(ctx, func(tx *sqldb.Tx) error {
		err := tx.Query(`SELECT e.id, e.entry_id, e.event_id, e.rule, e.book, e.channel_account, e.grp, e.at_millis, e.reason, `+contextSQL+`
			FROM entries e WHERE `+where+` ORDER BY e.id LIMIT ?`, []any{arg, accounting.PageMax}, func(scan sqldb.Scan) error {
			var b accounting.Booked
			var id int64
			err := scan(append([]any{&id, &b.ID, &b.EventID, &b.Rule, &b.Book, &b.ChannelAccount, &b.Group, &b.AtMillis, &b.Reason},
				b.Context.Targets()...)...)
			index[id] = len(out)
			out = append(out, b)
			return err
		})
		if err != nil {
			return err
		}
		numbers := make([]int64, 0, len(index))
		for id := range index {
			numbers = append(numbers, id)
		}
		slices.Sort(numbers)
		for _, id := range numbers { // an entry has a handful of lines, a trade a handful of entries
			b := &out[index[id]]
			err := tx.Query(`SELECT a.name, a.class, a.side, a.kind, p.minor, a.currency FROM postings p JOIN accounts a ON a.id = p.account_id
				WHERE p.id >= ? AND p.id < ? ORDER BY p.id`, []any{postingID(id, 0), postingID(id+1, 0)}, func(scan sqldb.Scan) error {
				var l accounting.Line
				err := scan(&l.Account.Name, &l.Account.Class, &l.Account.Side, &l.Account.Kind, &l.Amount.Minor, &l.Amount.Currency)
				b.Lines = append(b.Lines, l)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// TrialBalance implements accounting.Store.
func (s *Store) TrialBalance(ctx context.Context) ([]accounting.Trial, error) {
	var out []accounting.Trial
	err := s.db.Survey(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT book, currency, `+debitSQL("minor")+`, `+creditSQL("minor")+` FROM
			(SELECT a.book, a.currency, SUM(b.minor) AS minor FROM balances b JOIN accounts a ON a.id = b.id >> 10 GROUP BY a.id, a.book, a.currency) AS sums
			GROUP BY book, currency ORDER BY book, currency`, nil, func(scan sqldb.Scan) error {
			var t accounting.Trial
			err := scan(&t.Book, &t.Currency, &t.Debits, &t.Credits)
			out = append(out, t)
			return err
		})
	})
	return out, fault.Wrap("accounting/sqlstore: trial balance", err)
}

// Totals implements accounting.Store.
func (s *Store) Totals(ctx context.Context) ([]accounting.Total, error) {
	var out []accounting.Total
	err := s.db.Survey(ctx, func(tx *sqldb.Tx) error {
		// The sums are of few groups; the rows are read in journal order.
		return tx.Query(`SELECT e.merchant, e.channel_account, a.currency, a.name, `+debitSQL("p.minor")+`, `+creditSQL("p.minor")+`
			FROM postings p JOIN entries e ON e.id = p.id >> 8 JOIN accounts a ON a.id = p.account_id
			GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4`, nil, func(scan sqldb.Scan) error {
			var t accounting.Total
			err := scan(&t.Merchant, &t.ChannelAccount, &t.Currency, &t.Base, &t.Debits, &t.Credits)
			t.Base, _, _ = strings.Cut(t.Base, ":")
			out = append(out, t)
			return err
		})
	})
	return accounting.SumTotals(out), fault.Wrap("accounting/sqlstore: totals", err)
}
