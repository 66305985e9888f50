package core

import (
	"bytes"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

// intake is one accepted intent on its way through the steps.
type intake struct {
	rules   *rules
	ctx     ids.Context
	intent  event.Intent
	trade   *Trade
	payment *Payment
	seller  *merchant.Merchant
	account *merchant.ChannelAccount // chosen; nil for what has expired
}

// step is one named step of a flow. It gives a reason to reject the intent, or
// stop to end the flow with what was done so far, or neither to go on.
type step struct {
	name string
	run  func(*intake) (reason string, stop bool, err error)
}

// depositSteps is the flow of a deposit from an accepted intent to its dispatch.
// A rejected intent fixes nothing: every step that can reject comes before the
// one that fixes the terms.
func depositSteps() []step {
	return []step{
		{"natural key", (*intake).naturalKey},
		{"merchant", (*intake).allowed},
		{"terms", (*intake).terms},
		{"choose account", (*intake).chooseAccount},
		{"fix terms", (*intake).fixTerms},
		{"expiry", (*intake).expiry},
		{"dispatch", (*intake).dispatch},
	}
}

// readIntent decodes an intent, once for each message of a batch.
func readIntent(m *bus.Message) (*event.Intent, error) {
	if i, ok := m.Value.(*event.Intent); ok {
		return i, nil
	}
	i := &event.Intent{}
	if err := event.Decode(m.Payload, i); err != nil {
		return nil, err
	}
	m.Value = i
	return i, nil
}

// applyIntent opens the trade and the payment order of an intent, or says why not.
func (r *rules) applyIntent(m *bus.Message) error {
	i, err := readIntent(m)
	if err != nil {
		return err
	}
	in := intake{rules: r, ctx: m.Context, intent: *i}
	if t, p := r.work.payment(in.intent.Y); t != nil && p != nil {
		return nil // the same voucher again: one row per Y, for ever
	}
	in.trade = r.work.trade(m.Context.BizCode)
	if in.trade == nil {
		in.trade = &Trade{Context: m.Context, OrderID: in.intent.OrderID, Status: TradeVoid, Version: 1,
			Amount: money.Of(0, in.intent.Amount.Currency), Paid: money.Of(0, in.intent.Amount.Currency)}
		r.work.Add(in.trade)
	}
	in.payment = newPayment(m.Context, &in.intent)
	for _, s := range depositSteps() {
		reason, stop, err := s.run(&in)
		if err != nil {
			return err
		}
		if reason != "" {
			if err := r.paymentTo(in.payment, event.Rejected, reason); err != nil {
				return err
			}
		}
		if reason != "" || stop {
			break
		}
	}
	if in.trade.Stored > 0 {
		in.trade.Version++ // so that whoever decides on this trade without the new order is fenced
	}
	r.work.addPayment(in.trade, in.payment)
	r.changed(in.payment, -1)
	return nil
}

func newPayment(c ids.Context, i *event.Intent) *Payment {
	return &Payment{Context: c, Canonical: i.Canonical, ReturnURL: i.ReturnURL, Metadata: i.Metadata,
		Payment: event.Payment{Y: i.Y, OrderID: i.OrderID, IdempotencyKey: i.IdempotencyKey, Status: event.Created,
			Amount: i.Amount, Method: i.Method, Subject: i.Subject, Fee: money.Of(0, i.Amount.Currency),
			AcceptedAtMillis: i.AcceptedAtMillis, ExpiresAtMillis: i.ExpiresAtMillis}}
}

// naturalKey is promise 3: one key of an order is one payment, for ever. Bodies
// are compared by their canonical bytes, never by codes.
func (in *intake) naturalKey() (string, bool, error) {
	first := in.trade.ByKey(string(in.ctx.Form), in.intent.IdempotencyKey)
	if first == nil {
		return "", false, nil
	}
	if !bytes.Equal(first.Canonical, in.intent.Canonical) {
		return ReasonConflict, false, nil
	}
	in.payment.AliasOf = first.Y
	return ReasonAlias, false, nil
}

// allowed checks again what the gateway checked from a snapshot that may have
// been older.
func (in *intake) allowed() (string, bool, error) {
	in.seller = in.rules.directory.Merchant(in.ctx.Merchant)
	switch {
	case in.ctx.Form != traffic.Deposit:
		return ReasonForm, false, nil
	case in.seller == nil || !in.seller.Enabled:
		return ReasonMerchant, false, nil
	case !in.seller.Takes(in.intent.Amount.Currency):
		return ReasonCurrency, false, nil
	case in.intent.Amount.Minor <= 0 || in.intent.Amount.Minor > in.seller.AmountMinorMax:
		return ReasonAmount, false, nil
	}
	in.payment.FeeRate = in.seller.FeeRate
	return "", false, nil
}

// terms refuses an intent that differs from what the first accepted one fixed.
func (in *intake) terms() (string, bool, error) {
	t := in.trade
	if !t.fixed() {
		return "", false, nil
	}
	open, accepted := 0, 0
	for _, p := range t.Payments {
		if p.Open() {
			open++
		}
		if p.Status != event.Rejected {
			accepted++
		}
	}
	switch {
	case t.Amount != in.intent.Amount || t.Context.OrderType != in.ctx.OrderType || t.Context.OrderScene != in.ctx.OrderScene:
		return ReasonMismatch, false, nil
	case t.Status == TradePaid:
		return ReasonOrderPaid, false, nil
	case open >= in.rules.cfg.OpenPaymentsMax || accepted >= in.rules.cfg.PaymentsMax:
		return ReasonTooMany, false, nil
	}
	return "", false, nil
}

// chooseAccount is the last step that can reject. What has expired in the backlog
// needs no account: it is accepted, and ends as expired.
func (in *intake) chooseAccount() (string, bool, error) {
	if in.trade.fixed() {
		in.payment.ExpiresAtMillis = in.trade.ExpiresAtMillis // the first accepted intent's, for all
	}
	if in.expired() {
		return "", false, nil
	}
	if in.account = in.rules.choose(in.payment); in.account == nil {
		return ReasonNoChannel, false, nil
	}
	return "", false, nil
}

func (in *intake) expired() bool { return in.rules.now >= in.payment.ExpiresAtMillis }

func (in *intake) fixTerms() (string, bool, error) {
	t := in.trade
	if !t.fixed() {
		t.Status, t.Amount, t.Context = TradeOpen, in.intent.Amount, in.ctx
		t.Paid = money.Of(0, t.Amount.Currency)
		t.AcceptedAtMillis, t.ExpiresAtMillis = in.intent.AcceptedAtMillis, in.payment.ExpiresAtMillis
	}
	return "", false, nil
}

// expiry ends what expired in the backlog: it is never sent.
func (in *intake) expiry() (string, bool, error) {
	if !in.expired() {
		return "", false, nil
	}
	return "", true, in.rules.paymentTo(in.payment, event.Expired, ReasonExpiredBacklog)
}

func (in *intake) dispatch() (string, bool, error) {
	r, p := in.rules, in.payment
	if err := r.paymentTo(p, event.Dispatched, ""); err != nil {
		return "", false, err
	}
	p.NextAction, p.NextAtMillis = ActionClose, p.ExpiresAtMillis+r.cfg.CloseGraceMillis
	r.openAttempt(p, in.account)
	if in.trade.Context.Institution == "" {
		in.trade.Context.Institution = in.account.Channel
	}
	return "", false, nil
}
