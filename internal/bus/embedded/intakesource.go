package embedded

import (
	"context"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Source reads one topic of the intake: one group, one place per batch.
func (in *Intake) Source(t bus.Topic) bus.Source { return in.logs[t] }

func (l *intakeLog) Topic() bus.Topic { return l.topic }

func (l *intakeLog) Groups() int { return 1 }

func (l *intakeLog) Head(int) bus.Place {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	if l.head == 0 {
		return bus.Place{}
	}
	return bus.Place{Epoch: 1, Seq: l.head}
}

// load takes up where the store ends. It is for opening alone.
func (l *intakeLog) load(ctx context.Context) error {
	var last, cum int64
	err := l.in.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT seq, cum_bytes FROM `+l.table+` ORDER BY seq DESC LIMIT 1`, nil,
			func(scan sqldb.Scan) error { return scan(&last, &cum) })
	})
	if err != nil {
		return fault.Wrap("load intake", err)
	}
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	l.last, l.head, l.cum = last, last, cum
	return nil
}

// Refresh reads the head from the store: a reader may see a batch a moment
// before the committer has taken note of it. The committer's own place is not
// touched.
func (l *intakeLog) Refresh(ctx context.Context) error {
	var first, head int64
	err := l.in.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT coalesce((SELECT seq FROM `+l.table+` ORDER BY seq LIMIT 1), 0), coalesce((SELECT seq FROM `+l.table+` ORDER BY seq DESC LIMIT 1), 0)`, nil,
			func(scan sqldb.Scan) error { return scan(&first, &head) })
	})
	if err != nil {
		return fault.Wrap("refresh intake", err)
	}
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	l.head, l.begin = max(l.head, head), max(l.begin, first-1)
	return nil
}

// Begin implements bus.Begun.
func (l *intakeLog) Begin(int) bus.Place {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	if l.begin == 0 {
		return bus.Place{}
	}
	return bus.Place{Epoch: 1, Seq: l.begin}
}

// Read gives whole batches until there are at least limit records.
func (l *intakeLog) Read(ctx context.Context, _ int, after bus.Place, limit int) ([]bus.Message, error) {
	var out []bus.Message
	err := l.in.db.Read(ctx, func(tx *sqldb.Tx) error {
		seq, more := after.Seq, true
		for more && len(out) < limit {
			more = false
			var body []byte
			err := tx.Query(`SELECT seq, body FROM `+l.table+` WHERE seq > ? ORDER BY seq LIMIT 1`, []any{seq},
				func(scan sqldb.Scan) error { more = true; return scan(&seq, &body) })
			if err != nil || !more {
				return err
			}
			events, err := bus.ParseRecords(body)
			if err != nil {
				return fault.New(fault.Internal, "read "+string(l.topic), "batch %d: %w", seq, err)
			}
			for i := range events {
				out = append(out, bus.Message{Event: events[i], Topic: l.topic, Place: bus.Place{Epoch: 1, Seq: seq}, Part: i})
			}
		}
		return nil
	})
	return out, fault.Wrap("read "+string(l.topic), err)
}
