package kafka_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	kafkago "github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/bustest/sqlreader"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// goldenMessage is a message as it stands at the brokers: see internal/bus.
type goldenMessage struct {
	Topic  bus.Topic `json:"topic"`
	Type   string    `json:"type"`
	Record string    `json:"record"`
	Kafka  struct {
		Partition int      `json:"partition"`
		Key       string   `json:"key"`
		Headers   []string `json:"headers"`
	} `json:"kafka"`
}

func (g *goldenMessage) value(t *testing.T) []byte {
	t.Helper()
	b, err := hex.DecodeString(g.Record)
	must(t, err)
	return b
}

func (g *goldenMessage) event(t *testing.T) bus.Event {
	t.Helper()
	events, err := bus.ParseRecords(g.value(t))
	must(t, err)
	return events[0]
}

// record is the message as another build sends it.
func (g *goldenMessage) record(t *testing.T) kafkago.Record {
	t.Helper()
	r := kafkago.Record{Key: kafkago.NewBytes([]byte(g.Kafka.Key)), Value: kafkago.NewBytes(g.value(t))}
	for _, h := range g.Kafka.Headers {
		name, value, _ := strings.Cut(h, "=")
		r.Headers = append(r.Headers, kafkago.Header{Key: name, Value: []byte(value)})
	}
	return r
}

func goldenMessages(t *testing.T, file string) map[bus.Topic][]goldenMessage {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "testdata", file))
	must(t, err)
	var all []goldenMessage
	must(t, json.Unmarshal(text, &all))
	out := map[bus.Topic][]goldenMessage{}
	for _, g := range all {
		out[g.Topic] = append(out[g.Topic], g)
	}
	return out
}

// other is another program's connection to the brokers.
func other(c kafka.Config) (client *kafkago.Client, done func()) {
	transport := &kafkago.Transport{}
	return &kafkago.Client{Addr: kafkago.TCP(c.Brokers...), Transport: transport}, transport.CloseIdleConnections
}

// raw are the records of a partition as the broker has them.
func raw(t *testing.T, c kafka.Config, topic bus.Topic, partition, n int) (out []goldenMessage) {
	t.Helper()
	client, done := other(c)
	defer done()
	eventually(t, "the records are there", func() error {
		res, err := client.Fetch(t.Context(), &kafkago.FetchRequest{Topic: c.Prefix + string(topic), Partition: partition, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: time.Second})
		if err != nil || res.Error != nil {
			return errors.Join(err, errors.New("fetch"))
		}
		out = nil
		for {
			r, err := res.Records.ReadRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			key, err := kafkago.ReadAll(r.Key)
			must(t, err)
			value, err := kafkago.ReadAll(r.Value)
			must(t, err)
			g := goldenMessage{Topic: topic, Record: hex.EncodeToString(value)}
			g.Kafka.Partition, g.Kafka.Key = partition, string(key)
			g.Kafka.Headers = []string{}
			for _, h := range r.Headers {
				g.Kafka.Headers = append(g.Kafka.Headers, h.Key+"="+string(h.Value))
			}
			out = append(out, g)
		}
		if len(out) < n {
			return errors.New("not all")
		}
		return nil
	})
	return out
}

// send appends records as another build would.
func send(t *testing.T, c kafka.Config, topic bus.Topic, partition int, records ...kafkago.Record) {
	t.Helper()
	client, done := other(c)
	defer done()
	res, err := client.Produce(t.Context(), &kafkago.ProduceRequest{Topic: c.Prefix + string(topic), Partition: partition, RequiredAcks: kafkago.RequireAll,
		Records: kafkago.NewRecordReader(records...)})
	must(t, err)
	must(t, res.Error)
}

func goldenTopics() []bus.Topic {
	return []bus.Topic{bus.Intents, bus.Callbacks, bus.Dispatch, bus.Outcomes, bus.Payments, bus.Postings}
}

// sixteen is config with the groups of the golden messages.
func sixteen(t *testing.T) kafka.Config {
	t.Helper()
	c := config(t.TempDir())
	c.Groups = 16
	return c
}

// given is an area's log with messages that are given.
type given struct {
	bus.Source
	bus.Wakes
	topic  bus.Topic
	groups int
	msgs   []bus.Message // of one group
}

func (g *given) Subscribe() (<-chan struct{}, func()) { return g.Wakes.Subscribe() }
func (g *given) Topic() bus.Topic                     { return g.topic }
func (g *given) Groups() int                          { return g.groups }
func (g *given) Refresh(context.Context) error        { return nil }
func (g *given) Head(group int) (p bus.Place) {
	if len(g.msgs) > 0 && g.msgs[0].Group == group {
		p = g.msgs[len(g.msgs)-1].Place
	}
	return p
}

func (g *given) Read(_ context.Context, group int, after bus.Place, limit int) (out []bus.Message, err error) {
	for _, m := range g.msgs {
		if m.Group == group && m.Place.Seq > after.Seq && len(out) < limit {
			out = append(out, m)
		}
	}
	return out, nil
}

// What intakes and relays send is what they sent first, byte for byte: key, headers,
// value and partition; and it is read as what it meant. A relay hands on what a
// newer build wrote as it is.
func TestGoldenMessagesAtTheBroker(t *testing.T) {
	for _, file := range []string{"messages_v1.json", "messages_v2.json"} {
		t.Run(file, func(t *testing.T) {
			c := sixteen(t)
			cluster := connect(t, c, goldenTopics()...)
			in, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), nil, bus.Intents, bus.Callbacks)
			must(t, err)
			b := newBackground()
			b.run(in.Run)
			defer b.stop() //nolint:errcheck // it has no error
			for topic, golden := range goldenMessages(t, file) {
				partition := golden[0].Kafka.Partition
				relayed := &given{topic: topic, groups: 16}
				for i, g := range golden {
					e := g.event(t)
					switch {
					case len(g.Kafka.Headers) > 0:
						relayed.msgs = append(relayed.msgs, bus.Message{Event: e, Topic: topic, Group: partition, Place: bus.Place{Epoch: 1, Seq: int64(i + 1)}})
					case e.Version == bus.EnvelopeVersion:
						ticket, err := in.Append(topic, &e)
						must(t, err)
						<-ticket.Done()
						must(t, ticket.Err())
					default:
						send(t, c, topic, partition, g.record(t)) // nobody here writes it
					}
				}
				relay := &kafka.Relay{Cluster: cluster, Source: relayed, MessagesMax: 10, Log: slog.New(slog.DiscardHandler)}
				if len(relayed.msgs) > 0 {
					_, err := relay.Step(t.Context())
					must(t, err)
				}
				for i, have := range raw(t, c, topic, partition, len(golden)) {
					want := golden[i]
					want.Type = ""
					if !reflect.DeepEqual(have, want) {
						t.Errorf("%s %s stands there as\n%+v, want\n%+v", topic, golden[i].Type, have, want)
					}
				}
				source := kafka.NewSource(cluster, topic, slog.New(slog.DiscardHandler))
				must(t, source.Refresh(t.Context()))
				msgs, err := source.Read(t.Context(), partition, bus.Place{}, 10)
				must(t, err)
				for i, m := range msgs {
					if want := (bus.Message{Event: golden[i].event(t), Topic: topic, Group: partition, Place: bus.Place{Epoch: 1, Seq: int64(i + 1)}}); !reflect.DeepEqual(m, want) {
						t.Errorf("%s is read as\n%+v, want\n%+v", topic, m, want)
					}
				}
				if len(msgs) != len(golden) {
					t.Errorf("%d of %d messages of %s are read", len(msgs), len(golden), topic)
				}
			}
		})
	}
}

// A record that this build cannot read, as it is damaged or too new, stops its
// group, with an alarm, and no other; nothing behind it is skipped. How far the
// group is behind is known all the same.
func TestUnreadableRecordsStopTheirGroupAlone(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"a version after the next": func(b []byte) []byte {
			b[8] = bus.EnvelopeVersion + 2
			binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], crc32.MakeTable(crc32.Castagnoli)))
			return b
		},
		"a turned bit": func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"cut":          func(b []byte) []byte { return b[:len(b)-1] },
		"two in one":   func(b []byte) []byte { return append(b, b...) },
		"nothing":      func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c := config(dir)
			cluster := connect(t, c, bus.Payments)
			db, err := sqldb.Open(t.Context(), sqldb.Options{Area: "writer", Path: filepath.Join(dir, "writer.db"), NoSync: true, Migrations: []string{embedded.Schema(bus.Payments)}})
			must(t, err)
			defer db.Close() //nolint:errcheck // a test
			events := bustest.Events("u", 24, 12)
			bad := events[0].Context.BizCode.Group(groups)
			log := embedded.NewLog(db, groups, bus.Payments)
			must(t, db.Write(t.Context(), func(tx *sqldb.Tx) error { return log.Emit(tx, bus.Payments, slices.Clone(events)) }))
			relay := &kafka.Relay{Cluster: cluster, Source: log.Source(bus.Payments), MessagesMax: 50, Log: slog.New(slog.DiscardHandler)}
			_, err = relay.Step(t.Context())
			must(t, err)
			head := log.Source(bus.Payments).Head(bad)
			g := goldenMessage{Record: hex.EncodeToString(spoil(bus.AppendRecord(nil, &events[0])))}
			g.Kafka.Headers = []string{"epoch=1", "seq=" + itoa(head.Seq+1)}
			send(t, c, bus.Payments, bad, g.record(t))
			good := goldenMessage{Record: hex.EncodeToString(bus.AppendRecord(nil, &events[0]))}
			good.Kafka.Headers = []string{"epoch=1", "seq=" + itoa(head.Seq+2)}
			send(t, c, bus.Payments, bad, good.record(t))

			r := sqlreader.Open(t, dir, nil)
			defer r.DB.Close() //nolint:errcheck // a test
			source := kafka.NewSource(cluster, bus.Payments, slog.New(slog.DiscardHandler))
			consumer := &bus.Consumer{Area: "test", Source: source, Places: embedded.Places{DB: r.DB}, Apply: r.Apply, MessagesMax: 20, Log: slog.New(slog.DiscardHandler)}
			b := newBackground()
			b.run(func(ctx context.Context) error { return source.Run(ctx, 200*time.Millisecond) })
			b.run(func(ctx context.Context) error { return consumer.Run(ctx, 20*time.Millisecond, 200*time.Millisecond) })
			defer b.stop() //nolint:errcheck // it has no error
			eventually(t, "the group stops", func() error {
				have, err := r.Effects(t.Context())
				if err == nil && (len(have) < len(events) || !slices.Equal(consumer.Stopped(), []int{bad})) {
					err = errors.New("not yet")
				}
				return err
			})
			if have, err := r.Effects(t.Context()); err != nil || len(have) != len(events) {
				t.Errorf("%d messages are applied, want %d: none behind the unreadable one; %v", len(have), len(events), err)
			}
			for _, s := range consumer.Standings() {
				if behind := s.Head.Seq - s.At.Seq; s.Group == bad && behind != 2 || s.Group != bad && behind != 0 {
					t.Errorf("group %d is %d behind", s.Group, behind)
				}
			}
		})
	}
}
