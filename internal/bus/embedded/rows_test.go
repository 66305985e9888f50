package embedded_test

import (
	"context"
	"os"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// rows counts the rows of the log's table, and the largest one's bytes.
func (l *tailed) rows(t *testing.T) (n, most int) {
	t.Helper()
	err := l.db.Read(t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT count(*), max(length(body)) FROM log_payments`, nil, func(scan sqldb.Scan) error { return scan(&n, &most) })
	})
	if err != nil {
		t.Fatal(err)
	}
	return n, most
}

// TestRowsOfManyEvents: a commit is one row for each group that it touches, or a
// few where they would be too long, and can be read from any place, by any number.
func TestRowsOfManyEvents(t *testing.T) {
	l := openTailed(t, t.TempDir(), 1)
	defer l.db.Close() //nolint:errcheck // a test
	l.emit(t, l.log, 1, 10, true)
	l.emit(t, l.log, 7, 10, true)
	if n, _ := l.rows(t); n != 2 {
		t.Fatalf("two commits made %d rows", n)
	}
	l.emit(t, l.log, 100, 10_000, true)
	if n, most := l.rows(t); n < 2+4 || n > 2+6 || most > 280_000 {
		t.Fatalf("1 MB made %d rows, the largest of %d bytes", n-2, most)
	}
	src := l.log.Stored(tailTopic)
	all, err := src.Read(t.Context(), 0, bus.Place{}, 1000)
	if err != nil || len(all) != 108 {
		t.Fatalf("%d messages, %v", len(all), err)
	}
	for i := range all {
		if all[i].Place != (bus.Place{Epoch: 1, Seq: int64(i + 1)}) {
			t.Fatalf("message %d is at %v", i, all[i].Place)
		}
	}
	for from := range len(all) {
		for limit := 1; limit <= len(all); limit += 29 {
			after := bus.Place{}
			if from > 0 {
				after = all[from-1].Place
			}
			msgs, err := src.Read(t.Context(), 0, after, limit)
			if err != nil || !reflect.DeepEqual(msgs, all[from:min(from+limit, len(all))]) {
				t.Fatalf("%d messages behind %d: %d messages, %v", limit, from, len(msgs), err)
			}
		}
	}
}

// TestTrimKeepsRowsThatWereReadInPart: a row goes when its last event is passed.
func TestTrimKeepsRowsThatWereReadInPart(t *testing.T) {
	l := openTailed(t, t.TempDir(), 1)
	defer l.db.Close() //nolint:errcheck // a test
	for range 3 {
		l.emit(t, l.log, 4, 10, true)
	}
	trimmer := l.log.Trimmer(tailTopic, nil)
	for _, c := range []struct{ upTo, deleted, first int64 }{{3, 0, 1}, {4, 1, 5}, {7, 0, 5}, {11, 1, 9}, {12, 0, 9}} { // the last row stays
		n, _, err := trimmer.Step(t.Context(), embedded.Trim{UpTo: map[int]bus.Place{0: {Epoch: 1, Seq: c.upTo}}, BeforeMillis: embedded.Everything, RowsMax: 10})
		if err != nil || n != c.deleted {
			t.Fatalf("up to %d: %d rows deleted, want %d (%v)", c.upTo, n, c.deleted, err)
		}
		msgs, err := l.log.Stored(tailTopic).Read(t.Context(), 0, bus.Place{}, 1)
		if err != nil || len(msgs) != 1 || msgs[0].Place.Seq != c.first {
			t.Fatalf("up to %d: the first is %v (%v)", c.upTo, msgs, err)
		}
	}
}

// TestADamagedRowIsAnError: nothing of it is read, and it is no gap.
func TestADamagedRowIsAnError(t *testing.T) {
	for _, damage := range []string{
		`UPDATE log_payments SET body = substr(body, 1, length(body) - 1)`,
		`UPDATE log_payments SET body = body || x'00'`,
		`UPDATE log_payments SET body = CAST(substr(body, 1, 30) || x'ff' || substr(body, 32) AS BLOB)`,
		`UPDATE log_payments SET events = events + 1`,
		`UPDATE log_payments SET events = events - 1`,
	} {
		l := openTailed(t, t.TempDir(), 1)
		l.emit(t, l.log, 3, 10, true)
		err := l.db.Write(context.Background(), func(tx *sqldb.Tx) error { _, err := tx.Exec(damage); return err })
		if err != nil {
			t.Fatal(err)
		}
		if msgs, err := l.log.Stored(tailTopic).Read(t.Context(), 0, bus.Place{}, 10); err == nil {
			t.Errorf("%s: %d messages, no error", damage, len(msgs))
		}
		_ = l.db.Close()
	}
}

// TestRowsAgainstAModel: whatever is emitted and trimmed, a group is read from any
// place as it was written.
func TestRowsAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "rows")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a test
		const groups = 3
		l := openTailed(t, dir, groups)
		defer l.db.Close() //nolint:errcheck // a test
		src, trimmer := l.log.Stored(tailTopic), l.log.Trimmer(tailTopic, nil)
		model := make([][]bus.Message, groups) // all that was written
		trimmed := make([]int64, groups)
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			if rapid.IntRange(0, 3).Draw(t, "what") > 0 {
				l.emit(t, l.log, rapid.SampledFrom([]int{1, 3, 40, 150}).Draw(t, "events"), 10, rapid.Bool().Draw(t, "commit"))
				for g := range groups {
					model[g] = append(model[g], readAll(t, src, g, int64(len(model[g])))...)
				}
				continue
			}
			upTo := map[int]bus.Place{}
			for g := range groups {
				if rapid.Bool().Draw(t, "trim") {
					upTo[g] = bus.Place{Epoch: 1, Seq: int64(rapid.IntRange(0, len(model[g])).Draw(t, "up to"))}
				}
			}
			if _, _, err := trimmer.Step(context.Background(), embedded.Trim{UpTo: upTo, BeforeMillis: embedded.Everything, RowsMax: rapid.IntRange(1, 20).Draw(t, "rows")}); err != nil {
				t.Fatal(err)
			}
			for g := range groups {
				if left := readAll(t, src, g, 0); len(left) > 0 {
					first := left[0].Place.Seq - 1
					if first > max(trimmed[g], upTo[g].Seq) || !reflect.DeepEqual(left, model[g][first:]) {
						t.Fatalf("group %d: %d messages from %d are left of %d, trimmed up to %d", g, len(left), first+1, len(model[g]), upTo[g].Seq)
					}
					trimmed[g] = max(trimmed[g], first)
				} else if len(model[g]) > 0 {
					t.Fatalf("group %d: all of %d messages are gone, trimmed up to %d", g, len(model[g]), upTo[g].Seq)
				}
			}
		}
		for g := range groups {
			for from := trimmed[g]; from <= int64(len(model[g])); from += 61 {
				if have := readAll(t, src, g, from); len(have) != len(model[g])-int(from) || len(have) > 0 && !reflect.DeepEqual(have, model[g][from:]) {
					t.Fatalf("group %d behind %d: %d messages of %d", g, from, len(have), len(model[g]))
				}
			}
		}
	})
}

// readAll reads a group behind a place, a few at a time, and finds gaps.
func readAll(t *rapid.T, src bus.Source, group int, after int64) (out []bus.Message) {
	at := bus.Place{}
	if after > 0 {
		at = bus.Place{Epoch: 1, Seq: after}
	}
	for {
		msgs, err := src.Read(context.Background(), group, at, 50)
		if err != nil {
			t.Fatal(err)
		}
		if len(msgs) == 0 {
			return out
		}
		for _, m := range msgs {
			if m.Place.Seq != at.Seq+1 && (len(out) > 0 || after > 0) {
				t.Fatalf("group %d: %d follows %d", group, m.Place.Seq, at.Seq)
			}
			at = m.Place
		}
		out = append(out, msgs...)
	}
}
