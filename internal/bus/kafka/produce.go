package kafka

import (
	"context"
	"errors"
	"net"
	"strconv"

	"github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// The headers of a relayed record: its place in the area's log.
const (
	headerEpoch = "epoch"
	headerSeq   = "seq"
)

// produce appends records to a partition, with one request and without a retry:
// a retry of ours could not tell a repetition from the first. base is the offset
// of the first record.
//
// fault.Unavailable: certainly nothing was appended. fault.Unknown: nobody knows.
func (c *Cluster) produce(ctx context.Context, topic bus.Topic, partition int, records []kafka.Record) (base int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ProduceTimeout)
	defer cancel()
	res, err := c.client.Produce(ctx, &kafka.ProduceRequest{Topic: c.topic(topic), Partition: partition, RequiredAcks: kafka.RequireAll,
		Records: kafka.NewRecordReader(records...)})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return 0, fate(err)
	}
	return res.BaseOffset, nil
}

// notAppended are the broker's answers that prove that it appended nothing.
var notAppended = [...]kafka.Error{kafka.UnknownTopicOrPartition, kafka.LeaderNotAvailable, kafka.NotLeaderForPartition, kafka.MessageSizeTooLarge,
	kafka.InvalidTopic, kafka.RecordListTooLarge, kafka.NotEnoughReplicas, kafka.InvalidRequiredAcks, kafka.TopicAuthorizationFailed,
	kafka.ClusterAuthorizationFailed, kafka.InvalidMessage, kafka.InvalidTimestamp, kafka.SASLAuthenticationFailed, kafka.ReplicaNotAvailable,
	kafka.UnsupportedForMessageFormat, kafka.PolicyViolation}

// fate gives an error of a produce request its one meaning. Only what proves that
// nothing was sent or appended is fault.Unavailable.
func fate(err error) error {
	var code kafka.Error
	if errors.As(err, &code) {
		for _, c := range notAppended {
			if code == c {
				return &fault.Error{Kind: fault.Unavailable, Op: "kafka: append", Code: "refused", Fix: "see the brokers' state and limits", Err: err}
			}
		}
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return unavailable(err) // no connection: no byte left
	}
	return &fault.Error{Kind: fault.Unknown, Op: "kafka: append", Code: "append_unknown", Err: err}
}

// record is an event as it is appended. place is that in the area's log; the zero
// Place for what enters from outside, whose place is its offset.
func record(e *bus.Event, place bus.Place) kafka.Record {
	r := kafka.Record{Key: kafka.NewBytes([]byte(e.Context.BizCode)), Value: kafka.NewBytes(bus.AppendRecord(nil, e))}
	if place != (bus.Place{}) {
		r.Headers = []kafka.Header{{Key: headerEpoch, Value: strconv.AppendInt(nil, place.Epoch, 10)}, {Key: headerSeq, Value: strconv.AppendInt(nil, place.Seq, 10)}}
	}
	return r
}
