package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/bustest/sqlreader"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// own starts a broker for one test, which may do to it what it likes.
func own(t *testing.T) (*engines.Kafka, kafka.Config) {
	t.Helper()
	k, err := engines.StartKafka(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Kill() })
	c := config(t.Name())
	c.Brokers = []string{k.Addr}
	c.ProduceTimeout = time.Second
	return k, c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ask appends one event and waits for its fate.
func ask(t *testing.T, in *kafka.Intake, e *bus.Event) error {
	t.Helper()
	ticket, err := in.Append(bus.Intents, e)
	if err != nil {
		return err
	}
	select {
	case <-ticket.Done():
		return ticket.Err()
	case <-time.After(30 * time.Second):
		t.Fatal("no answer")
		return nil
	}
}

// all reads a topic from its beginning, what is there twice as well.
func all(t *testing.T, cluster *kafka.Cluster, topic bus.Topic) map[string]int {
	t.Helper()
	s := kafka.NewSource(cluster, topic, slog.New(slog.DiscardHandler))
	must(t, s.Refresh(t.Context()))
	count := map[string]int{}
	for g := range s.Groups() {
		for at := (bus.Place{}); ; {
			msgs, err := s.Read(t.Context(), g, at, 100)
			must(t, err)
			if len(msgs) == 0 {
				break
			}
			for _, m := range msgs {
				count[m.ID]++
			}
			at = msgs[len(msgs)-1].Place
		}
	}
	return count
}

// The answer to a client has three values, whatever the broker does: yes only for
// what is there; no only for what is certainly not; else nobody knows.
func TestIntakeThreeValues(t *testing.T) {
	t.Parallel()
	k, c := own(t)
	cluster := connect(t, c, bus.Intents)
	in, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), nil, bus.Intents)
	must(t, err)
	b := newBackground()
	b.run(in.Run)
	defer b.stop() //nolint:errcheck // it has no error
	events := bustest.Events("v", 40, 1)
	fates := map[string]error{}
	try := func(i int) error {
		fates[events[i].ID] = ask(t, in, &events[i])
		return fates[events[i].ID]
	}

	must(t, try(0))
	must(t, k.Freeze())
	if err := try(1); !fault.Is(err, fault.Unknown) {
		t.Errorf("a broker that stands still: %v", err)
	}
	must(t, k.Thaw())
	eventually(t, "after the broker goes on", func() error { return try(2) })

	must(t, k.Kill())
	eventually(t, "while nothing listens", func() error {
		if err := try(3); !fault.Is(err, fault.Unavailable) {
			return fmt.Errorf("want a certain no, have %w", err)
		}
		return nil
	})
	must(t, k.Start(t.Context()))
	eventually(t, "after the broker is back", func() error { return try(4) })

	must(t, k.Stop()) // clean: for a moment kafka-go knows that there is no leader
	eventually(t, "while there is no leader", func() error {
		if err := try(5); !fault.Is(err, fault.Unavailable) {
			return fmt.Errorf("want a certain no, have %w", err)
		}
		return nil
	})
	must(t, k.Start(t.Context()))
	eventually(t, "after the broker is back again", func() error { return try(6) })

	there := all(t, cluster, bus.Intents)
	for id, err := range fates {
		switch n := there[id]; {
		case err == nil && n == 0:
			t.Errorf("%s was promised and is not there", id)
		case fault.Is(err, fault.Unavailable) && n > 0:
			t.Errorf("%s was refused for certain and is there", id)
		}
	}
}

// eventually tries for as long as a broker may take to come back.
func eventually(t *testing.T, when string, f func() error) {
	t.Helper()
	var err error
	for range 300 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s: %v", when, err)
}

// A record that is withdrawn before its batch is sealed is certainly not kept.
func TestIntakeWithdraws(t *testing.T) {
	cluster := connect(t, config(t.TempDir()), bus.Intents)
	in, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), nil, bus.Intents)
	must(t, err)
	events := bustest.Events("w", 3, 1)
	var tickets []bus.Ticket
	for i := range events { // nothing is sent before Run
		ticket, err := in.Append(bus.Intents, &events[i])
		must(t, err)
		tickets = append(tickets, ticket)
	}
	for _, which := range []string{"first", "second"} {
		if !tickets[1].Withdraw() {
			t.Fatalf("not withdrawn the %s time, although nothing was sent", which)
		}
	}
	b := newBackground()
	b.run(in.Run)
	for i, ticket := range tickets {
		<-ticket.Done()
		if err := ticket.Err(); (err == nil) != (i != 1) {
			t.Errorf("record %d: %v", i, err)
		}
	}
	if tickets[0].Withdraw() {
		t.Error("withdrawn after it was sent")
	}
	must(t, b.stop())
	if have := all(t, cluster, bus.Intents); len(have) != 2 || have[events[1].ID] != 0 {
		t.Errorf("there are %v", have)
	}
	if _, err := in.Append(bus.Intents, &events[0]); !fault.Is(err, fault.Unavailable) {
		t.Errorf("taken after the end: %v", err)
	}
}

func TestIntakeBounds(t *testing.T) {
	cluster := connect(t, config(t.TempDir()), bus.Intents)
	cfg := kafka.IntakeConfig{BatchRecordsMax: 3, BatchBytesMax: 4096, QueueBytesMax: 2048}
	in, err := kafka.NewIntake(cluster, cfg, nil, bus.Intents)
	must(t, err)
	events := bustest.Events("b", 40, 1)
	events[0].Payload = make([]byte, 5000)
	if _, err := in.Append(bus.Intents, &events[0]); !fault.Is(err, fault.TooLarge) {
		t.Errorf("a record over the bound: %v", err)
	}
	taken := 0
	for i := 1; i < len(events); i++ {
		if _, err := in.Append(bus.Intents, &events[i]); err == nil {
			taken++
		} else if !fault.Is(err, fault.Unavailable) {
			t.Fatal(err)
		}
	}
	if taken != cfg.BatchRecordsMax {
		t.Errorf("%d of one partition wait, the bound is %d", taken, cfg.BatchRecordsMax)
	}
	many := bustest.Events("m", 40, 40)
	bytes := 0
	for i := range many {
		size := len(many[i].Context.BizCode) + len(bus.AppendRecord(nil, &many[i]))
		if _, err := in.Append(bus.Intents, &many[i]); err == nil {
			bytes += size
		}
	}
	one := len(bus.AppendRecord(nil, &many[0]))
	if have := int64(bytes + taken*one); have > cfg.QueueBytesMax+int64(one) || bytes == 0 {
		t.Errorf("%d bytes wait in memory, the bound is %d", have, cfg.QueueBytesMax)
	}
	no := errors.New("too much is unread")
	refusing, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), func(bus.Topic, int) error { return no }, bus.Intents)
	must(t, err)
	if _, err := refusing.Append(bus.Intents, &many[0]); !errors.Is(err, no) {
		t.Errorf("admission is not asked: %v", err)
	}
}

// A broker that dies and stands still in the middle of relaying makes repetitions
// at most: each event has its effect once, in order.
func TestRelayThroughFaults(t *testing.T) {
	t.Parallel()
	k, c := own(t)
	cluster := connect(t, c, bus.Payments)
	dir := t.TempDir()
	db, err := sqldb.Open(t.Context(), sqldb.Options{Area: "writer", Path: filepath.Join(dir, "writer.db"), NoSync: true, Migrations: []string{embedded.Schema(bus.Payments)}})
	must(t, err)
	defer db.Close() //nolint:errcheck // a test
	log := embedded.NewLog(db, groups, bus.Payments)
	relays := []*kafka.Relay{ // two at once: repetitions for certain
		{Cluster: cluster, Source: log.Source(bus.Payments), MessagesMax: 7, Log: slog.New(slog.DiscardHandler)},
		{Cluster: cluster, Source: log.Source(bus.Payments), MessagesMax: 11, Log: slog.New(slog.DiscardHandler)},
	}
	r := sqlreader.Open(t, dir, nil)
	defer r.DB.Close() //nolint:errcheck // a test
	source := kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler))
	consumer := &bus.Consumer{Area: "test", Source: source, Places: embedded.Places{DB: r.DB}, Apply: r.Apply, MessagesMax: 20, Log: slog.New(slog.DiscardHandler)}
	b := newBackground()
	for _, relay := range relays {
		b.run(func(ctx context.Context) error {
			return kafka.RunRelays(ctx, 50*time.Millisecond, 200*time.Millisecond, relay)
		})
	}
	b.run(func(ctx context.Context) error { return source.Run(ctx, 200*time.Millisecond) })
	b.run(func(ctx context.Context) error { return consumer.Run(ctx, 50*time.Millisecond, 200*time.Millisecond) })
	defer b.stop() //nolint:errcheck // it has no error

	var published []bus.Event
	publish := func(name string) {
		events := bustest.Events(name, 60, 9)
		must(t, db.Write(t.Context(), func(tx *sqldb.Tx) error { return log.Emit(tx, bus.Payments, slices.Clone(events)) }))
		published = append(published, events...)
	}
	publish("a")
	must(t, k.Freeze())
	publish("b")
	time.Sleep(1200 * time.Millisecond) // longer than ProduceTimeout: nobody knows
	must(t, k.Thaw())
	publish("c")
	must(t, k.Kill())
	publish("d")
	must(t, k.Start(t.Context()))
	publish("e")
	must(t, k.Stop())
	publish("f")
	must(t, k.Start(t.Context()))
	publish("g")
	var have []bus.Message
	eventually(t, "everything is applied", func() error {
		have, err = r.Effects(t.Context())
		if err == nil && len(have) < len(published) {
			err = fmt.Errorf("%d of %d; stopped %v, refused %v, %v, %v", len(have), len(published), consumer.Stopped(), consumer.Refused(), relays[0].Refused(), relays[1].Refused())
		}
		return err
	})
	want, got := map[string]string{}, map[string]string{}
	for _, e := range published {
		want[string(e.Context.BizCode)] += e.ID + " "
	}
	for _, m := range have {
		got[string(m.Context.BizCode)] += m.ID + " "
	}
	for key, w := range want {
		if got[key] != w {
			t.Errorf("key %s: have %s, want %s", key, got[key], w)
		}
	}
	if s := consumer.Stopped(); len(s) > 0 {
		t.Errorf("groups %v stopped", s)
	}
	// A relay that starts anew goes on from the topic's end.
	late := &kafka.Relay{Cluster: cluster, Source: log.Source(bus.Payments), MessagesMax: 50, Log: slog.New(slog.DiscardHandler)}
	if worked, err := late.Step(t.Context()); worked || err != nil {
		t.Errorf("a new relay publishes again what is there: %t %v", worked, err)
	}
}

func TestUnfitTopicsAreRefused(t *testing.T) {
	forever := kafkago.ConfigEntry{ConfigName: "retention.ms", ConfigValue: "-1"}
	for name, tc := range map[string]struct {
		partitions int
		entries    []kafkago.ConfigEntry
		change     func(*kafka.Config)
		words      string
	}{
		"another number of groups":   {partitions: groups + 1, words: "5 partitions"},
		"too short a retention":      {entries: []kafkago.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "1000"}}, words: "keeps 1000 ms"},
		"a bound of bytes":           {entries: []kafkago.ConfigEntry{forever, {ConfigName: "retention.bytes", ConfigValue: "1000"}}, words: "1000 bytes"},
		"compacted":                  {entries: []kafkago.ConfigEntry{forever, {ConfigName: "cleanup.policy", ConfigValue: "compact"}}, words: "compacted"},
		"too small a message":        {entries: []kafkago.ConfigEntry{forever, {ConfigName: "max.message.bytes", ConfigValue: "500000"}}, words: "takes 500000 bytes"},
		"too few copies":             {change: func(c *kafka.Config) { c.Replication = 2 }, words: "1 replicas"},
		"led by who lacks records":   {entries: []kafkago.ConfigEntry{forever, {ConfigName: "unclean.leader.election.enable", ConfigValue: "true"}}, words: "unclean.leader.election.enable to false"},
		"one copy, in memory":        {entries: []kafkago.ConfigEntry{forever}, change: func(c *kafka.Config) { c.NoSync = false }, words: "flush.messages to 1"},
		"fit, but for a longer time": {change: func(c *kafka.Config) { c.Retention = 90 * 24 * time.Hour }, words: "keeps"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t.TempDir())
			if tc.partitions == 0 {
				tc.partitions = groups
			}
			client := &kafkago.Client{Addr: kafkago.TCP(broker.Addr)}
			_, err := client.CreateTopics(t.Context(), &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{{Topic: c.Prefix + string(bus.Intents),
				NumPartitions: tc.partitions, ReplicationFactor: 1, ConfigEntries: tc.entries}}})
			must(t, err)
			if tc.change != nil {
				tc.change(&c)
			}
			cluster, err := kafka.Connect(c)
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := cluster.EnsureTopics(ctx, bus.Intents); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("have %v, want %q", err, tc.words)
			}
		})
	}
}

// What the brokers have acknowledged outlives a machine: topics are made so, and one that
// somebody else made so is taken.
func TestTopicsAreMadeDurable(t *testing.T) {
	c := config(t.TempDir())
	c.NoSync = false
	client := &kafkago.Client{Addr: kafkago.TCP(broker.Addr)}
	res, err := client.CreateTopics(t.Context(), &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{{Topic: c.Prefix + string(bus.Callbacks), NumPartitions: groups, ReplicationFactor: 1,
		ConfigEntries: []kafkago.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "-1"}, {ConfigName: "flush.messages", ConfigValue: "1"}}}}})
	must(t, err)
	must(t, res.Errors[c.Prefix+string(bus.Callbacks)])
	cluster := connect(t, c, bus.Intents, bus.Callbacks)
	must(t, kafka.NewBoard(cluster, boardTopic, 1<<10).Ensure(t.Context()))
	for _, topic := range []bus.Topic{bus.Intents, boardTopic} {
		for key, want := range map[string]string{"flush.messages": "1", "unclean.leader.election.enable": "false"} {
			if have, own := topicSetting(t, c.Prefix+string(topic), key); have != want || !own {
				t.Errorf("%s has %s %q, its own %t; want %q of its own", topic, key, have, own, want)
			}
		}
	}
	c = config(t.TempDir())
	c.Prefix = "quick." + c.Prefix
	connect(t, c, bus.Intents)
	if have, _ := topicSetting(t, c.Prefix+string(bus.Intents), "flush.messages"); have == "1" {
		t.Error("where it is said that nothing need be flushed, each batch is")
	}
}

// topicSetting is a setting of a topic, and whether it is its own or the broker's.
func topicSetting(t *testing.T, topic, key string) (value string, own bool) {
	t.Helper()
	res, err := (&kafkago.Client{Addr: kafkago.TCP(broker.Addr)}).DescribeConfigs(t.Context(), &kafkago.DescribeConfigsRequest{Resources: []kafkago.DescribeConfigRequestResource{{
		ResourceType: kafkago.ResourceTypeTopic, ResourceName: topic, ConfigNames: []string{key}}}})
	must(t, err)
	const ofTheTopic = 1 // DYNAMIC_TOPIC_CONFIG
	for _, e := range res.Resources[0].ConfigEntries {
		value, own = e.ConfigValue, e.ConfigSource == ofTheTopic
	}
	return value, own
}

func TestConfigNamesTheKey(t *testing.T) {
	for key, change := range map[string]func(*kafka.Config){
		"kafka.brokers":     func(c *kafka.Config) { c.Brokers = nil },
		"kafka.groups":      func(c *kafka.Config) { c.Groups = 0 },
		"kafka.min_in_sync": func(c *kafka.Config) { c.MinInSync = c.Replication + 1 },
		"kafka.fetch_wait":  func(c *kafka.Config) { c.FetchWait = 0 },
	} {
		c := config(key)
		change(&c)
		if _, err := kafka.Connect(c); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
	c := config("x")
	c.Brokers = []string{"nohost"}
	if _, err := kafka.Connect(c); !fault.Is(err, fault.Invalid) {
		t.Errorf("a broker without a port: %v", err)
	}
}
