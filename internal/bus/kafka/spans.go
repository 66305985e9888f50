package kafka

import (
	"context"
	"errors"
	"sync"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listoffsets"

	"github.com/tallystick/tallystick/internal/bus"
)

// span is where a partition begins, and the offset that its next record gets.
type span struct{ first, last int64 }

// spans are those of some partitions, with two requests to each broker that leads one.
// Of which it cannot be told, it says why: every partition is in one of the two. The
// library sends two requests for each partition.
func (c *Cluster) spans(ctx context.Context, of ...partition) (out map[partition]span, failed map[partition]error) {
	byLeader, leaders := map[int][]partition{}, c.leaders(ctx)
	out, failed = make(map[partition]span, len(of)), map[partition]error{}
	for _, p := range of {
		leader, has := leaders.of(p)
		if !has {
			failed[p] = unavailable(protocol.NewErrNoLeader(c.topic(p.topic), int32(p.group))) //nolint:gosec // at most 1,024
			continue
		}
		byLeader[leader] = append(byLeader[leader], p)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, led := range byLeader {
		for _, which := range [...]int64{kafka.FirstOffset, kafka.LastOffset} {
			wg.Go(func() {
				offsets, err := c.offsets(ctx, which, led)
				mu.Lock()
				defer mu.Unlock()
				for _, p := range led {
					s := out[p]
					switch o, has := offsets[p]; {
					case err != nil:
						failed[p] = err
					case !has:
						failed[p] = unavailable(errors.New("the brokers' answer does not tell"))
					case o.ErrorCode != 0:
						failed[p] = unavailable(kafka.Error(o.ErrorCode))
					case which == kafka.FirstOffset:
						s.first = max(0, o.Offset)
					default:
						s.last = o.Offset
					}
					out[p] = s
				}
			})
		}
	}
	wg.Wait()
	for p := range failed {
		delete(out, p)
	}
	return out, failed
}

// span is that of one partition.
func (c *Cluster) span(ctx context.Context, p partition) (span, error) {
	spans, failed := c.spans(ctx, p)
	return spans[p], failed[p]
}

// offsets asks the leader of some partitions for their first or their last offsets.
func (c *Cluster) offsets(ctx context.Context, which int64, of []partition) (map[partition]*listoffsets.ResponsePartition, error) {
	ctx, cancel := context.WithTimeout(ctx, c.client.Timeout)
	defer cancel()
	byTopic := map[bus.Topic][]listoffsets.RequestPartition{}
	for _, p := range of {
		byTopic[p.topic] = append(byTopic[p.topic], listoffsets.RequestPartition{Partition: int32(p.group), CurrentLeaderEpoch: -1, Timestamp: which}) //nolint:gosec // at most 1,024
	}
	ask := &offsetsRequest{ReplicaID: -1}
	for t, partitions := range byTopic {
		ask.Topics = append(ask.Topics, listoffsets.RequestTopic{Topic: c.topic(t), Partitions: partitions})
	}
	m, err := c.transport.RoundTrip(ctx, c.client.Addr, ask)
	if err != nil {
		return nil, unavailable(err)
	}
	out := map[partition]*listoffsets.ResponsePartition{}
	for _, t := range m.(*listoffsets.Response).Topics {
		for i := range t.Partitions {
			out[partition{c.named(t.Topic), int(t.Partitions[i].Partition)}] = &t.Partitions[i]
		}
	}
	return out, nil
}

// offsetsRequest is the library's, which does not come apart into one for each
// partition. All of them are led by one broker.
type offsetsRequest listoffsets.Request

// ApiKey implements protocol.Message.
func (r *offsetsRequest) ApiKey() protocol.ApiKey { return protocol.ListOffsets } //nolint:revive,staticcheck // the library's name

// Broker implements protocol.BrokerMessage.
func (r *offsetsRequest) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	return leaderIn(cluster, r.Topics[0].Topic, r.Topics[0].Partitions[0].Partition)
}

// leaderIn is the broker that leads a partition, as far as the library knows.
func leaderIn(cluster protocol.Cluster, topic string, partition int32) (protocol.Broker, error) {
	leader, ok := cluster.Brokers[cluster.Topics[topic].Partitions[partition].Leader]
	if !ok {
		return protocol.Broker{}, protocol.NewErrNoLeader(topic, partition)
	}
	return leader, nil
}
