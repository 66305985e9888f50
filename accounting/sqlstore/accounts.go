package sqlstore

import (
	"cmp"
	"slices"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

var accountColumns = []string{"book", "name", "currency", "class", "side", "kind"}

// account is a row of accounts.
type account struct {
	id  int64
	def accounting.Account
}

// accountCache maps keys to accounts: two generations, as accounting.Held does.
type accountCache struct {
	max        int
	young, old map[accounting.Key]account
}

func newAccountCache(accountsMax int) *accountCache {
	return &accountCache{max: accountsMax, young: map[accounting.Key]account{}, old: map[accounting.Key]account{}}
}

func (c *accountCache) get(k accounting.Key) (account, bool) {
	if a, ok := c.young[k]; ok {
		return a, true
	}
	a, ok := c.old[k]
	if ok {
		c.young[k] = a
	}
	return a, ok
}

func (c *accountCache) put(k accounting.Key, a account) { c.young[k] = a }

// age makes room, between batches.
func (c *accountCache) age() {
	if len(c.young) > c.max/2 {
		c.old, c.young = c.young, make(map[accounting.Key]account, c.max/2)
	}
}

func (c *accountCache) drop() {
	clear(c.young)
	clear(c.old)
}

// resolve puts every account of the fresh entries into the cache, and makes those that
// do not exist yet. It knows the database's state inside the transaction only, so
// the cache is dropped when that fails.
func (s *Store) resolve(tx *sqldb.Tx, w *work) error {
	var missing []accounting.Key
	defs := map[accounting.Key]accounting.Account{}
	for _, i := range w.fresh {
		e := &w.entries[i]
		for j := range e.Lines {
			l := &e.Lines[j]
			k := accounting.Key{Book: e.Book, Name: l.Account.Name, Currency: l.Amount.Currency}
			if _, ok := s.accounts.get(k); ok {
				continue
			}
			if _, ok := defs[k]; !ok {
				defs[k] = l.Account
				missing = append(missing, k)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if tx.Postgres() { // in one order, whoever makes them: posters of other groups wait for each other
		slices.SortFunc(missing, func(a, b accounting.Key) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Currency, b.Currency), cmp.Compare(a.Book, b.Book))
		})
	}
	// Accounts are few and are made once: the order of first use gives their numbers.
	_, err := tx.Insert("accounts", accountColumns, len(missing),
		"ON CONFLICT DO NOTHING", func(dst []any, i int) []any {
			k, d := missing[i], defs[missing[i]]
			return append(dst, k.Book, k.Name, string(k.Currency), string(d.Class), string(d.Side), string(d.Kind))
		})
	if err != nil {
		return fault.Wrap("make accounts", err)
	}
	return s.loadAccounts(tx, missing)
}

// loadAccounts reads all accounts with the names of these keys, in few statements.
func (s *Store) loadAccounts(tx *sqldb.Tx, keys []accounting.Key) error {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.Name
	}
	err := sqldb.QueryIn(tx, `SELECT id, book, name, currency, class, side, kind FROM accounts WHERE name IN (?*)`, names,
		func(scan sqldb.Scan) error {
			var k accounting.Key
			var a account
			if err := scan(&a.id, &k.Book, &k.Name, &k.Currency, &a.def.Class, &a.def.Side, &a.def.Kind); err != nil {
				return err
			}
			a.def.Name = k.Name
			s.accounts.put(k, a)
			return nil
		})
	return fault.Wrap("load accounts", err)
}
