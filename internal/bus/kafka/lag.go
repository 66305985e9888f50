package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// consumerGroup is the name under which an area's places are told to the brokers.
// Nothing is read by it: it says how far behind an area is, to gateways and to the
// tools that operators have for that.
func (c *Cluster) consumerGroup(area string) string { return c.cfg.Prefix + area }

// Tell tells the brokers how far an area has come in the groups of a topic. In an
// area's topic that is a sequence, and no offset: a record is never before the offset
// of its sequence, so that to the tools of operators the area is there, or further on.
// It takes the place of what was told before, also of something that was further on. The
// zero Place is that nothing was told.
func (c *Cluster) Tell(ctx context.Context, area string, topic bus.Topic, places map[int]bus.Place) error {
	req := &kafka.OffsetCommitRequest{GroupID: c.consumerGroup(area), GenerationID: -1, Topics: map[string][]kafka.OffsetCommit{}}
	for g, p := range places {
		req.Topics[c.topic(topic)] = append(req.Topics[c.topic(topic)], kafka.OffsetCommit{Partition: g, Offset: p.Seq})
	}
	res, err := c.client.OffsetCommit(ctx, req)
	if err != nil {
		return unavailable(err)
	}
	for _, partitions := range res.Topics {
		for _, p := range partitions {
			if p.Error != nil {
				return unavailable(p.Error)
			}
		}
	}
	return nil
}

// Told is how far an area has told that it has come in some groups of a topic, with one
// request; groups that it has told nothing of, or that the brokers have forgotten, are
// not there.
func (c *Cluster) Told(ctx context.Context, area string, topic bus.Topic, groups []int) (map[int]bus.Place, error) {
	name := c.topic(topic)
	fetch := &kafka.OffsetFetchRequest{GroupID: c.consumerGroup(area), Topics: map[string][]int{name: groups}}
	res, err := c.client.OffsetFetch(ctx, fetch)
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return nil, unavailable(err)
	}
	out := map[int]bus.Place{}
	for _, p := range res.Topics[name] {
		if p.Error != nil {
			return nil, unavailable(p.Error)
		}
		if p.CommittedOffset > 0 {
			out[p.Partition] = bus.Place{Epoch: c.cfg.Epoch, Seq: p.CommittedOffset}
		}
	}
	return out, nil
}

// unread counts the records of each group that an area has not told of.
func (c *Cluster) unread(ctx context.Context, area string, topic bus.Topic) (ends, told []int64, err error) {
	name := c.topic(topic)
	ask := &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{}}
	fetch := &kafka.OffsetFetchRequest{GroupID: c.consumerGroup(area), Topics: map[string][]int{}}
	for g := range c.cfg.Groups {
		ask.Topics[name] = append(ask.Topics[name], kafka.FirstOffsetOf(g), kafka.LastOffsetOf(g))
		fetch.Topics[name] = append(fetch.Topics[name], g)
	}
	// In this order: what is told later than the ends were read is never behind them.
	offsets, err := c.client.OffsetFetch(ctx, fetch)
	if err == nil {
		err = offsets.Error
	}
	if err != nil {
		return nil, nil, unavailable(err)
	}
	list, err := c.client.ListOffsets(ctx, ask)
	if err != nil {
		return nil, nil, unavailable(err)
	}
	ends, told = make([]int64, c.cfg.Groups), make([]int64, c.cfg.Groups)
	for _, p := range list.Topics[name] {
		if p.Error != nil {
			return nil, nil, unavailable(p.Error)
		}
		ends[p.Partition], told[p.Partition] = p.LastOffset, max(0, p.FirstOffset)
	}
	for _, p := range offsets.Topics[name] {
		if p.Error != nil {
			return nil, nil, unavailable(p.Error)
		}
		told[p.Partition] = max(told[p.Partition], p.CommittedOffset) // -1: nothing was told yet
	}
	return ends, told, nil
}

// BacklogConfig bounds what is unread of the topics that enter from outside.
type BacklogConfig struct {
	Reader         string // the area that must have read it
	UnreadBytesMax int64
	UnreadAgeMax   time.Duration
	// RecordBytes is about what a record takes: the brokers count records.
	RecordBytes int64
}

// Backlog knows, at a gateway, how much nobody has read yet, so that it takes no
// more than will be kept. Safe for concurrent use.
type Backlog struct {
	cluster *Cluster
	cfg     BacklogConfig
	now     func() time.Time

	mu     sync.Mutex
	seen   time.Time // when the brokers were last asked, and answered
	topics map[bus.Topic]*unreadOf
	order  []bus.Topic
}

// unreadOf is one topic.
type unreadOf struct {
	records int64
	parts   []partUnread
}

// partUnread remembers one end of a group and when it was first seen: once what
// lies before it was read, it is the turn of a later one. So the age of what is
// unread is never under-estimated by more than one Step.
type partUnread struct {
	mark  int64
	since time.Time // zero when everything is read
}

// NewBacklog makes one for topics.
func NewBacklog(c *Cluster, cfg BacklogConfig, now func() time.Time, topics ...bus.Topic) *Backlog {
	b := &Backlog{cluster: c, cfg: cfg, now: now, topics: map[bus.Topic]*unreadOf{}, order: topics}
	for _, t := range topics {
		b.topics[t] = &unreadOf{parts: make([]partUnread, c.cfg.Groups)}
	}
	return b
}

// Step asks the brokers.
func (b *Backlog) Step(ctx context.Context) error {
	for _, t := range b.order {
		ends, told, err := b.cluster.unread(ctx, b.cfg.Reader, t)
		if err != nil {
			return fault.Wrap("backlog of "+string(t), err)
		}
		b.note(t, ends, told)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = b.now()
	return nil
}

// Seen is when the brokers last answered a Step; the zero time if they never did.
func (b *Backlog) Seen() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen
}

func (b *Backlog) note(topic bus.Topic, ends, told []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.topics[topic]
	u.records = 0
	for g := range ends {
		p := &u.parts[g]
		switch {
		case told[g] >= ends[g]:
			*p = partUnread{}
			continue
		case p.since.IsZero() || told[g] >= p.mark:
			*p = partUnread{mark: ends[g], since: b.now()}
		}
		u.records += ends[g] - told[g]
	}
}

// Of is about how many bytes of a topic are unread, and for how long the oldest of
// them has been.
func (b *Backlog) Of(topic bus.Topic) (bytes int64, age time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.topics[topic]
	if u == nil {
		return 0, 0
	}
	now := b.now()
	for _, p := range u.parts {
		if !p.since.IsZero() {
			age = max(age, now.Sub(p.since))
		}
	}
	return u.records * b.cfg.RecordBytes, age
}

// Admit refuses, with fault.Unavailable, while a bound is passed.
func (b *Backlog) Admit(topic bus.Topic) error {
	switch bytes, age := b.Of(topic); {
	case bytes > b.cfg.UnreadBytesMax:
		return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "backlog_bytes", Fix: "retry after a moment",
			Err: fmt.Errorf("about %d bytes of %s are unread, the bound is %d", bytes, topic, b.cfg.UnreadBytesMax)}
	case age > b.cfg.UnreadAgeMax:
		return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "backlog_age", Fix: "retry after a moment",
			Err: fmt.Errorf("%s have waited unread for more than %s", topic, b.cfg.UnreadAgeMax)}
	}
	return nil
}
