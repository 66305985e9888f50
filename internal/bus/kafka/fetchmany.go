package kafka

import (
	"context"
	"slices"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"github.com/tallystick/tallystick/internal/bus"
)

// wish is a partition that is to be read, and from which offset.
type wish struct {
	partition
	at int64
}

// catch is what a wish came to: out is what lies before next. With an error, out is
// what lies before that.
type catch struct {
	wish
	out   []bus.Message
	next  int64
	first int64 // where the partition begins, or untold
	err   error
}

// untold is an offset that nobody has told.
const untold = -1

// partition is a group of a topic.
type partition struct {
	topic bus.Topic
	group int
}

// leaders says who led the partitions when the brokers were last asked, within a
// second.
type leaders struct {
	prefix string
	topics []metadata.ResponseTopic
}

// leaders are known without a request. While no broker answers, nobody leads.
func (c *Cluster) leaders(ctx context.Context) leaders {
	ctx, cancel := context.WithTimeout(ctx, c.client.Timeout)
	defer cancel()
	out := leaders{prefix: c.cfg.Prefix}
	if m, err := c.transport.RoundTrip(ctx, c.client.Addr, &metadata.Request{}); err == nil {
		out.topics = m.(*metadata.Response).Topics
	}
	return out
}

// of is the broker that leads a partition.
func (l leaders) of(p partition) (broker int, has bool) {
	for i := range l.topics {
		t := &l.topics[i]
		if name, ours := strings.CutPrefix(t.Name, l.prefix); !ours || name != string(p.topic) {
			continue
		}
		for j := range t.Partitions {
			q := &t.Partitions[(p.group+j)%len(t.Partitions)] // mostly they are in order
			if int(q.PartitionIndex) == p.group {
				return int(q.LeaderID), q.ErrorCode == 0 && q.LeaderID >= 0
			}
		}
	}
	return 0, false
}

// fetchMany reads many partitions, all led by one broker, with one request: what a
// request costs, brokers and us, is nearly the same for one and for many. It comes back
// when there is something of any, or after FetchWait. Of what the answer may have, one
// partition gets a quarter at most, or a single batch that is larger. The library has
// requests for one partition alone, and the messages that they are made of.
func (c *Cluster) fetchMany(ctx context.Context, wishes []wish) ([]catch, error) {
	ctx, cancel := context.WithTimeout(ctx, c.client.Timeout)
	defer cancel()
	share := int32(c.cfg.FetchBytesMax / min(len(wishes), 4)) //nolint:gosec // Kafka's own bound
	var topics []fetch.RequestTopic
	asked := make(map[partition]int64, len(wishes))
	for _, w := range wishes {
		asked[w.partition] = w.at
		name := c.topic(w.topic)
		at := slices.IndexFunc(topics, func(t fetch.RequestTopic) bool { return t.Topic == name })
		if at < 0 {
			at, topics = len(topics), append(topics, fetch.RequestTopic{Topic: name})
		}
		topics[at].Partitions = append(topics[at].Partitions, fetch.RequestPartition{Partition: int32(w.group), CurrentLeaderEpoch: -1, FetchOffset: w.at, //nolint:gosec // at most 1,024
			LogStartOffset: -1, PartitionMaxBytes: share})
	}
	m, err := c.transport.RoundTrip(ctx, c.client.Addr, &fetch.Request{ReplicaID: -1, MaxWaitTime: int32(c.cfg.FetchWait.Milliseconds()), MinBytes: 1, //nolint:gosec // a second or so
		MaxBytes: int32(c.cfg.FetchBytesMax), SessionID: -1, SessionEpoch: -1, Topics: topics}) //nolint:gosec // as above
	if err != nil {
		return nil, unavailable(err)
	}
	res := m.(*fetch.Response)
	if res.ErrorCode != 0 {
		return nil, unavailable(kafka.Error(res.ErrorCode))
	}
	out := make([]catch, 0, len(wishes))
	for i := range res.Topics {
		topic := c.named(res.Topics[i].Topic)
		for j := range res.Topics[i].Partitions {
			p := &res.Topics[i].Partitions[j]
			of := partition{topic, int(p.Partition)}
			at, has := asked[of]
			if !has {
				continue // nobody has asked for it
			}
			k := catch{wish: wish{of, at}, next: at, first: untold}
			if p.ErrorCode == 0 {
				k.first = p.LogStartOffset
			}
			switch {
			case p.ErrorCode != 0:
				k.err = unavailable(kafka.Error(p.ErrorCode))
			case p.RecordSet.Records != nil:
				k.next, k.err = c.readRecords(topic, k.group, k.at, p.RecordSet.Records, c.collect(of, &k.out))
			}
			out = append(out, k)
		}
	}
	return out, nil
}
