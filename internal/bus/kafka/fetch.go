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

// fetch reads from an offset, in order: nothing when there is nothing yet within
// wait. next is the offset behind what was read.
func (c *Cluster) fetch(ctx context.Context, topic bus.Topic, group int, offset int64, wait time.Duration) (out []bus.Message, next int64, err error) {
	res, err := c.client.Fetch(ctx, &kafka.FetchRequest{Topic: c.topic(topic), Partition: group, Offset: offset, MinBytes: 1,
		MaxBytes: int64(c.cfg.FetchBytesMax), MaxWait: wait})
	if err != nil {
		return nil, offset, unavailable(err)
	}
	switch {
	case errors.Is(res.Error, kafka.OffsetOutOfRange) && offset < res.LogStartOffset:
		// It was deleted: the reader sees the gap.
		return c.fetch(ctx, topic, group, res.LogStartOffset, wait)
	case errors.Is(res.Error, kafka.OffsetOutOfRange):
		return nil, offset, fault.New(fault.Conflict, "fetch", "%s/%d has %d to %d, and is to be read from %d: %w", c.topic(topic), group, res.LogStartOffset, res.HighWatermark, offset, res.Error)
	case res.Error != nil:
		return nil, offset, unavailable(res.Error)
	}
	next = offset
	for {
		r, err := res.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return out, next, nil
		}
		if err != nil {
			// A batch that was cut at the bound of bytes: what came before it is whole.
			if len(out) > 0 && errors.Is(err, io.ErrUnexpectedEOF) {
				return out, next, nil
			}
			return out, next, unavailable(err)
		}
		if r.Offset < offset {
			continue // a batch is sent whole
		}
		m, err := c.message(topic, group, r)
		if err != nil {
			return out, next, fault.New(fault.Internal, "fetch", "%s/%d at %d: %w", c.topic(topic), group, r.Offset, err)
		}
		out, next = append(out, m), r.Offset+1
	}
}

func (c *Cluster) message(topic bus.Topic, group int, r *kafka.Record) (m bus.Message, err error) {
	value, err := kafka.ReadAll(r.Value)
	if err != nil {
		return m, err
	}
	events, err := bus.ParseRecords(value)
	if err != nil || len(events) != 1 {
		return m, fmt.Errorf("%d events in a record: %w", len(events), err)
	}
	m = bus.Message{Event: events[0], Topic: topic, Group: group, Place: bus.Place{Epoch: c.cfg.Epoch, Seq: r.Offset + 1}}
	for _, h := range r.Headers {
		at := &m.Place.Seq
		switch h.Key {
		case headerEpoch:
			at = &m.Place.Epoch
		case headerSeq:
		default:
			continue
		}
		if *at, err = strconv.ParseInt(string(h.Value), 10, 64); err != nil {
			return m, fmt.Errorf("header %s: %w", h.Key, err)
		}
	}
	return m, nil
}

// endOf is the end of a partition: the offset that the next record gets, and the
// last place in it.
type endOf struct {
	offset int64
	place  bus.Place
	// expired says that there were records, and that the brokers have deleted all of
	// them, as they were old: nobody can tell which the last one was.
	expired bool
}

// tailRecords is how far from its end a partition is looked at for its last place:
// the very last record may be a relay's repetition of an earlier one.
const tailRecords = 256

// end reads the end of a partition.
func (c *Cluster) end(ctx context.Context, topic bus.Topic, group int) (e endOf, err error) {
	name := c.topic(topic)
	res, err := c.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{name: {kafka.FirstOffsetOf(group), kafka.LastOffsetOf(group)}}})
	if err != nil {
		return e, unavailable(err)
	}
	var first int64
	for _, p := range res.Topics[name] {
		if p.Error != nil {
			return e, unavailable(p.Error)
		}
		first, e.offset = max(0, p.FirstOffset), p.LastOffset
	}
	for at := max(first, e.offset-tailRecords); at < e.offset; {
		msgs, next, err := c.fetch(ctx, topic, group, at, c.cfg.FetchWait)
		if err != nil {
			return e, err
		}
		if next == at {
			return e, fault.New(fault.Unavailable, "kafka: end", "%s/%d gives nothing at %d of %d", name, group, at, e.offset)
		}
		for _, m := range msgs {
			if m.Place.Epoch > e.place.Epoch || m.Place.Epoch == e.place.Epoch && m.Place.Seq > e.place.Seq {
				e.place = m.Place
			}
		}
		at = next
	}
	switch {
	case e.place != (bus.Place{}) || e.offset == 0:
	case topic.Entering(): // there a place is an offset
		e.place = bus.Place{Epoch: c.cfg.Epoch, Seq: e.offset}
	default:
		e.expired = true
	}
	return e, nil
}
