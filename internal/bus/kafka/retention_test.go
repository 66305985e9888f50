package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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

// relayed is an area's log, its topic and a reader.
type relayed struct {
	*testing.T
	config  kafka.Config
	cluster *kafka.Cluster
	db      *sqldb.DB
	log     *embedded.Log
	reader  sqlreader.Reader
	now     time.Time
}

func newRelayed(t *testing.T) *relayed {
	t.Helper()
	dir := t.TempDir()
	r := &relayed{T: t, config: config(dir), now: time.UnixMilli(1_700_000_000_000)}
	r.cluster = connect(t, r.config, bus.Payments)
	var err error
	r.db, err = sqldb.Open(t.Context(), sqldb.Options{Area: "writer", Path: filepath.Join(dir, "writer.db"), NoSync: true, Migrations: []string{embedded.Schema(bus.Payments)}})
	must(t, err)
	r.log, r.reader = embedded.NewLog(r.db, groups, bus.Payments), sqlreader.Open(t, dir, nil)
	t.Cleanup(func() { _, _ = r.db.Close(), r.reader.DB.Close() })
	return r
}

func (r *relayed) relay() *kafka.Relay {
	return &kafka.Relay{Cluster: r.cluster, Source: embedded.NewLog(r.db, groups, bus.Payments).Source(bus.Payments), MessagesMax: 50,
		AgainAfter: time.Hour, Now: func() time.Time { return r.now }, Log: slog.New(slog.DiscardHandler)}
}

func (r *relayed) drain(relay *kafka.Relay) error {
	for {
		if worked, err := relay.Step(r.Context()); err != nil || !worked {
			return err
		}
	}
}

func (r *relayed) emit(name string, n int) {
	r.Helper()
	must(r.T, r.db.Write(r.Context(), func(tx *sqldb.Tx) error { return r.log.Emit(tx, bus.Payments, bustest.Events(name, n, 40)) }))
}

func (r *relayed) consumer() *bus.Consumer {
	return &bus.Consumer{Area: "test", Source: kafka.NewSource(r.cluster, bus.Payments, slog.New(slog.DiscardHandler)), Places: embedded.Places{DB: r.reader.DB},
		Apply: r.reader.Apply, MessagesMax: 50, Log: slog.New(slog.DiscardHandler)}
}

func (r *relayed) consume(want int) {
	r.Helper()
	c := r.consumer()
	eventually(r.T, "everything is applied", func() error {
		must(r.T, c.Source.Refresh(r.Context()))
		if _, err := c.Step(r.Context()); err != nil {
			return err
		}
		have, err := r.reader.Effects(r.Context())
		if err == nil && len(have) != want {
			err = fmt.Errorf("%d effects of %d", len(have), want)
		}
		if s := c.Stopped(); len(s) > 0 {
			r.Fatalf("groups %v stopped", s)
		}
		return err
	})
}

// trim deletes what the reader has told of.
func (r *relayed) trim() {
	r.Helper()
	places, err := embedded.Places{DB: r.reader.DB}.Committed(r.Context(), bus.Payments)
	must(r.T, err)
	eventually(r.T, "the brokers are told", func() error { return r.cluster.Tell(r.Context(), "test", bus.Payments, places) })
	var told map[int]bus.Place
	eventually(r.T, "the brokers know it", func() error {
		told, err = r.cluster.Told(r.Context(), "test", bus.Payments, slices.Collect(maps.Keys(places)))
		if err == nil && fmt.Sprint(told) != fmt.Sprint(places) {
			err = fmt.Errorf("told %v, places %v", told, places)
		}
		return err
	})
	for range 100 {
		_, more, err := r.log.Trimmer(bus.Payments, nil).Step(r.Context(), embedded.Trim{UpTo: told, BeforeMillis: embedded.Everything, RowsMax: 1000})
		must(r.T, err)
		if !more {
			return
		}
	}
}

// remove removes a topic.
func (r *relayed) remove(topic bus.Topic) {
	r.Helper()
	name := r.config.Prefix + string(topic)
	res, err := (&kafkago.Client{Addr: kafkago.TCP(broker.Addr)}).DeleteTopics(r.Context(), &kafkago.DeleteTopicsRequest{Topics: []string{name}})
	must(r.T, err)
	must(r.T, res.Errors[name])
}

// lose makes the brokers delete everything for its age, or the topic as a whole.
func (r *relayed) lose(whole bool) {
	r.Helper()
	client := &kafkago.Client{Addr: kafkago.TCP(broker.Addr)}
	name := r.config.Prefix + string(bus.Payments)
	if whole {
		r.remove(bus.Payments)
		eventually(r.T, "it is gone and made again", func() error {
			cluster := connect(r.T, r.config, bus.Payments)
			source := kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler))
			err := source.Refresh(r.Context())
			for g := range source.Groups() {
				if at := source.Head(g); at.Seq > 0 {
					err = errors.Join(err, fmt.Errorf("it still has group %d up to %d", g, at.Seq))
				}
			}
			r.cluster = cluster
			return err
		})
		return
	}
	keep := func(millis string) {
		res, err := client.IncrementalAlterConfigs(r.Context(), &kafkago.IncrementalAlterConfigsRequest{Resources: []kafkago.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafkago.ResourceTypeTopic, ResourceName: name,
			Configs: []kafkago.IncrementalAlterConfigsRequestConfig{{Name: "retention.ms", Value: millis, ConfigOperation: kafkago.ConfigOperationSet}}}}})
		must(r.T, err)
		must(r.T, res.Resources[0].Error)
	}
	keep("1")
	eventually(r.T, "all has expired", func() error {
		req := &kafkago.ListOffsetsRequest{Topics: map[string][]kafkago.OffsetRequest{}}
		for g := range groups {
			req.Topics[name] = append(req.Topics[name], kafkago.FirstOffsetOf(g), kafkago.LastOffsetOf(g))
		}
		res, err := client.ListOffsets(r.Context(), req)
		if err != nil {
			return err
		}
		for _, p := range res.Topics[name] {
			if p.FirstOffset < p.LastOffset {
				return fmt.Errorf("partition %d has %d to %d", p.Partition, p.FirstOffset, p.LastOffset)
			}
		}
		return nil
	})
	keep("-1")
}

// A log that was trimmed, and a topic that was lost: what was trimmed is nowhere, and
// the relay says so instead of leaving a gap.
func TestARelayOfATrimmedLogRefusesALostTopic(t *testing.T) {
	r := newRelayed(t)
	r.emit("a", 80)
	r.emit("b", 80)
	must(t, r.drain(r.relay()))
	r.consume(160)
	r.trim()
	if err := r.drain(r.relay()); err != nil {
		t.Fatalf("nothing was lost: %v", err)
	}
	r.lose(true)
	r.emit("c", 40)
	err := r.drain(r.relay())
	if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "what lies between is in neither") {
		t.Errorf("the relay of a lost topic: %v", err)
	}
	if err := r.consumer().Open(t.Context()); !fault.Is(err, fault.Conflict) {
		t.Errorf("the reader of a lost topic: %v", err)
	}
}

// A topic that is lost and made anew while it is used: a relay that publishes into it
// says so at once, and so does a reader who has nothing to read; a gateway does not say
// that it has accepted what a reader of the other one would take for known.
func TestATopicThatIsReplacedWhileItIsUsed(t *testing.T) {
	r := newRelayed(t)
	relay, consumer := r.relay(), r.consumer()
	b := newBackground()
	b.run(func(ctx context.Context) error { return consumer.Source.(*kafka.Source).Run(ctx, 50*time.Millisecond) })
	defer b.stop() //nolint:errcheck // it has no error
	in, err := kafka.NewIntake(connect(t, r.config, bus.Intents), kafka.DefaultIntakeConfig(), nil, bus.Intents)
	must(t, err)
	b.run(in.Run)
	events := bustest.Events("i", 3, 1)
	for i := range 2 {
		must(t, ask(t, in, &events[i]))
	}
	r.emit("a", 80)
	must(t, r.drain(relay))
	steps := func() error {
		for {
			if worked, err := consumer.Step(t.Context()); err != nil || !worked {
				return err
			}
		}
	}
	eventually(t, "everything is read", func() error {
		must(t, consumer.Source.Refresh(t.Context()))
		must(t, steps())
		if have, err := r.reader.Effects(t.Context()); err != nil || len(have) < 80 {
			return fmt.Errorf("%d are read: %w", len(have), err)
		}
		return nil
	})
	r.lose(true)
	eventually(t, "the reader sees it", func() error {
		ill, rest := bus.ByGroup(consumer.Source.Refresh(t.Context()))
		for _, err := range ill {
			if fault.Is(err, fault.Conflict) {
				return nil
			}
		}
		return fmt.Errorf("not yet: %v, %w", ill, rest)
	})
	r.emit("b", 80)
	must(t, relay.Source.Refresh(t.Context()))
	must(t, r.drain(relay))
	if len(relay.Refused()) == 0 {
		t.Error("the relay goes on")
	}
	if err := r.drain(r.relay()); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "topic_lost") {
		t.Errorf("the next relay takes what the first one has put there for the whole: %v", err)
	}
	if err := r.consumer().Open(t.Context()); !fault.Is(err, fault.Conflict) {
		t.Errorf("so does the next reader: %v", err)
	}
	r.remove(bus.Intents)
	eventually(t, "the topic of intents is made anew", func() error { connect(t, r.config, bus.Intents); return nil })
	eventually(t, "the gateway does not know", func() error {
		if err := ask(t, in, &events[2]); !fault.Is(err, fault.Unknown) || !strings.Contains(err.Error(), "topic_lost") {
			return fmt.Errorf("the gateway says %w", err)
		}
		return nil
	})
}

// What is published is there again before the brokers delete it for its age, once.
func TestTheLastMessageIsPublishedAgain(t *testing.T) {
	r := newRelayed(t)
	r.emit("a", 80)
	relay := r.relay()
	must(t, r.drain(relay))
	count := func() (twice int) {
		for _, n := range all(t, r.cluster, bus.Payments) {
			twice += n - 1
		}
		return twice
	}
	must(t, r.drain(relay))
	ends := func() (sum int64) {
		client := &kafkago.Client{Addr: kafkago.TCP(broker.Addr)}
		name := r.config.Prefix + string(bus.Payments)
		req := &kafkago.ListOffsetsRequest{Topics: map[string][]kafkago.OffsetRequest{}}
		for g := range groups {
			req.Topics[name] = append(req.Topics[name], kafkago.LastOffsetOf(g))
		}
		res, err := client.ListOffsets(t.Context(), req)
		must(t, err)
		for _, p := range res.Topics[name] {
			sum += p.LastOffset
		}
		return sum
	}
	if n := ends(); n != 80 {
		t.Fatalf("%d records of 80 messages", n)
	}
	r.now = r.now.Add(2 * time.Hour)
	must(t, r.drain(relay))
	if n := ends(); n <= 80 || n > 80+groups {
		t.Errorf("%d records after the last ones were published again", n)
	}
	again := ends()
	must(t, r.drain(relay))
	if n := ends(); n != again || count() != 0 {
		t.Errorf("%d records, and %d before: once is enough", n, again)
	}
	r.consume(80)
}

// Everything of a quiet topic has expired: its end is not known any more. The relay
// goes on, its reader as well, and nothing is lost or applied twice.
func TestAnExpiredTopic(t *testing.T) {
	r := newRelayed(t)
	r.emit("a", 80)
	must(t, r.drain(r.relay()))
	r.consume(80)
	r.trim()
	r.lose(false)
	if err := r.consumer().Open(t.Context()); err != nil {
		t.Fatalf("its reader: %v", err)
	}
	r.emit("b", 40)
	must(t, r.drain(r.relay()))
	r.consume(120)
}
