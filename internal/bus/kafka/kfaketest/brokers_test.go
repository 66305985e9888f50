package kfaketest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/fault"
)

// answering makes the broker answer each partition of the n-th append, from 1 on, by
// itself, and do nothing. Those of which answer is false it leaves out.
func answering(fake *kfake.Cluster, answer func(n int, topic bus.Topic, group int) (code int16, base int64, has bool)) {
	n := 0
	fake.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		n++
		req := r.(*kmsg.ProduceRequest)
		res := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, want := range req.Topics {
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic = want.Topic
			for _, p := range want.Partitions {
				part := kmsg.NewProduceResponseTopicPartition()
				var has bool
				if part.ErrorCode, part.BaseOffset, has = answer(n, bus.Topic(want.Topic[len("tallystick."):]), int(p.Partition)); has {
					part.Partition = p.Partition
					topic.Partitions = append(topic.Partitions, part)
				}
			}
			res.Topics = append(res.Topics, topic)
		}
		return res, nil, true
	})
}

// Each partition of a request has an answer of its own.
func TestEachPartitionHasItsAnswer(t *testing.T) {
	t.Parallel()
	fake, cluster := open(t, bus.Intents, bus.Callbacks)
	type at struct {
		topic bus.Topic
		group int
	}
	codes := map[at]int16{ // the fourth has no answer
		{bus.Intents, 0}:   0,
		{bus.Callbacks, 0}: kerr.NotEnoughReplicas.Code,
		{bus.Intents, 1}:   kerr.NotEnoughReplicasAfterAppend.Code,
	}
	requests, begun, all := 0, make(chan struct{}), make(chan struct{})
	answering(fake, func(n int, topic bus.Topic, group int) (int16, int64, bool) {
		if requests = n; n == 1 { // what comes meanwhile goes together
			close(begun)
			<-all
			return 0, 0, true
		}
		code, has := codes[at{topic, group}]
		return code, -1 + 10*int64(1-min(1, code)), has
	})
	in, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), nil, bus.Intents, bus.Callbacks)
	must(t, err)
	run(t, in.Run)
	time.Sleep(1100 * time.Millisecond) // the library's map of the leaders is at most a second old
	events := bustest.Events("p", 40, 40)
	_, err = in.Append(bus.Intents, &events[0])
	must(t, err)
	<-begun
	tickets := map[at]bus.Ticket{}
	for _, e := range events {
		for _, topic := range []bus.Topic{bus.Intents, bus.Callbacks} {
			where := at{topic, e.Context.BizCode.Group(groups)}
			if tickets[where] == nil {
				tickets[where], err = in.Append(topic, &e)
				must(t, err)
			}
		}
	}
	close(all)
	for where, want := range map[at]fault.Kind{{bus.Callbacks, 0}: fault.Unavailable, {bus.Intents, 1}: fault.Unknown, {bus.Callbacks, 1}: fault.Unknown} {
		<-tickets[where].Done()
		if err := tickets[where].Err(); !fault.Is(err, want) {
			t.Errorf("%s/%d: have %v, want %s", where.topic, where.group, err, want)
		}
	}
	<-tickets[at{bus.Intents, 0}].Done()
	must(t, tickets[at{bus.Intents, 0}].Err())
	if requests != 2 {
		t.Errorf("%d requests, two would do", requests)
	}
}

// A callback waits a moment for what it can go with, and does not wait for ever.
func TestCallbacksGoWithOthers(t *testing.T) {
	t.Parallel()
	fake, cluster := open(t, bus.Intents, bus.Callbacks)
	var mu sync.Mutex
	got := map[int]string{} // by request
	answering(fake, func(n int, topic bus.Topic, _ int) (int16, int64, bool) {
		mu.Lock()
		defer mu.Unlock()
		got[n] += string(topic) + " " // nothing is under way where it is cleared
		return 0, int64(n), true
	})
	cfg := kafka.DefaultIntakeConfig()
	cfg.CallbackGather = time.Second
	in, err := kafka.NewIntake(cluster, cfg, nil, bus.Intents, bus.Callbacks)
	must(t, err)
	run(t, in.Run)
	time.Sleep(1100 * time.Millisecond) // the library's map of the leaders is at most a second old
	e := bustest.Events("c", 1, 1)[0]
	appended := func(topic bus.Topic) bus.Ticket {
		ticket, err := in.Append(topic, &e)
		must(t, err)
		return ticket
	}
	for late := true; late; { // a machine that stands still for so long shows nothing
		clear(got)
		begun := time.Now()
		first := appended(bus.Callbacks)
		time.Sleep(50 * time.Millisecond)
		second := appended(bus.Intents)
		late = time.Since(begun) > cfg.CallbackGather/2
		<-second.Done()
		<-first.Done()
	}
	for range 2 { // nothing else wakes the shipper
		time.Sleep(1100 * time.Millisecond)
		alone := appended(bus.Callbacks)
		select {
		case <-alone.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("a callback waits for ever")
		}
	}
	mu.Lock()
	defer mu.Unlock()
	have := ""
	for _, n := range slices.Sorted(maps.Keys(got)) {
		have += got[n] + "| "
	}
	if have != "callbacks intents | callbacks | callbacks | " && have != "intents callbacks | callbacks | callbacks | " {
		t.Errorf("requests with %q, want both in the first, and two of a callback alone", have)
	}
}

// A partition that takes a record at an offset that was given away has lost what it had
// acknowledged: that is no yes.
func TestAPartitionThatLostItsTail(t *testing.T) {
	t.Parallel()
	fake, cluster := open(t, bus.Intents)
	begun, all := make(chan struct{}), make(chan struct{})
	answering(fake, func(n int, _ bus.Topic, _ int) (int16, int64, bool) {
		switch n {
		case 1:
			close(begun)
			<-all
			return 0, 0, true
		case 2: // three records
			return 0, 1, true
		default:
			return 0, 3, true
		}
	})
	in := intake(t, cluster)
	e := bustest.Events("t", 1, 1)[0]
	var tickets []bus.Ticket
	for range 4 {
		ticket, err := in.Append(bus.Intents, &e)
		must(t, err)
		if len(tickets) == 0 {
			<-begun
		}
		tickets = append(tickets, ticket)
	}
	close(all)
	for _, ticket := range tickets {
		<-ticket.Done()
		must(t, ticket.Err())
	}
	if err := ask(t, in, &e); !fault.Is(err, fault.Unknown) {
		t.Errorf("taken at 3, which was given away: %v", err)
	}
}

// run runs something until the test ends.
func run(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
}

// settled waits until the leaders of a topic are known, after a move.
func settled(t *testing.T, cluster *kafka.Cluster, topic bus.Topic) {
	t.Helper()
	s := kafka.NewSource(cluster, topic, slog.New(slog.DiscardHandler))
	deadline := time.Now().Add(time.Minute)
	for err := s.Refresh(t.Context()); err != nil; err = s.Refresh(t.Context()) {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// What a relay that stood still sends again, as late and as long as it can be, hides
// nothing of what another one has published meanwhile.
func TestALateBatchAtTheEnd(t *testing.T) {
	t.Parallel()
	_, cluster := open(t, bus.Payments)
	events := bustest.Events("l", 2000, 1)
	group := events[0].Context.BizCode.Group(groups)
	log := newArea(events)
	relay := func() *kafka.Relay {
		return &kafka.Relay{Cluster: cluster, Source: log, MessagesMax: 10_000, Log: slog.New(slog.DiscardHandler)}
	}
	late := []*kafka.Relay{relay(), relay()}
	for _, r := range late {
		must(t, r.Open(t.Context()))
	}
	for r, worked := relay(), true; worked; {
		var err error
		worked, err = r.Step(t.Context())
		must(t, err)
	}
	for _, r := range late {
		_, err := r.Step(t.Context())
		must(t, err)
	}
	s := kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler))
	must(t, s.Refresh(t.Context()))
	if at := s.Head(group); at.Seq != 2000 {
		t.Errorf("readers hear of %d, 2000 are published", at.Seq)
	}
	r := relay()
	must(t, r.Open(t.Context()))
	if n := r.Lag(); n != 0 {
		t.Errorf("a relay that starts takes the last %d for unpublished", n)
	}
}

// Partitions go from broker to broker under load. What was taken is there, what was
// refused is not, and a log is read whole and in its order.
func TestLeadersMove(t *testing.T) {
	t.Parallel()
	fake, cluster := openOn(t, 3, bus.Intents, bus.Callbacks, bus.Payments)
	in, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), nil, bus.Intents, bus.Callbacks)
	must(t, err)
	run(t, in.Run)
	log := newArea(bustest.Events("r", 3000, 50))
	r := &kafka.Relay{Cluster: cluster, Source: log, MessagesMax: 10, Log: slog.New(slog.DiscardHandler)}
	run(t, func(ctx context.Context) error {
		return kafka.RunRelays(ctx, 10*time.Millisecond, 50*time.Millisecond, r)
	})
	s := kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler))
	run(t, func(ctx context.Context) error { return s.Run(ctx, 50*time.Millisecond) })

	var mu sync.Mutex
	var asking sync.WaitGroup
	answers := map[bus.Topic]map[string]error{bus.Intents: {}, bus.Callbacks: {}}
	moves := rand.New(rand.NewPCG(1, 2))
	for i, e := range bustest.Events("i", 600, 50) {
		topic := []bus.Topic{bus.Intents, bus.Callbacks}[i%2]
		ticket, err := in.Append(topic, &e)
		must(t, err)
		asking.Go(func() {
			<-ticket.Done()
			mu.Lock()
			defer mu.Unlock()
			answers[topic][e.ID] = ticket.Err()
		})
		if i%60 == 0 {
			moved := []bus.Topic{bus.Intents, bus.Callbacks, bus.Payments}[moves.IntN(3)]
			must(t, fake.MoveTopicPartition("tallystick."+string(moved), int32(moves.IntN(groups)), int32(moves.IntN(3))))
		}
		time.Sleep(time.Millisecond)
	}
	asking.Wait()
	taken := 0
	for topic, of := range answers {
		settled(t, cluster, topic)
		there := copies(t, cluster, topic)
		for id, err := range of {
			switch n := there[id]; {
			case err == nil && n != 1:
				t.Errorf("%s in %s was taken, and is there %d times", id, topic, n)
			case fault.Is(err, fault.Unavailable) && n != 0:
				t.Errorf("%s in %s was refused, and is there: %v", id, topic, err)
			case err == nil:
				taken++
			}
		}
	}
	if taken < 100 {
		t.Errorf("only %d of 600 were taken", taken)
	}
	for g := range groups {
		at := bus.Place{}
		for deadline := time.Now().Add(time.Minute); at != log.Head(g); {
			msgs, err := s.Read(t.Context(), g, at, 100)
			if time.Now().After(deadline) {
				t.Fatalf("group %d: read up to %d of %d: %v", g, at.Seq, log.Head(g).Seq, err)
			}
			for _, m := range msgs {
				if want := log.byGroup[g][at.Seq]; m.Place != want.Place || m.ID != want.ID {
					t.Fatalf("group %d: have %d %s, want %d %s", g, m.Place.Seq, m.ID, want.Place.Seq, want.ID)
				}
				at = m.Place
			}
			if len(msgs) == 0 {
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
}

// Groups that are fetched all the time are not asked after as well.
func TestWhatIsFetchedIsNotAskedFor(t *testing.T) {
	t.Parallel()
	fake, cluster := open(t, bus.Payments)
	var asked atomic.Int64
	fake.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		asked.Add(1)
		return nil, nil, false
	})
	s := kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler))
	must(t, s.Refresh(t.Context()))
	if asked.Load() != 2 {
		t.Errorf("%d requests for the first and last offsets of all groups, two would do", asked.Load())
	}
	run(t, func(ctx context.Context) error { return s.Run(ctx, 50*time.Millisecond) })
	for before, deadline := int64(0), time.Now().Add(time.Minute); before != asked.Load(); {
		if time.Now().After(deadline) {
			t.Fatal("it asks each time")
		}
		time.Sleep(100 * time.Millisecond)
		before = asked.Load()
		must(t, s.Refresh(t.Context()))
	}
	log := newArea(bustest.Events("f", 20, 5))
	r := &kafka.Relay{Cluster: cluster, Source: log, MessagesMax: 30, Log: slog.New(slog.DiscardHandler)}
	_, err := r.Step(t.Context())
	must(t, err)
	for g, deadline := 0, time.Now().Add(time.Minute); g < groups; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("group %d ends at %d, and is known up to %d", g, log.Head(g).Seq, s.Head(g).Seq)
		}
		if s.Head(g) == log.Head(g) {
			g++
		}
	}
	// One that cannot be fetched is asked for again.
	fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "tallystick.payments", Partitions: []int32{0}, Err: kerr.KafkaStorageError, Count: -1})
	for before, deadline := asked.Load(), time.Now().Add(time.Minute); asked.Load() < before+10; time.Sleep(200 * time.Millisecond) { // it is fetched anew more often than that
		if time.Now().After(deadline) {
			t.Fatalf("a group that cannot be fetched is not asked for: %d requests", asked.Load()-before)
		}
		_ = s.Refresh(t.Context()) // it may be read meanwhile, or not
	}
}

// Topics that one reader's process reads are fetched with one request, each partition at
// the front of one in turn and none with more than a quarter of an answer. What goes wrong
// with a partition of one topic holds up none of another.
func TestTopicsAreFetchedTogether(t *testing.T) {
	t.Parallel()
	topics := []bus.Topic{bus.Intents, bus.Payments, bus.Outcomes}
	fake, cluster := open(t, topics...)
	var mu sync.Mutex
	front := map[string]bool{}
	apart := 0
	var most int32
	fake.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		f := r.(*kmsg.FetchRequest)
		if len(f.Topics) < len(topics) { // who looks for an end reads one partition
			if len(f.Topics[0].Partitions) > 1 {
				apart++
			}
			return nil, nil, false
		}
		front[fmt.Sprint(f.Topics[0].Topic, f.Topics[0].Partitions[0].Partition)] = true
		for _, t := range f.Topics {
			for _, p := range t.Partitions {
				most = max(most, p.PartitionMaxBytes)
			}
		}
		return nil, nil, false
	})
	var sources []*kafka.Source
	var relays []*kafka.Relay
	logs := map[bus.Topic]*area{}
	for _, topic := range topics {
		s := kafka.NewSource(cluster, topic, slog.New(slog.DiscardHandler))
		must(t, s.Refresh(t.Context()))
		sources = append(sources, s)
		logs[topic] = newArea(bustest.Events("t"+string(topic), 300, 20))
		logs[topic].topic = topic
		relays = append(relays, &kafka.Relay{Cluster: cluster, Source: logs[topic], MessagesMax: 5, Log: slog.New(slog.DiscardHandler)})
	}
	run(t, func(ctx context.Context) error { return kafka.FetchAhead(ctx, 50*time.Millisecond, sources...) })
	arrived := func() bool {
		for _, s := range sources {
			for g := range groups {
				if s.Head(g) != logs[s.Topic()].Head(g) {
					return false
				}
			}
		}
		return true
	}
	deadline := time.Now().Add(time.Minute)
	for !arrived() {
		if time.Now().After(deadline) {
			t.Fatal("what was published did not arrive")
		}
		for _, r := range relays {
			_, err := r.Step(t.Context())
			must(t, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	mu.Lock()
	defer mu.Unlock()
	if apart > 0 {
		t.Errorf("%d requests were for some of the topics alone", apart)
	}
	if len(front) < len(topics)*groups/2 {
		t.Errorf("only %d of %d partitions were ever the first of a request", len(front), len(topics)*groups)
	}
	if most != 1<<20/4 {
		t.Errorf("a partition may take %d bytes of an answer of %d", most, 1<<20)
	}
}

// A partition that cannot be fetched is asked for again after a pause, and what the broker
// has of the others comes meanwhile.
func TestAPartitionThatCannotBeFetched(t *testing.T) {
	t.Parallel()
	fake, cluster := open(t, bus.Payments)
	fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "tallystick.payments", Partitions: []int32{0}, Err: kerr.KafkaStorageError, Count: -1})
	var asked atomic.Int64
	fake.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		asked.Add(1)
		return nil, nil, false
	})
	s := kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler))
	must(t, s.Refresh(t.Context()))
	run(t, func(ctx context.Context) error { return s.Run(ctx, 100*time.Millisecond) })
	log := newArea(bustest.Events("p", 200, 20))
	r := &kafka.Relay{Cluster: cluster, Source: log, MessagesMax: 2, Groups: []int{1}, Log: slog.New(slog.DiscardHandler)}
	for begun := time.Now(); s.Head(1) != log.Head(1); time.Sleep(5 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("the other group is known up to %d of %d", s.Head(1).Seq, log.Head(1).Seq)
		}
		_, err := r.Step(t.Context())
		must(t, err)
	}
	before := asked.Load()
	time.Sleep(time.Second)
	if n := asked.Load() - before; n > 100 {
		t.Errorf("asked %d times in a second", n)
	}
}

// noLeader is a partition of the intents that nobody leads, for whoever asks about it.
func noLeader(fake *kfake.Cluster, group int32) {
	fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata, kmsg.ListOffsets}, Topic: "tallystick.intents", Partitions: []int32{group}, Err: kerr.LeaderNotAvailable, Count: -1})
}

// A partition that nobody leads stalls its group alone: what is unread of the others is
// still measured, and they are still taken.
func TestAPartitionWithoutALeader(t *testing.T) {
	t.Parallel()
	fake, cluster := open(t, bus.Intents)
	in := intake(t, cluster)
	now := time.UnixMilli(bustest.Events("b", 1, 1)[0].AtMillis)
	b := kafka.NewBacklog(cluster, kafka.BacklogConfig{Reader: "core", UnreadBytesMax: 1 << 30, UnreadAgeMax: 30 * time.Second, RecordBytes: 1},
		func() time.Time { return now }, bus.Intents)
	told := map[int]bus.Place{}
	for _, e := range bustest.Events("b", 50, 50) {
		must(t, ask(t, in, &e))
		told[e.Context.BizCode.Group(groups)] = bus.Place{Epoch: 1, Seq: 1}
	}
	must(t, cluster.Tell(t.Context(), "core", bus.Intents, told))
	must(t, b.Step(t.Context()))
	if n, _ := b.Of(bus.Intents); n != 48 {
		t.Fatalf("%d unread", n)
	}
	noLeader(fake, 0)
	must(t, cluster.Tell(t.Context(), "core", bus.Intents, map[int]bus.Place{1: {Epoch: 1, Seq: 50}})) // core has read it
	for range 40 {
		now = now.Add(time.Second)
		if err := b.Step(t.Context()); err == nil {
			t.Fatal("nothing is wrong with group 0")
		}
	}
	if b.Seen() != now {
		t.Errorf("brokers were last seen %s ago, and they answer", now.Sub(b.Seen()))
	}
	if err := b.Admit(bus.Intents, 1); err != nil {
		t.Errorf("everything of group 1 was read: %v", err)
	}
	if err := b.Admit(bus.Intents, 0); !fault.Is(err, fault.Unavailable) {
		t.Errorf("group 0 has stood still for 40 s: %v", err)
	}
	if err := b.Full(bus.Intents); err != nil {
		t.Errorf("group 1 is taken: %v", err)
	}
	if err := cluster.EnsureTopics(t.Context(), bus.Intents); err != nil {
		t.Errorf("a process that starts does not serve the others: %v", err)
	}
}

// What others have taken is as old for a gateway that starts as it is.
func TestAGatewayThatStartsKnowsHowOld(t *testing.T) {
	t.Parallel()
	_, cluster := open(t, bus.Intents)
	in := intake(t, cluster)
	events := bustest.Events("o", 3, 1)
	for _, e := range events {
		must(t, ask(t, in, &e))
	}
	for read := 1; read < 3; read++ {
		must(t, cluster.Tell(t.Context(), "core", bus.Intents, map[int]bus.Place{events[0].Context.BizCode.Group(groups): {Epoch: 1, Seq: int64(read)}}))
		now := time.UnixMilli(events[read].AtMillis).Add(time.Minute)
		b := kafka.NewBacklog(cluster, kafka.BacklogConfig{Reader: "core", UnreadBytesMax: 1 << 30, UnreadAgeMax: 30 * time.Second, RecordBytes: 1},
			func() time.Time { return now }, bus.Intents)
		must(t, b.Step(t.Context()))
		if n, age := b.Of(bus.Intents); n != int64(3-read) || age != time.Minute {
			t.Errorf("%d were read: %d unread, the oldest for %s", read, n, age)
		}
		if err := b.Full(bus.Intents); err != nil {
			t.Errorf("the other group takes something: %v", err)
		}
		if err := b.Admit(bus.Intents, events[0].Context.BizCode.Group(groups)); !fault.Is(err, fault.Unavailable) {
			t.Errorf("taken, although the oldest has waited for a minute: %v", err)
		}
	}
}

// Where a record is acknowledged by two brokers no batch is flushed: topics are made, and
// taken, without it. One for which a single copy is enough flushes.
func TestCopiesNeedNoFlush(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(3))
	must(t, err)
	t.Cleanup(fake.Close)
	c := kafka.DefaultConfig()
	c.Brokers, c.Groups = fake.ListenAddrs(), groups
	cluster, err := kafka.Connect(c)
	must(t, err)
	t.Cleanup(func() { _ = cluster.Close() })
	made := map[string]string{}
	fake.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		for _, topic := range req.(*kmsg.CreateTopicsRequest).Topics {
			for _, e := range topic.Configs {
				made[e.Name] = *e.Value
			}
		}
		return nil, nil, false
	})
	must(t, cluster.EnsureTopics(t.Context(), bus.Intents))
	if _, flushed := made["flush.messages"]; flushed || made["unclean.leader.election.enable"] != "false" {
		t.Errorf("made with %v", made)
	}
	c.MinInSync = 1
	one, err := kafka.Connect(c)
	must(t, err)
	t.Cleanup(func() { _ = one.Close() })
	must(t, one.EnsureTopics(t.Context(), bus.Intents)) // the topic itself waits for two
	if err := one.EnsureTopics(t.Context(), bus.Callbacks); err != nil || made["flush.messages"] != "1" {
		t.Errorf("with one copy: %v, made with %v", err, made)
	}
}

// Brokers that do not say which cluster they are of are asked again: nothing is bound to
// a name that all such clusters have.
func TestAClusterWithoutAnID(t *testing.T) {
	t.Parallel()
	fake, cluster := open(t, bus.Payments)
	id, err := cluster.ID(t.Context())
	if err != nil || id == "" {
		t.Fatalf("%q, %v", id, err)
	}
	host, port, err := net.SplitHostPort(fake.ListenAddrs()[0])
	must(t, err)
	number, err := strconv.ParseInt(port, 10, 32)
	must(t, err)
	fake.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		res := kmsg.NewPtrMetadataResponse()
		res.Version = r.GetVersion()
		b := kmsg.NewMetadataResponseBroker()
		b.Host, b.Port = host, int32(number)
		res.Brokers = append(res.Brokers, b)
		return res, nil, true
	})
	c := kafka.DefaultConfig()
	c.Brokers, c.Groups = fake.ListenAddrs(), groups
	nameless, err := kafka.Connect(c)
	must(t, err)
	defer nameless.Close() //nolint:errcheck // a test
	if id, err := nameless.ID(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("%q, %v, want unavailable", id, err)
	}
}
