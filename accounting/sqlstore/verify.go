package sqlstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Verify implements accounting.Store. It reads the journal once in its order and
// once by account, and holds one entry, or one account's shards, at a time.
func (s *Store) Verify(ctx context.Context) (accounting.Report, error) {
	v := &verifier{groups: s.groups}
	err := s.db.Survey(ctx, func(tx *sqldb.Tx) error {
		for _, step := range []func(*sqldb.Tx) error{v.guards, v.entries, v.balances, v.trials} {
			if err := step(tx); err != nil {
				return err
			}
		}
		return nil
	})
	return v.report, fault.Wrap("accounting/sqlstore: verify", err)
}

type verifier struct {
	report accounting.Report
	groups int
}

func (v *verifier) bad(format string, args ...any) { v.report.Add(fmt.Sprintf(format, args...)) }

// guards looks for the triggers that keep the journal unchanged.
func (v *verifier) guards(tx *sqldb.Tx) error {
	have, err := tx.Triggers()
	for _, t := range triggers {
		if !slices.Contains(have, t) {
			v.bad("trigger %s is gone: the journal may have been changed", t)
		}
	}
	return err
}

// entries checks that each posted entry balances per currency, that a rejected
// one has no postings, and that no posting is without an entry.
func (v *verifier) entries(tx *sqldb.Tx) error {
	var id, lines, joined int64
	var entryID, reason string
	var sums []money.Amount
	finish := func() {
		if id == 0 {
			return
		}
		switch {
		case reason != "" && lines > 0:
			v.bad("entry %s was rejected (%s) and has %d postings", entryID, reason, lines)
		case reason == "" && lines < 2:
			v.bad("entry %s has %d postings", entryID, lines)
		}
		for _, s := range sums {
			if s.Minor != 0 {
				v.bad("entry %s is out of balance by %s", entryID, s)
			}
		}
	}
	err := tx.Query(`SELECT e.id, e.entry_id, e.reason, COALESCE(p.minor, 0), COALESCE(a.currency, '')
		FROM entries e LEFT JOIN postings p ON p.id >= e.id << 8 AND p.id < (e.id + 1) << 8 LEFT JOIN accounts a ON a.id = p.account_id
		ORDER BY e.id`, nil, func(scan sqldb.Scan) error {
		var next, minor int64
		var nextID, nextReason, currency string
		if err := scan(&next, &nextID, &nextReason, &minor, &currency); err != nil {
			return err
		}
		if next != id {
			finish()
			id, entryID, reason, lines, sums = next, nextID, nextReason, 0, sums[:0]
			if reason == "" {
				v.report.Entries++
			} else {
				v.report.Rejected++
			}
		}
		if minor == 0 {
			return nil // an entry without postings
		}
		lines++
		joined++
		if currency == "" {
			v.bad("entry %s has a posting to an account that does not exist", entryID)
		}
		add := money.Of(minor, money.Currency(currency))
		i := slices.IndexFunc(sums, func(s money.Amount) bool { return s.Currency == add.Currency })
		if i < 0 {
			sums = append(sums, add)
			return nil
		}
		sum, err := sums[i].Add(add)
		if err != nil {
			v.bad("entry %s: %v", entryID, err)
			return nil
		}
		sums[i] = sum
		return nil
	})
	if err != nil {
		return err
	}
	finish()
	err = tx.Query(`SELECT COUNT(*) FROM postings`, nil, func(scan sqldb.Scan) error { return scan(&v.report.Postings) })
	if v.report.Postings != joined {
		v.bad("%d postings belong to no entry", v.report.Postings-joined)
	}
	return err
}

// accountsPage is how many accounts are held while their postings are read.
const accountsPage = 500

// balances folds the postings of each account, shard by shard, and compares.
func (v *verifier) balances(tx *sqldb.Tx) error {
	type row struct {
		id   int64
		key  accounting.Key
		kind accounting.Kind
		side accounting.Side
	}
	var shards int64
	for after := int64(0); ; {
		var page []row
		err := tx.Query(`SELECT id, book, name, currency, kind, side FROM accounts WHERE id > ? ORDER BY id LIMIT ?`, []any{after, accountsPage},
			func(scan sqldb.Scan) error {
				var r row
				err := scan(&r.id, &r.key.Book, &r.key.Name, &r.key.Currency, &r.kind, &r.side)
				page = append(page, r)
				return err
			})
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			v.report.Accounts++
			n, err := v.account(tx, r.id, r.key, r.kind, r.side)
			if err != nil {
				return err
			}
			shards += n
		}
		after = page[len(page)-1].id
	}
	return tx.Query(`SELECT COUNT(*) FROM balances`, nil, func(scan sqldb.Scan) error {
		var n int64
		err := scan(&n)
		if n != shards {
			v.bad("%d balances belong to no account", n-shards)
		}
		return err
	})
}

// account compares one account's shards with its postings, and gives the number of shards.
func (v *verifier) account(tx *sqldb.Tx, id int64, k accounting.Key, kind accounting.Kind, side accounting.Side) (int64, error) {
	fold := make([]int64, v.groups)
	err := tx.Query(`SELECT e.grp, p.minor FROM postings p JOIN entries e ON e.id = p.id >> 8 WHERE p.account_id = ?`, []any{id},
		func(scan sqldb.Scan) error {
			var group int
			var minor int64
			if err := scan(&group, &minor); err != nil {
				return err
			}
			if group < 0 || group >= v.groups {
				v.bad("account %s has a posting in group %d of %d", k, group, v.groups)
				return nil
			}
			group = accounting.ShardGroup(kind, k, group, v.groups)
			sum, err := money.Of(fold[group], k.Currency).Add(money.Of(minor, k.Currency))
			if err != nil {
				v.bad("account %s, group %d: %v", k, group, err)
			}
			fold[group] = sum.Minor
			return nil
		})
	if err != nil {
		return 0, err
	}
	var shards int64
	err = tx.Query(`SELECT id & 1023, minor FROM balances WHERE id >= ? AND id < ?`, []any{shardID(id, 0), shardID(id+1, 0)},
		func(scan sqldb.Scan) error {
			var group int
			var minor int64
			if err := scan(&group, &minor); err != nil {
				return err
			}
			shards++
			switch {
			case group >= v.groups:
				v.bad("account %s has a balance in group %d of %d", k, group, v.groups)
				return nil
			case minor != fold[group]:
				v.bad("account %s, group %d: the balance is %d, the postings sum to %d", k, group, minor, fold[group])
			case kind == accounting.Homed && side.Normal(minor) < 0:
				v.bad("account %s is homed and overdrawn by %d", k, -side.Normal(minor))
			}
			fold[group] = 0
			return nil
		})
	for group, minor := range fold {
		if minor != 0 {
			v.bad("account %s, group %d: no balance, but postings of %d", k, group, minor)
		}
	}
	return shards, err
}

// trials checks debits = credits by book and currency.
func (v *verifier) trials(tx *sqldb.Tx) error {
	return tx.Query(`SELECT a.book, a.currency, CAST(SUM(b.minor) AS BIGINT) FROM balances b JOIN accounts a ON a.id = b.id >> 10
		GROUP BY a.book, a.currency HAVING SUM(b.minor) <> 0 ORDER BY 1, 2`, nil, func(scan sqldb.Scan) error {
		var book, currency string
		var minor int64
		err := scan(&book, &currency, &minor)
		v.bad("book %s is out of balance by %d %s", book, minor, currency)
		return err
	})
}
