package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/bustest/sqlreader"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// trimmed is a log, and a reader of it that is on SQLite in any case.
type trimmed struct {
	testing.TB
	db  *sqldb.DB
	log *embedded.Log
	sqlreader.Reader
	emitted []bus.Event
}

const trimGroups = 2

func openTrimmed(tb testing.TB, pg *sqldb.Postgres) *trimmed {
	tb.Helper()
	dir, err := os.MkdirTemp("", "trim")
	if err != nil {
		tb.Fatal(err)
	}
	o := sqldb.Options{Area: "writer", NoSync: true, Migrations: []string{embedded.Schema(tailTopic)}}
	if pg == nil {
		o.Path = filepath.Join(dir, "writer.db")
	} else {
		o.Postgres = pg
		if err := sqldb.Migrate(tb.Context(), o, ""); err != nil {
			tb.Fatal(err)
		}
	}
	db, err := sqldb.Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	l := &trimmed{TB: tb, db: db, Reader: sqlreader.Open(tb, dir, nil)}
	l.renew()
	tb.Cleanup(func() { _ = errors.Join(db.Close(), l.DB.Close(), os.RemoveAll(dir)) })
	return l
}

// onBoth runs a test on both engines.
func onBoth(t *testing.T, test func(t *testing.T, open func(testing.TB) *trimmed)) {
	t.Run("sqlite", func(t *testing.T) { test(t, func(tb testing.TB) *trimmed { return openTrimmed(tb, nil) }) })
	t.Run("postgres", func(t *testing.T) {
		test(t, func(tb testing.TB) *trimmed { return openTrimmed(tb, server.Schema(tb)) })
	})
}

// empty makes a new log and a new reader of what is there.
func (l *trimmed) empty() {
	l.Helper()
	for db, tables := range map[*sqldb.DB][]string{l.db: {"log_payments", "heads", "marks", "trimmed", "trimmed_sums"}, l.DB: {"effects", "places", "parked"}} {
		err := db.Write(l.Context(), func(tx *sqldb.Tx) error {
			for _, table := range tables {
				if _, err := tx.Exec(`DELETE FROM ` + table); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			l.Fatal(err)
		}
	}
	l.renew()
	l.emitted = nil
}

// renew is a restart: nothing of the log is in memory.
func (l *trimmed) renew() {
	l.log = embedded.NewLog(l.db, trimGroups, tailTopic)
	l.log.Summarise(tailTopic, func(*bus.Message) ([]embedded.Sum, error) {
		return []embedded.Sum{{What: "messages", N: 1}, {What: "money", Merchant: "m", Account: "a", Currency: "CNY", N: 7}}, nil
	})
}

func (l *trimmed) emit(n int, atMillis int64) {
	l.Helper()
	events := bustest.Events(fmt.Sprint("e", len(l.emitted), "-"), n, 9)
	for i := range events {
		events[i].AtMillis = atMillis
	}
	err := l.db.Write(l.Context(), func(tx *sqldb.Tx) error { return l.log.Emit(tx, tailTopic, slices.Clone(events)) })
	if err != nil {
		l.Fatal(err)
	}
	l.emitted = append(l.emitted, events...)
}

// consumer is a fresh one, as of a process that has just started.
func (l *trimmed) consumer(max int) *bus.Consumer {
	return &bus.Consumer{Area: "test", Source: l.log.Source(tailTopic), Places: embedded.Places{DB: l.DB}, Apply: l.Apply, MessagesMax: max,
		Log: slog.New(slog.DiscardHandler)}
}

func (l *trimmed) committed() map[int]bus.Place {
	l.Helper()
	upTo, err := embedded.Places{DB: l.DB}.Committed(l.Context(), tailTopic)
	if err != nil {
		l.Fatal(err)
	}
	return upTo
}

// trim trims to the end, so many rows at a time.
func (l *trimmed) trim(upTo map[int]bus.Place, beforeMillis int64, rows int) (deleted int64) {
	l.Helper()
	trimmer := l.log.Trimmer(tailTopic, nil)
	for range 10_000 {
		n, more, err := trimmer.Step(l.Context(), embedded.Trim{UpTo: upTo, BeforeMillis: beforeMillis, RowsMax: rows})
		if err != nil {
			l.Fatal(err)
		}
		if deleted += n; !more {
			return deleted
		}
	}
	l.Fatal("it does not come to an end")
	return 0
}

// checkpoint is a group's, and how many messages of it are there.
func (l *trimmed) checkpoint(group int) (c embedded.Checkpoint, there int64) {
	l.Helper()
	err := l.db.Snapshot(l.Context(), func(tx *sqldb.Tx) (err error) {
		if c, err = embedded.CheckpointIn(tx, tailTopic, group); err != nil {
			return err
		}
		src, err := l.log.In(tx, tailTopic)
		if err != nil {
			return err
		}
		if bus.BeginOf(src, group) != c.Place {
			l.Errorf("group %d begins at %v, the checkpoint says %v", group, bus.BeginOf(src, group), c.Place)
		}
		hole, err := bus.Fold(l.Context(), src, group, src.Head(group), func(*bus.Message) error { there++; return nil })
		if hole != "" {
			l.Errorf("a log that was trimmed is taken for one with a hole: %s", hole)
		}
		return err
	})
	if err != nil {
		l.Fatal(err)
	}
	return c, there
}

func TestTrim(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(testing.TB) *trimmed) {
		t.Run("what was committed and is old goes, and is summed up", func(t *testing.T) {
			l := open(t)
			for i := range 20 {
				l.emit(9, int64(100+i))
			}
			if n := l.trim(l.committed(), embedded.Everything, 7); n != 0 {
				t.Fatalf("%d rows were deleted that nobody has read", n)
			}
			drainAll(t, l.consumer(10))
			if n := l.trim(l.committed(), 110, 7); n != 10*trimGroups {
				t.Errorf("%d rows of 10 emissions to %d groups were deleted", n, trimGroups)
			}
			if n := l.trim(l.committed(), embedded.Everything, 7); n != 9*trimGroups {
				t.Errorf("then %d: the last row of each group stays", n)
			}
			for g := range trimGroups {
				c, there := l.checkpoint(g)
				if c.Place.Seq+there != l.log.Source(tailTopic).Head(g).Seq || c.AtMillis != 118 || c.Sum("messages") != c.Place.Seq || c.Sum("money") != 7*c.Place.Seq {
					t.Errorf("group %d: %+v, %d are there", g, c, there)
				}
			}
			if err := l.consumer(10).Open(t.Context()); err != nil {
				t.Errorf("a reader that was here first: %v", err)
			}
		})
		t.Run("a group of which nothing may go holds up no other", func(t *testing.T) {
			l := open(t)
			for range 20 {
				l.emit(9, 1)
			}
			drainAll(t, l.consumer(10))
			upTo := l.committed()
			delete(upTo, 1)
			if n := l.trim(upTo, embedded.Everything, 2); n != 19*(trimGroups-1) {
				t.Errorf("%d rows deleted", n)
			}
			if c, _ := l.checkpoint(1); c.Place.Seq != 0 {
				t.Errorf("group 1 was trimmed up to %d", c.Place.Seq)
			}
			if n := l.trim(l.committed(), embedded.Everything, 2); n != 19 {
				t.Errorf("%d rows of group 1 deleted when they may go", n)
			}
		})
		t.Run("what is parked stays", func(t *testing.T) {
			l := open(t)
			l.emit(90, 1)
			c := l.consumer(100)
			poisoned := l.emitted[30].ID
			c.Apply = func(ctx context.Context, b *bus.Batch) error {
				if i := slices.IndexFunc(b.Messages, func(m bus.Message) bool { return m.ID == poisoned }); i >= 0 && len(b.Parked) == 0 {
					return &bus.PoisonError{Index: i, Err: errors.New("no")}
				}
				return l.Apply(ctx, b)
			}
			drainAll(t, c)
			group := l.emitted[30].Context.BizCode.Group(trimGroups)
			parked, err := l.Parked(t.Context())
			if err != nil || len(parked) == 0 || l.committed()[group].Seq != parked[0].Place.Seq-1 {
				t.Errorf("parked %d (%v), committed %v", len(parked), err, l.committed())
			}
		})
		t.Run("a reader that is behind the beginning is refused", func(t *testing.T) {
			l := open(t)
			l.emit(30, 1)
			drainAll(t, l.consumer(10))
			l.emit(30, 1)
			old := l.committed()
			drainAll(t, l.consumer(10))
			l.emit(30, 1)
			l.trim(l.committed(), embedded.Everything, 100)
			for g, p := range old { // as if restored from a backup
				if err := l.DB.Write(t.Context(), func(tx *sqldb.Tx) error {
					_, err := tx.Exec(`UPDATE places SET seq = ? WHERE grp = ?`, p.Seq, g)
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.consumer(10).Open(t.Context()); !fault.Is(err, fault.Conflict) {
				t.Errorf("it would skip what is gone: %v", err)
			}
			fresh := l.consumer(10)
			fresh.Places = embedded.Places{DB: l.db} // one that has read nothing yet
			if err := fresh.Open(t.Context()); !fault.Is(err, fault.Conflict) {
				t.Errorf("a new reader would skip what is gone: %v", err)
			}
		})
		t.Run("a hole is found behind what is gone, and nothing is trimmed over it", func(t *testing.T) {
			l := open(t)
			for range 10 {
				l.emit(9, 1)
			}
			drainAll(t, l.consumer(10))
			l.trim(l.committed(), embedded.Everything, 100)
			for range 10 {
				l.emit(9, 2)
			}
			drainAll(t, l.consumer(10))
			err := l.db.Write(t.Context(), func(tx *sqldb.Tx) error {
				_, err := tx.Exec(`DELETE FROM log_payments WHERE id = (SELECT id FROM log_payments WHERE grp = 0 AND at_millis = 2 ORDER BY id LIMIT 1)`)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := l.log.Trimmer(tailTopic, nil).Step(t.Context(), embedded.Trim{UpTo: l.committed(), BeforeMillis: embedded.Everything, RowsMax: 100}); !fault.Is(err, fault.Internal) {
				t.Errorf("trimmed over a hole: %v", err)
			}
			err = l.log.Snapshot(t.Context(), tailTopic, func(src bus.Source) error {
				hole, err := bus.Fold(t.Context(), src, 0, src.Head(0), func(*bus.Message) error { return nil })
				if hole == "" {
					t.Error("the hole is not found")
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
		t.Run("two who trim fence each other", func(t *testing.T) {
			l := open(t)
			for range 10 {
				l.emit(9, 1)
			}
			drainAll(t, l.consumer(10))
			other := embedded.NewLog(l.db, trimGroups, tailTopic)
			var fenced error
			l.log.Summarise(tailTopic, func(*bus.Message) ([]embedded.Sum, error) { // between looking and deleting
				if fenced == nil {
					fenced = errors.New("once")
					if _, _, err := other.Trimmer(tailTopic, nil).Step(t.Context(), embedded.Trim{UpTo: l.committed(), BeforeMillis: embedded.Everything, RowsMax: 100}); err != nil {
						t.Fatal(err)
					}
				}
				return nil, nil
			})
			_, _, err := l.log.Trimmer(tailTopic, nil).Step(t.Context(), embedded.Trim{UpTo: l.committed(), BeforeMillis: embedded.Everything, RowsMax: 100})
			if !fault.Is(err, fault.Fenced) {
				t.Errorf("both deleted: %v", err)
			}
		})
		t.Run("size", func(t *testing.T) {
			l := open(t)
			for i := range 50 {
				l.emit(9, int64(100+i))
			}
			s, err := l.log.Size(t.Context(), tailTopic, nil, nil)
			if err != nil || s.Messages != 450 || s.OldestMillis != 100 || s.WaitingMillis != 100 || s.Bytes < 450*100 || s.Bytes > 450*300 {
				t.Errorf("%+v, %v", s, err)
			}
			drainAll(t, l.consumer(10))
			l.trim(l.committed(), 140, 100)
			if s, err := l.log.Size(t.Context(), tailTopic, nil, l.committed()); err != nil || s.Messages != 90 || s.OldestMillis != 140 || s.WaitingMillis != 0 || s.Bytes > 90*300 {
				t.Errorf("trimmed: %+v, %v", s, err)
			}
		})
	})
}

func drainAll(tb testing.TB, c *bus.Consumer) {
	tb.Helper()
	for {
		worked, err := c.Step(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		if !worked {
			return
		}
	}
}

// Whatever is emitted, read and trimmed, in whatever order, with whatever restarts:
// each message has its effect once, and sums and rows come to all of them. A trimmer
// that does not ask the reader is found by the same.
func TestTrimLosesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(testing.TB) *trimmed) {
		l := open(t)
		rapid.Check(t, func(rt *rapid.T) {
			l.empty()
			if lost := playTrim(t, rt, l, (*trimmed).committed); lost != "" {
				rt.Fatal(lost)
			}
		})
	})
	t.Run("a trimmer that ignores the reader is found", func(t *testing.T) {
		found, l := "", openTrimmed(t, nil)
		rapid.Check(t, func(rt *rapid.T) {
			l.empty()
			lost := playTrim(t, rt, l, func(l *trimmed) map[int]bus.Place {
				src, upTo := l.log.Source(tailTopic), map[int]bus.Place{}
				for g := range trimGroups {
					upTo[g] = src.Head(g)
				}
				return upTo
			})
			found = max(found, lost)
		})
		if found == "" {
			t.Error("it is not")
		}
	})
}

// playTrim draws what happens, and says what was lost.
func playTrim(t *testing.T, rt *rapid.T, l *trimmed, upTo func(*trimmed) map[int]bus.Place) (lost string) {
	consumer, trimmer := l.consumer(5), l.log.Trimmer(tailTopic, nil)
	step := func() bool {
		worked, err := consumer.Step(t.Context())
		if err != nil {
			lost = err.Error()
		}
		if s := consumer.Stopped(); len(s) > 0 {
			lost = fmt.Sprintf("groups %v stopped", s)
		}
		return worked && lost == ""
	}
	for range rapid.IntRange(5, 40).Draw(rt, "steps") {
		switch rapid.IntRange(0, 6).Draw(rt, "what") {
		case 0, 1:
			l.emit(rapid.SampledFrom([]int{1, 3, 20}).Draw(rt, "events"), int64(rapid.IntRange(1, 50).Draw(rt, "at")))
		case 2, 3:
			if step(); lost != "" {
				return lost
			}
		case 4, 5:
			_, _, err := trimmer.Step(t.Context(), embedded.Trim{UpTo: upTo(l), BeforeMillis: rapid.SampledFrom([]int64{10, 30, embedded.Everything}).Draw(rt, "before"),
				RowsMax: rapid.IntRange(1, 10).Draw(rt, "rows")})
			if err != nil {
				t.Fatal(err)
			}
		default: // a restart: nothing is in memory
			l.renew()
			consumer, trimmer = l.consumer(5), l.log.Trimmer(tailTopic, nil)
		}
	}
	for step() { //nolint:revive // to the end
	}
	if lost != "" {
		return lost
	}
	var want, have []string
	for _, e := range l.emitted {
		want = append(want, e.ID)
	}
	effects, err := l.Effects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range effects {
		have = append(have, m.ID)
	}
	slices.Sort(want)
	slices.Sort(have)
	if !reflect.DeepEqual(have, want) {
		return fmt.Sprintf("%d effects of %d messages", len(have), len(want))
	}
	total := int64(0)
	for g := range trimGroups {
		c, there := l.checkpoint(g)
		if c.Sum("messages") != c.Place.Seq {
			return fmt.Sprintf("group %d is gone up to %d, and %d messages are summed up", g, c.Place.Seq, c.Sum("messages"))
		}
		total += c.Place.Seq + there
	}
	if total != int64(len(l.emitted)) {
		return fmt.Sprintf("%d messages are there or gone, of %d", total, len(l.emitted))
	}
	return ""
}

// An intake that was trimmed refuses a reader that has not come so far: its store is
// older than what is kept.
func TestAnOlderReaderOfATrimmedIntake(t *testing.T) {
	in := newIntake(t, intakeOptions{})
	for _, e := range bustest.Events("a", 6, 1) {
		in.append(e)
		if err := in.step(); err != nil {
			t.Fatal(err)
		}
	}
	for _, reader := range []string{"core", "recon"} {
		in.Passed(reader, bus.Intents, 4)
	}
	if worked, err := in.Trim(t.Context()); !worked || err != nil {
		t.Fatal(worked, err)
	}
	for place, ok := range map[int64]bool{0: false, 3: false, 4: true, 6: true} {
		r := sqlreader.Open(t, t.TempDir(), nil)
		defer r.DB.Close() //nolint:errcheck // a test
		err := r.DB.Write(t.Context(), func(tx *sqldb.Tx) error {
			_, err := tx.Exec(`INSERT INTO places (topic, grp, epoch, seq) VALUES ('intents', 0, 1, ?)`, place)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		c := &bus.Consumer{Area: "test", Source: in.Source(bus.Intents), Places: embedded.Places{DB: r.DB}, Apply: r.Apply, MessagesMax: 10,
			Log: slog.New(slog.DiscardHandler)}
		if err := c.Open(t.Context()); ok && err != nil || !ok && !fault.Is(err, fault.Conflict) {
			t.Errorf("a reader that has read %d of 6 batches, of which 4 are gone: %v", place, err)
		}
	}
}
