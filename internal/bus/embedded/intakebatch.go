package embedded

import (
	"fmt"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// intakeBatch collects records until the committer seals it.
type intakeBatch struct {
	log     *intakeLog
	buf     []byte
	tickets [][]ticket // in pieces that never move: whoever waits points into one
	records int
	gone    int // of them, withdrawn
	sealed  bool
	done    chan struct{} // closed once err is final
	err     error
}

// ticket is a record's place in a batch: a bus.Ticket.
type ticket struct {
	batch     *intakeBatch
	end       int // of the record in batch.buf
	withdrawn bool
}

// Sizes of the pieces that tickets are made in: most batches of an idle gateway
// hold one, those of a busy one some hundred.
const (
	ticketsFirst = 8
	ticketsMore  = 64
)

func (t *ticket) Done() <-chan struct{} { return t.batch.done }

func (t *ticket) Err() error {
	if t.withdrawn { // final, as the batch is sealed when done is closed
		return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "withdrawn"}
	}
	return t.batch.err
}

func (t *ticket) Withdraw() bool {
	b := t.batch
	b.log.in.mu.Lock()
	defer b.log.in.mu.Unlock()
	if b.sealed {
		return false
	}
	if !t.withdrawn {
		t.withdrawn = true
		b.gone++
	}
	return true
}

// newBatch takes memory that an earlier batch needed no more. in.mu is held.
func (l *intakeLog) newBatch() *intakeBatch {
	b := &intakeBatch{log: l, done: make(chan struct{})}
	if n := len(l.spare); n > 0 {
		b.buf, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	return b
}

// sparesMax is how many buffers are kept: one is written to while another is
// committed. Each is as large as a batch may be, at most.
const sparesMax = 2

// release gives a batch's bytes back once the store has them. in.mu is held.
func (b *intakeBatch) release() {
	if len(b.log.spare) < sparesMax {
		b.log.spare = append(b.log.spare, b.buf[:0])
	}
	b.buf = nil
}

// record adds a ticket for the record that ends where buf does.
func (b *intakeBatch) record() *ticket {
	n := len(b.tickets)
	if n == 0 || len(b.tickets[n-1]) == cap(b.tickets[n-1]) {
		size := ticketsMore
		if n == 0 {
			size = ticketsFirst
		}
		b.tickets = append(b.tickets, make([]ticket, 0, size))
		n++
	}
	piece := append(b.tickets[n-1], ticket{batch: b, end: len(b.buf)})
	b.tickets[n-1] = piece
	b.records++
	return &piece[len(piece)-1]
}

// compact drops withdrawn records from the bytes.
func (b *intakeBatch) compact() {
	if b.gone == 0 {
		return
	}
	kept, start := b.buf[:0], 0
	for _, piece := range b.tickets {
		for i := range piece {
			if !piece[i].withdrawn {
				kept = append(kept, b.buf[start:piece[i].end]...)
			}
			start = piece[i].end
		}
	}
	b.buf = kept
}

// holds reports whether anything was not withdrawn.
func (b *intakeBatch) holds() bool { return b.records > b.gone }

// Append implements bus.Intake.
func (in *Intake) Append(topic bus.Topic, e *bus.Event) (bus.Ticket, error) {
	l := in.logs[topic]
	if l == nil {
		return nil, fault.New(fault.Internal, "intake", "no topic %q", topic)
	}
	if err := checkEvent(e); err != nil {
		return nil, fault.Wrap("intake", err)
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
	if start > 0 && (b.records >= in.cfg.BatchRecordsMax || len(b.buf) > in.cfg.BatchBytesMax) {
		b.buf = b.buf[:start]
		if len(l.queue) >= in.cfg.QueueBatchesMax {
			return nil, &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "queue_full", Fix: "retry after a moment",
				Err: fmt.Errorf("%d batches wait for the disk", len(l.queue))}
		}
		b = l.newBatch()
		l.queue = append(l.queue, b)
		b.buf = bus.AppendRecord(b.buf, e)
	}
	select {
	case in.wake <- struct{}{}:
	default:
	}
	return b.record(), nil
}

func (l *intakeLog) open() *intakeBatch {
	if len(l.queue) == 0 {
		l.queue = append(l.queue, l.newBatch())
	}
	return l.queue[len(l.queue)-1]
}
