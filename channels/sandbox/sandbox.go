package sandbox

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
)

// Name is the driver's name in configurations and callback URLs.
const Name = "sandbox"

// The codes that the driver gives to outcomes of its own; others are the PSP's.
const (
	CodeDialFailed  = "dial_failed"         // NotSent
	CodeNoConn      = "connections_in_use"  // NotSent
	CodeTooLate     = "deadline_passed"     // NotSent: over before the call
	CodeTimeout     = "timeout"             // Unknown
	CodeConnection  = "connection_lost"     // Unknown
	CodeServerError = "psp_error"           // Unknown: 5xx, or a status that means nothing here
	CodeReplySig    = "reply_signature"     // Unknown
	CodeReplyBroken = "reply_malformed"     // Unknown
	CodeReplyOther  = "reply_mismatch"      // Unknown: about another number
	CodeNotText     = "request_not_encoded" // Declined: a text is not UTF-8, so it can never be sent
)

// Config is what a channel account needs. The zero values of bounds mean the
// defaults named beside them.
type Config struct {
	Account  string   // the account's id at the PSP, as wire.ValidAccount wants it
	Endpoint string   // base URL, http or https, without a path
	Keys     [][]byte // one or two of 16 to 256 bytes: the first signs, all verify

	Now    func() time.Time // the clock that signatures carry
	Random io.Reader        // of nonces: crypto/rand.Reader; need not be safe for concurrent use

	ReplyBytesMax  int // of a reply's body; 16 KiB
	ConnectionsMax int // to the PSP; 4,096, above which a call is NotSent: the caller's bulkhead should be tighter
	DialMillisMax  int // 2,000
	CallMillisMax  int // where the context has no deadline; 15,000
	IdleMillisMax  int // 20,000: earlier than the PSP closes, as a request on a closing connection is Unknown

	// Send carries requests instead of HTTP, for simulations in one goroutine. An
	// error that wraps ErrNotSent says that nothing left.
	Send func(ctx context.Context, r wire.Request) (wire.Response, error)
}

// ErrNotSent is wrapped by a Send that knows that no byte left.
var ErrNotSent = errors.New("sandbox: not sent")

func (c *Config) setDefaults() {
	for _, d := range []struct {
		v   *int
		def int
	}{
		{&c.ReplyBytesMax, 16 << 10}, {&c.ConnectionsMax, 4096}, {&c.DialMillisMax, 2_000},
		{&c.CallMillisMax, 15_000}, {&c.IdleMillisMax, 20_000},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
}

// Validate names the first field that is wrong.
func (c *Config) Validate() error {
	bad := func(field, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "sandbox", Code: "config_invalid", Field: field, Fix: fix}
	}
	switch {
	case !wire.ValidAccount(c.Account):
		return bad("account", "1 to 64 letters, digits, dots, hyphens or underscores")
	case c.Now == nil:
		return bad("now", "hand in a clock")
	case c.Random == nil:
		return bad("random", "hand in a source of randomness")
	case c.ReplyBytesMax < 0 || c.ReplyBytesMax > 1<<20:
		return bad("reply_bytes_max", "1 to 1,048,576, or 0 for the default")
	case c.ConnectionsMax < 0 || c.DialMillisMax < 0 || c.CallMillisMax < 0:
		return bad("connections_max, dial_millis_max, call_millis_max", "positive, or 0 for the default")
	case c.IdleMillisMax < 0 || c.IdleMillisMax > wire.ServerIdleMillis/2:
		return bad("idle_millis_max", fmt.Sprintf("1 to %d, or 0 for the default", wire.ServerIdleMillis/2))
	}
	return nil
}

// New makes the channel of one account. It starts nothing and connects nowhere.
// Errors are of kind fault.Invalid.
func New(c Config) (*channels.Channel, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.setDefaults()
	parser, err := NewCallbackParser(c.Account, c.Keys...)
	if err != nil {
		return nil, err
	}
	d := &driver{Config: c, ring: parser.ring, send: c.Send}
	if d.send == nil {
		h, err := newHTTP(&c)
		if err != nil {
			return nil, err
		}
		d.send = h.send
	}
	return &channels.Channel{
		Name: Name, Account: c.Account, Pay: d, Callback: parser,
		Features: channels.Features{PayRepeatable: true, Attach: true},
	}, nil
}

// driver implements channels.Payer.
type driver struct {
	Config
	ring *wire.Ring
	send func(context.Context, wire.Request) (wire.Response, error)
	mu   sync.Mutex // of Random
}

func (d *driver) Prepay(ctx context.Context, r channels.PayRequest) channels.Outcome {
	p := wire.Pay{
		OutTradeNo: r.OutTradeNo, Amount: r.Amount, Method: r.Method, Subject: r.Subject, ReturnURL: r.ReturnURL,
		NotifyURL: r.NotifyURL, ExpiresAtMillis: r.ExpiresAt.UnixMilli(), Attach: r.Attach,
	}
	body, err := p.Append(make([]byte, 0, 768))
	if err != nil {
		return channels.Outcome{Result: channels.Declined, Code: CodeNotText, Message: err.Error()}
	}
	reply, o := d.ask(ctx, wire.PathPay, r.OutTradeNo, body)
	if o.Result != channels.Done {
		return o
	}
	switch reply.State {
	case channels.StatePending, channels.StatePaid:
	case channels.StateDeclined, channels.StateClosed:
		// Definite: nobody can pay under this number any more.
		o.Result = channels.Declined
	default:
		return unknown(CodeReplyBroken, "no state that a payment can have: "+string(reply.State), o.Raw)
	}
	return o
}

func (d *driver) Query(ctx context.Context, r channels.QueryRequest) channels.Outcome {
	return d.about(ctx, wire.PathQuery, r)
}

func (d *driver) Close(ctx context.Context, r channels.QueryRequest) channels.Outcome {
	o := d.about(ctx, wire.PathClose, r)
	if o.Result == channels.Done && o.State == channels.StatePending {
		return unknown(CodeReplyBroken, "still pending after a close", o.Raw)
	}
	return o
}

// about asks about a payment. A refusal to answer tells nothing of the payment:
// it is Unknown, lest a wrong key decline what may have been paid.
func (d *driver) about(ctx context.Context, path string, r channels.QueryRequest) channels.Outcome {
	body, err := wire.Ask{OutTradeNo: r.OutTradeNo}.Append(make([]byte, 0, 96))
	if err != nil {
		return unknown(CodeNotText, err.Error(), nil)
	}
	_, o := d.ask(ctx, path, r.OutTradeNo, body)
	if o.Result == channels.Declined {
		o.Result = channels.Unknown
	}
	return o
}

// ask makes one call and checks that the answer is the PSP's answer to it.
func (d *driver) ask(ctx context.Context, path, outTradeNo string, body []byte) (wire.Reply, channels.Outcome) {
	if ctx.Err() != nil {
		return wire.Reply{}, channels.Outcome{Result: channels.NotSent, Code: CodeTooLate, Message: ctx.Err().Error()}
	}
	nonce := d.nonce()
	req := wire.Request{Path: path, Body: body, Seal: d.ring.Sign(wire.KindRequest, path, d.Account, nonce, d.Now(), body)}
	resp, err := d.send(ctx, req)
	if err != nil {
		return wire.Reply{}, failed(err)
	}
	if resp.Status >= 500 {
		return wire.Reply{}, unknown(CodeServerError, fmt.Sprintf("status %d", resp.Status), resp.Body)
	}
	if resp.Seal.Nonce != nonce ||
		!d.ring.Verify(wire.KindReply, wire.ReplySubject(resp.Status, path), d.Account, resp.Seal, resp.Body) {
		return wire.Reply{}, unknown(CodeReplySig, fmt.Sprintf("status %d, not signed as the PSP signs", resp.Status), resp.Body)
	}
	r, err := wire.ParseReply(resp.Body)
	if err != nil {
		return wire.Reply{}, unknown(CodeReplyBroken, err.Error(), resp.Body)
	}
	return r, outcome(r, resp.Status, outTradeNo, resp.Body)
}

// outcome maps a genuine reply.
func outcome(r wire.Reply, status int, outTradeNo string, raw []byte) channels.Outcome {
	if status == 400 && r.Code == wire.CodeInvalid {
		return channels.Outcome{Result: channels.Declined, Code: r.Code, Message: r.Message, Raw: raw}
	}
	if status != 200 || r.Code != wire.CodeOK {
		code := r.Code
		if code == wire.CodeOK {
			code = CodeServerError
		}
		return unknown(code, r.Message, raw)
	}
	if r.OutTradeNo != outTradeNo {
		return unknown(CodeReplyOther, "the reply is about "+r.OutTradeNo, raw)
	}
	switch r.State {
	case channels.StatePending, channels.StatePaid, channels.StateDeclined, channels.StateClosed, channels.StateNotFound:
	default:
		return unknown(CodeReplyBroken, "no such state: "+string(r.State), raw)
	}
	o := channels.Outcome{
		Result: channels.Done, State: r.State, TransactionID: r.TransactionID, Paid: r.Paid,
		Code: r.Reason, Message: r.Message, Raw: raw,
	}
	if r.State == channels.StatePending {
		o.Credential = r.Credential
	}
	if o.State != channels.StatePaid {
		o.TransactionID, o.Paid = "", money.Amount{}
	}
	return o
}

func failed(err error) channels.Outcome {
	o := channels.Outcome{Result: channels.Unknown, Code: CodeConnection, Message: err.Error()}
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, errNoConn):
		o.Result, o.Code = channels.NotSent, CodeNoConn
	case errors.Is(err, ErrNotSent):
		o.Result, o.Code = channels.NotSent, CodeDialFailed
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		o.Code = CodeTimeout
	}
	return o
}

func unknown(code, message string, raw []byte) channels.Outcome {
	return channels.Outcome{Result: channels.Unknown, Code: code, Message: message, Raw: raw}
}

// nonce is 96 bits: it ties a reply to its request.
func (d *driver) nonce() string {
	var b [12]byte
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := io.ReadFull(d.Random, b[:]); err != nil {
		panic("sandbox: no randomness: " + err.Error())
	}
	return hex.EncodeToString(b[:])
}
