package kafka

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/produce"

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
	if err != nil {
		return 0, fate(err)
	}
	if res.Error != nil {
		return 0, fateOf(res.Error, res.BaseOffset)
	}
	return res.BaseOffset, nil
}

// notAppended are a broker's answers that prove that it appended nothing.
var notAppended = [...]kafka.Error{kafka.LeaderNotAvailable, kafka.MessageSizeTooLarge, kafka.InvalidTopic, kafka.RecordListTooLarge, kafka.NotEnoughReplicas,
	kafka.InvalidRequiredAcks, kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed, kafka.InvalidMessage, kafka.InvalidTimestamp,
	kafka.UnsupportedForMessageFormat, kafka.PolicyViolation}

// notHere are answers of a broker that does not lead the partition. It may also
// have appended the records, waited for their copies, and ceased to lead
// meanwhile: then the new leader may have them. A broker that has appended says
// at which offset.
var notHere = [...]kafka.Error{kafka.NotLeaderForPartition, kafka.UnknownTopicOrPartition, kafka.ReplicaNotAvailable}

// fateOf gives a broker's refusal its meaning. base is the offset that came with
// it; below 0 for none.
func fateOf(err error, base int64) error {
	var code kafka.Error
	if errors.As(err, &code) && (slices.Contains(notAppended[:], code) || base < 0 && slices.Contains(notHere[:], code)) {
		return &fault.Error{Kind: fault.Unavailable, Op: "kafka: append", Code: "refused", Fix: "see the brokers' state and limits", Err: err}
	}
	return unknown(err)
}

// fate gives the error of a request without an answer its meaning: certain only if
// nothing was sent, as there was no connection, nobody to connect to (the brokers
// know no leader: kafka-go says so without asking them, for as long as its map
// lives), or nobody let us in.
func fate(err error) error {
	var connect *connectError
	var route *produce.Error
	if errors.As(err, &connect) || errors.As(err, &route) || errors.Is(err, kafka.BrokerNotAvailable) || errors.Is(err, kafka.SASLAuthenticationFailed) {
		return unavailable(err)
	}
	return unknown(err)
}

func unknown(err error) error {
	return &fault.Error{Kind: fault.Unknown, Op: "kafka: append", Code: "append_unknown", Err: err}
}

// overheadBytes is more than Kafka adds to a record with its headers.
const overheadBytes = 64

// pack makes records of messages, from the first one on, as many as go into one
// request: at least one.
func (c *Cluster) pack(msgs []bus.Message) []kafka.Record {
	records, bytes := make([]kafka.Record, 0, len(msgs)), 0
	for i := range msgs {
		r := record(&msgs[i].Event, msgs[i].Place)
		bytes += r.Key.Len() + r.Value.Len() + overheadBytes
		if i > 0 && bytes > c.cfg.BatchBytesMax {
			break
		}
		records = append(records, r)
	}
	return records
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
