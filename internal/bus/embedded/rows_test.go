package embedded_test

import (
	"context"
	"reflect"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
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
	l.emit(t, l.log, 40, 10_000, true)
	if n, most := l.rows(t); n < 2+5 || n > 2+8 || most > 80_000 {
		t.Fatalf("400 KB made %d rows, the largest of %d bytes", n-2, most)
	}
	src := l.log.Stored(tailTopic)
	all, err := src.Read(t.Context(), 0, bus.Place{}, 1000)
	if err != nil || len(all) != 48 {
		t.Fatalf("%d messages, %v", len(all), err)
	}
	for i := range all {
		if all[i].Place != (bus.Place{Epoch: 1, Seq: int64(i + 1)}) {
			t.Fatalf("message %d is at %v", i, all[i].Place)
		}
	}
	for from := range len(all) {
		for limit := 1; limit <= len(all); limit++ {
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
	for _, c := range []struct{ upTo, deleted, first int64 }{{3, 0, 1}, {4, 1, 5}, {7, 0, 5}, {11, 1, 9}, {12, 1, 0}} {
		n, err := l.log.Trim(t.Context(), tailTopic, map[int]bus.Place{0: {Epoch: 1, Seq: c.upTo}}, 10)
		if err != nil || n != c.deleted {
			t.Fatalf("up to %d: %d rows deleted, want %d (%v)", c.upTo, n, c.deleted, err)
		}
		msgs, err := l.log.Stored(tailTopic).Read(t.Context(), 0, bus.Place{}, 1)
		if err != nil || c.first == 0 && len(msgs) > 0 || c.first > 0 && (len(msgs) != 1 || msgs[0].Place.Seq != c.first) {
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
