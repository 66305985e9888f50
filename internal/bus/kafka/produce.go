package kafka

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// The headers of a relayed record: its place in the area's log.
const (
	headerEpoch = "epoch"
	headerSeq   = "seq"
)

// cargo is what one partition gets of a request, and what came of it.
type cargo struct {
	partition
	records []kafka.Record
	lane    *laneState // whose it is, if it is a lane's
	// err is fault.Unavailable when certainly nothing was appended, and fault.Unknown
	// when nobody knows. Without it, first is the offset of the first record.
	err   error
	first int64
}

// produce appends to partitions that one broker leads, with one request and without a
// retry: a retry of ours could not tell a repetition from the first. If leaders have
// changed and it is not one broker, nothing was sent, and each goes alone. What came of
// it is in the cargos. The library has requests for one partition alone, and the
// messages that they are made of.
func (c *Cluster) produce(ctx context.Context, cargos []cargo) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ProduceTimeout)
	defer cancel()
	topics := make([]produce.RequestTopic, 0, 2)
	for i := range cargos {
		name := c.topic(cargos[i].topic)
		at := slices.IndexFunc(topics, func(t produce.RequestTopic) bool { return t.Topic == name })
		if at < 0 {
			at, topics = len(topics), append(topics, produce.RequestTopic{Topic: name})
		}
		topics[at].Partitions = append(topics[at].Partitions, produce.RequestPartition{Partition: int32(cargos[i].group), //nolint:gosec // at most 1,024
			RecordSet: protocol.RecordSet{Records: kafka.NewRecordReader(cargos[i].records...)}})
	}
	// Brokers are told to wait for copies half as long as we wait for them.
	m, err := c.transport.RoundTrip(ctx, c.client.Addr, &produce.Request{Acks: int16(kafka.RequireAll), Timeout: int32(c.cfg.ProduceTimeout.Milliseconds() / 2), Topics: topics}) //nolint:gosec // seconds
	var route *produce.Error
	switch {
	case errors.As(err, &route) && len(cargos) > 1:
		var wg sync.WaitGroup
		for i := range cargos {
			wg.Go(func() { c.produce(ctx, cargos[i:i+1]) })
		}
		wg.Wait()
		return
	case err != nil:
		for i := range cargos {
			cargos[i].err = fate(err)
		}
		return
	}
	answers := map[partition]*produce.ResponsePartition{}
	for _, t := range m.(*produce.Response).Topics {
		for i := range t.Partitions {
			answers[partition{c.named(t.Topic), int(t.Partitions[i].Partition)}] = &t.Partitions[i]
		}
	}
	for i := range cargos {
		switch a := answers[cargos[i].partition]; {
		case a == nil:
			cargos[i].err = unknown(errors.New("the brokers' answer does not tell"))
		case a.ErrorCode != 0:
			cargos[i].err = fateOf(kafka.Error(a.ErrorCode), a.BaseOffset)
		default:
			c.cfg.Points.At("kafka.appended." + string(cargos[i].topic))
			cargos[i].first = a.BaseOffset
		}
	}
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

// recordBytes is about what a record takes of a request.
func recordBytes(r *kafka.Record) int { return r.Key.Len() + r.Value.Len() + overheadBytes }

// pack makes records of messages, from the first one on, as many as go into one
// request: at least one.
func (c *Cluster) pack(msgs []bus.Message) []kafka.Record {
	records, bytes := make([]kafka.Record, 0, len(msgs)), 0
	for i := range msgs {
		r := record(&msgs[i].Event, msgs[i].Place)
		bytes += recordBytes(&r)
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
