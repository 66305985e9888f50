package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// Rewind makes topics say again what the areas' logs say, after a database was
// restored from a copy that is older than the bus: what was published of a log
// behind its end came from a past that is no more. Such a group's records are
// deleted at the brokers, and its log is published anew from its beginning. Groups
// that fit are left alone. It may be interrupted, and be called again. begin is called
// before anything is changed: it looks whether these are the right brokers, and takes back
// what readers have told of a past that is no more; see Tell. groups are those that the logs' database
// owns; nil is all.
//
// Nothing else may run: neither a writer of these topics nor a reader that keeps its place
// in a store; one that keeps none notices (bus.Rewindable). Readers' places must be of the
// same moment as the logs; a later one is refused at their start.
func Rewind(ctx context.Context, c Config, messagesMax int, log *slog.Logger, begin func(context.Context, *Cluster) error, groups []int, logs ...bus.Source) error {
	// kafka-go does not know this request. It is made known before anything is
	// connected, as the library's table has no lock.
	protocol.Register(&deleteRecords{}, &deletedRecords{})
	cluster, err := Connect(c)
	if err != nil {
		return err
	}
	defer cluster.Close() //nolint:errcheck // nothing is on its way
	if err := begin(ctx, cluster); err != nil {
		return err
	}
	for _, source := range logs {
		if err := cluster.EnsureTopics(ctx, source.Topic()); err != nil {
			return err
		}
		if err := source.Refresh(ctx); err != nil {
			return err
		}
		for _, g := range bus.GroupsOf(source, groups) {
			end, err := cluster.end(ctx, source.Topic(), g)
			if err != nil {
				return err
			}
			head := source.Head(g)
			if end.place.Epoch == head.Epoch && end.place.Seq <= head.Seq || end.place == (bus.Place{}) {
				continue
			}
			log.Warn("a group is published anew", "topic", string(source.Topic()), "group", g, "published_seq", end.place.Seq, "log_seq", head.Seq)
			if err := cluster.deleteUpTo(ctx, source.Topic(), g, end.offset); err != nil {
				return err
			}
		}
		relay := &Relay{Cluster: cluster, Source: source, Groups: groups, MessagesMax: messagesMax, Log: log}
		for worked := true; worked; {
			if worked, err = relay.Step(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteUpTo deletes a partition's records before an offset.
func (c *Cluster) deleteUpTo(ctx context.Context, topic bus.Topic, group int, offset int64) error {
	req := &deleteRecords{TimeoutMillis: int32(c.cfg.ProduceTimeout / time.Millisecond), Topics: []deleteTopic{{Name: c.topic(topic), //nolint:gosec // bounded by its configuration
		Partitions: []deletePartition{{Partition: int32(group), Offset: offset}}}}} //nolint:gosec // at most 1,024
	op := fmt.Sprintf("kafka: delete the records of %s/%d", c.topic(topic), group)
	res, err := c.transport.RoundTrip(ctx, c.client.Addr, req)
	if err != nil {
		return fault.Wrap(op, unavailable(err))
	}
	for _, t := range res.(*deletedRecords).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return fault.Wrap(op, unavailable(kafka.Error(p.ErrorCode)))
			}
		}
	}
	return nil
}

// deleteRecords is Kafka's request of that name.
type deleteRecords struct {
	Topics        []deleteTopic `kafka:"min=v0,max=v1"`
	TimeoutMillis int32         `kafka:"min=v0,max=v1"`
}

type deleteTopic struct {
	Name       string            `kafka:"min=v0,max=v1"`
	Partitions []deletePartition `kafka:"min=v0,max=v1"`
}

type deletePartition struct {
	Partition int32 `kafka:"min=v0,max=v1"`
	Offset    int64 `kafka:"min=v0,max=v1"`
}

// ApiKey implements protocol.Message.
func (r *deleteRecords) ApiKey() protocol.ApiKey { return protocol.DeleteRecords } //nolint:revive,staticcheck // the library's name

// Broker sends it to the leader of its one partition.
func (r *deleteRecords) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	return leaderIn(cluster, r.Topics[0].Name, r.Topics[0].Partitions[0].Partition)
}

// deletedRecords is the answer.
type deletedRecords struct {
	ThrottleTimeMillis int32          `kafka:"min=v0,max=v1"`
	Topics             []deletedTopic `kafka:"min=v0,max=v1"`
}

type deletedTopic struct {
	Name       string             `kafka:"min=v0,max=v1"`
	Partitions []deletedPartition `kafka:"min=v0,max=v1"`
}

type deletedPartition struct {
	Partition    int32 `kafka:"min=v0,max=v1"`
	LowWatermark int64 `kafka:"min=v0,max=v1"`
	ErrorCode    int16 `kafka:"min=v0,max=v1"`
}

// ApiKey implements protocol.Message.
func (r *deletedRecords) ApiKey() protocol.ApiKey { return protocol.DeleteRecords } //nolint:revive,staticcheck // the library's name
