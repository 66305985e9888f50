package embedded

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// IntakeConfig bounds an intake. All bounds must be positive, and there must be
// a reader.
type IntakeConfig struct {
	Topics          []bus.Topic
	BatchRecordsMax int   // records of one topic in one committed batch
	BatchBytesMax   int   // bytes of one topic in one committed batch
	QueueBatchesMax int   // batches of one topic that may wait behind the one being committed
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
	bounds := [...]struct {
		name string
		v    int64
	}{{"batch_records_max", int64(c.BatchRecordsMax)}, {"batch_bytes_max", int64(c.BatchBytesMax)},
		{"queue_batches_max", int64(c.QueueBatchesMax)}, {"unread_bytes_max", c.UnreadBytesMax},
		{"unread_age_max", int64(c.UnreadAgeMax)}, {"trim_every_batches", int64(c.TrimEveryBatches)}}
	for _, b := range bounds {
		if b.v <= 0 {
			return &fault.Error{Kind: fault.Invalid, Field: "intake." + b.name, Code: "not_positive", Fix: "set it to at least 1"}
		}
	}
	if len(c.Readers) == 0 {
		return &fault.Error{Kind: fault.Invalid, Field: "intake.readers", Code: "empty",
			Fix: "name at least one reader: what nobody is to read would be deleted at once"}
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
	bus.Wakes
	in    *Intake
	topic bus.Topic
	table string

	// Guarded by in.mu.
	queue  []*intakeBatch // the last is open, the others are full
	spare  [][]byte       // buffers that no batch needs
	head   int64          // what readers may read up to
	begin  int64          // up to where batches are gone, as of the last Refresh
	last   int64          // sequence of the last batch that Step knows to be committed
	cum    int64          // bytes ever appended, up to last
	passed map[string]int64
	unread unread
}

type unread struct {
	bytes        int64
	oldestMillis int64 // commit time of the oldest unread batch; 0 without one
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
		l := &intakeLog{in: in, topic: t, table: "intake_" + string(t), passed: map[string]int64{}}
		for _, r := range cfg.Readers {
			p, err := passed(r, t)
			if err != nil {
				return nil, fault.Wrap("open intake", err)
			}
			l.passed[r] = p
		}
		if err := l.load(ctx); err != nil {
			return nil, err
		}
		in.logs[t] = l
		in.order = append(in.order, l)
	}
	return in, in.Measure(ctx)
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
	in.points.At("intake.sealed")
	at := in.now().UnixMilli()
	if slices.ContainsFunc(sealed, func(s sealedBatch) bool { return s.batch.holds() }) {
		err = in.db.Write(ctx, func(tx *sqldb.Tx) error { return insertBatches(tx, sealed, at) })
	}
	err = in.settle(sealed, at, err)
	for i := range sealed {
		close(sealed[i].batch.done) // wakes all who wait, and needs no lock for it
	}
	return err == nil, err
}

// settle takes note of what came of the sealed batches.
func (in *Intake) settle(sealed []sealedBatch, atMillis int64, err error) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err != nil {
		err = in.commitFailed(err)
	} else {
		in.sinceTrm++
	}
	for i := range sealed {
		s := &sealed[i]
		if err == nil && s.batch.holds() {
			s.log.committed(s, atMillis)
		}
		s.batch.err = err
		s.batch.release()
		s.log.Wake()
	}
	return err
}

func insertBatches(tx *sqldb.Tx, sealed []sealedBatch, atMillis int64) error {
	for i := range sealed {
		s := &sealed[i]
		if !s.batch.holds() {
			continue
		}
		if _, err := tx.Exec(`INSERT INTO `+s.log.table+` (seq, at_millis, records, cum_bytes, body) VALUES (?, ?, ?, ?, ?)`,
			s.seq, atMillis, s.batch.records-s.batch.gone, s.cum, s.batch.buf); err != nil {
			return err
		}
	}
	return nil
}

// committed is called with in.mu held.
func (l *intakeLog) committed(s *sealedBatch, atMillis int64) {
	if l.unread.oldestMillis == 0 {
		l.unread.oldestMillis = atMillis
	}
	l.unread.bytes += int64(len(s.batch.buf))
	l.last, l.cum = s.seq, s.cum
	l.head = max(l.head, s.seq)
	if l.slowest() == l.last {
		l.unread = unread{} // the readers were here first
	}
}

// commitFailed gives a failed batch its one meaning for all who wait for it.
func (in *Intake) commitFailed(err error) error {
	if fault.Is(err, fault.Unknown) {
		in.failed = err
		in.refuseQueued()
		return err
	}
	// The store rolled the whole batch back: certainly not kept.
	return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "not_committed", Fix: "retry after a moment", Err: err}
}

// refuseQueued answers all who still wait in the queues when nothing will be
// committed any more: theirs was never handed to the store.
func (in *Intake) refuseQueued() {
	for _, l := range in.order {
		for _, b := range l.queue {
			b.sealed = true
			b.err = &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "intake_stopped", Err: in.failed}
			close(b.done)
		}
		l.queue = nil
	}
}

// sealedBatch is a batch on its way to the store, with the place that it takes.
type sealedBatch struct {
	log      *intakeLog
	batch    *intakeBatch
	seq, cum int64
}

// seal takes the first batch of each topic out of reach of Append and Withdraw.
func (in *Intake) seal() []sealedBatch {
	in.mu.Lock()
	defer in.mu.Unlock()
	var out []sealedBatch
	for _, l := range in.order {
		if len(l.queue) == 0 {
			continue
		}
		b := l.queue[0]
		l.queue = slices.Delete(l.queue, 0, 1)
		b.sealed = true
		b.compact()
		out = append(out, sealedBatch{log: l, batch: b, seq: l.last + 1, cum: l.cum + int64(len(b.buf))})
	}
	return out
}

// gatherMax bounds how often gather lets others go first.
const gatherMax = 64

// gather lets requests that are ready to run join the batch before it is sealed:
// a commit costs as much CPU as a dozen of them, whatever is in it. On an idle
// machine nobody joins, and it takes no time.
func (in *Intake) gather() {
	before := -1
	for range gatherMax {
		n := in.waiting()
		if n == before || n == 0 {
			return
		}
		before = n
		runtime.Gosched()
	}
}

// waiting is how many records wait in the batches that are next.
func (in *Intake) waiting() (n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, l := range in.order {
		if len(l.queue) > 0 {
			n += l.queue[0].records
		}
	}
	return n
}

// Run commits until ctx ends and the queues are empty. It returns an error only
// when a commit's outcome is unknown: the process must stop then.
func (in *Intake) Run(ctx context.Context, measureEvery time.Duration) error {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		in.gather()
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
			select {
			case <-tick.C: // also under load, or an old over-estimate would shed it
				in.measure(ctx)
			default:
			}
			continue
		case ctx.Err() != nil:
			return nil
		}
		select {
		case <-in.wake:
		case <-tick.C:
			in.measure(ctx)
		case <-ctx.Done():
		}
	}
}
