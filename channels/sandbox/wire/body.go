package wire

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/internal/money"
)

// The paths. All are asked by POST.
const (
	PathPay   = "/v1/pay"
	PathQuery = "/v1/query"
	PathClose = "/v1/close"
)

// Bounds of what is sent.
const (
	RequestBytesMax    = 8 << 10
	OutTradeNoLenMax   = 64
	SubjectBytesMax    = 512
	URLBytesMax        = 512
	CallbackBytesMax   = 8 << 10
	AmountMinorMax     = 1_000_000_000_000
	ServerIdleMillis   = 60_000 // a server keeps an idle connection at least so long
	AcceptedBody       = `{"code":"accepted"}`
	ContentType        = "application/json"
	refusedBodyPattern = `{"code":"refused","message":%s}`
)

// The codes of a reply. CodeOK is the only one with a payment in it.
const (
	CodeOK        = "ok"
	CodeInvalid   = "invalid_request"       // 400, signed: nothing was done, and never will be
	CodeSignature = "signature_invalid"     // 401, never signed
	CodeConflict  = "out_trade_no_conflict" // 409: the number exists with another body
	CodeFull      = "simulator_full"        // 503
)

// The reasons why a payment was declined or closed.
const (
	ReasonExpired      = "expired"
	ReasonClosed       = "closed_by_merchant"
	ReasonRisk         = "risk_refused"
	ReasonInsufficient = "insufficient_funds"
)

// Pay asks for a payment. Two are the same request exactly when they are ==.
type Pay struct {
	OutTradeNo      string          `json:"out_trade_no"`
	Amount          money.Amount    `json:"amount"`
	Method          channels.Method `json:"method"`
	Subject         string          `json:"subject"`
	ReturnURL       string          `json:"return_url,omitzero"`
	NotifyURL       string          `json:"notify_url"`
	ExpiresAtMillis int64           `json:"expires_at_millis"`
	Attach          string          `json:"attach,omitzero"`
}

// Validate names the first field that breaks a rule.
func (p *Pay) Validate() error {
	switch {
	case !token(p.OutTradeNo, 1, OutTradeNoLenMax):
		return errors.New("out_trade_no: want 1 to 64 letters, digits, dots, hyphens or underscores")
	case p.Amount.Minor < 1 || p.Amount.Minor > AmountMinorMax:
		return fmt.Errorf("amount: want 1 to %d minor units", int64(AmountMinorMax))
	case p.Amount.Currency.Validate() != nil:
		return p.Amount.Currency.Validate()
	case p.Method != channels.MethodQRCode && p.Method != channels.MethodRedirect:
		return errors.New("method: want qr_code or redirect")
	case p.Subject == "" || len(p.Subject) > SubjectBytesMax:
		return fmt.Errorf("subject: want 1 to %d bytes", SubjectBytesMax)
	case len(p.ReturnURL) > URLBytesMax:
		return fmt.Errorf("return_url: want at most %d bytes", URLBytesMax)
	case p.NotifyURL == "" || len(p.NotifyURL) > URLBytesMax:
		return fmt.Errorf("notify_url: want 1 to %d bytes", URLBytesMax)
	case p.ExpiresAtMillis <= 0:
		return errors.New("expires_at_millis: want milliseconds since 1970")
	case len(p.Attach) > channels.AttachBytesMax:
		return fmt.Errorf("attach: want at most %d bytes", channels.AttachBytesMax)
	}
	return nil
}

// Ask names a payment, for query and close.
type Ask struct {
	OutTradeNo string `json:"out_trade_no"`
}

// Reply is the answer to all requests. Without CodeOK only Code and Message are
// set.
type Reply struct {
	Code          string              `json:"code"`
	Message       string              `json:"message,omitzero"`
	OutTradeNo    string              `json:"out_trade_no,omitzero"`
	State         channels.State      `json:"state,omitzero"`
	Reason        string              `json:"reason,omitzero"` // why declined or closed
	Amount        money.Amount        `json:"amount,omitzero"` // what was asked for
	Credential    channels.Credential `json:"credential,omitzero"`
	TransactionID string              `json:"transaction_id,omitzero"`
	Paid          money.Amount        `json:"paid,omitzero"` // what the payer paid
	Attach        string              `json:"attach,omitzero"`
}

// Event is the body of a callback.
type Event struct {
	EventID          string         `json:"event_id"` // the same whenever it is sent again
	OutTradeNo       string         `json:"out_trade_no"`
	State            channels.State `json:"state"`
	Reason           string         `json:"reason,omitzero"`
	TransactionID    string         `json:"transaction_id,omitzero"`
	Paid             money.Amount   `json:"paid,omitzero"`
	OccurredAtMillis int64          `json:"occurred_at_millis"`
	Attach           string         `json:"attach,omitzero"`
}

// Request is one signed request, free of any HTTP library.
type Request struct {
	Path string
	Seal Seal
	Body []byte
}

// Response is its answer. An unsigned one has no Key and no Signature.
type Response struct {
	Status int
	Seal   Seal // Account and Nonce are the request's
	Body   []byte
}

// Append writes the JSON of a pay request. It is written by hand, as it is on
// the way of every payment. An error says that a text is not UTF-8.
func (p *Pay) Append(b []byte) ([]byte, error) {
	var errs [6]error
	b, errs[0] = jsontext.AppendQuote(append(b, `{"out_trade_no":`...), p.OutTradeNo)
	b = fmt.Appendf(b, `,"amount":{"minor":%d,"currency":`, p.Amount.Minor)
	b, errs[1] = jsontext.AppendQuote(b, string(p.Amount.Currency))
	b, errs[2] = jsontext.AppendQuote(append(b, `},"method":`...), string(p.Method))
	b, errs[3] = jsontext.AppendQuote(append(b, `,"subject":`...), p.Subject)
	if p.ReturnURL != "" {
		b, errs[4] = jsontext.AppendQuote(append(b, `,"return_url":`...), p.ReturnURL)
	}
	if p.Attach != "" {
		b, errs[5] = jsontext.AppendQuote(append(b, `,"attach":`...), p.Attach)
	}
	b, err := jsontext.AppendQuote(append(b, `,"notify_url":`...), p.NotifyURL)
	b = fmt.Appendf(b, `,"expires_at_millis":%d}`, p.ExpiresAtMillis)
	return b, errors.Join(err, errors.Join(errs[:]...))
}

// Append writes the JSON of a query or close request.
func (a Ask) Append(b []byte) ([]byte, error) {
	b, err := jsontext.AppendQuote(append(b, `{"out_trade_no":`...), a.OutTradeNo)
	return append(b, '}'), err
}

// ParseRequest reads the body of a request strictly: an unknown field is refused,
// as it may be one that the sender relies on.
func ParseRequest(body []byte, into any) error {
	return json.Unmarshal(body, into, json.RejectUnknownMembers(true))
}

// ParseReply reads a reply. Fields that it doesn't know are ignored, as a PSP may
// add some; a name that comes twice, or bytes that are not UTF-8, are refused.
func ParseReply(body []byte) (Reply, error) {
	var r Reply
	if err := json.Unmarshal(body, &r); err != nil {
		return Reply{}, err
	}
	if r.Code == "" {
		return Reply{}, errors.New("reply without code")
	}
	return r, checkPaid(r.State, r.TransactionID, r.Paid)
}

// ParseEvent reads a callback's body, as tolerant and as strict as ParseReply.
func ParseEvent(body []byte) (Event, error) {
	var e Event
	if len(body) > CallbackBytesMax {
		return Event{}, fmt.Errorf("callback of %d bytes, want at most %d", len(body), CallbackBytesMax)
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return Event{}, err
	}
	switch {
	case !token(e.EventID, 1, 64):
		return Event{}, errors.New("event_id: missing or malformed")
	case !token(e.OutTradeNo, 1, OutTradeNoLenMax):
		return Event{}, errors.New("out_trade_no: missing or malformed")
	case e.State != channels.StatePaid && e.State != channels.StateDeclined && e.State != channels.StateClosed:
		return Event{}, fmt.Errorf("state: %q is not one that a callback tells", string(e.State))
	case len(e.Attach) > channels.AttachBytesMax:
		return Event{}, errors.New("attach: too long")
	case e.OccurredAtMillis <= 0:
		return Event{}, errors.New("occurred_at_millis: missing")
	}
	return e, checkPaid(e.State, e.TransactionID, e.Paid)
}

// checkPaid: who says paid says how much and under which number. Whether that is
// the amount that was asked for is not for the driver to judge.
func checkPaid(s channels.State, transaction string, paid money.Amount) error {
	if s != channels.StatePaid {
		if paid != (money.Amount{}) {
			return errors.New("paid: an amount without the state paid")
		}
		return nil
	}
	if transaction == "" {
		return errors.New("transaction_id: missing")
	}
	if paid.Minor < 1 {
		return errors.New("paid: missing or not positive")
	}
	return paid.Currency.Validate()
}

// Marshal writes a Reply or an Event; neither can fail but by text that is not
// UTF-8, which their makers have refused before.
func Marshal(v any) []byte {
	b, err := json.Marshal(v, jsontext.AllowInvalidUTF8(true))
	if err != nil {
		panic("wire: cannot marshal: " + err.Error())
	}
	return b
}

// RefusedBody is the answer to a callback that shall be sent again.
func RefusedBody(reason string) []byte {
	q, _ := jsontext.AppendQuote(nil, reason) // what isn't UTF-8 is replaced
	return fmt.Appendf(nil, refusedBodyPattern, q)
}
