package embedded

import (
	"context"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// admit refuses when this process cannot keep, or nobody reads, what it would take.
func (l *intakeLog) admit() error {
	in := l.in
	if in.failed != nil {
		return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "intake_stopped", Err: in.failed}
	}
	return l.full()
}

// full refuses while nobody reads for too long, or too much.
func (l *intakeLog) full() error {
	in := l.in
	if l.unread.bytes > in.cfg.UnreadBytesMax {
		return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "backlog_bytes", Fix: "retry after a moment",
			Err: fmt.Errorf("%d bytes of %s are unread, the bound is %d", l.unread.bytes, l.topic, in.cfg.UnreadBytesMax)}
	}
	if old := l.unread.oldestMillis; old != 0 && in.now().UnixMilli()-old > in.cfg.UnreadAgeMax.Milliseconds() {
		return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "backlog_age", Fix: "retry after a moment",
			Err: fmt.Errorf("%s have waited unread for more than %s", l.topic, in.cfg.UnreadAgeMax)}
	}
	return nil
}

// trimFactor is how many more batches one Trim may delete than came in since the
// last: a backlog goes, and no single deletion holds up the committer for long.
const trimFactor = 4

// Trim deletes, in bulk, the batches that all readers have passed. worked is
// false when it is not yet time.
func (in *Intake) Trim(ctx context.Context) (worked bool, err error) {
	in.mu.Lock()
	if in.sinceTrm < in.cfg.TrimEveryBatches {
		in.mu.Unlock()
		return false, nil
	}
	in.sinceTrm = 0
	upTo := make([]int64, len(in.order))
	for i, l := range in.order {
		// The last batch stays, so that the sequence and the sum of bytes go on
		// from it after a restart.
		upTo[i] = min(l.slowest(), l.last-1)
	}
	in.mu.Unlock()
	err = in.db.Write(ctx, func(tx *sqldb.Tx) error {
		for i, l := range in.order {
			if _, err := tx.Exec(`DELETE FROM `+l.table+` WHERE seq IN (SELECT seq FROM `+l.table+` WHERE seq <= ? ORDER BY seq LIMIT ?)`,
				upTo[i], trimFactor*in.cfg.TrimEveryBatches); err != nil {
				return err
			}
		}
		return nil
	})
	return true, fault.Wrap("trim intake", err)
}

func (l *intakeLog) slowest() int64 {
	s := l.last
	for _, p := range l.passed {
		s = min(s, p)
	}
	return s
}

// Passed is told how far a reader's stored place has come.
func (in *Intake) Passed(reader string, topic bus.Topic, seq int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	l := in.logs[topic]
	if l == nil {
		return
	}
	if have, known := l.passed[reader]; known && seq > have {
		l.passed[reader] = seq
	}
	if l.slowest() == l.last {
		l.unread = unread{}
	}
}

// Measure brings the backlog's size and age up to date; between two calls they
// are over-estimated, never under.
func (in *Intake) Measure(ctx context.Context) error {
	for _, l := range in.order {
		in.mu.Lock()
		slowest := l.slowest()
		in.mu.Unlock()
		u, before := unread{}, int64(0)
		err := in.db.Read(ctx, func(tx *sqldb.Tx) error {
			return tx.Query(`SELECT at_millis, cum_bytes - length(body) FROM `+l.table+` WHERE seq > ? ORDER BY seq LIMIT 1`,
				[]any{slowest}, func(scan sqldb.Scan) error { return scan(&u.oldestMillis, &before) })
		})
		if err != nil {
			return fault.Wrap("measure intake", err)
		}
		in.mu.Lock()
		switch {
		case l.slowest() == l.last:
			l.unread = unread{}
		case u.oldestMillis != 0:
			l.unread = unread{bytes: l.cum - before, oldestMillis: u.oldestMillis}
		}
		in.mu.Unlock()
	}
	return nil
}

// Backlog is the number of committed bytes of a topic that not all readers have
// passed, and the age of the oldest of them.
func (in *Intake) Backlog(topic bus.Topic) (bytes int64, age time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	l := in.logs[topic]
	if l == nil || l.unread.oldestMillis == 0 {
		return 0, 0
	}
	return l.unread.bytes, max(0, in.now().Sub(time.UnixMilli(l.unread.oldestMillis)))
}

// Full says why nothing of a topic is taken, as too much of it is unread, or something for
// too long; nil if it is not so.
func (in *Intake) Full(topic bus.Topic) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.logs[topic].full()
}

func (in *Intake) measure(ctx context.Context) {
	if err := in.Measure(ctx); err != nil && ctx.Err() == nil {
		in.log.Error("intake backlog not measured", "error", err)
	}
}
