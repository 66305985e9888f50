package channels

import (
	"context"
	"time"

	"github.com/tallystick/tallystick/internal/money"
)

// Channel is one channel account, ready to be called: a struct of small
// interfaces, nil where the PSP cannot do it. Decorators wrap each field.
type Channel struct {
	Name     string // of the driver: "sandbox"
	Account  string // of the channel account
	Pay      Payer  // never nil
	Callback CallbackParser
	Features Features
}

// Features is what a PSP promises, and what may be built on.
type Features struct {
	// PayRepeatable: the same Pay (same number, same body, same account) may be
	// sent again and has one effect. Only then is a payment repeated that the PSP
	// says it cannot find.
	PayRepeatable bool
	// Attach: the PSP hands PayRequest.Attach back in callbacks and queries.
	Attach bool
}

// Payer asks for payments. No method returns an error: what went wrong is in the
// Outcome, and is Unknown unless proven otherwise. All respect ctx's deadline.
type Payer interface {
	// Prepay asks the PSP to expect a payment. Done carries a Credential and
	// usually StatePending.
	Prepay(ctx context.Context, r PayRequest) Outcome
	// Query asks what became of a number. Done carries the State, which may be
	// StateNotFound: that is an answer, not a NotSent.
	Query(ctx context.Context, r QueryRequest) Outcome
	// Close asks that a number can no longer be paid. Done carries StateClosed, or
	// StatePaid when the payer was faster.
	Close(ctx context.Context, r QueryRequest) Outcome
}

// PayRequest is what a driver needs in order to ask for a payment.
type PayRequest struct {
	OutTradeNo string
	Amount     money.Amount
	Method     Method
	Subject    string    // what the payer sees
	ReturnURL  string    // where the payer's browser goes afterwards; may be empty
	NotifyURL  string    // where the PSP calls back
	ExpiresAt  time.Time // the PSP must refuse the payer from then on
	Attach     string    // at most AttachBytesMax, given back as it is
}

// AttachBytesMax is what the tightest PSP echoes (WeChat Pay's attach).
const AttachBytesMax = 128

// QueryRequest names a payment at the PSP.
type QueryRequest struct{ OutTradeNo string }

// Method is the kind of credential that the checkout wants.
type Method string

// The methods.
const (
	MethodQRCode   Method = "qr_code"
	MethodRedirect Method = "redirect"
)

// Result is what a PSP call came to.
type Result string

// The results; see the package comment.
const (
	Done     Result = "done"
	Declined Result = "declined"
	NotSent  Result = "not_sent"
	Unknown  Result = "unknown"
)

// State is what the PSP says of a payment.
type State string

// The states. StateNone is for calls that tell no state.
const (
	StateNone     State = ""
	StatePending  State = "pending"
	StatePaid     State = "paid"
	StateDeclined State = "declined"
	StateClosed   State = "closed"
	StateNotFound State = "not_found"
)

// Credential is what the payer's device needs. It is redacted in logs and
// emptied when the payment is final.
type Credential struct {
	Method Method `json:"method,omitzero"`
	Value  string `json:"value,omitzero"` // the QR code's text, or the URL
}

// Outcome is the answer of one PSP call.
type Outcome struct {
	Result        Result       `json:"result"`
	State         State        `json:"state,omitzero"`
	Credential    Credential   `json:"credential,omitzero"`
	TransactionID string       `json:"transaction_id,omitzero"` // the PSP's own number, once paid
	Paid          money.Amount `json:"paid,omitzero"`           // what the payer paid, once paid
	Code          string       `json:"code,omitzero"`           // the PSP's or our reason, such as "insufficient_funds", "timeout"
	Message       string       `json:"message,omitzero"`
	Raw           []byte       `json:"raw,omitzero"` // the PSP's reply as it came, at most the driver's bound
}

// CallbackRequest is an HTTP request of a PSP, free of any HTTP library. Body
// and headers are the caller's and must not be kept.
type CallbackRequest struct {
	Method string
	Path   string
	Header func(name string) string
	Body   []byte
	Now    time.Time
}

// CallbackEvent is what a PSP told us.
type CallbackEvent struct {
	EventID       string       `json:"event_id"` // the PSP's, stable over its repetitions
	OutTradeNo    string       `json:"out_trade_no"`
	State         State        `json:"state"`
	TransactionID string       `json:"transaction_id,omitzero"`
	Paid          money.Amount `json:"paid,omitzero"`
	Code          string       `json:"code,omitzero"`
	OccurredAt    time.Time    `json:"occurred_at,omitzero"`
	Attach        string       `json:"attach,omitzero"`
}

// Ack is the answer that a PSP takes for yes or no.
type Ack struct {
	Status      int
	ContentType string
	Body        []byte
}

// CallbackParser verifies and reads callbacks. It has no effects.
type CallbackParser interface {
	// Parse gives the event, or an error of kind fault.Unauthorized when the
	// signature or its time is not right, fault.Invalid when the content is not.
	Parse(r CallbackRequest) (CallbackEvent, error)
	// Accepted and Refused are the PSP's words for "got it" and "send it again".
	Accepted() Ack
	Refused(reason string) Ack
}
