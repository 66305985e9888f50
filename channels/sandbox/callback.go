package sandbox

import (
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/fault"
)

// CallbackParser reads the callbacks of one account. It is safe for concurrent
// use and keeps nothing: a repeated callback parses again, to the same EventID.
type CallbackParser struct {
	account string
	ring    *wire.Ring
}

// NewCallbackParser is for a role that takes callbacks and makes no calls.
func NewCallbackParser(account string, keys ...[]byte) (*CallbackParser, error) {
	ring, err := wire.NewRing(keys...)
	if err != nil {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "sandbox", Code: "config_invalid", Field: "keys", Err: err}
	}
	return &CallbackParser{account, ring}, nil
}

// Parse verifies before it reads. Errors are of kind fault.Unauthorized for a
// signature or timestamp that isn't right (more than 300 s off r.Now, past or
// future), fault.Invalid for a genuine callback whose content is not.
func (p *CallbackParser) Parse(r channels.CallbackRequest) (channels.CallbackEvent, error) {
	const op = "sandbox callback"
	if r.Method != "POST" || len(r.Body) > wire.CallbackBytesMax {
		return channels.CallbackEvent{}, fault.New(fault.Invalid, op, "want a POST of at most %d bytes", wire.CallbackBytesMax)
	}
	s := wire.Seal{
		Account:   r.Header(wire.HeaderAccount),
		Key:       r.Header(wire.HeaderKey),
		Timestamp: r.Header(wire.HeaderTimestamp),
		Nonce:     r.Header(wire.HeaderNonce),
		Signature: r.Header(wire.HeaderSignature),
	}
	if !p.ring.Verify(wire.KindCallback, "", p.account, s, r.Body) {
		return channels.CallbackEvent{}, &fault.Error{Kind: fault.Unauthorized, Op: op, Code: wire.CodeSignature}
	}
	if !s.Fresh(r.Now) {
		return channels.CallbackEvent{}, &fault.Error{Kind: fault.Unauthorized, Op: op, Code: "timestamp_out_of_window"}
	}
	e, err := wire.ParseEvent(r.Body)
	if err != nil {
		return channels.CallbackEvent{}, &fault.Error{Kind: fault.Invalid, Op: op, Code: "callback_malformed", Err: err}
	}
	return channels.CallbackEvent{
		EventID: e.EventID, OutTradeNo: e.OutTradeNo, State: e.State, TransactionID: e.TransactionID, Paid: e.Paid,
		Code: e.Reason, OccurredAt: time.UnixMilli(e.OccurredAtMillis).UTC(), Attach: e.Attach,
	}, nil
}

// Accepted ends the PSP's repetitions.
func (p *CallbackParser) Accepted() channels.Ack {
	return channels.Ack{Status: 200, ContentType: wire.ContentType, Body: []byte(wire.AcceptedBody)}
}

// Refused makes the PSP send the callback again later.
func (p *CallbackParser) Refused(reason string) channels.Ack {
	return channels.Ack{Status: 503, ContentType: wire.ContentType, Body: wire.RefusedBody(reason)}
}
