package sqlstore_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/sqlstore"
	"github.com/tallystick/tallystick/accounting/storetest"
	"github.com/tallystick/tallystick/internal/fault"
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

func TestStore(t *testing.T) { storetest.Run(t, fresh) }

// broken is a store with one thing wrong.
type broken struct {
	storetest.Ledger
	post    func(ctx context.Context, next accounting.Store, b *accounting.Batch) ([]accounting.Result, error)
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

// TestSuiteFindsBrokenStores proves the suite: each planted bug fails a case.
func TestSuiteFindsBrokenStores(t *testing.T) {
	type ctxT = context.Context
	calls := 0
	bugs := map[string]broken{
		"the place is not moved": {post: func(ctx ctxT, next accounting.Store, b *accounting.Batch) ([]accounting.Result, error) {
			c, source := *b, *b.Source
			source.Moves = nil
			c.Source = &source
			return next.Post(ctx, &c)
		}},
		"a repeated event is booked again": {post: func(ctx ctxT, next accounting.Store, b *accounting.Batch) ([]accounting.Result, error) {
			c := *b
			c.Entries = append([]accounting.Entry(nil), b.Entries...)
			for i := range c.Entries {
				calls++
				c.Entries[i].EventID += string(rune('a'+calls%26)) + string(rune('a'+calls/26%26)) + string(rune('a'+calls/676%26))
			}
			return next.Post(ctx, &c)
		}},
		"guards are not checked": {post: func(ctx ctxT, next accounting.Store, b *accounting.Batch) ([]accounting.Result, error) {
			c := *b
			c.Entries = append([]accounting.Entry(nil), b.Entries...)
			for i := range c.Entries {
				lines := append([]accounting.Line(nil), c.Entries[i].Lines...)
				for j := range lines {
					lines[j].Account.Kind = accounting.Spread
				}
				c.Entries[i].Lines = lines
			}
			return next.Post(ctx, &c)
		}},
		"one rejection fails the batch": {post: func(ctx ctxT, next accounting.Store, b *accounting.Batch) ([]accounting.Result, error) {
			r, err := next.Post(ctx, b)
			for i := range r {
				if r[i].Reason != "" {
					return nil, fault.New(fault.Conflict, "broken", "rejected")
				}
			}
			return r, err
		}},
		"the last entry of a batch is lost": {post: func(ctx ctxT, next accounting.Store, b *accounting.Batch) ([]accounting.Result, error) {
			c := *b
			if n := len(b.Entries); n > 1 {
				c.Entries = b.Entries[:n-1]
				r, err := next.Post(ctx, &c)
				return append(r, accounting.Result{EntryID: b.Entries[n-1].ID}), err
			}
			return next.Post(ctx, b)
		}},
		"unbalanced entries are made to fit": {post: func(ctx ctxT, next accounting.Store, b *accounting.Batch) ([]accounting.Result, error) {
			c := *b
			c.Entries = nil
			for _, e := range b.Entries {
				if accounting.CheckLines(e.Lines) == nil {
					c.Entries = append(c.Entries, e)
				}
			}
			return next.Post(ctx, &c)
		}},
		"credits are shown as negative": {balance: func(b accounting.Balance) accounting.Balance {
			b.Amount.Minor = b.Side.Normal(b.Amount.Minor)
			return b
		}},
	}
	for name, bug := range bugs {
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
