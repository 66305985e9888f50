package core

import (
	"fmt"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// The states of a trade. A trade that has seen only rejected intents is void:
// nothing is fixed yet.
const (
	TradeVoid = "void"
	TradeOpen = "open"
	TradePaid = "paid"
)

// Trade is the aggregate: a trade order with all that belongs to it. Stores load
// and save it as a whole; a row is written when its Version differs from Stored.
type Trade struct {
	Row     int64 // the store's key; 0 until saved
	Stored  int64 // the version in the store; 0 until saved
	Version int64
	// StoredFixed says that in the store terms and context are as they stay: only
	// version, status and what was paid can differ.
	StoredFixed bool

	Context ids.Context // of the intent that opened it
	OrderID string
	Amount  money.Amount // terms, fixed by the first accepted intent
	Paid    money.Amount
	Status  string
	// AcceptedAtMillis and ExpiresAtMillis are those of the first accepted intent.
	AcceptedAtMillis int64
	ExpiresAtMillis  int64

	// Payments are all that were not rejected, and those rejected ones that were asked
	// for. RejectedMore says that Store.Trade left some of the latter out.
	Payments     []*Payment
	RejectedMore bool
}

// Payment is a payment order with its attempts.
type Payment struct {
	event.Payment
	Row          int64
	Stored       int64
	StoredStatus event.Status
	// StoredNextAtMillis is the time of the next action in the store.
	StoredNextAtMillis int64

	Context    ids.Context
	Canonical  []byte // the request, to compare bodies by
	ReturnURL  string
	Metadata   map[string]string
	Attempts   []*Attempt
	Exceptions []Exception // money that came and settled nothing
}

// Attempt is one try of a payment order.
type Attempt struct {
	event.Attempt
	Stored  int64 // the version in the store; 0 until saved
	Version int64
}

// Exception is money that a PSP received for a payment order and that did not
// settle it. There is one per transaction of the PSP.
type Exception struct {
	Stored        bool
	OutTradeNo    string
	Account       string
	TransactionID string
	Why           string
	Paid          money.Amount
	AtMillis      int64
}

// Committed is for stores: everything is in the store now as it is here.
func (t *Trade) Committed() {
	t.Stored, t.StoredFixed = t.Version, t.settledOn()
	for _, p := range t.Payments {
		p.Committed()
	}
}

// Committed is for stores: the payment order is in the store as it is here.
func (p *Payment) Committed() {
	p.Stored, p.StoredStatus, p.StoredNextAtMillis = p.Version, p.Status, p.NextAtMillis
	for _, a := range p.Attempts {
		a.Stored = a.Version
	}
	for i := range p.Exceptions {
		p.Exceptions[i].Stored = true
	}
}

// settledOn reports whether terms and context can change no more: the first
// accepted intent fixes the terms, the first that is sent the institution.
func (t *Trade) settledOn() bool { return t.fixed() && t.Context.Institution != "" }

// Open reports whether the payment order is not final.
func (p *Payment) Open() bool { return !p.Status.Final() }

// attempt finds an attempt by its number; nil if there is none.
func (p *Payment) attempt(n int) *Attempt {
	if n < 0 || n >= len(p.Attempts) {
		return nil
	}
	return p.Attempts[n]
}

// live reports whether the attempt is at a PSP now, or about to be.
func (a *Attempt) live() bool {
	return a.Status == event.Dispatched || a.Status == event.Pending || a.Status == event.Unknown
}

// Payment finds a payment order by Y; nil if there is none among Payments.
func (t *Trade) Payment(y ids.Code) *Payment {
	for _, p := range t.Payments {
		if p.Y == y {
			return p
		}
	}
	return nil
}

// Beside reports whether the payment order is not the one of its natural key, but
// an alias of it, or in conflict with it.
func (p *Payment) Beside() bool { return p.AliasOf != "" || p.Reason == ReasonConflict }

// ByKey finds the payment order of an idempotency key and form; nil if there is
// none among Payments.
func (t *Trade) ByKey(form, key string) *Payment {
	for _, p := range t.Payments {
		if p.IdempotencyKey == key && string(p.Context.Form) == form && !p.Beside() {
			return p
		}
	}
	return nil
}

// fixed reports whether an accepted intent has fixed the terms.
func (t *Trade) fixed() bool { return t.Status != TradeVoid }

// paymentTo moves a payment order to another state. A final one has no
// credential and no next action.
func (r *rules) paymentTo(p *Payment, to event.Status, reason string) error {
	if err := r.payments.to(p.Status, to); err != nil {
		return fmt.Errorf("payment order %s: %w", p.Y, err)
	}
	p.Status, p.Reason = to, reason
	if to.Final() {
		p.Credential = channels.Credential{}
		p.NextAction, p.NextAtMillis = "", 0
	}
	return nil
}

func (r *rules) attemptTo(p *Payment, a *Attempt, to event.Status, reason string) error {
	if a.Status == to {
		return nil
	}
	if err := r.attempts.to(a.Status, to); err != nil {
		return fmt.Errorf("attempt %s: %w", a.OutTradeNo, err)
	}
	a.Status, a.Reason = to, reason
	a.Version++
	return nil
}

// Snapshot is the payment order as others see it.
func (p *Payment) Snapshot() event.Payment {
	s := p.Payment
	s.Attempts = make([]event.Attempt, len(p.Attempts))
	for i, a := range p.Attempts {
		s.Attempts[i] = a.Attempt
	}
	return s
}

// Snapshot is the trade as others see it.
func (t *Trade) Snapshot() event.Trade {
	s := event.Trade{Context: t.Context, OrderID: t.OrderID, Amount: t.Amount, Paid: t.Paid, Status: t.Status, Version: t.Version,
		AcceptedAtMillis: t.AcceptedAtMillis, ExpiresAtMillis: t.ExpiresAtMillis, RejectedMore: t.RejectedMore}
	for _, p := range t.Payments {
		s.Payments = append(s.Payments, p.Snapshot())
	}
	return s
}
