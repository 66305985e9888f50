package kafka

import (
	"context"
	"errors"
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
	seen   time.Time                  // when the brokers were last asked, and answered
	topics map[bus.Topic][]unreadPart // by group
}

// unreadPart remembers one end of a group and when it was first seen: once what lies
// before it was read, it is the turn of a later one. So the age of what is unread is
// never under-estimated by more than one Step.
type unreadPart struct {
	known   bool // since is right also about what was there before the first Step
	records int64
	mark    int64
	since   time.Time // zero when everything is read
}

// NewBacklog makes one for topics.
func NewBacklog(c *Cluster, cfg BacklogConfig, now func() time.Time, topics ...bus.Topic) *Backlog {
	b := &Backlog{cluster: c, cfg: cfg, now: now, topics: map[bus.Topic][]unreadPart{}}
	for _, t := range topics {
		b.topics[t] = make([]unreadPart, c.cfg.Groups)
		for g := range c.cfg.Groups {
			b.all = append(b.all, partition{t, g})
		}
	}
	return b
}

// Step asks the brokers. What they cannot tell of one group, as nobody leads its
// partition, stays as it was, and is an error about that group alone.
func (b *Backlog) Step(ctx context.Context) error {
	// In this order: what is told later than the ends were read is never behind them.
	told, err := b.cluster.told(ctx, b.cfg.Reader, b.all...)
	if err != nil {
		return fault.Wrap("backlog", err)
	}
	spans, failed := b.cluster.spans(ctx, b.all...)
	now := b.now()
	errs := make([]error, 0, len(failed))
	for _, p := range b.all {
		s, has := spans[p]
		if !has {
			errs = append(errs, fmt.Errorf("%s, group %d: %w", p.topic, p.group, failed[p]))
			continue
		}
		errs = append(errs, b.measure(ctx, p, max(told[p], s.first), s.last, now))
	}
	if len(spans) > 0 {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.seen = now
	}
	return fault.Wrap("backlog", errors.Join(errs...))
}

// measure takes up to where a partition was read, and where it ends. The first time it
// looks how old the oldest is that was not read: others may have taken it long ago.
func (b *Backlog) measure(ctx context.Context, of partition, told, end int64, now time.Time) (err error) {
	b.mu.Lock()
	first := !b.topics[of.topic][of.group].known
	b.mu.Unlock()
	since := now
	if first && told < end {
		var at time.Time
		if at, err = b.cluster.timeAt(ctx, of, told); err == nil && at.Before(now) {
			since = at
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := &b.topics[of.topic][of.group]
	p.known = p.known || err == nil
	switch p.records = max(0, end-told); {
	case p.records == 0:
		p.mark, p.since = 0, time.Time{}
	case p.since.IsZero() || told >= p.mark || first && since.Before(p.since):
		p.mark, p.since = end, since
	}
	return err
}

// Seen is when the brokers last answered a Step; the zero time if they never did.
func (b *Backlog) Seen() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen
}

// Of is about how many bytes of a topic are unread, and for how long the oldest of
// them has been.
func (b *Backlog) Of(topic bus.Topic) (bytes int64, age time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	for _, p := range b.topics[topic] {
		age = max(age, p.age(now))
	}
	return b.bytes(topic), age
}

// bytes are about those of a topic that are unread; b.mu is held.
func (b *Backlog) bytes(topic bus.Topic) (n int64) {
	for i := range b.topics[topic] {
		n += b.topics[topic][i].records
	}
	return n * b.cfg.RecordBytes
}

// age is for how long the oldest has been unread.
func (p *unreadPart) age(now time.Time) time.Duration {
	if p.since.IsZero() {
		return 0
	}
	return now.Sub(p.since)
}

// Admit refuses, with fault.Unavailable, what a group of a topic would take while too
// much of the topic is unread, or something of the group for too long: a group that
// stands still keeps nobody from the others.
func (b *Backlog) Admit(topic bus.Topic, group int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.roomy(topic); err != nil {
		return err
	}
	return b.young(topic, group, b.now())
}

// Full says why no group of a topic takes anything; nil while one does.
func (b *Backlog) Full(topic bus.Topic) (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.roomy(topic); err != nil {
		return err
	}
	now := b.now()
	for g := range b.topics[topic] {
		if err = b.young(topic, g, now); err == nil {
			return nil
		}
	}
	return err
}

// roomy refuses while the bound of bytes is passed; b.mu is held.
func (b *Backlog) roomy(topic bus.Topic) error {
	if n := b.bytes(topic); n > b.cfg.UnreadBytesMax {
		return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "backlog_bytes", Fix: "retry after a moment",
			Err: fmt.Errorf("about %d bytes of %s are unread, the bound is %d", n, topic, b.cfg.UnreadBytesMax)}
	}
	return nil
}

// young refuses while a group's bound of age is passed; b.mu is held.
func (b *Backlog) young(topic bus.Topic, group int, now time.Time) error {
	if b.topics[topic][group].age(now) > b.cfg.UnreadAgeMax {
		return &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "backlog_age", Fix: "retry after a moment",
			Err: fmt.Errorf("%s of group %d have waited unread for more than %s", topic, group, b.cfg.UnreadAgeMax)}
	}
	return nil
}
