package sqlstore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/move"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Moves says which of accounting's rows go with a group to another database. Accounts
// do not: they are made there where they are missing, and are known by their keys; so
// postings and balances, which have their numbers, get the numbers of the target.
func Moves() move.Area {
	return move.Area{
		Name:     "accounting",
		Portions: portions,
		Prepare: func(ctx context.Context, from, to *sqldb.DB, group int) ([]sqldb.Portion, error) {
			numbers, err := sameAccounts(ctx, from, to, group)
			if err != nil {
				return nil, fault.Wrap("accounting: accounts of the group", err)
			}
			return mapped(portions(group), numbers), nil
		},
		Check: checkGroup,
	}
}

func portions(group int) []sqldb.Portion {
	return append([]sqldb.Portion{
		{Table: "entries", Where: "t.grp = ?", Args: []any{group}},
		{Table: "postings", Where: "t.id >> 8 IN (SELECT id FROM entries WHERE grp = ?)", Args: []any{group}},
		{Table: "balances", Where: "t.id & 1023 = ?", Args: []any{group}},
	}, embedded.Portions(group, bus.Postings)...)
}

// mapped puts the target's account numbers in the place of the source's. Without one
// a row is refused, as it would have none.
func mapped(all []sqldb.Portion, numbers map[int64]int64) []sqldb.Portion {
	pairs := []string{"(CAST(NULL AS BIGINT), CAST(NULL AS BIGINT))"}
	for from, to := range numbers {
		pairs = append(pairs, fmt.Sprintf("(%d, %d)", from, to))
	}
	slices.Sort(pairs[1:])
	join := "LEFT JOIN (VALUES " + strings.Join(pairs, ", ") + ") AS a (source, target) ON a.source = "
	for i := range all {
		switch p := &all[i]; p.Table {
		case "postings":
			p.Join, p.Values = join+"t.account_id", map[string]string{"account_id": "a.target"}
		case "balances":
			p.Join, p.Values = join+"t.id >> 10", map[string]string{"id": "a.target << 10 | (t.id & 1023)"}
		}
	}
	return all
}

// ofGroup are the accounts that a group has postings to, or a balance of.
const ofGroup = `id IN (SELECT b.id >> 10 FROM balances b WHERE b.id & 1023 = ?1 UNION SELECT p.account_id FROM postings p WHERE p.id >> 8 IN (SELECT id FROM entries WHERE grp = ?1))`

// sameAccounts makes the accounts that are missing at the target, and gives the
// numbers there by those at the source. It is a transaction of its own: posters over
// there wait for who makes an account.
func sameAccounts(ctx context.Context, from, to *sqldb.DB, group int) (map[int64]int64, error) {
	source, err := readAccounts(ctx, from, ofGroup, group)
	if err != nil || len(source) == 0 {
		return nil, err
	}
	keys := make([]accounting.Key, 0, len(source))
	for k := range source {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b accounting.Key) int { return strings.Compare(a.String(), b.String()) })
	var target map[accounting.Key]account
	err = to.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Insert("accounts", accountColumns, len(keys), "ON CONFLICT DO NOTHING", func(dst []any, i int) []any {
			k, d := keys[i], source[keys[i]].def
			return append(dst, k.Book, k.Name, string(k.Currency), string(d.Class), string(d.Side), string(d.Kind))
		})
		return err
	})
	if err == nil {
		target, err = readAccounts(ctx, to, `TRUE`)
	}
	if err != nil {
		return nil, err
	}
	numbers := map[int64]int64{}
	for _, k := range keys {
		a, b := source[k], target[k]
		if a.def != b.def {
			return nil, &fault.Error{Kind: fault.Conflict, Op: "accounts", Code: "account_differs", Fix: "correct the account that is wrong",
				Err: fmt.Errorf("%s is %s %s %s here, and %s %s %s there", k, a.def.Kind, a.def.Class, a.def.Side, b.def.Kind, b.def.Class, b.def.Side)}
		}
		numbers[a.id] = b.id
	}
	return numbers, nil
}

func readAccounts(ctx context.Context, db *sqldb.DB, where string, args ...any) (map[accounting.Key]account, error) {
	out := map[accounting.Key]account{}
	err := db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT id, book, name, currency, class, side, kind FROM accounts WHERE `+where, args, func(scan sqldb.Scan) error {
			var k accounting.Key
			var a account
			err := scan(&a.id, &k.Book, &k.Name, &k.Currency, &a.def.Class, &a.def.Side, &a.def.Kind)
			a.def.Name = k.Name
			out[k] = a
			return err
		})
	})
	return out, err
}

// checkGroup refuses a group whose balances are not the sums of its postings, or that
// does not balance by itself: then it cannot go alone.
func checkGroup(tx *sqldb.Tx, group int) error {
	var astray int64
	err := tx.Query(`SELECT count(*) FROM (SELECT account_id AS account, sum(minor) AS minor FROM postings WHERE id >> 8 IN (SELECT id FROM entries WHERE grp = ?1) GROUP BY 1) AS p
		FULL JOIN (SELECT id >> 10 AS account, minor FROM balances WHERE id & 1023 = ?1) AS b ON b.account = p.account
		WHERE coalesce(p.minor, 0) <> coalesce(b.minor, 0)`, []any{group}, func(scan sqldb.Scan) error { return scan(&astray) })
	if err == nil && astray > 0 {
		err = fault.New(fault.Internal, "accounting: check", "%d balances of group %d are not the sums of its postings", astray, group)
	}
	if err != nil {
		return err
	}
	return tx.Query(`SELECT a.book, a.currency, CAST(sum(b.minor) AS BIGINT) FROM balances b JOIN accounts a ON a.id = b.id >> 10 WHERE b.id & 1023 = ?
		GROUP BY 1, 2 HAVING sum(b.minor) <> 0`, []any{group}, func(scan sqldb.Scan) error {
		var book, currency string
		var minor int64
		if err := scan(&book, &currency, &minor); err != nil {
			return err
		}
		return fault.New(fault.Internal, "accounting: check", "group %d is out of balance by %d %s in book %s", group, minor, currency, book)
	})
}
