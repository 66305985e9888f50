package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/bustest/sqlreader"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// tailed is a log and, on another connection to the same file, one that has
// nothing in memory.
type tailed struct {
	db      *sqldb.DB
	log     *embedded.Log
	groups  int
	written int
}

const tailTopic bus.Topic = "payments"

func openTailed(tb rapid.TB, dir string, groups int) *tailed {
	db, err := sqldb.Open(context.Background(), sqldb.Options{Area: "writer", Path: filepath.Join(dir, "writer.db"), NoSync: true,
		Migrations: []string{embedded.Schema(tailTopic)}})
	if err != nil {
		tb.Fatal(err)
	}
	return &tailed{db: db, log: embedded.NewLog(db, groups, tailTopic), groups: groups}
}

// emit writes n events through a log, with payloads of a size, and commits them
// or not.
func (l *tailed) emit(tb rapid.TB, through *embedded.Log, n, size int, commit bool) {
	events := bustest.Events(fmt.Sprint("batch", l.written, "-"), n, 40)
	l.written++
	for i := range events {
		events[i].Payload = append(fmt.Appendf(nil, `{"n":%d,"fill":"`, i), make([]byte, size)...)
	}
	err := l.db.Write(context.Background(), func(tx *sqldb.Tx) error {
		if err := through.Emit(tx, tailTopic, events); err != nil || commit {
			return err
		}
		return sqlreader.ErrRollback
	})
	if commit && err != nil || !commit && !errors.Is(err, sqlreader.ErrRollback) {
		tb.Fatalf("emit: %v", err)
	}
}

// same compares what memory gives with what the database gives, from a place.
func (l *tailed) same(tb rapid.TB, group int, after bus.Place, limit int) {
	got, err := l.log.Source(tailTopic).Read(context.Background(), group, after, limit)
	if err != nil {
		tb.Fatal(err)
	}
	want, err := l.log.Stored(tailTopic).Read(context.Background(), group, after, limit)
	if err != nil {
		tb.Fatal(err)
	}
	if len(got) < len(want) && len(got) > 0 {
		want = want[:len(got)] // memory may end where another log went on
	}
	if !reflect.DeepEqual(got, want) {
		tb.Fatalf("group %d behind %v, at most %d: memory gives %v, the database %v", group, after, limit, got, want)
	}
}

// What is read from memory is what is in the database, message by message, for
// whatever was committed, rolled back, written by another log on the same file,
// and too large or too much to be kept.
func TestMemoryTellsWhatTheDatabaseTells(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := openTailed(rt, t.TempDir(), rapid.SampledFrom([]int{1, 4, 16}).Draw(rt, "groups"))
		defer l.db.Close() //nolint:errcheck // a temporary file
		other := embedded.NewLog(l.db, l.groups, tailTopic)
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			through, commit := l.log, true
			switch rapid.IntRange(0, 5).Draw(rt, "who") {
			case 0:
				through = other
			case 1:
				commit = false
			}
			l.emit(rt, through, rapid.IntRange(1, 150).Draw(rt, "events"), rapid.SampledFrom([]int{10, 10, 10, 20_000}).Draw(rt, "bytes"), commit)
			if err := l.log.Source(tailTopic).Refresh(context.Background()); err != nil {
				rt.Fatal(err)
			}
			for g := range l.groups {
				head := l.log.Source(tailTopic).Head(g)
				back := rapid.Int64Range(0, head.Seq).Draw(rt, "back")
				after := bus.Place{Epoch: head.Epoch, Seq: head.Seq - back}
				if after.Seq == 0 {
					after = bus.Place{}
				}
				l.same(rt, g, after, rapid.IntRange(1, 300).Draw(rt, "limit"))
			}
		}
	})
}

// What was committed here is read without a statement.
func TestFreshMessagesAreReadFromMemory(t *testing.T) {
	l := openTailed(t, t.TempDir(), 4)
	defer l.db.Close() //nolint:errcheck // a temporary file
	l.emit(t, l.log, 100, 10, true)
	before, read := l.db.Statements(), 0
	for g := range 4 {
		if l.log.Source(tailTopic).Head(g).Seq == 0 {
			continue
		}
		msgs, err := l.log.Source(tailTopic).Read(t.Context(), g, bus.Place{}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		read += len(msgs)
	}
	if n := l.db.Statements() - before; n != 0 || read != 100 {
		t.Errorf("%d messages were read with %d statements, want 100 with none", read, n)
	}
}

// Memory is bounded: what is older is read from the database, and nothing is
// missing between the two.
func TestOldMessagesAreNotHeld(t *testing.T) {
	for _, c := range []struct {
		name          string
		batches, size int
	}{{"by number", 6, 10}, {"by bytes", 1, 8_000}} {
		t.Run(c.name, func(t *testing.T) {
			l := openTailed(t, t.TempDir(), 1)
			defer l.db.Close() //nolint:errcheck // a temporary file
			for range c.batches {
				l.emit(t, l.log, 500, c.size, true)
			}
			src, before := l.log.Source(tailTopic), l.db.Statements()
			old, err := src.Read(t.Context(), 0, bus.Place{}, 10_000)
			if err != nil || len(old) != 500*c.batches || l.db.Statements() == before {
				t.Fatalf("from the start: %d messages with %d statements, %v", len(old), l.db.Statements()-before, err)
			}
			before = l.db.Statements()
			fresh, err := src.Read(t.Context(), 0, old[len(old)-11].Place, 10)
			if err != nil || l.db.Statements() != before || !reflect.DeepEqual(fresh, old[len(old)-10:]) {
				t.Errorf("the last ten: %d messages with %d statements, %v", len(fresh), l.db.Statements()-before, err)
			}
		})
	}
}
