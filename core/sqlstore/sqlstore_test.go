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
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/engines/pgtest"
	"github.com/tallystick/tallystick/internal/sqldb"
)

type store struct {
	*sqlstore.Store
	options sqldb.Options
}

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
	return store{s, o}
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

// In PostgreSQL a batch costs round trips by the table, whatever its number of rows.
func TestRoundTripsPerBatch(t *testing.T) {
	s := openPostgres(t).(store)
	for _, orders := range []int{1, 17, 255} {
		var trades []*core.Trade
		trips := func(what string, most int64, f func(w *core.Work) error, want core.Want) {
			t.Helper()
			before, statements := s.DB().RoundTrips(), s.DB().Statements()
			if err := s.Apply(t.Context(), &bus.Batch{}, want, f); err != nil {
				t.Fatal(err)
			}
			n := s.DB().RoundTrips() - before
			t.Logf("%s %d orders: %d round trips, %d statements", what, orders, n, s.DB().Statements()-statements)
			if n > most {
				t.Errorf("%s %d orders took %d round trips, want at most %d", what, orders, n, most)
			}
		}
		trips("new", 6, func(w *core.Work) error {
			for i := range orders {
				trades = append(trades, storetest.Trade(fmt.Sprint(orders, "o", i)))
				add(w, trades[i])
			}
			return nil
		}, core.Want{})
		var want core.Want
		for _, tr := range trades {
			want.Trades = append(want.Trades, tr.Context.BizCode)
		}
		change := func(w *core.Work) error {
			for _, tr := range w.Trades() {
				tr.Version++
				tr.Payments[0].Version++
				tr.Payments[0].Attempts[0].Version++
				tell(w, tr)
			}
			return nil
		}
		trips("held", 7, change, want)
		other, err := sqlstore.Open(t.Context(), s.options, 16, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		old := s.Store
		s.Store = other
		trips("read", 11, change, want)
		s.Store = old
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// add opens a trade as an intent does, with a dispatch and a change to tell of.
func add(w *core.Work, t *core.Trade) {
	w.Add(t)
	tell(w, t)
}

func tell(w *core.Work, t *core.Trade) {
	e := bus.Event{ID: "evt_" + string(t.Context.BizCode), Type: "test.happened", Version: bus.EnvelopeVersion, Context: t.Context, Payload: make([]byte, 400)}
	w.Dispatches, w.Payments = append(w.Dispatches, e), append(w.Payments, e)
}

// BenchmarkApply is one writer that opens trades, as intents do: a batch of 1, of 64,
// and of 512.
func BenchmarkApply(b *testing.B) {
	for _, engine := range []struct {
		name string
		open func(b *testing.B) sqldb.Options
	}{
		{"SQLite", func(b *testing.B) sqldb.Options { return sqldb.Options{Path: filepath.Join(b.TempDir(), "core.db")} }},
		{"PostgreSQL", func(b *testing.B) sqldb.Options {
			e, err := engines.StartPostgres(b.Context(), true)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = e.Close() })
			o := sqldb.Options{Postgres: &sqldb.Postgres{URL: e.URL("postgres"), Number: 1}}
			if err := sqlstore.Migrate(b.Context(), o, ""); err != nil {
				b.Fatal(err)
			}
			return o
		}},
	} {
		for _, orders := range []int{1, 64, 512} {
			b.Run(fmt.Sprint(engine.name, "/", orders), func(b *testing.B) {
				s, err := sqlstore.Open(b.Context(), engine.open(b), 16, time.Now)
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close() //nolint:errcheck // a benchmark
				trips, n := s.DB().RoundTrips(), 0
				for b.Loop() {
					err := s.Apply(b.Context(), &bus.Batch{}, core.Want{}, func(w *core.Work) error {
						for range orders {
							n++
							add(w, storetest.Trade(fmt.Sprint("o", n)))
						}
						return nil
					})
					if err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
				b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "orders/s")
				b.ReportMetric(float64(s.DB().RoundTrips()-trips)/float64(b.N), "trips/tx")
			})
		}
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
