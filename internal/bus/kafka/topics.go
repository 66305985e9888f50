package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// shape is what a topic must be like.
type shape struct {
	topic      bus.Topic
	partitions int
	board      bool // it keeps the last record alone, and no events
	bytesMin   int  // what it must take at once
}

// EnsureTopics makes the topics that are missing, and holds those that are there
// against the configuration: fault.Conflict names the first that does not fit, and
// fault.Invalid a key of the configuration with which brokers let nobody in.
func (c *Cluster) EnsureTopics(ctx context.Context, topics ...bus.Topic) error {
	shapes := make([]shape, len(topics))
	for i, t := range topics { // a batch, and what Kafka adds
		shapes[i] = shape{topic: t, partitions: c.cfg.Groups, bytesMin: c.cfg.BatchBytesMax + c.cfg.BatchBytesMax/4}
	}
	return c.ensure(ctx, shapes)
}

func (c *Cluster) ensure(ctx context.Context, shapes []shape) error {
	const op = "kafka: topics"
	if _, err := c.ID(ctx); err != nil { // the first connection
		return err
	}
	req := &kafka.CreateTopicsRequest{}
	for _, s := range shapes {
		req.Topics = append(req.Topics, kafka.TopicConfig{Topic: c.topic(s.topic), NumPartitions: s.partitions, ReplicationFactor: c.cfg.Replication, ConfigEntries: c.entries(s)})
	}
	res, err := c.client.CreateTopics(ctx, req)
	if err != nil {
		return fault.Wrap(op, unavailable(err))
	}
	for name, err := range res.Errors {
		if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
			return fault.New(fault.Unavailable, op, "%s: %w", name, err)
		}
	}
	if err := c.check(ctx, shapes); err != nil {
		return err
	}
	made := slices.DeleteFunc(slices.Clone(shapes), func(s shape) bool { return res.Errors[c.topic(s.topic)] != nil })
	return fault.Wrap(op, c.awaitLeaders(ctx, made))
}

// entries are what a topic is made with.
func (c *Cluster) entries(s shape) []kafka.ConfigEntry {
	out := []kafka.ConfigEntry{{ConfigName: "min.insync.replicas", ConfigValue: strconv.Itoa(c.cfg.MinInSync)},
		{ConfigName: "max.message.bytes", ConfigValue: strconv.Itoa(max(1<<20, s.bytesMin))}, {ConfigName: "unclean.leader.election.enable", ConfigValue: "false"}}
	if c.cfg.MinInSync < 2 && !c.cfg.NoSync {
		out = append(out, kafka.ConfigEntry{ConfigName: "flush.messages", ConfigValue: "1"})
	}
	if s.board { // what is not the last record any more goes soon after the next one
		return append(out, kafka.ConfigEntry{ConfigName: "cleanup.policy", ConfigValue: "compact"},
			kafka.ConfigEntry{ConfigName: "segment.ms", ConfigValue: "60000"}, kafka.ConfigEntry{ConfigName: "min.cleanable.dirty.ratio", ConfigValue: "0.01"})
	}
	return append(out, kafka.ConfigEntry{ConfigName: "cleanup.policy", ConfigValue: "delete"}, kafka.ConfigEntry{ConfigName: "retention.bytes", ConfigValue: "-1"},
		kafka.ConfigEntry{ConfigName: "retention.ms", ConfigValue: strconv.FormatInt(c.cfg.Retention.Milliseconds(), 10)})
}

// check holds topics against what they must be like.
func (c *Cluster) check(ctx context.Context, shapes []shape) error {
	const op = "kafka: topics"
	names, wanted := make([]string, len(shapes)), map[string]shape{}
	for i, s := range shapes {
		names[i] = c.topic(s.topic)
		wanted[names[i]] = s
	}
	meta, err := c.metadata(ctx, names)
	if err != nil {
		return fault.Wrap(op, err)
	}
	req := &kafka.DescribeConfigsRequest{}
	for _, t := range meta {
		switch n, want := len(t.Partitions), wanted[t.Name]; {
		case n != want.partitions && want.board:
			return unfit(t.Name, "remove it, and it is made anew and filled again", "it has %d partitions, and must have one", n)
		case n != want.partitions:
			return unfit(t.Name, "use the number of groups that it was made with", "it has %d partitions, there are %d groups", n, want.partitions)
		}
		for _, p := range t.Partitions {
			if n := len(p.Replicas); n < c.cfg.Replication && p.Error == nil { // an error is that nobody leads it now
				return unfit(t.Name, "add replicas, or lower kafka.replication", "partition %d has %d replicas", p.ID, n)
			}
		}
		req.Resources = append(req.Resources, kafka.DescribeConfigRequestResource{ResourceType: kafka.ResourceTypeTopic, ResourceName: t.Name,
			ConfigNames: []string{"retention.ms", "cleanup.policy", "min.insync.replicas", "retention.bytes", "max.message.bytes", "unclean.leader.election.enable", "flush.messages"}})
	}
	res, err := c.client.DescribeConfigs(ctx, req)
	if err != nil {
		return fault.Wrap(op, unavailable(err))
	}
	for _, r := range res.Resources {
		if r.Error != nil {
			return fault.New(fault.Unavailable, op, "%s: %w", r.ResourceName, r.Error)
		}
		have := map[string]string{}
		for _, e := range r.ConfigEntries {
			have[e.ConfigName] = e.ConfigValue
		}
		if err := c.fits(r.ResourceName, wanted[r.ResourceName], have); err != nil {
			return err
		}
	}
	return nil
}

// fits holds a topic's configuration against what it must be like.
func (c *Cluster) fits(name string, want shape, have map[string]string) error {
	number := func(key string) int64 { n, _ := strconv.ParseInt(have[key], 10, 64); return n }
	policy, keep := have["cleanup.policy"], number("retention.ms")
	switch {
	case want.board && policy != "compact":
		return unfit(name, "set cleanup.policy to compact", "it is %s: its last record would be deleted", policy)
	case !want.board && keep >= 0 && keep < c.cfg.Retention.Milliseconds():
		return unfit(name, "raise retention.ms, or lower kafka.retention", "it keeps %d ms, %d are wanted", keep, c.cfg.Retention.Milliseconds())
	case !want.board && number("retention.bytes") >= 0:
		return unfit(name, "set retention.bytes to -1", "it deletes what was not read once it has %s bytes", have["retention.bytes"])
	case !want.board && strings.Contains(policy, "compact"):
		return unfit(name, "set cleanup.policy to delete", "it is compacted, which leaves gaps")
	case number("min.insync.replicas") < int64(c.cfg.MinInSync):
		return unfit(name, "raise min.insync.replicas", "it is %s", have["min.insync.replicas"])
	case have["unclean.leader.election.enable"] == "true":
		return unfit(name, "set unclean.leader.election.enable to false", "a broker that lacks records may lead it, and they are gone")
	case number("min.insync.replicas") < 2 && have["flush.messages"] != "1" && !c.cfg.NoSync:
		return unfit(name, "set flush.messages to 1, or have copies: kafka.replication 3 and kafka.min_in_sync 2; or set kafka.no_sync, where it may lose what was acknowledged",
			"a record that it has acknowledged may be in one broker's memory alone")
	case number("max.message.bytes") < int64(want.bytesMin):
		lower := "kafka.batch_bytes_max"
		if want.board {
			lower = "kafka.directory_bytes_max"
		}
		return unfit(name, "raise max.message.bytes, or lower "+lower, "it takes %s bytes at once, %d are wanted", have["max.message.bytes"], want.bytesMin)
	}
	return nil
}

func unfit(topic, fix, format string, args ...any) error {
	return &fault.Error{Kind: fault.Conflict, Op: "kafka: topics", Field: topic, Code: "topic_unfit", Fix: fix, Err: fmt.Errorf(format, args...)}
}

// awaitLeaders waits, within ctx, until every partition of topics that were just made
// answers: a broker may name itself the leader of a new one a moment before it is. Of a
// topic that was there, a partition without a leader keeps nobody from the others.
func (c *Cluster) awaitLeaders(ctx context.Context, shapes []shape) error {
	var all []partition
	for _, s := range shapes {
		for g := range s.partitions {
			all = append(all, partition{s.topic, g})
		}
	}
	for {
		_, failed := c.spans(ctx, all...)
		if len(failed) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "leaders", "%d partitions have none: %w", len(failed), ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
