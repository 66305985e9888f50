// Package storetest is what every core.Store must do. An adapter's test is a
// call of Run.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

// Store is what is tested: the port, with the sources of its topics and its places.
type Store interface {
	core.Store
	bus.Places
	Source(t bus.Topic) bus.Source
}

// TB is the part of testing.TB that the suite needs, so that it can be run where
// it must fail.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Context() context.Context
}

// Case is one promise of the port.
type Case struct {
	Name string
	Run  func(t TB, s Store)
}

// Run runs all cases, each on a store of its own.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) { c.Run(t, open(t)) })
	}
}

// Cases are the promises.
func Cases() []Case {
	return []Case{
		{"what is saved is loaded as it was", roundTrip},
		{"whatever changes is kept", everyChange},
		{"a trade is found by any of its codes", anyCode},
		{"nothing is kept when deciding fails", rollback},
		{"places are moved from where they were read", fence},
		{"a row that changed meanwhile is fenced", staleRow},
		{"one natural key has one payment order", naturalKey},
		{"events are emitted in order, without gaps", emit},
		{"parked messages are kept with the places", parked},
		{"what is due comes in order of time", due},
		{"counts add up", counts},
		{"a merchant's list is in order, page by page", lists},
		{"the log and the tables are compared", verify},
	}
}

var secret = func() *ids.Secret {
	s, err := ids.NewSecret(make([]byte, ids.SecretLen))
	if err != nil {
		panic(err)
	}
	return s
}()

// Trade makes an unsaved trade with one dispatched payment order.
func Trade(order string) *core.Trade {
	x := secret.Trade(traffic.Real, "m1", order)
	c := ids.Context{BizCode: x, Merchant: "m1", OrderType: "general", OrderScene: "online", Institution: "sandbox",
		TraceID: fmt.Sprintf("%032x", 5), Form: traffic.Deposit, Traffic: traffic.Real}
	t := &core.Trade{Version: 1, Context: c, OrderID: order, Amount: money.Of(500, "CNY"), Paid: money.Of(0, "CNY"), Status: core.TradeOpen,
		AcceptedAtMillis: 1_000, ExpiresAtMillis: 9_000}
	t.Payments = []*core.Payment{payment(t, order)}
	return t
}

func payment(t *core.Trade, key string) *core.Payment {
	y := secret.Intent(t.Context.BizCode, "m1", t.OrderID, traffic.Deposit, key, ids.Fingerprint{1})
	zero := money.Of(0, "CNY")
	return &core.Payment{Context: t.Context, Canonical: []byte{1, 2, 3}, ReturnURL: "https://shop.example/back", Metadata: map[string]string{"a": "b"},
		Payment: event.Payment{Y: y, OrderID: t.OrderID, IdempotencyKey: key, Status: event.Dispatched, Version: 1, Reason: "", Amount: t.Amount,
			Method: channels.MethodQRCode, Subject: "mug", Credential: channels.Credential{Method: channels.MethodQRCode, Value: "qr://1"},
			FeeRate: 6_000, Fee: zero, AcceptedAtMillis: 1_000, ExpiresAtMillis: 9_000, NextAction: core.ActionClose, NextAtMillis: 9_500},
		Attempts: []*core.Attempt{{Version: 1, Attempt: event.Attempt{OutTradeNo: ids.OutTradeNo(y, 0), Channel: "sandbox", Account: "a",
			Status: event.Dispatched, Paid: zero, PSPFee: zero, PSPFeeRate: 3_000}}}}
}

// Changed is the event that tells of a payment order.
func Changed(p *core.Payment, settled int) bus.Event {
	return bus.Event{ID: "evt_" + string(p.Y) + fmt.Sprint(p.Version), Type: event.TypePaymentChanged, Version: 1, Context: p.Context,
		Payload: event.Encode(event.PaymentChanged{Payment: p.Snapshot(), Settled: settled})}
}

// Put saves new trades, telling each payment order.
func Put(t TB, s Store, trades ...*core.Trade) {
	t.Helper()
	must(t, s.Apply(t.Context(), &bus.Batch{}, core.Want{}, func(w *core.Work) error {
		for _, tr := range trades {
			w.Add(tr)
			for _, p := range tr.Payments {
				w.Payments = append(w.Payments, Changed(p, -1))
			}
		}
		return nil
	}))
}

// change loads one trade, changes its first payment order, tells it and saves.
func change(t TB, s Store, x ids.Code, f func(*core.Trade, *core.Payment)) error {
	return s.Apply(t.Context(), &bus.Batch{}, core.Want{Trades: []ids.Code{x}}, func(w *core.Work) error {
		tr := w.Trades()[0]
		f(tr, tr.Payments[0])
		return nil
	})
}

func must(t TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func get(t TB, s Store, code ids.Code) *core.Trade {
	t.Helper()
	tr, err := s.Trade(t.Context(), code)
	must(t, err)
	if tr == nil {
		t.Fatalf("no trade %s", code)
	}
	return tr
}

func roundTrip(t TB, s Store) {
	want := Trade("o1")
	want.Payments = append(want.Payments, payment(want, "other"))
	want.Payments[1].Exceptions = []core.Exception{{OutTradeNo: "n", TransactionID: "t", Why: "w", Paid: money.Of(3, "CNY"), AtMillis: 7}}
	Put(t, s, want)
	have := get(t, s, want.Context.BizCode)
	w, h := string(event.Encode(want.Snapshot())), string(event.Encode(have.Snapshot()))
	if w != h {
		t.Fatalf("saved  %s\nloaded %s", w, h)
	}
	p := have.Payments[0]
	if string(p.Canonical) != "\x01\x02\x03" || p.ReturnURL != want.Payments[0].ReturnURL || p.Metadata["a"] != "b" || p.Context != want.Payments[0].Context {
		t.Fatalf("loaded %+v", p)
	}
	e := have.Payments[1].Exceptions
	if len(e) != 1 || e[0].TransactionID != "t" || e[0].Paid != money.Of(3, "CNY") || e[0].Why != "w" {
		t.Fatalf("exceptions %+v", e)
	}
	must(t, change(t, s, want.Context.BizCode, func(tr *core.Trade, p *core.Payment) {
		tr.Paid, tr.Status, tr.Version = money.Of(500, "CNY"), core.TradePaid, 2
		p.Status, p.Version, p.Credential, p.Fee, p.NextAction, p.NextAtMillis = event.Succeeded, 2, channels.Credential{}, money.Of(3, "CNY"), "", 0
		p.Attempts[0].Status, p.Attempts[0].Version, p.Attempts[0].TransactionID, p.Attempts[0].Paid = event.Succeeded, 2, "tx", money.Of(500, "CNY")
	}))
	have = get(t, s, want.Context.BizCode)
	p = have.Payments[0]
	if have.Paid.Minor != 500 || have.Status != core.TradePaid || p.Status != event.Succeeded || p.Credential.Value != "" || p.Fee.Minor != 3 ||
		p.NextAction != "" || p.Attempts[0].TransactionID != "tx" || p.Attempts[0].Paid.Minor != 500 || p.Attempts[0].Status != event.Succeeded {
		t.Fatalf("after the change: %s", event.Encode(have.Snapshot()))
	}
}

func anyCode(t TB, s Store) {
	tr := Trade("o1")
	Put(t, s, tr, Trade("o2"))
	for _, code := range []ids.Code{tr.Context.BizCode, tr.Payments[0].Y} {
		if have := get(t, s, code); have.OrderID != "o1" {
			t.Fatalf("%s gives order %s", code, have.OrderID)
		}
	}
	none, err := s.Trade(t.Context(), Trade("o3").Context.BizCode)
	if none != nil || err != nil {
		t.Fatalf("a trade that is not there: %v, %v", none, err)
	}
	loaded := 0
	must(t, s.Apply(t.Context(), &bus.Batch{}, core.Want{Trades: []ids.Code{tr.Context.BizCode}, Payments: []ids.Code{tr.Payments[0].Y}},
		func(w *core.Work) error { loaded = len(w.Trades()); return nil }))
	if loaded != 1 {
		t.Fatalf("one trade wanted by two codes was loaded %d times", loaded)
	}
}

func rollback(t TB, s Store) {
	tr, no := Trade("o1"), errors.New("no")
	err := s.Apply(t.Context(), batch(0, 1), core.Want{}, func(w *core.Work) error {
		w.Add(tr)
		w.Payments = append(w.Payments, Changed(tr.Payments[0], -1))
		return no
	})
	if !errors.Is(err, no) {
		t.Fatalf("error %v", err)
	}
	if have, _ := s.Trade(t.Context(), tr.Context.BizCode); have != nil {
		t.Fatalf("kept %+v", have)
	}
	places, err := s.Places(t.Context(), bus.Intents)
	if err != nil || len(places) != 0 {
		t.Fatalf("places %v %v", places, err)
	}
}

func batch(from, to int64) *bus.Batch {
	f := bus.Place{}
	if from > 0 {
		f = bus.Place{Epoch: 1, Seq: from}
	}
	return &bus.Batch{Topic: bus.Intents, Moves: []bus.Move{{Group: 3, From: f, To: bus.Place{Epoch: 1, Seq: to}}}}
}

func nothing(*core.Work) error { return nil }

func fence(t TB, s Store) {
	must(t, s.Apply(t.Context(), batch(0, 5), core.Want{}, nothing))
	for _, b := range []*bus.Batch{batch(0, 5), batch(0, 1), batch(4, 6), batch(6, 7)} {
		tr := Trade("o1")
		err := s.Apply(t.Context(), b, core.Want{}, func(w *core.Work) error { w.Add(tr); return nil })
		if !fault.Is(err, fault.Fenced) {
			t.Fatalf("from %v: %v", b.Moves[0].From, err)
		}
		if have, _ := s.Trade(t.Context(), tr.Context.BizCode); have != nil {
			t.Fatalf("a fenced batch kept a trade")
		}
	}
	must(t, s.Apply(t.Context(), batch(5, 6), core.Want{}, nothing))
	places, err := s.Places(t.Context(), bus.Intents)
	if err != nil || places[3] != (bus.Place{Epoch: 1, Seq: 6}) {
		t.Fatalf("places %v %v", places, err)
	}
}

func staleRow(t TB, s Store) {
	tr := Trade("o1")
	Put(t, s, tr)
	for _, f := range []func(*core.Trade, *core.Payment){
		func(_ *core.Trade, p *core.Payment) { p.Stored, p.Version = 7, 8 },
		func(_ *core.Trade, p *core.Payment) { p.Stored, p.Version = 0, 8 },
		func(_ *core.Trade, p *core.Payment) { p.StoredStatus, p.Version = event.Created, 2 },
		func(tr *core.Trade, _ *core.Payment) { tr.Stored, tr.Version = 7, 8 },
		func(_ *core.Trade, p *core.Payment) { p.Attempts[0].Stored, p.Attempts[0].Version = 7, 8 },
	} {
		if err := change(t, s, tr.Context.BizCode, f); !fault.Is(err, fault.Fenced) {
			t.Fatalf("a row read at another version was written: %v", err)
		}
	}
}

func naturalKey(t TB, s Store) {
	tr := Trade("o1")
	Put(t, s, tr)
	add := func(alter func(*core.Payment)) error {
		return s.Apply(t.Context(), &bus.Batch{}, core.Want{Trades: []ids.Code{tr.Context.BizCode}}, func(w *core.Work) error {
			p := payment(tr, "o1")
			p.Y = secret.Intent(tr.Context.BizCode, "m1", "o1", traffic.Deposit, "o1", ids.Fingerprint{9})
			alter(p)
			w.Trades()[0].Payments = append(w.Trades()[0].Payments, p)
			return nil
		})
	}
	if err := add(func(*core.Payment) {}); !fault.Is(err, fault.Conflict) {
		t.Fatalf("a second payment order under one key: %v", err)
	}
	must(t, add(func(p *core.Payment) { p.Status, p.Reason = event.Rejected, core.ReasonConflict }))
}

func emit(t TB, s Store) {
	for i := range 40 {
		Put(t, s, Trade(fmt.Sprint("a", i)), Trade(fmt.Sprint("b", i)))
	}
	src, total := s.Source(bus.Payments), 0
	for g := range src.Groups() {
		at := bus.Place{}
		for {
			msgs, err := src.Read(t.Context(), g, at, 3)
			must(t, err)
			if len(msgs) == 0 {
				break
			}
			for _, m := range msgs {
				if m.Place.Seq != at.Seq+1 || m.Group != g || m.Context.BizCode.Group(src.Groups()) != g {
					t.Fatalf("group %d: %v follows %v", g, m.Place, at)
				}
				at = m.Place
				total++
			}
		}
		if src.Head(g).Seq != at.Seq {
			t.Fatalf("group %d: head %v, last %v", g, src.Head(g), at)
		}
	}
	if total != 80 {
		t.Fatalf("%d events, want 80", total)
	}
}

func parked(t TB, s Store) {
	tr := Trade("o1")
	b := batch(0, 1)
	b.Messages = []bus.Message{{Event: Changed(tr.Payments[0], -1), Topic: bus.Intents, Place: b.Moves[0].To}}
	b.Parked = map[int]string{0: "why"}
	must(t, s.Apply(t.Context(), b, core.Want{}, nothing))
	keys, err := s.ParkedKeys(t.Context(), bus.Intents)
	if err != nil || keys[string(tr.Context.BizCode)] != 1 {
		t.Fatalf("parked keys %v %v", keys, err)
	}
	b.Moves[0] = bus.Move{Group: 3, From: bus.Place{Epoch: 1, Seq: 9}, To: bus.Place{Epoch: 1, Seq: 10}}
	if err := s.Apply(t.Context(), b, core.Want{}, nothing); !fault.Is(err, fault.Fenced) {
		t.Fatalf("fenced batch: %v", err)
	}
}

func due(t TB, s Store) {
	a, b, c := Trade("a"), Trade("b"), Trade("c")
	a.Payments[0].NextAtMillis, b.Payments[0].NextAtMillis, c.Payments[0].NextAtMillis = 300, 100, 200
	Put(t, s, a, b, c)
	have, err := s.Due(t.Context(), 250, 10)
	must(t, err)
	if len(have) != 2 || have[0] != b.Context.BizCode || have[1] != c.Context.BizCode {
		t.Fatalf("due %v", have)
	}
	if have, err = s.Due(t.Context(), 1000, 1); err != nil || len(have) != 1 {
		t.Fatalf("due %v %v", have, err)
	}
}

func counts(t TB, s Store) {
	a, b := Trade("a"), Trade("b")
	a.Payments[0].Status, a.Payments[0].NextAtMillis = event.Succeeded, 0
	a.Payments[0].Attempts[0].Status, a.Payments[0].Attempts[0].Paid = event.Succeeded, money.Of(500, "CNY")
	a.Payments[0].Exceptions = []core.Exception{{OutTradeNo: "n", Account: "b", TransactionID: "t", Paid: money.Of(20, "CNY")}}
	Put(t, s, a, b)
	have, err := s.Counts(t.Context())
	must(t, err)
	if len(have) != 2 || have[0].Status != event.Dispatched || have[0].Orders != 1 || have[1].Orders != 1 {
		t.Fatalf("counts %+v", have)
	}
	received, err := s.Received(t.Context())
	must(t, err)
	if len(received) != 2 || received[0] != (core.Received{Merchant: "m1", Account: "a", Currency: "CNY", Settled: 500}) ||
		received[1] != (core.Received{Merchant: "m1", Account: "b", Currency: "CNY", Surplus: 20}) {
		t.Fatalf("received %+v", received)
	}
	open, err := s.Open(t.Context())
	if err != nil || len(open) != 1 || open[0].Orders != 1 || open[0].OldestMillis != 1_000 {
		t.Fatalf("open %+v %v", open, err)
	}
}

func verify(t TB, s Store) {
	tr := Trade("o1")
	Put(t, s, tr, Trade("o2"))
	r, err := s.Verify(t.Context())
	if err != nil || r.Violated != 0 || r.Payments != 2 || r.Events != 2 {
		t.Fatalf("verify %+v %v", r, err)
	}
	must(t, change(t, s, tr.Context.BizCode, func(_ *core.Trade, p *core.Payment) { p.Status, p.Version = event.Pending, 2 })) // tells nobody
	if r, err = s.Verify(t.Context()); err != nil || r.Violated != 1 {
		t.Fatalf("a change that was not told: %+v %v", r, err)
	}
}
