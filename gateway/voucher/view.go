package voucher

import (
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// Status is what a voucher has come to, in the words of the public API.
type Status string

// The states of a voucher. Unconfirmed is an answer and no state: nobody who was
// asked has seen the voucher, and only asking again with the same key settles it.
const (
	Unconfirmed Status = "unconfirmed"
	Accepted    Status = "accepted"
	Processing  Status = "processing"
	Ready       Status = "ready"
	Paid        Status = "paid"
	Declined    Status = "declined"
	Closed      Status = "closed"
	Expired     Status = "expired"
	Rejected    Status = "rejected"
)

// Statuses are all of them, for documentation.
var Statuses = [...]Status{Unconfirmed, Accepted, Processing, Ready, Paid, Declined, Closed, Expired, Rejected}

// Final reports whether nothing follows the state.
func (s Status) Final() bool {
	switch s {
	case Paid, Declined, Closed, Expired, Rejected:
		return true
	}
	return false
}

// View is what a voucher has come to.
type View struct {
	Y       ids.Code
	AliasOf ids.Code    // the voucher whose state this is, when an equal request came first
	Context ids.Context // zero until core has told it, or this replica accepted it
	Status  Status
	// Version grows with the payment order; 0 means that core has told nothing yet.
	Version          int64
	Reason           string
	OrderID          string
	IdempotencyKey   string
	Amount           money.Amount
	Method           channels.Method
	Subject          string
	Credential       channels.Credential // empty unless Ready
	AcceptedAtMillis int64
	ExpiresAtMillis  int64
	NextAction       string
	NextAtMillis     int64
}

// StatusOf gives the voucher's word for a payment order's state.
func StatusOf(p *event.Payment) Status {
	switch p.Status {
	case event.Pending:
		if p.Credential.Value != "" {
			return Ready
		}
		return Processing
	case event.Succeeded:
		return Paid
	case event.Declined:
		return Declined
	case event.Closed:
		return Closed
	case event.Expired:
		return Expired
	case event.Rejected:
		return Rejected
	default: // created, dispatched, unknown, and what a newer core may add
		return Processing
	}
}

// ViewOf drops what nobody waits for, and the credential once it is of no use:
// a code that was paid or closed must not be shown again.
func ViewOf(p *event.Payment, c ids.Context) View {
	v := View{Y: p.Y, AliasOf: p.AliasOf, Context: c, Status: StatusOf(p), Version: p.Version, Reason: p.Reason, OrderID: p.OrderID,
		IdempotencyKey: p.IdempotencyKey, Amount: p.Amount, Method: p.Method, Subject: p.Subject,
		AcceptedAtMillis: p.AcceptedAtMillis, ExpiresAtMillis: p.ExpiresAtMillis, NextAction: p.NextAction, NextAtMillis: p.NextAtMillis}
	if v.Status == Ready {
		v.Credential = p.Credential
	}
	return v
}

// differs reports whether a client would see a difference.
func (v *View) differs(w *View) bool {
	return v.Status != w.Status || v.Reason != w.Reason || v.Credential != w.Credential || v.AliasOf != w.AliasOf
}

// entryBytes is about what an entry takes beside its strings: the structs, its
// share of three maps, and the channel of its waiters.
const entryBytes = 900

func (v *View) bytes() int64 {
	return int64(entryBytes + 2*len(v.Y) + len(v.AliasOf) + len(v.Reason) + len(v.OrderID) + len(v.IdempotencyKey) + len(v.Subject) +
		len(v.Credential.Value) + len(v.NextAction) + len(v.Context.BizCode) + len(v.Context.Merchant) + len(v.Context.TraceID) +
		len(v.Context.OrderType) + len(v.Context.OrderScene))
}
