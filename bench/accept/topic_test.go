package accept_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/bench/accept"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// shop keeps intents in a topic, as a gateway does.
type shop struct {
	cluster *kafka.Cluster
	secret  *ids.Secret
}

// voucher is what the n-th order is promised.
func (s *shop) voucher(n int) ids.Code {
	x := s.secret.Trade(traffic.Real, "shop", accept.OrderIDOf(n))
	return s.secret.Intent(x, "shop", accept.OrderIDOf(n), traffic.Deposit, accept.KeyOf(n), ids.Fingerprint{})
}

func (s *shop) intent(n int, amount int64) *bus.Event {
	in := event.Intent{Y: s.voucher(n), IdempotencyKey: accept.KeyOf(n),
		Canonical: jsontext.Value(fmt.Sprintf(`{"amount":%d,"currency":"CNY","order_id":%q,"subject":"Mug"}`, amount, accept.OrderIDOf(n)))}
	return &bus.Event{ID: ids.VoucherID.With(in.Y), Type: event.TypeIntent, Version: bus.EnvelopeVersion, Payload: event.Encode(&in),
		Context: ids.Context{BizCode: s.secret.Trade(traffic.Real, "shop", accept.OrderIDOf(n)), Merchant: "shop", OrderType: "goods", OrderScene: "app",
			TraceID: strings.Repeat("ab", 16), Form: traffic.Deposit, Traffic: traffic.Real}}
}

// keep appends all at once, again if the broker took nothing, as it had to wait for a
// processor.
func (s *shop) keep(t *testing.T, events ...*bus.Event) {
	t.Helper()
	for {
		err := s.append(t, events)
		if err == nil {
			return
		}
		if !fault.Is(err, fault.Unavailable) {
			t.Fatal(err)
		}
		bus.Sleep(t.Context(), 100*time.Millisecond)
	}
}

// append appends with one request: what is there before an intake runs waits for it.
func (s *shop) append(t *testing.T, events []*bus.Event) (err error) {
	t.Helper()
	in, err := kafka.NewIntake(s.cluster, kafka.DefaultIntakeConfig(), nil, bus.Intents)
	must(t, err)
	var tickets []bus.Ticket
	for _, e := range events {
		ticket, err := in.Append(bus.Intents, e)
		must(t, err)
		tickets = append(tickets, ticket)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- in.Run(ctx) }()
	for _, ticket := range tickets {
		<-ticket.Done()
		err = ticket.Err() // they are in one batch
	}
	stop()
	must(t, <-ended)
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTopicIsHeldAgainstPromises(t *testing.T) {
	broker, err := engines.StartKafka(t.Context(), t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, broker.Kill()) })
	cfg := kafka.DefaultConfig()
	cfg.Brokers, cfg.Groups, cfg.Replication, cfg.MinInSync = []string{broker.Addr}, 1, 1, 1
	cfg.ProduceTimeout = time.Minute // on a machine that does other things as well
	cluster, err := kafka.Connect(cfg)
	must(t, err)
	must(t, cluster.EnsureTopics(t.Context(), bus.Intents))
	secret, err := ids.NewSecret(make([]byte, ids.SecretLen))
	must(t, err)
	s := &shop{cluster, secret}
	in, err := accept.OpenIntents(broker, cfg.Groups)
	must(t, err)
	t.Cleanup(func() { must(t, in.Close()) })
	promise := func(status int16, n int) accept.Promise { return accept.Promise{Status: status, Voucher: s.voucher(n)} }

	s.keep(t, s.intent(0, accept.AmountOf(0)), s.intent(1, accept.AmountOf(1)), s.intent(2, accept.AmountOf(2)))
	s.keep(t, s.intent(3, accept.AmountOf(3)))
	found, violations, perBatch, err := accept.CheckTopic(t.Context(), in, promise(202, 0), promise(202, 1), promise(202, 2), promise(202, 3))
	must(t, err)
	if !slices.Equal(found, []bool{true, true, true, true}) || len(violations) > 0 || perBatch != 2 {
		t.Errorf("found %v, %v of them in a batch, violations %q", found, perBatch, violations)
	}

	// What was there before does not count: 0 is missing, as 4 is.
	s.keep(t, s.intent(1, accept.AmountOf(1)), s.intent(2, 1), s.intent(3, accept.AmountOf(3)))
	found, violations, perBatch, err = accept.CheckTopic(t.Context(), in, promise(202, 0), promise(202, 1), promise(202, 2), promise(503, 3), promise(202, 4))
	must(t, err)
	if !slices.Equal(found, []bool{false, true, false, false, false}) || len(violations) != 5 || perBatch != 3 {
		t.Errorf("found %v, %v of them in a batch, violations %q", found, perBatch, violations)
	}
	for n, what := range map[int]string{0: "not in the topic", 2: "kept with key", 3: "was refused with 503, and kept", 4: "not in the topic"} {
		if !slices.ContainsFunc(violations, func(v string) bool { return strings.Contains(v, accept.OrderIDOf(n)) && strings.Contains(v, what) }) {
			t.Errorf("order %d: want %q among %q", n, what, violations)
		}
	}
}
