package core_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/core/sqlstore"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/internal/traffic"
	prepay "github.com/tallystick/tallystick/prepay/event"
)

const groups = 16

// start is when every test begins.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// randomness from a seed, for ids.
type randomBytes struct{ r *rand.Rand }

func (b randomBytes) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b.r.Uint32())
	}
	return len(p), nil
}

// harness drives core message by message, on a real store.
type harness struct {
	t        testing.TB
	core     *core.Core
	store    *sqlstore.Store
	path     string
	opened   uint64
	postgres *sqldb.Postgres
	dir      *merchant.Directory
	secret   *ids.Secret
	now      time.Time
	seq      map[bus.Topic]int64
	read     map[bus.Topic]map[int]bus.Place
}

func directory() *merchant.Snapshot {
	account := func(id string, weight int) merchant.ChannelAccount {
		return merchant.ChannelAccount{ID: id, Channel: "sandbox", Enabled: true, Traffic: traffic.Real, Weight: weight, FeeRate: 6_000,
			Currencies: []money.Currency{"CNY"}, Methods: []channels.Method{channels.MethodQRCode}}
	}
	return &merchant.Snapshot{Version: 1,
		Merchants: []merchant.Merchant{
			{ID: "m1", Enabled: true, Currencies: []money.Currency{"CNY", "USD"}, AmountMinorMax: 1_000_000, FeeRate: 10_000},
			{ID: "off", Enabled: false, Currencies: []money.Currency{"CNY"}, AmountMinorMax: 1_000_000},
		},
		Accounts: []merchant.ChannelAccount{account("a", 1), account("b", 0)}}
}

func newHarness(t testing.TB) *harness { return newHarnessOn(t, nil) }

// newHarnessOn is core on a file, or on PostgreSQL.
func newHarnessOn(t testing.TB, postgres *sqldb.Postgres) *harness {
	t.Helper()
	h := &harness{t: t, postgres: postgres, now: start, seq: map[bus.Topic]int64{}, read: map[bus.Topic]map[int]bus.Place{}, dir: merchant.NewDirectory(directory())}
	var err error
	if h.secret, err = ids.NewSecret(make([]byte, ids.SecretLen)); err != nil {
		t.Fatal(err)
	}
	h.path = filepath.Join(t.TempDir(), "core.db")
	h.core, h.store = h.open()
	return h
}

// open makes another core, with a store of its own on the same file: as another
// process has.
func (h *harness) open() (*core.Core, *sqlstore.Store) {
	h.t.Helper()
	s, err := sqlstore.Open(h.t.Context(), sqldb.Options{Path: h.path, Postgres: h.postgres, NoSync: true}, groups, h.clock)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			h.t.Error(err)
		}
	})
	h.opened++
	c, err := core.New(core.Deps{Store: s, Directory: h.dir, IDs: ids.NewSource(h.clock, randomBytes{rand.New(rand.NewPCG(1, h.opened))}),
		Now: h.clock, Config: core.DefaultConfig(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		h.t.Fatal(err)
	}
	return c, s
}

func (h *harness) clock() time.Time { return h.now }

// order is what a merchant asks for; the zero value is completed by intent.
type order struct {
	merchant, id, key, subject, currency string
	amount                               int64
	expires                              time.Duration
	sceneOther                           bool
}

func (h *harness) intent(o order) (*event.Intent, bus.Event) {
	if o.merchant == "" {
		o.merchant = "m1"
	}
	if o.key == "" {
		o.key = o.id
	}
	if o.amount == 0 {
		o.amount = 10_000
	}
	if o.currency == "" {
		o.currency = "CNY"
	}
	if o.expires == 0 {
		o.expires = 15 * time.Minute
	}
	c := ids.NewCanonical(nil)
	c.Int("amount", o.amount)
	c.String("currency", o.currency)
	c.String("order_id", o.id)
	c.String("subject", o.subject)
	canonical := c.Bytes()
	x := h.secret.Trade(traffic.Real, o.merchant, o.id)
	i := &event.Intent{Y: h.secret.Intent(x, o.merchant, o.id, traffic.Deposit, o.key, ids.FingerprintOf(canonical)), OrderID: o.id,
		IdempotencyKey: o.key, Canonical: canonical, AcceptedAtMillis: h.now.UnixMilli(), ExpiresAtMillis: h.now.Add(o.expires).UnixMilli()}
	ctx := ids.Context{BizCode: x, Merchant: o.merchant, OrderType: "general", OrderScene: "online", TraceID: fmt.Sprintf("%032x", 7),
		Form: traffic.Deposit, Traffic: traffic.Real}
	if o.sceneOther {
		ctx.OrderScene = "shop"
	}
	return i, bus.Event{ID: ids.VoucherID.With(i.Y), Type: event.TypeIntent, Version: 1, Context: ctx, Payload: event.Encode(i)}
}

// batch makes a batch of the next messages of a topic.
func (h *harness) batch(topic bus.Topic, events ...bus.Event) *bus.Batch {
	from := bus.Place{}
	if s := h.seq[topic]; s > 0 {
		from = bus.Place{Epoch: 1, Seq: s}
	}
	h.seq[topic]++
	to := bus.Place{Epoch: 1, Seq: h.seq[topic]}
	b := &bus.Batch{Topic: topic, Moves: []bus.Move{{Group: 0, From: from, To: to}}}
	for i, e := range events {
		b.Messages = append(b.Messages, bus.Message{Event: e, Topic: topic, Place: to, Part: i})
	}
	return b
}

func (h *harness) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// accept sends an intent through core and gives its Y.
func (h *harness) accept(o order) ids.Code {
	h.t.Helper()
	i, e := h.intent(o)
	h.must(h.core.ApplyIntents(context.Background(), h.batch(bus.Intents, e)))
	return i.Y
}

func (h *harness) context(y ids.Code) ids.Context {
	h.t.Helper()
	_, c, ok, err := core.Queries{Store: h.store}.Payment(context.Background(), y)
	h.must(err)
	if !ok {
		h.t.Fatalf("core does not know %s", y)
	}
	return c
}

func (h *harness) outcomeEvent(y ids.Code, attempt int, op event.Op, o channels.Outcome) bus.Event {
	h.t.Helper()
	account := "a"
	if p := h.payment(y); attempt < len(p.Attempts) {
		account = p.Attempts[attempt].Account
	}
	return bus.Event{ID: "evt_x", Type: prepay.TypeOutcome, Version: 1, Context: h.context(y),
		Payload: prepay.Outcome{OutTradeNo: ids.OutTradeNo(y, attempt), Account: account, Op: string(op), Outcome: o}.Encode()}
}

func (h *harness) outcome(y ids.Code, attempt int, op event.Op, o channels.Outcome) {
	h.t.Helper()
	h.must(h.core.ApplyOutcomes(context.Background(), h.batch(bus.Outcomes, h.outcomeEvent(y, attempt, op, o))))
}

func (h *harness) callbackEvent(y ids.Code, attempt int, account string, e channels.CallbackEvent) bus.Event {
	e.OutTradeNo = ids.OutTradeNo(y, attempt)
	return bus.Event{ID: "evt_c", Type: event.TypeCallback, Version: 1, Context: h.context(y),
		Payload: event.Encode(event.CallbackReceived{Channel: "sandbox", Account: account, Event: e, Raw: []byte("raw")})}
}

func (h *harness) callback(y ids.Code, attempt int, account string, e channels.CallbackEvent) {
	h.t.Helper()
	h.must(h.core.ApplyCallbacks(context.Background(), h.batch(bus.Callbacks, h.callbackEvent(y, attempt, account, e))))
}

func paid(transaction string, minor int64) channels.CallbackEvent {
	return channels.CallbackEvent{EventID: "e-" + transaction, State: channels.StatePaid, TransactionID: transaction, Paid: money.Of(minor, "CNY")}
}

func (h *harness) payment(y ids.Code) event.Payment {
	h.t.Helper()
	p, _, ok, err := core.Queries{Store: h.store}.Payment(context.Background(), y)
	h.must(err)
	if !ok {
		h.t.Fatalf("core does not know %s", y)
	}
	return p
}

// news reads what a topic holds since the last call.
func (h *harness) news(topic bus.Topic) []bus.Message {
	h.t.Helper()
	src := h.store.Log().Stored(topic)
	if h.read[topic] == nil {
		h.read[topic] = map[int]bus.Place{}
	}
	var out []bus.Message
	for g := range groups {
		msgs, err := src.Read(context.Background(), g, h.read[topic][g], 1000)
		h.must(err)
		for _, m := range msgs {
			if m.Place.Seq != h.read[topic][g].Seq+1 {
				h.t.Fatalf("%s group %d: %d follows %d", topic, g, m.Place.Seq, h.read[topic][g].Seq)
			}
			h.read[topic][g] = m.Place
		}
		out = append(out, msgs...)
	}
	return out
}

func (h *harness) dispatches() []event.Dispatch {
	h.t.Helper()
	var out []event.Dispatch
	for _, m := range h.news(bus.Dispatch) {
		var d event.Dispatch
		h.must(event.Decode(m.Payload, &d))
		out = append(out, d)
	}
	return out
}

func (h *harness) changes() (changed []event.PaymentChanged, surplus []event.Surplus) {
	h.t.Helper()
	for _, m := range h.news(bus.Payments) {
		if m.Type == event.TypeSurplus {
			var s event.Surplus
			h.must(event.Decode(m.Payload, &s))
			surplus = append(surplus, s)
			continue
		}
		var c event.PaymentChanged
		h.must(event.Decode(m.Payload, &c))
		changed = append(changed, c)
	}
	return changed, surplus
}

func ops(ds []event.Dispatch) string {
	s := ""
	for _, d := range ds {
		s += string(d.Op) + ":" + d.Account + " "
	}
	return s
}
