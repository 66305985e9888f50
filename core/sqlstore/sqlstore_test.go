package sqlstore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/sqlstore"
	"github.com/tallystick/tallystick/core/storetest"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/engines/pgtest"
	"github.com/tallystick/tallystick/internal/sqldb"
)

type store struct{ *sqlstore.Store }

func (s store) Source(t bus.Topic) bus.Source { return s.Log().Source(t) }

var server pgtest.Server

func TestMain(m *testing.M) { server.Main(m) }

func open(t *testing.T) storetest.Store {
	t.Helper()
	return openWith(t, sqldb.Options{Path: filepath.Join(t.TempDir(), "core.db"), NoSync: true})
}

func openPostgres(t *testing.T) storetest.Store {
	t.Helper()
	o := sqldb.Options{Postgres: server.Schema(t), NoSync: true}
	if err := sqlstore.Migrate(t.Context(), o, ""); err != nil {
		t.Fatal(err)
	}
	return openWith(t, o)
}

func openWith(t *testing.T, o sqldb.Options) storetest.Store {
	t.Helper()
	s, err := sqlstore.Open(t.Context(), o, 16, func() time.Time { return time.Unix(1_760_000_000, 0) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return store{s}
}

func TestSQLite(t *testing.T) { storetest.Run(t, open) }

func TestPostgreSQL(t *testing.T) { storetest.Run(t, openPostgres) }

// broken is a store with one fault.
type broken struct {
	storetest.Store
	apply func(s storetest.Store, ctx context.Context, b *bus.Batch, w core.Want, f func(*core.Work) error) error
}

func (b broken) Apply(ctx context.Context, batch *bus.Batch, w core.Want, f func(*core.Work) error) error {
	return b.apply(b.Store, ctx, batch, w, f)
}

// failing records that a case failed, and stops it as testing does.
type failing struct {
	ctx    context.Context //nolint:containedctx // a test's
	failed bool
}

func (f *failing) Helper()                  {}
func (f *failing) Context() context.Context { return f.ctx }
func (f *failing) Fatalf(string, ...any)    { f.failed = true; runtime.Goexit() }

// The suite itself is proven on stores that break one promise each.
func TestTheSuiteCatchesBrokenStores(t *testing.T) {
	for _, tc := range []struct {
		name  string
		apply func(s storetest.Store, ctx context.Context, b *bus.Batch, w core.Want, f func(*core.Work) error) error
	}{
		{"places stored outside the transaction", func(s storetest.Store, ctx context.Context, b *bus.Batch, w core.Want, f func(*core.Work) error) error {
			if err := s.Apply(ctx, &bus.Batch{Topic: b.Topic}, w, f); err != nil {
				return err
			}
			return s.Apply(ctx, b, core.Want{}, func(*core.Work) error { return nil })
		}},
		{"places not stored", func(s storetest.Store, ctx context.Context, b *bus.Batch, w core.Want, f func(*core.Work) error) error {
			return s.Apply(ctx, &bus.Batch{Topic: b.Topic}, w, f)
		}},
		{"versions not checked", func(s storetest.Store, ctx context.Context, b *bus.Batch, w core.Want, f func(*core.Work) error) error {
			return s.Apply(ctx, b, w, func(work *core.Work) error {
				stored := map[*core.Payment]int64{}
				for _, tr := range work.Trades() {
					for _, p := range tr.Payments {
						stored[p] = p.Stored
					}
				}
				err := f(work)
				for p, v := range stored {
					p.Stored = v
				}
				return err
			})
		}},
		{"events forgotten", func(s storetest.Store, ctx context.Context, b *bus.Batch, w core.Want, f func(*core.Work) error) error {
			return s.Apply(ctx, b, w, func(work *core.Work) error { err := f(work); work.Payments = nil; return err })
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			caught := 0
			for _, c := range storetest.Cases() {
				f := &failing{ctx: t.Context()}
				s := broken{open(t), tc.apply}
				done := make(chan struct{})
				go func() { defer close(done); c.Run(f, s) }()
				<-done
				if f.failed {
					caught++
				}
			}
			if caught == 0 {
				t.Error("no case failed")
			}
		})
	}
}

// A batch costs statements by the chunk, not by the row.
func TestStatementsPerBatch(t *testing.T) {
	s := open(t).(store)
	const orders = 256
	before := s.DB().Statements()
	err := s.Apply(t.Context(), &bus.Batch{}, core.Want{}, func(w *core.Work) error {
		for i := range orders {
			w.Add(storetest.Trade(fmt.Sprint("o", i)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := s.DB().Statements() - before; n > 30 {
		t.Errorf("%d statements for %d new trades", n, orders)
	}
}

// Verify finds whatever is done to the tables behind core's back.
func TestVerifyFindsTampering(t *testing.T) {
	for _, statement := range []string{
		`DELETE FROM attempts; DELETE FROM payment_orders WHERE id = 1`,
		`UPDATE payment_orders SET version = version - 1 WHERE id = 1`,
		`UPDATE payment_orders SET version = version + 1 WHERE id = 1`,
		`UPDATE payment_orders SET status = 'succeeded' WHERE id = 1`,
		`UPDATE payment_orders SET amount_minor = amount_minor + 1 WHERE id = 1`,
		`UPDATE payment_orders SET fee_minor = fee_minor + 1 WHERE id = 1`,
		`UPDATE attempts SET status = 'succeeded', paid_minor = 1 WHERE payment_id = 1`,
		`DELETE FROM log_payments WHERE id = (SELECT min(id) FROM log_payments)`,
	} {
		t.Run(statement, func(t *testing.T) {
			s := open(t).(store)
			storetest.Put(t, s, storetest.Trade("o1"), storetest.Trade("o2"))
			if r, err := s.Verify(t.Context()); err != nil || r.Violated != 0 {
				t.Fatalf("before: %+v %v", r, err)
			}
			err := s.DB().Write(t.Context(), func(tx *sqldb.Tx) error {
				for _, one := range strings.Split(statement, ";") {
					if _, err := tx.Exec(one); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if r, err := s.Verify(t.Context()); err != nil || r.Violated == 0 {
				t.Errorf("not found: %+v %v", r, err)
			}
		})
	}
}
