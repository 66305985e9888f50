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
	of := make([]partition, len(groups))
	for i, g := range groups {
		of[i] = partition{topic, g}
	}
	told, err := c.told(ctx, area, of...)
	out := map[int]bus.Place{}
	for p, seq := range told {
		out[p.group] = bus.Place{Epoch: c.cfg.Epoch, Seq: seq}
	}
	return out, err
}

// told is what Told gives, of any topics.
func (c *Cluster) told(ctx context.Context, area string, of ...partition) (map[partition]int64, error) {
	ask := &kafka.OffsetFetchRequest{GroupID: c.consumerGroup(area), Topics: map[string][]int{}}
	for _, p := range of {
		ask.Topics[c.topic(p.topic)] = append(ask.Topics[c.topic(p.topic)], p.group)
	}
	res, err := c.client.OffsetFetch(ctx, ask)
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return nil, unavailable(err)
	}
	out := map[partition]int64{}
	for name, partitions := range res.Topics {
		for _, p := range partitions {
			if p.Error != nil {
				return nil, unavailable(p.Error)
			}
			if p.CommittedOffset > 0 { // -1: nothing was told yet
				out[partition{c.named(name), p.Partition}] = p.CommittedOffset
			}
		}
	}
	return out, nil
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

	all []partition

	mu     sync.Mutex
	seen   time.Time // when the brokers were last asked, and answered
	topics map[bus.Topic]*unreadOf
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
	b := &Backlog{cluster: c, cfg: cfg, now: now, topics: map[bus.Topic]*unreadOf{}}
	for _, t := range topics {
		b.topics[t] = &unreadOf{parts: make([]partUnread, c.cfg.Groups)}
		for g := range c.cfg.Groups {
			b.all = append(b.all, partition{t, g})
		}
	}
	return b
}

// Step asks the brokers.
func (b *Backlog) Step(ctx context.Context) error {
	// In this order: what is told later than the ends were read is never behind them.
	told, err := b.cluster.told(ctx, b.cfg.Reader, b.all...)
	if err != nil {
		return fault.Wrap("backlog", err)
	}
	spans, err := b.cluster.spans(ctx, b.all...)
	if err != nil {
		return fault.Wrap("backlog", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = b.now()
	for _, u := range b.topics {
		u.records = 0
	}
	for _, p := range b.all {
		b.note(p, max(told[p], spans[p].first), spans[p].last)
	}
	return nil
}

// Seen is when the brokers last answered a Step; the zero time if they never did.
func (b *Backlog) Seen() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen
}

// note takes up to where a partition was read, and where it ends; b.mu is held.
func (b *Backlog) note(of partition, told, end int64) {
	u := b.topics[of.topic]
	p := &u.parts[of.group]
	switch {
	case told >= end:
		*p = partUnread{}
		return
	case p.since.IsZero() || told >= p.mark:
		*p = partUnread{mark: end, since: b.seen}
	}
	u.records += end - told
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
