package callback

import (
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// Config bounds callbacks. All values must be positive.
type Config struct {
	BodyBytesMax    int           `yaml:"body_bytes_max"`
	HeadersMax      int           `yaml:"headers_max"`      // kept with a callback
	HeaderBytesMax  int           `yaml:"header_bytes_max"` // of all names and values kept
	CommitTimeout   time.Duration `yaml:"commit_timeout"`
	CommitDeadline  time.Duration `yaml:"commit_deadline"`  // for one that can no longer be withdrawn
	UnknownElements string        `yaml:"unknown_elements"` // what stands for an element of the context that nobody told
}

// DefaultConfig suits PSPs that wait five seconds for an answer, as most do.
func DefaultConfig() Config {
	return Config{BodyBytesMax: 64 << 10, HeadersMax: 64, HeaderBytesMax: 8 << 10, CommitTimeout: 2 * time.Second,
		CommitDeadline: 4 * time.Second, UnknownElements: "unknown"}
}

// Validate names the value that is not positive or contradicts another.
func (c Config) Validate() error {
	bad := func(field, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "gateway", Field: "callback." + field, Code: "bad_value", Fix: fix}
	}
	for _, f := range []struct {
		name  string
		value int64
	}{{"body_bytes_max", int64(c.BodyBytesMax)}, {"headers_max", int64(c.HeadersMax)}, {"header_bytes_max", int64(c.HeaderBytesMax)},
		{"commit_timeout", int64(c.CommitTimeout)}, {"commit_deadline", int64(c.CommitDeadline)}} {
		if f.value <= 0 {
			return bad(f.name, "set it to at least 1")
		}
	}
	if c.CommitDeadline <= c.CommitTimeout {
		return bad("commit_deadline", "set it later than commit_timeout")
	}
	if c.UnknownElements == "" || len(c.UnknownElements) > ids.OrderTypeLenMax {
		return bad("unknown_elements", "use 1 to 16 characters")
	}
	return nil
}

// Parsers finds the parser of a channel account; false if there is no such account.
type Parsers interface {
	Parser(channel, account string) (channels.CallbackParser, bool)
}

// Deps is what a Receiver is made of. Points, Metrics and Log may be left out.
type Deps struct {
	Parsers Parsers
	Intake  bus.Intake
	Secret  *ids.Secret
	IDs     *ids.Source
	Now     func() time.Time
	Random  io.Reader // trace ids; safe for concurrent use
	Points  fault.Points
	Metrics *metrics.Set
	Log     *slog.Logger
	Config  Config
}

// Receiver takes callbacks. Safe for concurrent use.
type Receiver struct{ d Deps }

// New makes a receiver.
func New(d Deps) (*Receiver, error) {
	if err := d.Config.Validate(); err != nil {
		return nil, err
	}
	if d.Parsers == nil || d.Intake == nil || d.Secret == nil || d.IDs == nil || d.Now == nil || d.Random == nil {
		return nil, fault.New(fault.Internal, "callback", "Deps lacks one of Parsers, Intake, Secret, IDs, Now, Random")
	}
	if d.Metrics == nil {
		d.Metrics = metrics.NewSet()
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return &Receiver{d: d}, nil
}

// Request is a callback as it came. The receiver keeps nothing of Body.
type Request struct {
	Channel string
	Account string
	Method  string
	Path    string
	Headers map[string]string // by lower-case name
	Body    []byte
}

// Receipt is a callback on its way into the intake.
type Receipt struct {
	Context ids.Context
	parser  channels.CallbackParser
	ticket  bus.Ticket
	channel string
}

// Done is closed when Finish can tell the callback's fate.
func (r *Receipt) Done() <-chan struct{} { return r.ticket.Done() }

// Begin verifies a callback and hands it to the intake, without waiting. With an
// error nothing was kept, and the Ack, if its status is not 0, is the answer to
// the PSP: fault.NotFound (no such account, no Ack), TooLarge (no Ack),
// Unauthorized (forged), Invalid (not ours, or not readable), Unavailable.
func (r *Receiver) Begin(q Request) (*Receipt, channels.Ack, error) {
	parser, ok := r.d.Parsers.Parser(q.Channel, q.Account)
	if !ok {
		// The path is the caller's: it may not make up label values.
		r.count("other", "no_account")
		return nil, channels.Ack{}, &fault.Error{Kind: fault.NotFound, Op: "callback", Code: "not_found"}
	}
	if len(q.Body) > r.d.Config.BodyBytesMax {
		r.count(q.Channel, "too_large")
		return nil, channels.Ack{}, &fault.Error{Kind: fault.TooLarge, Op: "callback", Code: "body_too_large"}
	}
	now := r.d.Now()
	ev, err := parser.Parse(channels.CallbackRequest{Method: q.Method, Path: q.Path, Body: q.Body, Now: now,
		Header: func(name string) string { return q.Headers[strings.ToLower(name)] }})
	if err != nil {
		return r.refused(&q, parser, err)
	}
	c, err := r.context(&ev, q.Channel)
	if err != nil {
		return r.refused(&q, parser, &fault.Error{Kind: fault.Invalid, Op: "callback", Code: "callback_refused", Err: err})
	}
	payload := event.Encode(event.CallbackReceived{Channel: q.Channel, Account: q.Account, Event: ev.Storable(), Headers: r.kept(q.Headers),
		Raw: q.Body, ReceivedAtMillis: now.UnixMilli()})
	ticket, err := r.d.Intake.Append(bus.Callbacks, &bus.Event{ID: r.d.IDs.New(ids.EventID), Type: event.TypeCallback,
		Version: bus.EnvelopeVersion, Context: c, AtMillis: now.UnixMilli(), Payload: payload})
	if err != nil {
		return r.notKept(q.Channel, parser, err)
	}
	return &Receipt{Context: c, parser: parser, ticket: ticket, channel: q.Channel}, channels.Ack{}, nil
}

// Finish gives the PSP's answer once Done is closed: its word for yes only when
// the callback is durably kept.
func (r *Receiver) Finish(p *Receipt) (channels.Ack, error) {
	if err := p.ticket.Err(); err != nil {
		_, ack, err := r.notKept(p.channel, p.parser, err)
		return ack, err
	}
	r.d.Points.At("gateway.callback_appended_not_acked")
	r.count(p.channel, "kept")
	return p.parser.Accepted(), nil
}

// Receive takes a callback and waits for its commit.
func (r *Receiver) Receive(q Request) (channels.Ack, error) {
	p, ack, err := r.Begin(q)
	if err != nil {
		return ack, err
	}
	t := time.NewTimer(r.d.Config.CommitTimeout)
	defer t.Stop()
	select {
	case <-p.Done():
		return r.Finish(p)
	case <-t.C:
	}
	if !p.ticket.Withdraw() {
		t.Reset(r.d.Config.CommitDeadline - r.d.Config.CommitTimeout)
		select {
		case <-p.Done():
			return r.Finish(p)
		case <-t.C:
		}
	}
	// Kept after all or not: the PSP repeats it, and core knows it again.
	_, ack, err = r.notKept(p.channel, p.parser, fault.New(fault.Unavailable, "callback", "not committed in time"))
	return ack, err
}

// refused tells the PSP no, and keeps nothing.
func (r *Receiver) refused(q *Request, parser channels.CallbackParser, err error) (*Receipt, channels.Ack, error) {
	kind, code, status, result := fault.Invalid, "callback_refused", 400, "refused"
	if fault.Is(err, fault.Unauthorized) {
		kind, code, status, result = fault.Unauthorized, "callback_forged", 401, "forged"
	}
	r.count(q.Channel, result)
	ack := parser.Refused(code)
	ack.Status = status
	return nil, ack, &fault.Error{Kind: kind, Op: "callback", Code: code, Err: err}
}

func (r *Receiver) notKept(channel string, parser channels.CallbackParser, err error) (*Receipt, channels.Ack, error) {
	r.count(channel, "not_kept")
	ack := parser.Refused("callback_not_kept")
	ack.Status = 503
	return nil, ack, &fault.Error{Kind: fault.Unavailable, Op: "callback", Code: "callback_not_kept", Err: err}
}

func (r *Receiver) count(channel, result string) {
	r.d.Metrics.GetOrCreateCounter(`tallystick_callbacks_total{channel="` + channel + `",result="` + result + `"}`).Inc()
}

// context tells whose a verified callback is. The out_trade_no must be one of
// ours; the attach is believed only as far as the codes' tags bear it out, as some
// PSPs hand none back and others cut it.
func (r *Receiver) context(ev *channels.CallbackEvent, channel string) (ids.Context, error) {
	y, _, err := ids.ParseOutTradeNo(ev.OutTradeNo)
	if err != nil {
		return ids.Context{}, fmt.Errorf("out_trade_no: %w", err)
	}
	if ev.State == channels.StatePaid && (ev.Paid.Minor <= 0 || ev.Paid.Currency.Validate() != nil) {
		return ids.Context{}, fmt.Errorf("paid, with an amount of %v", ev.Paid)
	}
	c, err := ids.ParseAttach(ev.Attach, channel)
	if err == nil && c.BizCode.Slot() == y.Slot() && c.Traffic == y.Traffic() && validTraceID(c.TraceID) &&
		validWord(c.OrderType, ids.OrderTypeLenMax) && validWord(c.OrderScene, ids.OrderSceneLenMax) &&
		r.d.Secret.Verify(c.BizCode, c.Merchant) && r.d.Secret.Verify(y, c.Merchant) {
		return c, nil
	}
	var trace [ids.TraceIDLen / 2]byte
	if _, err := io.ReadFull(r.d.Random, trace[:]); err != nil {
		panic("callback: no randomness: " + err.Error()) // nothing can be identified without it
	}
	unknown := r.d.Config.UnknownElements
	c = ids.Context{BizCode: y, Merchant: unknown, OrderType: unknown, OrderScene: unknown, Institution: channel,
		TraceID: hex.EncodeToString(trace[:]), Form: traffic.Deposit, Traffic: y.Traffic()}
	return c, c.Validate()
}

// validWord is what the API takes for an order's type and scene.
func validWord(s string, most int) bool {
	return s != "" && len(s) <= most && strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyz_") == ""
}

func validTraceID(s string) bool {
	return len(s) == ids.TraceIDLen && strings.Trim(s, "0123456789abcdef") == ""
}

// kept is the part of the headers that is evidence: no credentials, and bounded,
// in the order of their names so that the same request keeps the same ones.
func (r *Receiver) kept(headers map[string]string) map[string]string {
	names := make([]string, 0, len(headers))
	for n := range maps.Keys(headers) {
		switch n {
		case "authorization", "cookie", "proxy-authorization":
		default:
			names = append(names, n)
		}
	}
	return bounded(names, headers, r.d.Config.HeadersMax, r.d.Config.HeaderBytesMax)
}
