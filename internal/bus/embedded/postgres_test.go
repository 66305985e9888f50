package embedded_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/bustest/sqlreader"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/engines/pgtest"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

var server pgtest.Server

func TestMain(m *testing.M) { server.Main(m) }

func migratedLog(tb testing.TB) *sqldb.Postgres {
	tb.Helper()
	p := server.Schema(tb)
	o := sqldb.Options{Area: "writer", Postgres: p, NoSync: true, Migrations: []string{embedded.Schema(bus.Payments)}}
	if err := sqldb.Migrate(tb.Context(), o, ""); err != nil {
		tb.Fatal(err)
	}
	return p
}

// TestLogOnPostgreSQL: the log and its reader, each in a schema of its own, which
// stands for the folder that the suite reopens.
func TestLogOnPostgreSQL(t *testing.T) {
	writers, readers := map[string]*sqldb.Postgres{}, map[string]*sqldb.Postgres{}
	bustest.Run(t, func(tb testing.TB, dir string, points fault.Points) *bustest.Bus {
		if writers[dir] == nil {
			writers[dir], readers[dir] = migratedLog(tb), server.Schema(tb)
		}
		return openLogWith(tb, sqldb.Options{Postgres: writers[dir], Points: points}, sqlreader.OpenWith(tb, sqldb.Options{Postgres: readers[dir], Points: points}))
	})
}

const writerGroups = 4

// writer is a process of its own.
type writer struct {
	db  *sqldb.DB
	log *embedded.Log
}

func openWriter(t *testing.T, p *sqldb.Postgres) *writer {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Options{Area: "writer", Postgres: p, NoSync: true, Migrations: []string{embedded.Schema(bus.Payments)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return &writer{db, embedded.NewLog(db, writerGroups, bus.Payments)}
}

func (w *writer) emit(ctx context.Context, events []bus.Event) error {
	return w.db.Write(ctx, func(tx *sqldb.Tx) error {
		// What else the transaction writes has taken its ids before it waits for a counter.
		if err := tx.NewIDs("log_payments", 1, func(int, int64) {}); err != nil {
			return err
		}
		return w.log.Emit(tx, bus.Payments, events)
	})
}

// of are a writer's next events in the groups that it writes.
func of(name string, n int, groups ...int) (out []bus.Event) {
	for _, e := range bustest.Events(name, n*writerGroups*4, n*writerGroups*4) {
		for _, g := range groups {
			if e.Context.BizCode.Group(writerGroups) == g && len(out) < n {
				out = append(out, e)
			}
		}
	}
	return out
}

// follower reads all groups from the database, and finds every hole.
type follower struct {
	src  bus.Source
	at   [writerGroups]bus.Place
	seen [writerGroups][]string
}

func (f *follower) step(t *testing.T) (n int) {
	for g := range writerGroups {
		msgs, err := f.src.Read(t.Context(), g, f.at[g], 7)
		if err != nil {
			t.Error(err)
			return 0
		}
		for _, m := range msgs {
			if m.Place.Seq != f.at[g].Seq+1 {
				t.Errorf("group %d: %d comes after %d", g, m.Place.Seq, f.at[g].Seq)
			}
			f.at[g] = m.Place
			f.seen[g] = append(f.seen[g], m.ID)
		}
		n += len(msgs)
	}
	return n
}

// TestTwoProcessesWriteOneTopic: sequence order is commit order in each group, and
// who reads meanwhile sees no hole: with groups of their own, as leases have it, and
// with the same ones, as it may be for the moment in which a lease changes hands.
func TestTwoProcessesWriteOneTopic(t *testing.T) {
	for name, groups := range map[string][2][]int{"groups of their own": {{0, 1}, {2, 3}}, "the same groups": {{0, 1, 2, 3}, {0, 1, 2, 3}}} {
		t.Run(name, func(t *testing.T) {
			p := migratedLog(t)
			const commits = 40
			var wg sync.WaitGroup
			want := [2]map[int][]string{{}, {}}
			for i, mine := range groups {
				w := openWriter(t, p)
				wg.Go(func() {
					for k := range commits {
						events := of(fmt.Sprintf("w%d-%03d", i, k), 1+k%9, mine...)
						if err := w.emit(t.Context(), events); err != nil {
							t.Error(err)
							return
						}
						for _, e := range events {
							g := e.Context.BizCode.Group(writerGroups)
							want[i][g] = append(want[i][g], e.ID)
						}
					}
				})
			}
			done := make(chan struct{})
			go func() { wg.Wait(); close(done) }()
			f := follower{src: openWriter(t, p).log.Stored(bus.Payments)}
			for running := true; running; {
				select {
				case <-done:
					running = false
				default:
				}
				f.step(t)
			}
			for f.step(t) > 0 {
				continue
			}
			for g := range writerGroups {
				have := [2][]string{}
				for _, id := range f.seen[g] {
					i := 0
					if strings.HasPrefix(id, "evt_w1") {
						i = 1
					}
					have[i] = append(have[i], id)
				}
				for i := range have {
					if fmt.Sprint(have[i]) != fmt.Sprint(want[i][g]) {
						t.Errorf("group %d, writer %d: have %v, want %v", g, i, have[i], want[i][g])
					}
				}
			}
		})
	}
}

// TestIDsAreNoOrder: who took ids first and commits last is read last, and its row is
// not trimmed with those before it.
func TestIDsAreNoOrder(t *testing.T) {
	p := migratedLog(t)
	early, late := openWriter(t, p), openWriter(t, p)
	first, second := of("first", 3, 1), of("second", 3, 1)
	err := early.db.Write(t.Context(), func(tx *sqldb.Tx) error {
		if err := tx.NewIDs("log_payments", 1, func(int, int64) {}); err != nil {
			return err
		}
		if err := late.emit(t.Context(), first); err != nil {
			return err
		}
		return early.log.Emit(tx, bus.Payments, second)
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(after int64) (ids []string) {
		t.Helper()
		msgs, err := openWriter(t, p).log.Stored(bus.Payments).Read(t.Context(), 1, bus.Place{Epoch: 1, Seq: after}, 100)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range msgs {
			if m.Place.Seq != after+int64(i)+1 {
				t.Errorf("message %d is at %d", i, m.Place.Seq)
			}
			ids = append(ids, m.ID)
		}
		return ids
	}
	var want []string
	for _, e := range append(first, second...) {
		want = append(want, e.ID)
	}
	for after := range want {
		if have := read(int64(after)); fmt.Sprint(have) != fmt.Sprint(want[after:]) {
			t.Errorf("behind %d: have %v, want %v", after, have, want[after:])
		}
	}
	n, err := early.log.Trim(t.Context(), bus.Payments, map[int]bus.Place{1: {Epoch: 1, Seq: 5}}, 10)
	if err != nil || n != 1 {
		t.Errorf("%d rows trimmed, want 1, %v", n, err)
	}
	if have := read(3); fmt.Sprint(have) != fmt.Sprint(want[3:]) {
		t.Errorf("after trimming: have %v, want %v", have, want[3:])
	}
}

// TestTrimOnPostgreSQL: oldest rows first, as many as may go, and of that group alone.
func TestTrimOnPostgreSQL(t *testing.T) {
	w := openWriter(t, migratedLog(t))
	for k := range 6 {
		for _, g := range []int{0, 2} {
			if err := w.emit(t.Context(), of(fmt.Sprint("g", g, "k", k), 4, g)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct{ upTo, most, deleted, first int64 }{{3, 10, 0, 1}, {4, 10, 1, 5}, {7, 10, 0, 5}, {20, 2, 2, 13}, {20, 10, 2, 21}, {24, 10, 1, 0}} {
		n, err := w.log.Trim(t.Context(), bus.Payments, map[int]bus.Place{2: {Epoch: 1, Seq: c.upTo}}, c.most)
		if err != nil || n != c.deleted {
			t.Fatalf("up to %d: %d rows deleted, want %d (%v)", c.upTo, n, c.deleted, err)
		}
		msgs, err := w.log.Stored(bus.Payments).Read(t.Context(), 2, bus.Place{}, 1)
		if err != nil || c.first == 0 && len(msgs) > 0 || c.first > 0 && (len(msgs) != 1 || msgs[0].Place.Seq != c.first) {
			t.Fatalf("up to %d: the first is %v (%v)", c.upTo, msgs, err)
		}
	}
	if msgs, err := w.log.Stored(bus.Payments).Read(t.Context(), 0, bus.Place{}, 100); err != nil || len(msgs) != 24 {
		t.Errorf("%d messages of another group, %v", len(msgs), err)
	}
}
