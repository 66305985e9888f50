package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// IntakeConfig bounds what waits for the brokers. All bounds must be positive.
type IntakeConfig struct {
	BatchRecordsMax int   // records of one partition in one request
	BatchBytesMax   int   // bytes of one partition in one request; less than the brokers' message.max.bytes
	QueueBytesMax   int64 // bytes in memory, of all partitions: above it nothing is taken
	// CallbackGather is how long a callback waits at most for something that it can go
	// with: nobody looks at a page meanwhile. 0 is not at all.
	CallbackGather time.Duration
}

// DefaultIntakeConfig fits brokers as they come.
func DefaultIntakeConfig() IntakeConfig {
	return IntakeConfig{BatchRecordsMax: 1024, BatchBytesMax: 768 << 10, QueueBytesMax: 16 << 20, CallbackGather: 10 * time.Millisecond}
}

// Validate names the first bound that is not positive.
func (c IntakeConfig) Validate() error {
	for _, f := range []struct {
		name string
		v    int64
	}{{"batch_records_max", int64(c.BatchRecordsMax)}, {"batch_bytes_max", int64(c.BatchBytesMax)}, {"queue_bytes_max", c.QueueBytesMax}} {
		if f.v <= 0 {
			return &fault.Error{Kind: fault.Invalid, Op: "kafka", Field: "kafka." + f.name, Code: "not_positive", Fix: "set it to at least 1"}
		}
	}
	if c.CallbackGather < 0 || c.CallbackGather > time.Second {
		return &fault.Error{Kind: fault.Invalid, Op: "kafka", Field: "kafka.callback_gather", Code: "bad_value", Fix: "use 0s to 1s: each callback is answered so much later"}
	}
	return nil
}

// Intake appends what enters from outside. Any number of goroutines Append; each
// broker has one request under way, and what comes meanwhile goes with the next.
// Safe for concurrent use.
type Intake struct {
	cfg   IntakeConfig
	admit func(topic bus.Topic, group int) error
	lanes map[bus.Topic][]*entry
	ship  *shipper

	mu      sync.Mutex // guards all batches that are not sealed, and what follows
	bytes   int64
	ended   bool
	drained chan struct{} // closed once it has ended, and all has its answer
}

// entry is a lane of what enters.
type entry struct {
	in     *Intake
	at     partition
	queued *batch // nil when nothing waits
	sent   *batch // nil when nothing is under way
	next   int64  // the least offset that the partition can take next
}

// batch collects records until its lane seals it.
type batch struct {
	records   []kafka.Record
	withdrawn []bool
	bytes     int
	gone      int
	sealed    bool
	done      chan struct{} // closed once err is final
	err       error
}

// ticket is a record's place in a batch: a bus.Ticket.
type ticket struct {
	in    *Intake
	batch *batch
	index int
}

func (t *ticket) Done() <-chan struct{} { return t.batch.done }

func (t *ticket) Err() error {
	if t.batch.withdrawn[t.index] {
		return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "withdrawn"}
	}
	return t.batch.err
}

func (t *ticket) Withdraw() bool {
	t.in.mu.Lock()
	defer t.in.mu.Unlock()
	if t.batch.sealed {
		return false
	}
	if !t.batch.withdrawn[t.index] {
		t.batch.withdrawn[t.index] = true
		t.batch.gone++
	}
	return true
}

// NewIntake makes an intake for topics. admit, which may be nil, is asked before
// anything is taken: fault.Unavailable while too much is unread.
func NewIntake(c *Cluster, cfg IntakeConfig, admit func(topic bus.Topic, group int) error, topics ...bus.Topic) (*Intake, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if admit == nil {
		admit = func(bus.Topic, int) error { return nil }
	}
	in := &Intake{cfg: cfg, admit: admit, lanes: map[bus.Topic][]*entry{}, drained: make(chan struct{})}
	var all []lane
	for _, t := range topics {
		for g := range c.cfg.Groups {
			e := &entry{in: in, at: partition{t, g}}
			in.lanes[t], all = append(in.lanes[t], e), append(all, e)
		}
	}
	in.ship = newShipper(c, 0, all)
	return in, nil
}

// Append implements bus.Intake.
func (in *Intake) Append(topic bus.Topic, e *bus.Event) (bus.Ticket, error) {
	lanes := in.lanes[topic]
	if lanes == nil {
		return nil, fault.New(fault.Internal, "intake", "no topic %q", topic)
	}
	group := e.Context.BizCode.Group(len(lanes))
	if err := e.Context.Validate(); err != nil || group < 0 || e.Version != bus.EnvelopeVersion {
		return nil, fault.New(fault.Internal, "intake", "event %s %s of version %d: %w", e.Type, e.ID, e.Version, err)
	}
	if err := in.admit(topic, group); err != nil {
		return nil, err
	}
	r := record(e, bus.Place{})
	size := r.Key.Len() + r.Value.Len()
	if size > in.cfg.BatchBytesMax {
		return nil, &fault.Error{Kind: fault.TooLarge, Op: "intake", Code: "record_too_large", Err: fmt.Errorf("a record of %d bytes is over %d", size, in.cfg.BatchBytesMax)}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	l := lanes[group]
	b := l.queued
	switch {
	case in.ended:
		return nil, &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "intake_stopped"}
	case in.bytes+int64(size) > in.cfg.QueueBytesMax,
		b != nil && (len(b.records) >= in.cfg.BatchRecordsMax || b.bytes+size > in.cfg.BatchBytesMax):
		return nil, &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "queue_full", Fix: "retry after a moment",
			Err: fmt.Errorf("%d bytes wait for the brokers", in.bytes)}
	case b == nil:
		b = &batch{done: make(chan struct{})}
		l.queued = b // what joins a batch that waits already wakes nobody
		if topic == bus.Callbacks && in.cfg.CallbackGather > 0 {
			in.ship.stirIn(in.cfg.CallbackGather)
		} else {
			in.ship.stir()
		}
	}
	b.records, b.withdrawn = append(b.records, r), append(b.withdrawn, false)
	b.bytes += size
	if 2*len(b.records) >= in.cfg.BatchRecordsMax || 2*b.bytes >= in.cfg.BatchBytesMax {
		in.ship.stir() // what gathers goes before it is full, and the next one refused
	}
	in.bytes += int64(size)
	return &ticket{in: in, batch: b, index: len(b.records) - 1}, nil
}

// Queued is how many bytes were taken, and have no answer from the brokers yet.
func (in *Intake) Queued() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.bytes
}

// Run appends until ctx ends and everything that was taken has its answer.
func (in *Intake) Run(ctx context.Context) error {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { in.ship.run(own) })
	<-ctx.Done()
	in.mu.Lock()
	in.ended = true // what is taken from here on would have no one to send it
	in.ship.stir()  // and what gathers goes now
	in.release(0)
	in.mu.Unlock()
	<-in.drained
	cancel()
	wg.Wait()
	return nil
}

// release takes note of bytes that have their answer; in.mu is held.
func (in *Intake) release(bytes int) {
	if in.bytes -= int64(bytes); in.ended && in.bytes == 0 {
		close(in.drained)
	}
}

// partition implements lane.
func (e *entry) partition() partition { return e.at }

// open implements lane.
func (e *entry) open(context.Context) error { return nil }

// waiting implements lane.
func (e *entry) waiting() bool {
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	return e.queued != nil
}

// load implements lane: it takes what waits out of reach of Append and Withdraw.
func (e *entry) load(context.Context) ([]kafka.Record, error) {
	e.in.mu.Lock()
	b := e.queued
	e.queued, e.sent, b.sealed = nil, b, true
	e.in.mu.Unlock()
	if b.gone == 0 {
		return b.records, nil
	}
	var records []kafka.Record
	for i := range b.records {
		if !b.withdrawn[i] {
			records = append(records, b.records[i])
		}
	}
	if len(records) == 0 {
		e.done(nil)
	}
	return records, nil
}

// appended implements lane. What a partition takes before the offset that it had come to
// is in one that has replaced it: who has read the other one may never read it.
func (e *entry) appended(first int64, err error) {
	switch {
	case err != nil:
	case first < e.next:
		err = unknown(replaced(e.at, first, e.next))
	default:
		e.next = first + int64(len(e.sent.records)-e.sent.gone)
	}
	e.done(err)
}

// done tells all who wait.
func (e *entry) done(err error) {
	b := e.sent
	e.sent, b.err = nil, err
	e.in.mu.Lock()
	e.in.release(b.bytes)
	e.in.mu.Unlock()
	close(b.done)
}
