package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// Board is a topic of one partition for state that is replaced as a whole: all its
// records have one key, and compaction keeps the last. For one goroutine, but for Put.
type Board struct {
	cluster  *Cluster
	topic    bus.Topic
	bytesMax int   // of a record
	next     int64 // the offset to read from; kafka.FirstOffset for where it begins
}

// NewBoard makes one for records of bytesMax bytes at most. Ensure must follow.
func NewBoard(c *Cluster, topic bus.Topic, bytesMax int) *Board {
	return &Board{cluster: c, topic: topic, bytesMax: bytesMax, next: kafka.FirstOffset}
}

// Ensure makes the topic if it is missing, and checks it. See Cluster.EnsureTopics.
func (b *Board) Ensure(ctx context.Context) error {
	return b.cluster.ensure(ctx, []shape{{topic: b.topic, partitions: 1, board: true, bytesMin: b.bytesMax + 4<<10}})
}

// Put appends a record, once: fault.TooLarge for one that is over the bound,
// fault.Unavailable when it certainly is not there, fault.Unknown when nobody knows.
func (b *Board) Put(ctx context.Context, record []byte) error {
	if len(record) > b.bytesMax {
		return &fault.Error{Kind: fault.TooLarge, Op: "kafka: " + b.cluster.topic(b.topic), Field: "kafka.directory_bytes_max", Code: "record_too_large",
			Fix: "raise it, and max.message.bytes of the topic, or make the record smaller", Err: fmt.Errorf("it has %d bytes, %d may be published", len(record), b.bytesMax)}
	}
	cargos := []cargo{{partition: partition{b.topic, 0}, records: []kafka.Record{{Key: kafka.NewBytes([]byte(b.topic)), Value: kafka.NewBytes(record)}}}}
	b.cluster.produce(ctx, cargos)
	return cargos[0].err
}

// Rewind lets Next begin with the first record that is there.
func (b *Board) Rewind() { b.next = kafka.FirstOffset }

// Next gives what was put since the last call, in order, and waits for it as long as
// wait and kafka.fetch_wait say, at most. all says that this is all there is now.
// fault.Conflict is that the topic is shorter than it was.
func (b *Board) Next(ctx context.Context, wait time.Duration) (records [][]byte, all bool, err error) {
	c := b.cluster
	res, err := c.client.Fetch(ctx, &kafka.FetchRequest{Topic: c.topic(b.topic), Partition: 0, Offset: b.next, MinBytes: 1,
		MaxBytes: int64(c.cfg.FetchBytesMax), MaxWait: max(time.Millisecond, min(wait, c.cfg.FetchWait))}) // 0 would be the library's own
	switch {
	case err != nil:
		return nil, false, unavailable(err)
	case errors.Is(res.Error, kafka.OffsetOutOfRange):
		return nil, false, fault.New(fault.Conflict, "kafka: "+c.topic(b.topic), "it has nothing at offset %d: %w", b.next, res.Error)
	case res.Error != nil:
		return nil, false, unavailable(res.Error)
	}
	next, err := c.readRecords(b.topic, 0, b.next, res.Records, func(r *kafka.Record) error {
		value, err := kafka.ReadAll(r.Value)
		records = append(records, value)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	b.next = next
	return records, next >= res.HighWatermark || next == kafka.FirstOffset && res.LogStartOffset >= res.HighWatermark, nil
}
