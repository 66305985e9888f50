package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// IntakeConfig bounds an intake. All bounds must be positive.
type IntakeConfig struct {
	Topics          []bus.Topic
	BatchRecordsMax int   // records of one topic in one committed batch
	BatchBytesMax   int   // bytes of one topic in one committed batch
	QueueBatchesMax int   // batches that may wait behind the one being committed
	UnreadBytesMax  int64 // committed but unread: above it nothing is taken
	UnreadAgeMax    time.Duration
	// Readers are the consumers that must have passed a batch before it may go.
	Readers []string
	// TrimEveryBatches is how many batches are committed between two bulk
	// deletions of what all readers have passed.
	TrimEveryBatches int
}

// Validate refuses bounds that are not positive.
func (c IntakeConfig) Validate() error {
	for name, v := range map[string]int64{"batchRecordsMax": int64(c.BatchRecordsMax), "batchBytesMax": int64(c.BatchBytesMax),
		"queueBatchesMax": int64(c.QueueBatchesMax), "unreadBytesMax": c.UnreadBytesMax, "unreadAgeMax": int64(c.UnreadAgeMax),
		"trimEveryBatches": int64(c.TrimEveryBatches)} {
		if v <= 0 {
			return &fault.Error{Kind: fault.Invalid, Field: "intake." + name, Code: "not_positive", Fix: "set it to at least 1"}
		}
	}
	return nil
}

// Intake is the append log for what enters from outside. Any number of
// goroutines Append; one committer writes one row per topic and batch, and all
// who are in the batch are answered after its fsync. What nobody has read is
// never deleted.
type Intake struct {
	cfg    IntakeConfig
	db     *sqldb.DB
	now    func() time.Time
	points fault.Points
	log    *slog.Logger
	logs   map[bus.Topic]*intakeLog
	order  []*intakeLog // by cfg.Topics: one order of commits for a given load
	wake   chan struct{}

	mu       sync.Mutex
	failed   error // a commit is of unknown outcome: nothing is taken any more
	sinceTrm int
}

// intakeLog is one topic of the intake.
type intakeLog struct {
	in    *Intake
	topic bus.Topic
	table string

	// Guarded by in.mu.
	queue  []*intakeBatch // the last is open, the others are full
	head   int64
	cum    int64 // bytes ever appended
	passed map[string]int64
	unread unread
	wakes  map[chan struct{}]bool
}

type unread struct {
	bytes        int64
	oldestMillis int64 // commit time of the oldest unread batch; 0 without one
}

// intakeBatch collects records until the committer seals it.
type intakeBatch struct {
	buf       []byte
	ends      []int // where each record ends in buf
	withdrawn []bool
	gone      int
	sealed    bool
	done      chan struct{} // closed once err is final
	err       error
}

// ticket is a record's place in a batch: a bus.Ticket.
type ticket struct {
	log   *intakeLog
	batch *intakeBatch
	index int
}

func (t *ticket) Done() <-chan struct{} { return t.batch.done }

func (t *ticket) Err() error { return t.batch.err }

func (t *ticket) Withdraw() bool {
	t.log.in.mu.Lock()
	defer t.log.in.mu.Unlock()
	if t.batch.sealed {
		return false
	}
	if !t.batch.withdrawn[t.index] {
		t.batch.withdrawn[t.index] = true
		t.batch.gone++
	}
	return true
}

// IntakeSchema is the SQL of the intake's database.
func IntakeSchema(topics ...bus.Topic) string {
	var s string
	for _, t := range topics {
		s += `CREATE TABLE intake_` + string(t) + ` (seq INTEGER PRIMARY KEY, at_millis INTEGER NOT NULL, records INTEGER NOT NULL,
  cum_bytes INTEGER NOT NULL, body BLOB NOT NULL);
`
	}
	return s
}

// OpenIntake opens the append log in db, which has the tables of IntakeSchema.
// passed gives, by reader and topic, what each reader has already passed.
func OpenIntake(ctx context.Context, cfg IntakeConfig, db *sqldb.DB, now func() time.Time, points fault.Points, log *slog.Logger,
	passed func(reader string, topic bus.Topic) (int64, error)) (*Intake, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	in := &Intake{cfg: cfg, db: db, now: now, points: points, log: log, logs: map[bus.Topic]*intakeLog{}, wake: make(chan struct{}, 1)}
	for _, t := range cfg.Topics {
		l := &intakeLog{in: in, topic: t, table: "intake_" + string(t), passed: map[string]int64{}, wakes: map[chan struct{}]bool{}}
		for _, r := range cfg.Readers {
			p, err := passed(r, t)
			if err != nil {
				return nil, fault.Wrap("open intake", err)
			}
			l.passed[r] = p
		}
		if err := l.Refresh(ctx); err != nil {
			return nil, err
		}
		in.logs[t] = l
		in.order = append(in.order, l)
	}
	return in, in.Measure(ctx)
}

// Append implements bus.Intake.
func (in *Intake) Append(topic bus.Topic, e *bus.Event) (bus.Ticket, error) {
	l := in.logs[topic]
	if l == nil {
		return nil, fault.New(fault.Internal, "intake", "no topic %q", topic)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := l.admit(); err != nil {
		return nil, err
	}
	b := l.open()
	start := len(b.buf)
	b.buf = bus.AppendRecord(b.buf, e)
	size := len(b.buf) - start
	if size > in.cfg.BatchBytesMax {
		b.buf = b.buf[:start]
		return nil, &fault.Error{Kind: fault.TooLarge, Op: "intake", Code: "record_too_large",
			Err: fmt.Errorf("a record of %d bytes is over %d", size, in.cfg.BatchBytesMax)}
	}
	if start > 0 && (len(b.ends) >= in.cfg.BatchRecordsMax || len(b.buf) > in.cfg.BatchBytesMax) {
		b.buf = b.buf[:start]
		if len(l.queue) > in.cfg.QueueBatchesMax {
			return nil, &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "queue_full", Fix: "retry after a moment",
				Err: fmt.Errorf("%d batches wait for the disk", len(l.queue))}
		}
		b = newIntakeBatch()
		l.queue = append(l.queue, b)
		b.buf = bus.AppendRecord(b.buf, e)
	}
	b.ends = append(b.ends, len(b.buf))
	b.withdrawn = append(b.withdrawn, false)
	select {
	case in.wake <- struct{}{}:
	default:
	}
	return &ticket{log: l, batch: b, index: len(b.ends) - 1}, nil
}

// admit refuses when this process cannot keep, or nobody reads, what it would take.
func (l *intakeLog) admit() error {
	in := l.in
	if in.failed != nil {
		return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "intake_stopped", Err: in.failed}
	}
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

func newIntakeBatch() *intakeBatch { return &intakeBatch{done: make(chan struct{})} }

func (l *intakeLog) open() *intakeBatch {
	if len(l.queue) == 0 {
		l.queue = append(l.queue, newIntakeBatch())
	}
	return l.queue[len(l.queue)-1]
}

// Step commits at most one batch of each topic, in one transaction. worked is
// false when nothing waits. fault.Unknown means that a commit's outcome is not
// known: all who were in it have been told so, nothing is taken any more, and
// the process must stop.
func (in *Intake) Step(ctx context.Context) (worked bool, err error) {
	sealed := in.seal()
	if sealed == nil {
		return false, nil
	}
	heads := make([]int64, len(in.order))
	cums := make([]int64, len(in.order))
	at := in.now().UnixMilli()
	err = in.db.Write(ctx, func(tx *sqldb.Tx) error {
		for i, l := range in.order {
			heads[i], cums[i] = l.head, l.cum
			b := sealed[i]
			if b == nil || len(b.ends) == b.gone {
				continue
			}
			heads[i]++
			cums[i] += int64(len(b.buf))
			if _, err := tx.Exec(`INSERT INTO `+l.table+` (seq, at_millis, records, cum_bytes, body) VALUES (?, ?, ?, ?, ?)`,
				heads[i], at, len(b.ends)-b.gone, cums[i], b.buf); err != nil {
				return err
			}
		}
		return nil
	})
	in.mu.Lock()
	defer in.mu.Unlock()
	if err == nil {
		for i, l := range in.order {
			if l.unread.oldestMillis == 0 && heads[i] > l.head {
				l.unread.oldestMillis = at
			}
			l.unread.bytes += cums[i] - l.cum
			l.head, l.cum = heads[i], cums[i]
		}
		in.sinceTrm++
	} else {
		err = in.commitFailed(err)
	}
	for i, b := range sealed {
		if b != nil {
			b.err = err
			close(b.done)
			in.order[i].wakeReaders()
		}
	}
	return err == nil, err
}

// commitFailed gives a failed batch its one meaning for all who wait for it.
func (in *Intake) commitFailed(err error) error {
	if fault.Is(err, fault.Unknown) {
		in.failed = err
		return err
	}
	// The store rolled the whole batch back: certainly not kept.
	return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "not_committed", Fix: "retry after a moment", Err: err}
}

// seal takes the first batch of each topic out of reach of Append and Withdraw.
func (in *Intake) seal() []*intakeBatch {
	in.mu.Lock()
	defer in.mu.Unlock()
	var out []*intakeBatch
	for i, l := range in.order {
		if len(l.queue) == 0 {
			continue
		}
		if out == nil {
			out = make([]*intakeBatch, len(in.order))
		}
		b := l.queue[0]
		l.queue = slices.Delete(l.queue, 0, 1)
		b.sealed = true
		b.compact()
		out[i] = b
	}
	return out
}

// compact drops withdrawn records from the bytes.
func (b *intakeBatch) compact() {
	if b.gone == 0 {
		return
	}
	kept, start := b.buf[:0], 0
	for i, end := range b.ends {
		if !b.withdrawn[i] {
			kept = append(kept, b.buf[start:end]...)
		}
		start = end
	}
	b.buf = kept
}

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
		upTo[i] = min(l.slowest(), l.head-1)
	}
	in.mu.Unlock()
	err = in.db.Write(ctx, func(tx *sqldb.Tx) error {
		for i, l := range in.order {
			if _, err := tx.Exec(`DELETE FROM `+l.table+` WHERE seq <= ?`, upTo[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return true, fault.Wrap("trim intake", err)
}

func (l *intakeLog) slowest() int64 {
	s := l.head
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
	if l.slowest() == l.head {
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
		case l.slowest() == l.head:
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

// Run commits until ctx ends and the queues are empty. It returns an error only
// when a commit's outcome is unknown: the process must stop then.
func (in *Intake) Run(ctx context.Context, measureEvery time.Duration) error {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		worked, err := in.Step(context.WithoutCancel(ctx))
		switch {
		case fault.Is(err, fault.Unknown):
			return err
		case err != nil:
			in.log.Error("intake batch not committed", "error", err)
			continue
		case worked:
			if _, err := in.Trim(context.WithoutCancel(ctx)); err != nil {
				in.log.Error("intake not trimmed", "error", err)
			}
			continue
		case ctx.Err() != nil:
			return nil
		}
		select {
		case <-in.wake:
		case <-tick.C:
			if err := in.Measure(ctx); err != nil && ctx.Err() == nil {
				in.log.Error("intake backlog not measured", "error", err)
			}
		case <-ctx.Done():
		}
	}
}
