package sqlstore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/sqlstore"
	"github.com/tallystick/tallystick/accounting/storetest"
	"github.com/tallystick/tallystick/internal/engines/pgtest"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

func open(t testing.TB, path string, points fault.Points) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.Open(t.Context(), sqlstore.Options{Path: path, Groups: storetest.Groups, NoSync: true, Points: points})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func fresh(t *testing.T) storetest.Open {
	path := filepath.Join(t.TempDir(), "accounting.db")
	return func() (storetest.Ledger, error) { return open(t, path, nil), nil }
}

func TestSQLite(t *testing.T) { storetest.Run(t, fresh) }

var server pgtest.Server

func TestMain(m *testing.M) { server.Main(m) }

func freshPostgres(t *testing.T) storetest.Open {
	o := sqlstore.Options{Postgres: server.Schema(t), Groups: storetest.Groups, NoSync: true}
	if err := sqlstore.Migrate(t.Context(), o, ""); err != nil {
		t.Fatal(err)
	}
	return func() (storetest.Ledger, error) {
		s, err := sqlstore.Open(t.Context(), o)
		if err == nil {
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		return s, err
	}
}

// A trial balance reads two tables whole. With the plans that find a few rows PostgreSQL
// would hold each row of one against each of the other, and not end in time.
func TestTrialBalanceReadsWholeTables(t *testing.T) {
	ledger, err := freshPostgres(t)()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.TrialBalance(t.Context()); err != nil {
		t.Fatal(err)
	}
	plan := ""
	line := func(scan sqldb.Scan) error {
		var text string
		err := scan(&text)
		plan += text + "\n"
		return err
	}
	for range 100 { // the connection that read it is one of a few, which take turns
		err := ledger.(*sqlstore.Store).DB().Read(t.Context(), func(tx *sqldb.Tx) error {
			var name string
			err := tx.Query(`SELECT name FROM pg_prepared_statements WHERE statement LIKE ?`, []any{"%FROM balances b JOIN%"}, func(scan sqldb.Scan) error { return scan(&name) })
			if err != nil || name == "" {
				return err
			}
			return tx.Query(`EXPLAIN EXECUTE `+name, nil, line)
		})
		if err != nil {
			t.Fatal(err)
		}
		if plan != "" {
			break
		}
	}
	if !strings.Contains(plan, "Hash Join") || strings.Contains(plan, "Nested Loop") {
		t.Errorf("the plan is\n%s", plan)
	}
}

func TestPostgreSQL(t *testing.T) { storetest.Run(t, freshPostgres) }

// broken is a store with one thing wrong.
type broken struct {
	storetest.Ledger
	post    post
	balance func(accounting.Balance) accounting.Balance
}

func (s broken) Post(ctx context.Context, b *accounting.Batch) ([]accounting.Result, error) {
	if s.post == nil {
		return s.Ledger.Post(ctx, b)
	}
	return s.post(ctx, s.Ledger, b)
}

func (s broken) Balance(ctx context.Context, k accounting.Key) (accounting.Balance, error) {
	b, err := s.Ledger.Balance(ctx, k)
	if s.balance != nil && err == nil {
		b = s.balance(b)
	}
	return b, err
}

type post = func(ctx context.Context, next accounting.Store, b *accounting.Batch) ([]accounting.Result, error)

// edited posts a copy of the batch.
func edited(edit func(b *accounting.Batch)) post {
	return func(ctx context.Context, next accounting.Store, b *accounting.Batch) ([]accounting.Result, error) {
		c, source := *b, *b.Source
		c.Source, c.Entries = &source, slices.Clone(b.Entries)
		edit(&c)
		return next.Post(ctx, &c)
	}
}

func unguarded(b *accounting.Batch) {
	for i := range b.Entries {
		e := &b.Entries[i]
		e.Lines = slices.Clone(e.Lines)
		for j := range e.Lines {
			e.Lines[j].Account.Kind = accounting.Spread
		}
	}
}

func failsWhole(ctx context.Context, next accounting.Store, b *accounting.Batch) ([]accounting.Result, error) {
	results, err := next.Post(ctx, b)
	for _, r := range results {
		if r.Reason != "" {
			return nil, fault.New(fault.Conflict, "broken", "rejected")
		}
	}
	return results, err
}

func losesLast(ctx context.Context, next accounting.Store, b *accounting.Batch) ([]accounting.Result, error) {
	n := len(b.Entries)
	if n < 2 {
		return next.Post(ctx, b)
	}
	c := *b
	c.Entries = b.Entries[:n-1]
	results, err := next.Post(ctx, &c)
	return append(results, accounting.Result{EntryID: b.Entries[n-1].ID}), err
}

// TestSuiteFindsBrokenStores proves the suite: each planted bug fails a case.
func TestSuiteFindsBrokenStores(t *testing.T) {
	calls := 0
	for name, bug := range map[string]broken{
		"the place is not moved": {post: edited(func(b *accounting.Batch) { b.Source.Moves = nil })},
		"a repeated event is booked again": {post: edited(func(b *accounting.Batch) {
			for i := range b.Entries {
				calls++
				b.Entries[i].EventID += fmt.Sprint(" ", calls)
			}
		})},
		"guards are not checked":            {post: edited(unguarded)},
		"one rejection fails the batch":     {post: failsWhole},
		"the last entry of a batch is lost": {post: losesLast},
		"unbalanced entries are left out": {post: edited(func(b *accounting.Batch) {
			b.Entries = slices.DeleteFunc(b.Entries, func(e accounting.Entry) bool { return accounting.CheckLines(e.Lines) != nil })
		})},
		"credits are shown as negative": {balance: func(b accounting.Balance) accounting.Balance {
			b.Amount.Minor = b.Side.Normal(b.Amount.Minor)
			return b
		}},
	} {
		t.Run(name, func(t *testing.T) {
			failing := storetest.Failing(t, func(t *testing.T) storetest.Open {
				next := fresh(t)
				return func() (storetest.Ledger, error) {
					l, err := next()
					b := bug
					b.Ledger = l
					return b, err
				}
			})
			if len(failing) == 0 {
				t.Error("the suite passes a store where " + name)
			}
			t.Logf("found by %q", failing)
		})
	}
}
