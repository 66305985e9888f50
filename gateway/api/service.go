package api

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// Views is the voucher view, as gateway/voucher has it.
type Views interface {
	Hold(c ids.Context, y ids.Code) (hold uint64)
	Confirm(y ids.Code, hold uint64)
	Peek(y ids.Code) (voucher.View, bool)
	Await(ctx context.Context, a voucher.Ask) (voucher.View, error)
}

// Queries is what the API asks core: the trade of a code, which may be its X or
// any Y of it, and whether there is one; a payment order, with its context; and lists,
// which are cut where they get too long.
type Queries interface {
	Trade(ctx context.Context, code ids.Code) (event.Trade, bool, error)
	Payment(ctx context.Context, y ids.Code) (event.Payment, ids.Context, bool, error)
	List(ctx context.Context, l event.Listing) (list []event.Listed, cut bool, err error)
}

// Deps is what the API is made of. Points, Metrics, Log, Callbacks, Probes, Buckets
// and Hint may be left out.
type Deps struct {
	Directory *merchant.Directory
	Intake    bus.Intake
	Secret    *ids.Secret
	Tokens    *TokenRing
	Views     Views
	Queries   Queries
	Now       func() time.Time
	Random    io.Reader // trace ids; safe for concurrent use
	Points    fault.Points
	Metrics   *metrics.Set
	Log       *slog.Logger
	// Callbacks serves POST /v1/callbacks/{channel}/{account}: gateway/callback's
	// handler. Without one the path is unknown.
	Callbacks CallbackHandler
	// Probes are asked by /readyz; each gives what is missing, or nil.
	Probes []Probe
	// Buckets are merchants' limits; without them each gateway has its own.
	Buckets Buckets
	// Others: other gateways append to the same intake. Then what was committed here
	// need not be the first of its key.
	Others bool
	// Hint tells other gateways of a key that is settled; it never waits. Theirs come
	// by Service.Heard.
	Hint   func(KeyHint)
	Config Config
}

func (d *Deps) fill() error {
	if err := d.Config.Validate(); err != nil {
		return err
	}
	if d.Directory == nil || d.Intake == nil || d.Secret == nil || d.Tokens == nil || d.Views == nil || d.Queries == nil || d.Now == nil || d.Random == nil {
		return fault.New(fault.Internal, "gateway", "Deps lacks one of Directory, Intake, Secret, Tokens, Views, Queries, Now, Random")
	}
	if d.Buckets == nil {
		d.Buckets = ownBuckets
	}
	if d.Metrics == nil {
		d.Metrics = metrics.NewSet()
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Service accepts payments and answers for vouchers and trades. It knows no HTTP.
// Safe for concurrent use.
type Service struct {
	d         Deps
	scratches *sync.Pool // *scratch
	recent    *recent
	hints     *hints
	limits    *limits // of payment requests
	reads     *limits
	patience  *deadline // AcceptTimeout
	metrics   *serviceMetrics
}

// scratch is memory that an acceptance needs until it is appended.
type scratch struct {
	parser    *parser
	request   Request
	text      []byte
	canonical []byte
	payload   []byte
	x, y      [ids.CodeLen]byte
	print     ids.Fingerprint
	hintKey   uint64
	event     bus.Event
	intent    event.Intent
}

// NewService makes the service without its HTTP shell, for a simulation.
func NewService(d Deps) (*Service, error) {
	if err := d.fill(); err != nil {
		return nil, err
	}
	return &Service{d: d, scratches: &sync.Pool{New: func() any { return &scratch{parser: newParser()} }}, recent: newRecent(d.Config.RecentMax),
		hints: newHints(d.Hint, d.Config.HintsMax), limits: newLimits("payments", 1, d.Buckets), reads: newLimits("reads", readsPerPayment, d.Buckets), patience: &deadline{after: d.Config.AcceptTimeout}, metrics: newServiceMetrics(d.Metrics)}, nil
}

// Call is a payment request as it arrived. Nothing of Body is kept.
type Call struct {
	Body           []byte
	IdempotencyKey string // of the header; empty for none
	TraceID        string // 32 hexadecimal digits; empty to make one
}

// Acceptance is an intent on its way into the intake.
type Acceptance struct {
	Y       ids.Code
	Context ids.Context
	// ExpiresAtMillis is when the payment can no longer be paid, Unix milliseconds.
	ExpiresAtMillis int64

	voucher string // its id: what Y is a part of
	hold    uint64 // of the view
	key     recentKey
	ticket  bus.Ticket // nil for a repeat that is known to be committed
	atWork  time.Time
}

// closedChannel is the Done of what is done already.
var closedChannel = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Done is closed when Finish can tell the intent's fate.
func (a *Acceptance) Done() <-chan struct{} {
	if a.ticket == nil {
		return closedChannel
	}
	return a.ticket.Done()
}

// Begin checks a payment request of an authenticated merchant and hands its
// intent to the intake, without waiting. After an error the intent is certainly
// not kept. The same merchant, order, key and body give the same Y, always.
//
// fault.Limited, Forbidden, TooLarge, Invalid (with code, field and fix), Conflict
// (the key was accepted with another body), Unavailable (the intake takes no more).
func (s *Service) Begin(m *merchant.Merchant, c Call) (*Acceptance, error) {
	a := &Acceptance{}
	if err := s.begin(a, m, c.Body, []byte(c.IdempotencyKey), []byte(c.TraceID), s.d.Now()); err != nil {
		return nil, err
	}
	return a, nil
}

// begin is Begin into memory of the caller's. Nothing of body, key and trace is
// kept: the server uses their memory again when its handler returns, and an intent
// that it gave up may still be committed then.
func (s *Service) begin(a *Acceptance, m *merchant.Merchant, body, key, trace []byte, now time.Time) error {
	if !m.Enabled {
		return &fault.Error{Kind: fault.Forbidden, Op: "accept", Code: "merchant_disabled"}
	}
	if len(body) > s.d.Config.BodyBytesMax {
		return &fault.Error{Kind: fault.TooLarge, Op: "accept", Code: "body_too_large"}
	}
	if !s.limits.allow(m, now) {
		s.metrics.limited.Inc()
		return &fault.Error{Kind: fault.Limited, Op: "accept", Code: "rate_limited"}
	}
	if len(key) > 0 && !validIdempotencyKey(key) {
		return invalid("header_invalid", "Idempotency-Key", "use 1 to 255 visible ASCII characters", nil)
	}
	w := s.scratches.Get().(*scratch)
	defer s.scratches.Put(w)
	// One string for all that the request says; its fields are parts of it.
	w.text = append(append(w.text[:0], body...), key...)
	text := string(w.text)
	r := &w.request
	if err := w.parser.parse(text[:len(body)], r); err != nil {
		return err
	}
	if err := r.validate(m, &s.d.Config); err != nil {
		return err
	}
	idempotencyKey := text[len(body):]
	if idempotencyKey == "" {
		idempotencyKey = r.OrderID
	}
	s.identify(a, w, m, idempotencyKey, trace)
	expires := s.d.Config.ExpiresDefault
	if r.ExpiresInSeconds != 0 {
		expires = time.Duration(r.ExpiresInSeconds) * time.Second
	}
	a.atWork, a.ExpiresAtMillis = now, now.Add(expires).UnixMilli()
	known, err := s.repeated(a, w, idempotencyKey)
	if err != nil || known {
		return err
	}
	return s.append(a, w, idempotencyKey)
}

// identify derives the codes and the context of an acceptance.
func (s *Service) identify(a *Acceptance, w *scratch, m *merchant.Merchant, key string, trace []byte) {
	r := &w.request
	w.canonical = r.canonical(w.canonical[:0])
	w.print = ids.FingerprintOf(w.canonical)
	s.d.Secret.PutTrade(&w.x, traffic.Real, m.ID, r.OrderID)
	s.d.Secret.PutIntent(&w.y, &w.x, m.ID, r.OrderID, traffic.Deposit, key, &w.print)
	orderType, orderScene := or(r.OrderType, defaultOrderType), or(r.OrderScene, defaultOrderScene)
	// The view keeps these, so that they are a string of their own, and one alone.
	t := append(append(append(w.text[:0], ids.VoucherID...), w.y[:]...), w.x[:]...)
	if len(trace) == 0 {
		t = s.appendTraceID(t)
	} else {
		t = append(t, trace...)
	}
	t = append(append(t, orderType...), orderScene...)
	w.text = t
	text := string(t)
	cut := func(n int) (part string) {
		part, text = text[:n], text[n:]
		return part
	}
	a.voucher = cut(len(ids.VoucherID) + ids.CodeLen)
	a.Y = ids.Code(a.voucher[len(ids.VoucherID):])
	x := ids.Code(cut(ids.CodeLen))
	orderScene = text[len(text)-len(orderScene):]
	orderType = text[len(text)-len(orderScene)-len(orderType) : len(text)-len(orderScene)]
	a.Context = ids.Context{BizCode: x, Merchant: m.ID, OrderType: orderType, OrderScene: orderScene,
		TraceID: text[:len(text)-len(orderScene)-len(orderType)], Form: traffic.Deposit, Traffic: traffic.Real}
	a.key, w.hintKey = s.recent.keyOf(&w.x, traffic.Deposit, key), naturalKey(&w.x, traffic.Deposit, key)
}

func (s *Service) appendTraceID(dst []byte) []byte {
	var id [ids.TraceIDLen / 2]byte
	if _, err := io.ReadFull(s.d.Random, id[:]); err != nil {
		panic("gateway: no randomness: " + err.Error()) // nothing can be identified without it
	}
	return hex.AppendEncode(dst, id[:])
}

// append hands the intent over. The intake copies the event before Append
// returns, so that w may be used again.
func (s *Service) append(a *Acceptance, w *scratch, key string) (err error) {
	at := a.atWork.UnixMilli()
	w.intent = event.Intent{Y: a.Y, IdempotencyKey: key, Canonical: w.canonical, AcceptedAtMillis: at, ExpiresAtMillis: a.ExpiresAtMillis}
	w.payload = appendIntent(w.payload[:0], &w.intent)
	w.event = bus.Event{ID: a.voucher, Type: event.TypeIntent, Version: bus.EnvelopeVersion, Context: a.Context, AtMillis: at, Payload: w.payload}
	if a.ticket, err = s.d.Intake.Append(bus.Intents, &w.event); err != nil {
		return notAccepted(err)
	}
	if s.hints.tell != nil {
		s.hints.toTell.put(w.y, undecided{w.hintKey, w.print})
	}
	a.hold = s.d.Views.Hold(a.Context, a.Y)
	return nil
}

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// repeated answers from memory what is known for certain: a repeat whose first
// was committed here, or a conflict with it, or with a payment that core opened for
// another gateway. What core rejected as a conflict was not the first after all
// (another gateway's was): core decides again.
func (s *Service) repeated(a *Acceptance, w *scratch, key string) (known bool, err error) {
	first := s.recent.get(a.key)
	if first == a.Y {
		s.metrics.repeated.Inc()
		return true, nil
	}
	if other := s.opened(w, a.Context.Merchant, key); other != "" {
		first = other
		s.metrics.hinted.Inc()
	} else if first != "" && !s.isFirst(first) {
		first = ""
	}
	if first == "" || first == a.Y {
		return false, nil
	}
	s.metrics.conflicts.Inc()
	return false, &fault.Error{Kind: fault.Conflict, Op: "accept", Code: "idempotency_conflict", Field: "Idempotency-Key",
		Err: errors.New("this key of the order was accepted with another body: " + ids.VoucherID.With(first))}
}

// isFirst reports whether what was committed here is certain to be the first of its
// key: of one gateway alone, unless core has rejected it; beside others, once core
// has opened it.
func (s *Service) isFirst(y ids.Code) bool {
	v, held := s.d.Views.Peek(y)
	if held && v.Status == voucher.Rejected {
		return false
	}
	return !s.d.Others || held && v.Version > 0
}

// notAccepted keeps the kind of what the intake said, under the API's own code.
func notAccepted(err error) error {
	code := "not_accepted"
	kind := fault.KindOf(err)
	switch kind {
	case fault.TooLarge:
		code = "body_too_large"
	case fault.Unknown:
		code = "acceptance_unknown"
	default:
		kind = fault.Unavailable // Append promises: certainly not kept
	}
	return &fault.Error{Kind: kind, Op: "accept", Code: code, Err: err}
}

// Finish tells an acceptance's fate once Done is closed: nil for durably
// accepted, fault.Unavailable for certainly not, fault.Unknown when nobody can say.
func (s *Service) Finish(a *Acceptance) error {
	if a.ticket != nil {
		if err := a.ticket.Err(); err != nil {
			if !fault.Is(err, fault.Unavailable) {
				// Only "unavailable" is proof that nothing was kept.
				return &fault.Error{Kind: fault.Unknown, Op: "accept", Code: "acceptance_unknown", Err: err}
			}
			return notAccepted(err)
		}
		s.d.Points.At("gateway.committed_not_answered")
		s.recent.put(a.key, a.Y)
		s.metrics.accepted.Inc()
		s.metrics.acceptSeconds.Update(s.d.Now().Sub(a.atWork).Seconds())
	}
	s.d.Views.Confirm(a.Y, a.hold)
	return nil
}

// Abandon gives an acceptance up that takes too long. True: it is certainly not
// kept. False: too late, its fate is on its way.
func (s *Service) Abandon(a *Acceptance) bool { return a.ticket != nil && a.ticket.Withdraw() }

// Wait waits for an acceptance's fate within the configured times, and finishes
// it. fault.Unavailable, with the intent withdrawn, or fault.Unknown after that.
func (s *Service) Wait(a *Acceptance) error {
	select {
	case <-a.Done():
		return s.Finish(a)
	default:
	}
	select {
	case <-a.Done():
		return s.Finish(a)
	case <-s.patience.channel():
	}
	if s.Abandon(a) {
		s.metrics.withdrawn.Inc()
		return &fault.Error{Kind: fault.Unavailable, Op: "accept", Code: "not_accepted", Err: errors.New("withdrawn: not committed in time")}
	}
	t := time.NewTimer(s.d.Config.AcceptDeadline - s.d.Config.AcceptTimeout)
	defer t.Stop()
	select {
	case <-a.Done():
		return s.Finish(a)
	case <-t.C:
		s.metrics.unknown.Inc()
		return &fault.Error{Kind: fault.Unknown, Op: "accept", Code: "acceptance_unknown", Err: errors.New("being committed, for too long")}
	}
}
