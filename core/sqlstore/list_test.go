package sqlstore_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/sqlstore"
	"github.com/tallystick/tallystick/core/storetest"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// A database lists what is in the groups that it owns, whatever else is in its tables: a
// copy of a group that comes, or the rest of one that has gone.
func TestOwnList(t *testing.T) {
	s := openPostgres(t).(store)
	own := func(sql string, groups ...int) {
		t.Helper()
		err := s.DB().Write(t.Context(), func(tx *sqldb.Tx) error {
			if sql != "" {
				_, err := tx.Exec(sql)
				return err
			}
			return lease.Own(tx, groups)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	byGroup := map[int]int{}
	for n := range 40 {
		tr := storetest.Trade(fmt.Sprint("o", n))
		byGroup[tr.Context.BizCode.Group(16)]++
		storetest.Put(t, s, tr)
	}
	check := func(groups ...int) {
		t.Helper()
		want := 0
		for _, g := range groups {
			want += byGroup[g]
		}
		list, owned, err := s.OwnList(t.Context(), event.Listing{Merchant: "m1", Limit: 100})
		if err != nil || !slices.Equal(owned, groups) || len(list) != want {
			t.Errorf("%d listed of groups %v (%v), want %d of %v", len(list), owned, err, want, groups)
		}
		for _, l := range list {
			if g := l.Context.BizCode.Group(16); !slices.Contains(groups, g) {
				t.Errorf("%s of group %d is listed", l.Payment.Y, g)
			}
		}
	}
	check()
	own("", 0, 1, 2, 3, 9)
	check(0, 1, 2, 3, 9)
	own(`DELETE FROM leases WHERE grp = 2`)
	check(0, 1, 3, 9)
}

// A list is read by its index, on either engine: it costs the same whatever the others
// have.
func TestListReadsByIndex(t *testing.T) {
	for name, s := range map[string]storetest.Store{"SQLite": open(t), "PostgreSQL": openPostgres(t)} {
		plan := ""
		explain := map[string]string{"SQLite": "EXPLAIN QUERY PLAN ", "PostgreSQL": "EXPLAIN "}[name]
		err := s.(store).DB().Read(t.Context(), func(tx *sqldb.Tx) error {
			text := strings.NewReplacer("merchant = ?", "merchant = 'm'", "traffic = ?", "traffic = 'real'", "(?, ?)", "(9, 'x')", "?", "5").Replace(sqlstore.ListSQL(""))
			return tx.Query(explain+text, nil, func(scan sqldb.Scan) error {
				var line string
				var n int64
				var err error
				if name == "SQLite" {
					err = scan(&n, &n, &n, &line)
				} else {
					err = scan(&line)
				}
				plan += line + "\n"
				return err
			})
		})
		if err != nil || !strings.Contains(plan, "payment_orders_of_merchant") || strings.Contains(plan, "Sort") || strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%s: %v\n%s", name, err, plan)
		}
	}
}
