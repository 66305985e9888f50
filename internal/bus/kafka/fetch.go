package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// fetch reads one partition, in order: nothing when there is nothing yet within
// FetchWait.
func (c *Cluster) fetch(ctx context.Context, w wish) catch {
	k := catch{wish: w}
	k.next, k.first, k.err = c.scan(ctx, w.topic, w.group, w.at, c.cfg.FetchBytesMax, c.cfg.FetchWait, c.collect(w.partition, &k.out))
	return k
}

// collect is for scan and readRecords: it puts messages of a partition behind others.
func (c *Cluster) collect(of partition, out *[]bus.Message) func(*kafka.Record) error {
	return func(r *kafka.Record) error {
		m, err := c.message(of.topic, of.group, r)
		if err == nil {
			*out = append(*out, m)
		}
		return err
	}
}

// scan calls fn for each record from an offset, in order: about bytesMax of them, or one
// batch that is larger. first is where the partition begins, or untold.
func (c *Cluster) scan(ctx context.Context, topic bus.Topic, group int, offset int64, bytesMax int, wait time.Duration, fn func(*kafka.Record) error) (next, first int64, err error) {
	res, err := c.client.Fetch(ctx, &kafka.FetchRequest{Topic: c.topic(topic), Partition: group, Offset: offset, MinBytes: 1,
		MaxBytes: int64(bytesMax), MaxWait: wait})
	if err != nil {
		return offset, untold, unavailable(err)
	}
	switch {
	case errors.Is(res.Error, kafka.OffsetOutOfRange): // it does not say what the range is
		s, err := c.span(ctx, partition{topic, group})
		switch {
		case err != nil:
			return offset, untold, err
		case offset < s.first: // it was deleted: the reader sees the gap
			return c.scan(ctx, topic, group, s.first, bytesMax, wait, fn)
		case offset <= s.last: // it was asked of a broker that knew less then
			return offset, untold, unavailable(res.Error)
		default:
			return offset, untold, fault.New(fault.Conflict, "fetch", "%s/%d has %d to %d, and is to be read from %d: %w", c.topic(topic), group, s.first, s.last, offset, res.Error)
		}
	case res.Error != nil:
		return offset, untold, unavailable(res.Error)
	}
	next, err = c.readRecords(topic, group, offset, res.Records, fn)
	return next, res.LogStartOffset, err
}

// timeAt is when what is at an offset, or first behind it, was made.
func (c *Cluster) timeAt(ctx context.Context, of partition, offset int64) (time.Time, error) {
	var msgs []bus.Message
	_, _, err := c.scan(ctx, of.topic, of.group, offset, 1, c.cfg.FetchWait, c.collect(of, &msgs))
	switch {
	case len(msgs) > 0:
		return time.UnixMilli(msgs[0].AtMillis), nil
	case err == nil:
		err = fault.New(fault.Unavailable, "kafka", "%s/%d gives nothing at %d", c.topic(of.topic), of.group, offset)
	}
	return time.Time{}, err
}

// readRecords calls fn for each record of an answer from an offset on.
func (c *Cluster) readRecords(topic bus.Topic, group int, offset int64, records kafka.RecordReader, fn func(*kafka.Record) error) (next int64, err error) {
	next = offset
	for read := false; ; {
		r, err := records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return next, nil
		}
		if err != nil {
			// A batch that was cut at the bound of bytes: what came before it is whole.
			if read && errors.Is(err, io.ErrUnexpectedEOF) {
				return next, nil
			}
			return next, unavailable(err)
		}
		if r.Offset >= offset { // a batch is sent whole
			if err := fn(r); fault.Is(err, fault.Conflict) {
				return next, err
			} else if err != nil {
				return next, fault.New(fault.Internal, "fetch", "%s/%d at %d: %w", c.topic(topic), group, r.Offset, err)
			}
			read, next = true, r.Offset+1
		}
		release(r)
	}
}

// release gives a record's memory back to the library: each answer takes 64 KiB of each
// partition that it has something of. Nothing of the record may be used behind it.
func release(r *kafka.Record) {
	for _, b := range [...]kafka.Bytes{r.Key, r.Value} {
		if b != nil {
			_ = b.Close() // it cannot fail
		}
	}
}

func (c *Cluster) message(topic bus.Topic, group int, r *kafka.Record) (m bus.Message, err error) {
	value, err := kafka.ReadAll(r.Value)
	if err != nil {
		return m, err
	}
	events, err := bus.ParseRecords(value)
	if err != nil {
		return m, err
	}
	if len(events) != 1 {
		return m, fmt.Errorf("%w: %d events in a record", bus.ErrRecord, len(events))
	}
	place, err := c.placeOf(topic, group, r)
	return bus.Message{Event: events[0], Topic: topic, Group: group, Place: place}, err
}

// placeOf is the place of a record, for which its value need not be readable.
// Headers of other names are passed over. It is fault.Conflict if the record cannot be
// where it is.
func (c *Cluster) placeOf(topic bus.Topic, group int, r *kafka.Record) (bus.Place, error) {
	p := bus.Place{Epoch: c.cfg.Epoch, Seq: r.Offset + 1}
	for _, h := range r.Headers {
		at := &p.Seq
		switch h.Key {
		case headerEpoch:
			at = &p.Epoch
		case headerSeq:
		default:
			continue
		}
		n, err := strconv.ParseInt(string(h.Value), 10, 64)
		if err != nil {
			return p, fmt.Errorf("%w: header %s: %w", bus.ErrRecord, h.Key, err)
		}
		*at = n
	}
	if !topic.Entering() && p.Seq-1 > r.Offset { // each sequence before it has an offset
		return p, replaced(partition{topic, group}, r.Offset, p.Seq-1)
	}
	return p, nil
}

// endOf is the end of a partition: the offset that the next record gets, and the
// last place in it.
type endOf struct {
	first  int64 // offset that it begins at
	offset int64
	place  bus.Place
	// expired says that there were records, and that the brokers have deleted all of
	// them, as they were old: nobody can tell which the last one was.
	expired bool
}

// replaced says that a partition has something at an offset that it cannot be before, if
// everything is there that was published before it.
func replaced(at partition, offset, least int64) error {
	return &fault.Error{Kind: fault.Conflict, Op: "kafka", Code: "topic_lost", Field: string(at.topic), Fix: "bring the topic back from another copy of the brokers' data",
		Err: fmt.Errorf("group %d has at offset %d what cannot be before %d: what was published before it is gone", at.group, offset, least)}
}

// relayRecordsMax is how many records of a group a relay sends with one request.
// tailRecords is how far from its end a partition is looked at for its last place: what
// is last there may be what a relay that stood still has sent again, late, behind
// another one's.
const (
	relayRecordsMax = 512
	tailRecords     = 4 * relayRecordsMax
)

// end reads the end of a partition.
func (c *Cluster) end(ctx context.Context, topic bus.Topic, group int) (endOf, error) {
	at := partition{topic, group}
	s, err := c.span(ctx, at)
	if err != nil {
		return endOf{}, err
	}
	return c.endIn(ctx, at, s)
}

// endIn reads the last place of a partition, whose span is known.
func (c *Cluster) endIn(ctx context.Context, of partition, s span) (e endOf, err error) {
	e.first, e.offset = s.first, s.last
	if of.topic.Entering() { // there a place is an offset
		if s.last > 0 {
			e.place = bus.Place{Epoch: c.cfg.Epoch, Seq: s.last}
		}
		return e, nil
	}
	// A sequence is never before its offset: where the last record has that one, nothing
	// before it can be further on.
	for _, tail := range [...]int64{1, tailRecords} {
		if e.place, err = c.lastIn(ctx, of, span{max(s.first, s.last-tail), s.last}); err != nil || e.place.Seq == s.last {
			return e, err
		}
	}
	e.expired = e.place == (bus.Place{})
	return e, nil
}

// lastIn is the last place in a part of a partition.
func (c *Cluster) lastIn(ctx context.Context, of partition, s span) (last bus.Place, err error) {
	for at := s.first; at < s.last; {
		next, _, err := c.scan(ctx, of.topic, of.group, at, c.cfg.FetchBytesMax, c.cfg.FetchWait, func(r *kafka.Record) error {
			p, err := c.placeOf(of.topic, of.group, r)
			if p.Epoch > last.Epoch || p.Epoch == last.Epoch && p.Seq > last.Seq {
				last = p
			}
			return err
		})
		if err != nil {
			return last, err
		}
		if next == at {
			return last, fault.New(fault.Unavailable, "kafka: end", "%s/%d gives nothing at %d of %d", c.topic(of.topic), of.group, at, s.last)
		}
		at = next
	}
	return last, nil
}
