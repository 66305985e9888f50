// Package kfaketest holds the bus against a broker that lies on demand: kfake.
package kfaketest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
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

const groups = 2

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open starts a broker and makes the topics.
func open(t *testing.T, topics ...bus.Topic) (*kfake.Cluster, *kafka.Cluster) {
	t.Helper()
	return openOn(t, 1, topics...)
}

// openOn starts some brokers.
func openOn(t *testing.T, brokers int, topics ...bus.Topic) (*kfake.Cluster, *kafka.Cluster) {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(brokers))
	must(t, err)
	t.Cleanup(fake.Close)
	c := kafka.DefaultConfig()
	c.Brokers, c.Groups, c.Replication, c.MinInSync = fake.ListenAddrs(), groups, 1, 1
	c.ProduceTimeout, c.FetchWait = 500*time.Millisecond, 20*time.Millisecond
	cluster, err := kafka.Connect(c)
	must(t, err)
	t.Cleanup(func() { _ = cluster.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must(t, cluster.EnsureTopics(ctx, topics...))
	return fake, cluster
}

// intake runs an intake until the test ends.
func intake(t *testing.T, cluster *kafka.Cluster) *kafka.Intake {
	t.Helper()
	in, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), nil, bus.Intents)
	must(t, err)
	run(t, in.Run)
	return in
}

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

// copies counts what is there of each event.
func copies(t *testing.T, cluster *kafka.Cluster, topic bus.Topic) map[string]int {
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

// answered makes the broker answer one append with a code and an offset, and do
// nothing.
func answered(code *kerr.Error, base int64) func(*kfake.Cluster) {
	return func(fake *kfake.Cluster) {
		fake.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
			req := r.(*kmsg.ProduceRequest)
			res := req.ResponseKind().(*kmsg.ProduceResponse)
			for _, t := range req.Topics {
				topic := kmsg.NewProduceResponseTopic()
				topic.Topic = t.Topic
				for _, p := range t.Partitions {
					part := kmsg.NewProduceResponseTopicPartition()
					part.Partition, part.ErrorCode, part.BaseOffset = p.Partition, code.Code, base
					topic.Partitions = append(topic.Partitions, part)
				}
				res.Topics = append(res.Topics, topic)
			}
			return res, nil, true
		})
	}
}

// faulty makes the broker fail one append with a code. kfake appends before the
// codes that come after an append.
func faulty(code *kerr.Error) func(*kfake.Cluster) {
	return func(fake *kfake.Cluster) { fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code}) }
}

// An answer is a certain no only where it proves that nothing was sent or appended.
// Whatever it was, the same asked again gives a yes.
func TestThreeValues(t *testing.T) {
	const no, nobodyKnows = fault.Unavailable, fault.Unknown
	for _, tc := range []struct {
		name  string
		fault func(*kfake.Cluster)
		want  fault.Kind
		there int // copies, after the first answer
	}{
		{"not enough replicas", faulty(kerr.NotEnoughReplicas), no, 0},
		{"not enough replicas after the append", faulty(kerr.NotEnoughReplicasAfterAppend), nobodyKnows, 1},
		{"timed out after the append", faulty(kerr.RequestTimedOut), nobodyKnows, 1},
		{"not the leader", answered(kerr.NotLeaderForPartition, -1), no, 0},
		{"not the leader any more, after the append", answered(kerr.NotLeaderForPartition, 7), nobodyKnows, 0},
		{"no such topic", answered(kerr.UnknownTopicOrPartition, -1), no, 0},
		{"no such topic any more, after the append", answered(kerr.UnknownTopicOrPartition, 7), nobodyKnows, 0},
		{"no leader", faulty(kerr.LeaderNotAvailable), no, 0},
		{"a corrupt message", faulty(kerr.CorruptMessage), no, 0},
		{"too large", faulty(kerr.MessageTooLarge), no, 0},
		{"too many", faulty(kerr.RecordListTooLarge), no, 0},
		{"not allowed", faulty(kerr.TopicAuthorizationFailed), no, 0},
		{"a disk that failed", answered(kerr.KafkaStorageError, -1), nobodyKnows, 0},
		{"whatever it was", answered(kerr.UnknownServerError, -1), nobodyKnows, 0},
		{"a code of tomorrow", answered(&kerr.Error{Code: 1234}, -1), nobodyKnows, 0},
		{"the network failed, says the broker", answered(kerr.NetworkException, -1), nobodyKnows, 0},
		{"closed after the request was written", func(fake *kfake.Cluster) {
			fake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("closed"), true })
		}, nobodyKnows, 0},
		{"no answer", func(fake *kfake.Cluster) {
			fake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, nil, true })
		}, nobodyKnows, 0},
		{"an answer without topics", func(fake *kfake.Cluster) {
			fake.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) { return r.ResponseKind(), nil, true })
		}, nobodyKnows, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			fake, cluster := open(t, bus.Intents)
			in := intake(t, cluster)
			e := bustest.Events("v", 1, 1)[0]
			tc.fault(fake)
			if err := ask(t, in, &e); !fault.Is(err, tc.want) {
				t.Errorf("have %v, want %s", err, tc.want)
			}
			if n := copies(t, cluster, bus.Intents)[e.ID]; n != tc.there {
				t.Errorf("%d copies are there, want %d", n, tc.there)
			}
			var err error
			for range 100 { // it is not retried for us
				if err = ask(t, in, &e); err == nil {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			must(t, err)
			if n := copies(t, cluster, bus.Intents)[e.ID]; n != tc.there+1 {
				t.Errorf("%d copies are there after the second, want %d", n, tc.there+1)
			}
		})
	}
}

// Every append asks for all copies, and is made once.
func TestEveryCopyIsAskedFor(t *testing.T) {
	t.Parallel()
	fake, cluster := open(t, bus.Intents, bus.Payments)
	var acks []int16
	fake.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		acks = append(acks, r.(*kmsg.ProduceRequest).Acks) // one at a time
		return nil, nil, false
	})
	events := bustest.Events("a", 2, 1)
	must(t, ask(t, intake(t, cluster), &events[0]))
	r := &kafka.Relay{Cluster: cluster, Source: newArea(events), MessagesMax: 3, Log: slog.New(slog.DiscardHandler)}
	_, err := r.Step(t.Context())
	must(t, err)
	if fmt.Sprint(acks) != "[-1 -1]" {
		t.Errorf("acknowledgements that were asked for: %v, want -1 (all) twice", acks)
	}
}

// area is a log in memory.
type area struct {
	bus.Wakes
	topic   bus.Topic
	byGroup [groups][]bus.Message
}

func newArea(events []bus.Event) *area {
	a := &area{topic: bus.Payments}
	for _, e := range events {
		g := e.Context.BizCode.Group(groups)
		a.byGroup[g] = append(a.byGroup[g], bus.Message{Event: e, Topic: bus.Payments, Group: g, Place: bus.Place{Epoch: 1, Seq: int64(len(a.byGroup[g]) + 1)}})
	}
	return a
}

func (a *area) Topic() bus.Topic              { return a.topic }
func (a *area) Groups() int                   { return groups }
func (a *area) Refresh(context.Context) error { return nil }
func (a *area) Head(group int) bus.Place {
	if n := len(a.byGroup[group]); n > 0 {
		return a.byGroup[group][n-1].Place
	}
	return bus.Place{}
}

func (a *area) Read(_ context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	rest := a.byGroup[group][after.Seq:]
	return rest[:min(limit, len(rest))], nil
}

// A relay goes on behind what was acknowledged, whatever the brokers answered: all
// is there, some of it twice, and readers see each message once, in order.
func TestRelayThroughRefusals(t *testing.T) {
	t.Parallel()
	fake, cluster := open(t, bus.Payments)
	events := bustest.Events("r", 60, 7)
	log := newArea(events)
	r := &kafka.Relay{Cluster: cluster, Source: log, MessagesMax: 3, Log: slog.New(slog.DiscardHandler)}
	refused := 0
	for i := 0; ; i++ {
		switch i % 6 {
		case 0:
			faulty(kerr.NotEnoughReplicasAfterAppend)(fake)
		case 1:
			faulty(kerr.RequestTimedOut)(fake)
		case 2:
			answered(kerr.NotLeaderForPartition, -1)(fake)
		case 3:
			faulty(kerr.NotEnoughReplicas)(fake)
		}
		worked, err := r.Step(t.Context())
		if err != nil {
			refused++
			continue
		}
		if !worked && i%6 > 3 {
			break
		}
		if i > 1000 {
			t.Fatal("it does not come to an end")
		}
	}
	if refused < 10 {
		t.Errorf("only %d steps failed", refused)
	}
	s := kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler))
	must(t, s.Refresh(t.Context()))
	for g := range groups {
		var have, want []string
		for at := (bus.Place{}); ; {
			msgs, err := s.Read(t.Context(), g, at, 7)
			must(t, err)
			if len(msgs) == 0 {
				break
			}
			for _, m := range msgs {
				have = append(have, fmt.Sprint(m.Place.Seq, m.ID))
			}
			at = msgs[len(msgs)-1].Place
		}
		for _, m := range log.byGroup[g] {
			want = append(want, fmt.Sprint(m.Place.Seq, m.ID))
		}
		if strings.Join(have, " ") != strings.Join(want, " ") {
			t.Errorf("group %d: have\n%v, want\n%v", g, have, want)
		}
	}
}

// A broker that refuses to be read is asked again; nothing is skipped.
func TestReadsThroughRefusals(t *testing.T) {
	for name, code := range map[string]*kerr.Error{"not the leader": kerr.NotLeaderForPartition, "no such topic": kerr.UnknownTopicOrPartition,
		"no leader": kerr.LeaderNotAvailable, "a disk that failed": kerr.KafkaStorageError, "a corrupt message": kerr.CorruptMessage,
		"whatever it was": kerr.UnknownServerError, "fenced": kerr.FencedLeaderEpoch} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake, cluster := open(t, bus.Payments)
			events := bustest.Events("f", 20, 5)
			r := &kafka.Relay{Cluster: cluster, Source: newArea(events), MessagesMax: 30, Log: slog.New(slog.DiscardHandler)}
			_, err := r.Step(t.Context())
			must(t, err)
			s := kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler))
			must(t, s.Refresh(t.Context()))
			fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch, kmsg.ListOffsets}, Err: code, Count: 3})
			read, failed := 0, 0
			for g := range groups {
				for at := (bus.Place{}); at.Seq < s.Head(g).Seq; {
					msgs, err := s.Read(t.Context(), g, at, 4)
					if err != nil {
						if failed++; failed > 50 {
							t.Fatal(err)
						}
						continue
					}
					for _, m := range msgs {
						if m.Place.Seq != at.Seq+1 {
							t.Fatalf("%d after %d", m.Place.Seq, at.Seq)
						}
						at = m.Place
						read++
					}
				}
			}
			if read != len(events) || failed == 0 {
				t.Errorf("%d of %d messages, after %d refusals", read, len(events), failed)
			}
		})
	}
}

// The first question about a group on fresh brokers finds no coordinator: those who
// tell and ask for places come again.
func TestNoCoordinatorYet(t *testing.T) {
	t.Parallel()
	fake, cluster := open(t, bus.Intents)
	fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit, kmsg.OffsetFetch}, Err: kerr.CoordinatorNotAvailable, Count: 2})
	b := kafka.NewBacklog(cluster, kafka.BacklogConfig{Reader: "core", UnreadBytesMax: 1, UnreadAgeMax: time.Minute, RecordBytes: 1}, func() time.Time { return time.UnixMilli(0) }, bus.Intents)
	tell := func() error {
		return cluster.Tell(t.Context(), "core", bus.Intents, map[int]bus.Place{0: {Epoch: 1, Seq: 0}})
	}
	for _, f := range []func() error{tell, func() error { return b.Step(t.Context()) }} {
		if err := f(); !fault.Is(err, fault.Unavailable) {
			t.Errorf("no coordinator: %v", err)
		}
	}
	must(t, tell())
	must(t, b.Step(t.Context()))
}
