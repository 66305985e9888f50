package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
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
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// hazards are what was seen of brokers and of kafka-go, what we do about it, and the
// tests that fail without that.
var hazards = []struct{ seen, done, tests string }{
	{"an append that is not acknowledged in time is there twice when it is sent again", "nothing is sent again here; two copies are one payment, or one place", "TestABrokerThatStandsStill TestRelayThroughFaults"},
	{"an append whose deadline has passed is written all the same", "504 with the id, and it is found", "TestABrokerThatStandsStill TestIntakeThreeValues"},
	{"kafka-go repeats after NOT_ENOUGH_REPLICAS_AFTER_APPEND and REQUEST_TIMED_OUT", "one request, no Writer: nobody knows", "TestThreeValues TestRelayThroughRefusals"},
	{"a leader that appended may answer that it leads no more", "a certain no only without an offset", "TestThreeValues"},
	{"without acknowledgement by all copies a yes is none", "every request asks for all", "TestEveryCopyIsAskedFor"},
	{"after a clean stop kafka-go answers `no leader` at once, for as long as its map lives", "certain for a client; a relay backs off, and loses nothing", "TestIntakeThreeValues TestRelayThroughFaults"},
	{"the first request after a restart finds a dead connection", "reads are tried again", "TestRelayThroughFaults TestReadsThroughRefusals"},
	{"a broker that stands still holds a request for ever", "every request has a time", "TestNobodyWaitsForEver"},
	{"a leader that is gone holds up the groups of others", "what goes wrong with a group is tried again for itself", "TestABadGroupHoldsUpNoOther"},
	{"the first append to a new topic finds no leader", "a start waits until each partition answers", "TestIntake TestRelay"},
	{"a reader that starts before its topic is there never hears of it", "topics are made first; one that is not there is an error", "TestATopicThatIsNotThere TestUnfitTopicsAreRefused"},
	{"no coordinator on fresh brokers; a group's reader is silent until old members expire", "nobody joins a group: places are ours, and telling them is tried again", "TestNoCoordinatorYet TestBacklog"},
	{"a topic that keeps too little, has few copies, other partitions, or takes less at once", "refused at start, with the reason", "TestUnfitTopicsAreRefused"},
	{"brokers acknowledge what they have in memory; one that lacks records may be elected to lead", "copies, or a flush of each batch, and no such leader: made so, and refused at start", "TestUnfitTopicsAreRefused TestTopicsAreMadeDurable TestCopiesNeedNoFlush"},
	{"what was deleted before it was read is passed over in silence", "a gap: the group stops, with an alarm", "TestDeletedRecordsAreAGap"},
	{"a message that a topic does not take", "a certain no for a client; a relay stands still, with an alarm, and no other group", "TestAMessageThatIsTooLarge"},
	{"memory without a bound while brokers are gone", "bytes in flight are counted here", "TestIntakeBounds TestRelayBytesAreBounded TestFetchedBytesAreBounded"},
	{"partitions by another hash than Java's", "the group is the partition, by the code's slot", "TestGoldenMessagesAtTheBroker"},
	{"a record that nobody can read", "its group stops, with an alarm, and no other", "TestUnreadableRecordsStopTheirGroupAlone"},
	{"other brokers, or such as have less than was read", "refused at start", "TestABusOlderThanTheDatabase TestRestoreOnKafka"},
	{"brokers that have more than the restored log: its next numbers count as published", "refused at start; tallystick rewind", "TestADatabaseOlderThanTheBus TestRestoreOnKafka"},
	{"a group's reader of kafka-go commits nothing of a partition before its first message there: started at LastOffset again it passes over what came meanwhile (its issue 904)", "no Reader of the library: places are ours, and without one a topic is read from its beginning", "TestBannedCalls"},
	{"after a rebalance a reader hands out messages that it had in its queue, and offsets that were told run ahead (1398, 1276)", "no Reader and no group of the library: partitions are leased, and a place is in the transaction of what was read", "TestBannedCalls"},
	{"a Writer as it comes asks for no acknowledgement at all, and waits a second for more messages (BatchTimeout)", "no Writer: requests are ours, ask for all copies and go at once", "TestBannedCalls TestEveryCopyIsAskedFor"},
	{"a topic that is rewound begins anew where its readers are: what comes has sequences that they have read", "a beginning that moves past the last fetch is noticed, and who follows starts over", "TestWhoFollowsWhileATopicIsRewound TestADatabaseOlderThanTheBrokers"},
	{"stalls that say nothing", "a watchdog", "TestWatchdog TestAMessageThatIsTooLarge"},
	{"a wrong password is tried again for as long as a start may take", "refused at once, with the key", "TestWrongCredentialsAreRefused TestRestoreOnKafka"},
}

// The table says what there is.
func TestEveryHazardHasItsTests(t *testing.T) {
	have := map[string]bool{}
	for _, dir := range []string{".", "kfaketest", "..", "../../../cmd/app", "../../archtest"} {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		must(t, err)
		for _, path := range files {
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			must(t, err)
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					have[fn.Name.Name] = true
				}
			}
		}
	}
	for _, h := range hazards {
		for _, name := range strings.Fields(h.tests) {
			if !have[name] {
				t.Errorf("%s: there is no %s", h.seen, name)
			}
		}
	}
}

// writer is an area's log, published by a relay.
func writer(t *testing.T, dir string, cluster *kafka.Cluster) (*sqldb.DB, *embedded.Log, *kafka.Relay) {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Options{Area: "writer", Path: filepath.Join(dir, "writer.db"), NoSync: true, Migrations: []string{embedded.Schema(bus.Payments)}})
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	log := embedded.NewLog(db, groups, bus.Payments)
	return db, log, &kafka.Relay{Cluster: cluster, Source: log.Source(bus.Payments), MessagesMax: 50, Log: slog.New(slog.DiscardHandler)}
}

func emit(t *testing.T, db *sqldb.DB, log *embedded.Log, events []bus.Event) {
	t.Helper()
	must(t, db.Write(t.Context(), func(tx *sqldb.Tx) error { return log.Emit(tx, bus.Payments, slices.Clone(events)) }))
}

// A broker that is there and does not answer: whoever reads, measures or starts is
// told so.
func TestNobodyWaitsForEver(t *testing.T) {
	t.Parallel()
	k, c := own(t)
	cluster := connect(t, c, bus.Intents)
	source := kafka.NewSource(cluster, bus.Intents, slog.New(slog.DiscardHandler))
	must(t, source.Refresh(t.Context()))
	backlog := kafka.NewBacklog(cluster, kafka.BacklogConfig{Reader: "core", UnreadBytesMax: 1, UnreadAgeMax: time.Minute, RecordBytes: 1}, time.Now, bus.Intents)
	must(t, k.Freeze())
	for name, f := range map[string]func() error{
		"heads":   func() error { return source.Refresh(t.Context()) },
		"backlog": func() error { return backlog.Step(t.Context()) },
		"places": func() error {
			return cluster.Tell(t.Context(), "core", bus.Intents, map[int]bus.Place{0: {Epoch: 1, Seq: 1}})
		},
		"topics": func() error { return cluster.EnsureTopics(t.Context(), bus.Callbacks) },
	} {
		if err := f(); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, k.Thaw())
	eventually(t, "the broker goes on", func() error { return source.Refresh(t.Context()) })
}

// A topic that nobody made is an error for whoever reads or relays it, and for a
// client a certain no.
func TestATopicThatIsNotThere(t *testing.T) {
	cluster := connect(t, config(t.TempDir()), bus.Callbacks)
	if err := kafka.NewSource(cluster, bus.Intents, slog.New(slog.DiscardHandler)).Refresh(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("heads of a topic that is not there: %v", err)
	}
	in, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), nil, bus.Intents)
	must(t, err)
	b := newBackground()
	b.run(in.Run)
	defer b.stop() //nolint:errcheck // it has no error
	events := bustest.Events("n", 4, 4)
	if err := ask(t, in, &events[0]); !fault.Is(err, fault.Unavailable) {
		t.Errorf("an append: %v", err)
	}
	db, log, relay := writer(t, t.TempDir(), cluster)
	emit(t, db, log, events)
	if worked, err := relay.Step(t.Context()); worked || !fault.Is(err, fault.Unavailable) {
		t.Errorf("a relay: %t %v", worked, err)
	}
	if relay.Lag() != int64(len(events)) {
		t.Errorf("the relay is %d behind, want %d", relay.Lag(), len(events))
	}
}

// A message that the topic does not take, as somebody has lowered its bound: a client
// is told so for certain, and a relay stands still in its group, which is an alarm.
// All others go on, and it as well once the bound is raised.
func TestAMessageThatIsTooLarge(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	cluster := connect(t, c, bus.Intents, bus.Payments)
	bound := func(bytes string) {
		t.Helper()
		client, done := other(c)
		defer done()
		req := &kafkago.IncrementalAlterConfigsRequest{}
		for _, topic := range []bus.Topic{bus.Intents, bus.Payments} {
			req.Resources = append(req.Resources, kafkago.IncrementalAlterConfigsRequestResource{ResourceType: kafkago.ResourceTypeTopic, ResourceName: c.Prefix + string(topic),
				Configs: []kafkago.IncrementalAlterConfigsRequestConfig{{Name: "max.message.bytes", Value: bytes, ConfigOperation: kafkago.ConfigOperationSet}}})
		}
		_, err := client.IncrementalAlterConfigs(t.Context(), req)
		must(t, err)
	}
	in, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), nil, bus.Intents)
	must(t, err)
	b := newBackground()
	b.run(in.Run)
	defer b.stop() //nolint:errcheck // it has no error
	bound("2000")
	large := bustest.Events("large", 1, 1)[0]
	large.Payload = append(append([]byte(`{"x":"`), make([]byte, 4000)...), `"}`...)
	taken := 0
	eventually(t, "a client is told, once the broker goes by the bound", func() error {
		err := ask(t, in, &large)
		if err == nil {
			taken++
		}
		if !fault.Is(err, fault.Unavailable) {
			return fmt.Errorf("not yet: %w", err)
		}
		return nil
	})
	if n := all(t, cluster, bus.Intents)[large.ID]; n != taken {
		t.Errorf("%d are there, and %d were taken before", n, taken)
	}

	db, log, relay := writer(t, t.TempDir(), cluster)
	now := time.UnixMilli(0)
	dog := &bus.Watchdog{Who: "relay", Topic: bus.Payments, Standings: relay.Standings, After: time.Minute, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)}
	bad := large.Context.BizCode.Group(groups)
	small := bustest.Events("small", 12, 12)
	emit(t, db, log, append([]bus.Event{large}, small...))
	b.run(func(ctx context.Context) error {
		return kafka.RunRelays(ctx, 20*time.Millisecond, 50*time.Millisecond, relay)
	})
	behind := int64(0)
	for _, e := range append([]bus.Event{large}, small...) {
		if e.Context.BizCode.Group(groups) == bad {
			behind++
		}
	}
	eventually(t, "the others are published", func() error {
		if lag := relay.Lag(); lag != behind {
			return fmt.Errorf("it is %d behind, want %d", lag, behind)
		}
		return nil
	})
	dog.Step()
	now = now.Add(time.Minute)
	dog.Step()
	if have := dog.Stalled(); !slices.Equal(have, []int{bad}) {
		t.Errorf("groups %v stand still, want %d", have, bad)
	}
	bound("100000")
	eventually(t, "the bound is raised", func() error {
		if lag := relay.Lag(); lag != 0 {
			return fmt.Errorf("it is %d behind", lag)
		}
		return nil
	})
	dog.Step()
	if have := dog.Stalled(); len(have) != 0 {
		t.Errorf("groups %v stand still", have)
	}
}

// shortened is a log of which one group has only some messages left.
type shortened struct {
	bus.Source
	group int
	msgs  []bus.Message
}

func (s shortened) Head(group int) bus.Place {
	if group == s.group {
		return s.msgs[len(s.msgs)-1].Place
	}
	return s.Source.Head(group)
}

func (s shortened) Read(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	if group != s.group {
		return s.Source.Read(ctx, group, after, limit)
	}
	if after.Seq > 0 {
		return nil, nil
	}
	return s.msgs, nil
}

// What was deleted before it was read is a gap: the group stops alone.
func TestDeletedRecordsAreAGap(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), config(t.TempDir())
	cluster := connect(t, c, bus.Payments)
	db, log, relay := writer(t, dir, cluster)
	events := bustest.Events("d", 30, 9)
	emit(t, db, log, events)
	_, err := relay.Step(t.Context())
	must(t, err)
	bad := events[0].Context.BizCode.Group(groups)
	head := log.Source(bus.Payments).Head(bad)
	msgs, err := log.Source(bus.Payments).Read(t.Context(), bad, bus.Place{Epoch: 1, Seq: 2}, 100)
	must(t, err)
	// A log without its first two and its last one, published anew: the brokers have
	// deleted the first two, as they do when their time has come.
	short := shortened{log.Source(bus.Payments), bad, msgs[:len(msgs)-1]}
	must(t, kafka.Rewind(t.Context(), c, 50, slog.New(slog.DiscardHandler), func(context.Context, *kafka.Cluster) error { return nil }, nil, short))

	r := sqlreader.Open(t, dir, nil)
	defer r.DB.Close() //nolint:errcheck // a test
	consumer := &bus.Consumer{Area: "test", Source: kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler)), Places: embedded.Places{DB: r.DB}, Apply: r.Apply,
		MessagesMax: 20, Log: slog.New(slog.DiscardHandler)}
	for worked := true; worked; {
		worked, err = consumer.Step(t.Context())
		must(t, err)
	}
	if s := consumer.Stopped(); !slices.Equal(s, []int{bad}) {
		t.Errorf("groups %v stopped, want %d", s, bad)
	}
	have, err := r.Effects(t.Context())
	must(t, err)
	if len(have) != len(events)-int(head.Seq) {
		t.Errorf("%d are applied, want those of all other groups: %d", len(have), len(events)-int(head.Seq))
	}
}

// unread is a source of which one group cannot be read.
type unread struct {
	bus.Source
	group int
}

func (u unread) Read(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	if group == u.group {
		return nil, errors.New("its leader is gone")
	}
	return u.Source.Read(ctx, group, after, limit)
}

// A group that cannot be published, or read, holds up no other.
func TestABadGroupHoldsUpNoOther(t *testing.T) {
	dir := t.TempDir()
	cluster := connect(t, config(dir), bus.Payments)
	db, log, relay := writer(t, dir, cluster)
	events := bustest.Events("g", 24, 12)
	bad := events[0].Context.BizCode.Group(groups)
	rest := 0
	for _, e := range events {
		if e.Context.BizCode.Group(groups) != bad {
			rest++
		}
	}
	relay.Source = unread{log.Source(bus.Payments), bad}
	emit(t, db, log, events)
	b := newBackground()
	b.run(func(ctx context.Context) error { return kafka.RunRelays(ctx, 20*time.Millisecond, time.Hour, relay) }) // its pause is not theirs
	defer b.stop()                                                                                                //nolint:errcheck // it has no error
	there := func(n int) func() error {
		return func() error {
			if have := len(all(t, cluster, bus.Payments)); have != n {
				return fmt.Errorf("%d are there, want %d", have, n)
			}
			return nil
		}
	}
	eventually(t, "the other groups are published", there(rest))
	emit(t, db, log, events)
	eventually(t, "and go on", func() error {
		if lag := relay.Lag(); lag != int64(2*(len(events)-rest)) {
			return fmt.Errorf("%d behind", lag)
		}
		return nil
	})

	good := &kafka.Relay{Cluster: cluster, Source: log.Source(bus.Payments), MessagesMax: 50, Log: slog.New(slog.DiscardHandler)}
	for worked, err := true, error(nil); worked; {
		worked, err = good.Step(t.Context())
		must(t, err)
	}
	r := sqlreader.Open(t, dir, nil)
	defer r.DB.Close() //nolint:errcheck // a test
	consumer := &bus.Consumer{Area: "test", Source: unread{kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler)), bad}, Places: embedded.Places{DB: r.DB},
		Apply: r.Apply, MessagesMax: 5, Log: slog.New(slog.DiscardHandler)}
	var err error
	for worked := true; worked; {
		worked, err = consumer.Step(t.Context())
	}
	if err == nil {
		t.Error("nobody is told of the group that cannot be read")
	}
	have, err := r.Effects(t.Context())
	must(t, err)
	if len(have) != 2*rest || len(consumer.Stopped()) != 0 {
		t.Errorf("%d are applied, want %d of the other groups; stopped %v", len(have), 2*rest, consumer.Stopped())
	}
}

// One request of a relay has at most so many bytes, but at least one message.
func TestRelayBytesAreBounded(t *testing.T) {
	c := config(t.TempDir())
	c.BatchBytesMax = 4000
	cluster := connect(t, c, bus.Payments)
	db, log, relay := writer(t, t.TempDir(), cluster)
	events := bustest.Events("b", 10, 1)
	for i := range events {
		events[i].Payload = make([]byte, 1500)
	}
	events[5].Payload = make([]byte, 9000)
	emit(t, db, log, events)
	var published []int64
	for {
		worked, err := relay.Step(t.Context())
		must(t, err)
		if !worked {
			break
		}
		published = append(published, int64(len(events))-relay.Lag())
	}
	if want := []int64{2, 4, 5, 6, 8, 10}; !slices.Equal(published, want) {
		t.Errorf("published up to %v, want %v", published, want)
	}
	if n := len(all(t, cluster, bus.Payments)); n != len(events) {
		t.Errorf("%d are there", n)
	}
}

// What is fetched ahead of a reader is bounded; it goes on when the reader does.
func TestFetchedBytesAreBounded(t *testing.T) {
	c := config(t.TempDir())
	c.FetchBytesMax, c.BufferBytesMax, c.BatchBytesMax = 4000, 10_000, 4000
	cluster := connect(t, c, bus.Payments)
	db, log, relay := writer(t, t.TempDir(), cluster)
	events := bustest.Events("f", 100, 1)
	for i := range events {
		events[i].Payload = make([]byte, 1000)
	}
	emit(t, db, log, events)
	for worked, err := true, error(nil); worked; {
		worked, err = relay.Step(t.Context())
		must(t, err)
	}
	source := kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler))
	must(t, source.Refresh(t.Context()))
	b := newBackground()
	b.run(func(ctx context.Context) error { return source.Run(ctx, time.Second) })
	defer b.stop() //nolint:errcheck // it has no error
	group, read := events[0].Context.BizCode.Group(groups), 0
	most := int64(c.BufferBytesMax + c.FetchBytesMax + 2*1500) // what there was room for, and one answer
	for at := (bus.Place{}); read < len(events); {
		msgs, err := source.Read(t.Context(), group, at, 1)
		must(t, err)
		if len(msgs) == 0 {
			t.Fatalf("nothing behind %d", at.Seq)
		}
		at, read = msgs[0].Place, read+len(msgs)
		if read < 80 {
			eventually(t, "it is fetched ahead", func() error {
				if held := source.Held(); held < int64(c.BufferBytesMax) {
					return fmt.Errorf("%d bytes are held", held)
				}
				return nil
			})
		}
		if held := source.Held(); held > most {
			t.Fatalf("%d bytes are held, the bound is %d", held, most)
		}
	}
}
