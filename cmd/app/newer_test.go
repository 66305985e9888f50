package app_test

import (
	"bytes"
	"log/slog"
	"reflect"
	"strconv"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// extra is what the next version adds to the envelope.
const extra = "\x01\x05later"

// newer is an event as the next version writes it: a field more in the envelope, and
// one in the payload.
func newer(e bus.Event) bus.Event {
	e.Version, e.Extra = bus.EnvelopeVersion+1, []byte(extra)
	e.Payload = append(bytes.Clone(e.Payload[:len(e.Payload)-1]), `,"added_later":{"x":[1]}}`...)
	return e
}

// unknown is an event of a type that no build of today knows, of a trade of its own.
func (in *installation) unknown(topic bus.Topic) bus.Event {
	secret, err := ids.NewSecret(make([]byte, ids.SecretLen))
	must(in.t, err)
	return newer(bus.Event{ID: "evt_" + string(topic), Type: "something.new", AtMillis: 1, Payload: []byte(`{"y":"z"}`), Context: ids.Context{
		BizCode: secret.Trade(traffic.Real, "m", string(topic)), Merchant: "shop", OrderType: "general", OrderScene: "online", Institution: "sandbox",
		TraceID: "0123456789abcdef0123456789abcdef", Form: traffic.Deposit, Traffic: traffic.Real}})
}

// cluster is the test's own connection, to the topics of a prefix.
func (in *installation) cluster(prefix string) (*kafka.Cluster, kafka.Config) {
	in.t.Helper()
	c := kafka.DefaultConfig()
	c.Brokers, c.Prefix, c.Groups, c.Replication, c.MinInSync, c.NoSync = []string{in.broker.Addr}, prefix, 4, 1, 1, true
	cluster, err := kafka.Connect(c)
	must(in.t, err)
	in.t.Cleanup(func() { _ = cluster.Close() })
	return cluster, c
}

// messages are all messages of a topic.
func (in *installation) messages(prefix string, topic bus.Topic) (out []bus.Message) {
	in.t.Helper()
	cluster, _ := in.cluster(prefix)
	s := kafka.NewSource(cluster, topic, slog.New(slog.DiscardHandler))
	must(in.t, s.Refresh(in.t.Context()))
	for g := range s.Groups() {
		for at := (bus.Place{}); ; {
			msgs, err := s.Read(in.t.Context(), g, at, 100)
			must(in.t, err)
			if len(msgs) == 0 {
				break
			}
			out = append(out, msgs...)
			at = msgs[len(msgs)-1].Place
		}
	}
	return out
}

// write is a newer build that writes a topic: first an event of a type that nobody
// knows, then what is given, in the next version.
func (in *installation) write(prefix string, topic bus.Topic, msgs []bus.Message) {
	in.t.Helper()
	events := []bus.Event{in.unknown(topic)}
	for i := range msgs {
		events = append(events, newer(msgs[i].Event))
	}
	cluster, c := in.cluster(prefix)
	must(in.t, cluster.EnsureTopics(in.t.Context(), topic))
	transport := &kafkago.Transport{}
	defer transport.CloseIdleConnections()
	client := &kafkago.Client{Addr: kafkago.TCP(in.broker.Addr), Transport: transport}
	seq := make([]int64, c.Groups)
	for i := range events {
		e := &events[i]
		g := e.Context.BizCode.Group(c.Groups)
		seq[g]++
		r := kafkago.Record{Key: kafkago.NewBytes([]byte(e.Context.BizCode)), Value: kafkago.NewBytes(bus.AppendRecord(nil, e))}
		if topic != bus.Intents && topic != bus.Callbacks {
			r.Headers = []kafkago.Header{{Key: "later", Value: []byte("x")}, {Key: "epoch", Value: []byte("1")}, {Key: "seq", Value: strconv.AppendInt(nil, seq[g], 10)}}
		}
		res, err := client.Produce(in.t.Context(), &kafkago.ProduceRequest{Topic: prefix + string(topic), Partition: g, RequiredAcks: kafkago.RequireAll, Records: kafkago.NewRecordReader(r)})
		must(in.t, err)
		must(in.t, res.Error)
	}
}

// Processes of two releases run side by side while one replaces the other. What the
// newer ones write, today's read and act upon; what they do not know they put aside,
// whole, and the view passes over it.
func TestMessagesOfANewerRelease(t *testing.T) {
	long(t)
	in := newInstallation(t, sim.Faults{AutoPayShare: 1})
	s := in.start(in.folder("all"), "TALLYSTICK_LISTEN=127.0.0.1:0")
	const n = 6
	order := load.Orders(1)
	var vouchers []string
	for i := range n {
		a, status, err := s.client.Pay(order(i))
		if status != 202 {
			t.Fatalf("pay: %d %v", status, err)
		}
		vouchers = append(vouchers, a.Voucher)
	}
	s.verified(t, vouchers, n)
	s.stop()

	given := map[bus.Topic][]bus.Message{}
	for _, topic := range []bus.Topic{bus.Intents, bus.Callbacks, bus.Dispatch, bus.Outcomes, bus.Payments} {
		given[topic] = in.messages(in.prefix, topic)
	}
	for _, role := range []struct {
		name   string
		reads  []bus.Topic
		writes bus.Topic // and by it is known that it has acted
	}{
		{"core", []bus.Topic{bus.Intents}, bus.Dispatch}, // the others' evidence is for attempts of another core
		{"prepay", []bus.Topic{bus.Dispatch}, bus.Outcomes},
		{"accounting", []bus.Topic{bus.Payments}, bus.Postings},
	} {
		t.Run(role.name, func(t *testing.T) {
			in := *in
			in.t = t
			prefix := in.prefix + role.name + "."
			reads := role.reads
			for _, topic := range reads {
				in.write(prefix, topic, given[topic])
			}
			if role.name == "core" {
				reads = append(reads, bus.Callbacks, bus.Outcomes)
				in.write(prefix, bus.Callbacks, nil)
				in.write(prefix, bus.Outcomes, nil)
			}
			s := in.start(in.folder(role.name), "TALLYSTICK_ROLES="+role.name, "TALLYSTICK_KAFKA_TOPIC_PREFIX="+prefix)
			defer s.stop()
			parked := s.app.Stores.Parked()[role.name]
			for tries := 0; ; tries++ {
				have, err := parked.Count(t.Context())
				must(t, err)
				if have >= int64(len(reads)) && len(in.messages(prefix, role.writes)) >= n {
					break
				}
				if tries > 500 {
					t.Fatalf("%d messages are parked, %d written", have, len(in.messages(prefix, role.writes)))
				}
				time.Sleep(20 * time.Millisecond)
			}
			rows, err := parked.List(t.Context(), "")
			must(t, err)
			want := map[string]bus.Event{}
			for _, topic := range reads {
				e := in.unknown(topic)
				want[e.ID] = e
			}
			for _, row := range rows {
				if !reflect.DeepEqual(row.Message.Event, want[row.Message.ID]) {
					t.Errorf("put aside\n%+v, want\n%+v", row.Message.Event, want[row.Message.ID])
				}
				delete(want, row.Message.ID)
			}
			if len(want) > 0 {
				t.Errorf("not put aside: %v", want)
			}
		})
	}
	t.Run("voucher view", func(t *testing.T) {
		in := *in
		in.t = t
		prefix := in.prefix + "view."
		// It begins at the end of the topic, and hears of all that comes.
		s := in.start(in.folder("gateway"), "TALLYSTICK_ROLES=gateway", "TALLYSTICK_CORE_URL=http://127.0.0.1:1", "TALLYSTICK_KAFKA_TOPIC_PREFIX="+prefix, "TALLYSTICK_LISTEN=127.0.0.1:0")
		defer s.stop()
		a, status, err := s.client.Pay(order(0)) // it holds what it accepted
		if status != 202 || a.Voucher != vouchers[0] {
			t.Fatalf("pay: %d %v", status, err)
		}
		var own []bus.Message
		for _, m := range given[bus.Payments] {
			if p, err := event.ReadPaymentChanged(m.Payload, nil); err == nil && string(ids.VoucherID)+string(p.Y) == a.Voucher {
				own = append(own, m)
			}
		}
		in.write(prefix, bus.Payments, own)
		for tries := 0; ; tries++ {
			view, status, err := s.client.Await(a, 0, 0)
			if status == 200 && view.Final() {
				break
			}
			if tries > 500 {
				t.Fatalf("the view says %+v, %d %v", view, status, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
}
