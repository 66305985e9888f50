package core

import (
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
)

// Reasons for which core rejects, closes or declines. They are part of the API.
const (
	ReasonConflict       = "idempotency_conflict"
	ReasonMismatch       = "order_mismatch"
	ReasonAlias          = "alias"
	ReasonMerchant       = "merchant_not_allowed"
	ReasonCurrency       = "currency_not_allowed"
	ReasonAmount         = "amount_not_allowed"
	ReasonForm           = "form_not_supported"
	ReasonNoChannel      = "no_channel"
	ReasonTooMany        = "too_many_payments"
	ReasonOrderPaid      = "order_paid"
	ReasonExpired        = "expired"
	ReasonExpiredBacklog = "expired_before_dispatch"
	ReasonAmountPaid     = "amount_mismatch"
	WhySecondSuccess     = "second_success"
	WhyPaidAfterFinal    = "paid_after_final"
	WhyAmountMismatch    = "amount_mismatch"
	ActionClose          = "close_at_channel"
	ActionCloseAgain     = "confirm_close_at_channel"
)

// rules is everything that deciding needs, for one batch: a moment, a directory
// and the work.
type rules struct {
	cfg       Config
	now       int64 // Unix milliseconds
	directory *merchant.Snapshot
	ids       *ids.Source
	payments  machine
	attempts  machine
	work      *Work
}

// changed counts a change of a payment order and tells it. settled is the index
// of the attempt that made it succeed, or -1.
func (r *rules) changed(p *Payment, settled int) {
	p.Version++
	c := &event.PaymentChanged{Payment: p.Snapshot(), Settled: settled}
	r.work.Payments = append(r.work.Payments, r.event(p, event.TypePaymentChanged, c.Encode(), c))
}

func (r *rules) event(p *Payment, typ string, payload []byte, value any) bus.Event {
	return bus.Event{ID: r.ids.New(ids.EventID), Type: typ, Version: bus.EnvelopeVersion, Context: p.Context, AtMillis: r.now, Payload: payload, Value: value}
}

// dispatch asks prepay for something about an attempt.
func (r *rules) dispatch(p *Payment, a *Attempt, op event.Op, notBefore int64) {
	d := &event.Dispatch{Op: op, Y: p.Y, OutTradeNo: a.OutTradeNo, Account: a.Account, NotBeforeMillis: notBefore}
	if op == event.OpPay {
		d.Amount, d.Method, d.Subject, d.ReturnURL, d.ExpiresAtMillis = p.Amount, p.Method, p.Subject, p.ReturnURL, p.ExpiresAtMillis
	}
	r.work.Dispatches = append(r.work.Dispatches, r.event(p, event.TypeDispatch, d.Encode(), d))
}
