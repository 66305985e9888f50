// Package event is what the other areas know of core: the events on its topics
// and on those that the gateway writes for it, and core's read models.
//
// Payloads are JSON. Readers keep to the fields they know.
package event

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// The types of events.
const (
	TypeIntent         = "intent.accepted"   // topic intents, payload Intent
	TypeCallback       = "callback.received" // topic callbacks, payload CallbackReceived
	TypeDispatch       = "dispatch.asked"    // topic dispatch, payload Dispatch
	TypePaymentChanged = "payment.changed"   // topic payments, payload PaymentChanged
	TypeSurplus        = "payment.surplus"   // topic payments, payload Surplus
)

// Intent is a command that a client asked for and that was accepted. Its context
// is in the message's envelope, as it is for all events. What was asked for is
// there once, in Canonical; the fields that have no JSON name are read from it.
type Intent struct {
	Y              ids.Code `json:"y"`
	IdempotencyKey string   `json:"idempotency_key"` // the order id where the client gave none
	// Canonical is the request in its canonical text (ids.Canonical), byte for byte:
	// two bodies are compared by it.
	Canonical jsontext.Value `json:"request"`
	// AcceptedAtMillis and ExpiresAtMillis are Unix milliseconds, fixed at accept.
	AcceptedAtMillis int64 `json:"accepted_at_millis"`
	ExpiresAtMillis  int64 `json:"expires_at_millis"`

	OrderID   string            `json:"-"`
	Amount    money.Amount      `json:"-"`
	Method    channels.Method   `json:"-"` // DefaultMethod where the request names none
	Subject   string            `json:"-"`
	ReturnURL string            `json:"-"`
	Metadata  map[string]string `json:"-"`
}

// DefaultMethod is how a payment is made whose request names no method.
const DefaultMethod = channels.MethodQRCode

// UnmarshalJSONFrom reads an intent, and then what its request says.
func (i *Intent) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	type plain Intent // without this method
	if err := json.UnmarshalDecode(d, (*plain)(i)); err != nil {
		return err
	}
	var r struct {
		Amount    int64             `json:"amount"`
		Currency  money.Currency    `json:"currency"`
		Metadata  map[string]string `json:"metadata"`
		Method    channels.Method   `json:"method"`
		OrderID   string            `json:"order_id"`
		ReturnURL string            `json:"return_url"`
		Subject   string            `json:"subject"`
	}
	if err := json.Unmarshal(i.Canonical, &r); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	i.OrderID, i.Amount, i.Method = r.OrderID, money.Of(r.Amount, r.Currency), r.Method
	i.Subject, i.ReturnURL, i.Metadata = r.Subject, r.ReturnURL, r.Metadata
	if i.Method == "" {
		i.Method = DefaultMethod
	}
	return nil
}

// CallbackReceived is a verified callback, as it came and as it was read.
type CallbackReceived struct {
	Channel          string                 `json:"channel"`
	Account          string                 `json:"account"`
	Event            channels.CallbackEvent `json:"event"`
	Headers          map[string]string      `json:"headers,omitzero"`
	Raw              []byte                 `json:"raw"`
	ReceivedAtMillis int64                  `json:"received_at_millis"`
}

// Op is what core asks prepay for.
type Op string

// The operations. Stop ends all polling of an attempt: its fate is known.
const (
	OpPay   Op = "pay"
	OpQuery Op = "query"
	OpClose Op = "close"
	OpStop  Op = "stop"
)

// Dispatch asks prepay to do something for one attempt.
type Dispatch struct {
	Op         Op              `json:"op"`
	Y          ids.Code        `json:"y"`
	OutTradeNo string          `json:"out_trade_no"`
	Account    string          `json:"account"`
	Amount     money.Amount    `json:"amount,omitzero"`
	Method     channels.Method `json:"method,omitzero"`
	Subject    string          `json:"subject,omitzero"`
	ReturnURL  string          `json:"return_url,omitzero"`
	// ExpiresAtMillis is the expiry to give to the channel, earlier than our own:
	// what is not sent by then is never sent. NotBeforeMillis delays the call.
	ExpiresAtMillis int64 `json:"expires_at_millis,omitzero"`
	NotBeforeMillis int64 `json:"not_before_millis,omitzero"`
}

// Status is the state of a payment order. The transition table is in core.
type Status string

// The states of a payment order.
const (
	Created    Status = "created"
	Dispatched Status = "dispatched"
	Pending    Status = "pending"
	Unknown    Status = "unknown"
	Succeeded  Status = "succeeded"
	Declined   Status = "declined"
	Closed     Status = "closed"
	Expired    Status = "expired"
	Rejected   Status = "rejected"
)

// Final reports whether no transition leads away from the state.
func (s Status) Final() bool {
	switch s {
	case Succeeded, Declined, Closed, Expired, Rejected:
		return true
	}
	return false
}

// Payment is the snapshot of a payment order.
type Payment struct {
	Y              ids.Code            `json:"y"`
	OrderID        string              `json:"order_id"`
	IdempotencyKey string              `json:"idempotency_key"`
	Status         Status              `json:"status"`
	Version        int64               `json:"version"` // grows by one with each change
	Reason         string              `json:"reason,omitzero"`
	AliasOf        ids.Code            `json:"alias_of,omitzero"` // the first Y of an equal body under the same key
	Amount         money.Amount        `json:"amount"`
	Method         channels.Method     `json:"method,omitzero"`
	Subject        string              `json:"subject,omitzero"`
	Credential     channels.Credential `json:"credential,omitzero"`
	Attempts       []Attempt           `json:"attempts,omitzero"`
	// FeeRate is what the merchant pays us, fixed at accept; Fee is its amount once succeeded.
	FeeRate money.Rate   `json:"fee_rate_ppm,omitzero"`
	Fee     money.Amount `json:"fee,omitzero"`

	AcceptedAtMillis int64  `json:"accepted_at_millis"`
	ExpiresAtMillis  int64  `json:"expires_at_millis"`
	NextAction       string `json:"next_action,omitzero"` // empty when final
	NextAtMillis     int64  `json:"next_at_millis,omitzero"`
}

// Attempt is one try of a payment order on one channel account.
type Attempt struct {
	OutTradeNo    string       `json:"out_trade_no"`
	Channel       string       `json:"channel"`
	Account       string       `json:"account"`
	Status        Status       `json:"status"`
	Reason        string       `json:"reason,omitzero"`
	TransactionID string       `json:"transaction_id,omitzero"`
	Paid          money.Amount `json:"paid,omitzero"`
	// PSPFeeRate is what the channel account costs us, fixed when the attempt was
	// opened; PSPFee is its amount once paid.
	PSPFeeRate money.Rate   `json:"psp_fee_rate_ppm,omitzero"`
	PSPFee     money.Amount `json:"psp_fee,omitzero"`
}

// PaymentChanged tells every change of a payment order, as a whole.
type PaymentChanged struct {
	Payment
	// Settled is the index in Attempts of the attempt that has just made the order
	// succeed, else -1. Exactly one event of an order has it.
	Settled int `json:"settled"`
}

// Surplus is money that a PSP received for us and that settles no order: a
// second success, a payment of a closed order, a wrong amount. It waits in
// suspense until it is refunded or explained.
type Surplus struct {
	Y             ids.Code     `json:"y"`
	OutTradeNo    string       `json:"out_trade_no"`
	Channel       string       `json:"channel"`
	Account       string       `json:"account"`
	TransactionID string       `json:"transaction_id"`
	Paid          money.Amount `json:"paid"`
	PSPFee        money.Amount `json:"psp_fee"`
	Why           string       `json:"why"` // "second_success", "paid_after_final", "amount_mismatch"
}

// Trade is core's read model of a trade: the whole chain.
type Trade struct {
	Context  ids.Context  `json:"context"`
	OrderID  string       `json:"order_id"`
	Amount   money.Amount `json:"amount"`
	Paid     money.Amount `json:"paid"`
	Status   string       `json:"status"` // "void" (nothing accepted yet), "open", "paid"
	Version  int64        `json:"version"`
	Payments []Payment    `json:"payments"`
	// RejectedMore: more payment orders were rejected than the last ones that are here.
	RejectedMore bool `json:"rejected_more,omitzero"`
	// AcceptedAtMillis and ExpiresAtMillis are those of the first accepted intent.
	AcceptedAtMillis int64 `json:"accepted_at_millis"`
	ExpiresAtMillis  int64 `json:"expires_at_millis"`
}

// Encode gives an event's payload: the same bytes for the same value. What
// is not UTF-8 in a PSP's text is replaced.
func Encode(v any) []byte {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		panic(fmt.Sprintf("core/event: %T cannot be encoded: %v", v, err)) // a bug: our own types always can
	}
	return b
}

// Decode reads an event's payload into one of this package's types. Unknown
// fields are ignored.
func Decode(payload []byte, v any) error {
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("core/event: %T: %w", v, err)
	}
	return nil
}
