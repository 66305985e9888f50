package sim

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/money"
)

// Key names a payment: numbers of different accounts have nothing to do with
// each other.
type Key struct{ Account, OutTradeNo string }

func (k Key) compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Account, o.Account), cmp.Compare(k.OutTradeNo, o.OutTradeNo))
}

// Record is what the PSP knows of a payment, for audits.
type Record struct {
	Key
	Body          wire.Pay // what was asked for
	State         channels.State
	Reason        string
	Taken         money.Amount // what the payer paid: the zero Amount before
	TransactionID string
	Requests      Requests
}

// Requests counts the genuine requests that came for a number, whatever became of
// them. A Desk counts, a State alone doesn't.
type Requests struct{ Pay, Query, Close int }

// Notice is a callback that is due to the merchant.
type Notice struct {
	Key
	URL   string
	Event wire.Event
}

// State is the payments and the rules of the PSP. It is not safe for concurrent
// use. Every method is told the time, and none can fail: what goes wrong is said
// in the reply, with its HTTP status.
type State struct {
	seed      uint64
	publicURL string
	max       int
	payments  map[Key]*payment
}

type payment struct {
	body          wire.Pay
	state         channels.State
	reason        string
	taken         money.Amount
	transactionID string
}

// NewState makes an empty one. publicURL is where payers find the PSP. More than
// paymentsMax payments are refused: none is ever forgotten, as a forgotten one
// could be paid twice.
func NewState(seed uint64, publicURL string, paymentsMax int) *State {
	return &State{seed: seed, publicURL: publicURL, max: paymentsMax, payments: map[Key]*payment{}}
}

// Pay expects a payment. The same body again has no further effect and is told
// the state of now; another body under the number is refused. What is past its
// expiry is declined, and a number that was declined or closed stays so.
func (s *State) Pay(account string, r wire.Pay, now time.Time) (int, wire.Reply) {
	if err := r.Validate(); err != nil {
		return 400, wire.Reply{Code: wire.CodeInvalid, Message: err.Error()}
	}
	k := Key{account, r.OutTradeNo}
	p := s.payments[k]
	if p == nil {
		if len(s.payments) >= s.max {
			return 503, wire.Reply{Code: wire.CodeFull, Message: "start a new simulator, or raise its bound"}
		}
		p = &payment{body: r, state: channels.StatePending}
		if !s.live(p, now) {
			p.state, p.reason = channels.StateDeclined, wire.ReasonExpired
		}
		s.payments[k] = p
	}
	if p.body != r {
		return 409, wire.Reply{Code: wire.CodeConflict, Message: "the number exists with another body"}
	}
	s.expire(p, now)
	return 200, s.reply(k, p)
}

// Query tells what became of a number; StateNotFound is an answer like others.
func (s *State) Query(account, outTradeNo string, now time.Time) (int, wire.Reply) {
	k := Key{account, outTradeNo}
	p := s.payments[k]
	if p == nil {
		return 200, notFound(outTradeNo)
	}
	s.expire(p, now)
	return 200, s.reply(k, p)
}

// Close makes a pending payment unpayable. Any other is left as it is, and told.
// A number that isn't known is not remembered: a Pay that is still under way may
// yet create it.
func (s *State) Close(account, outTradeNo string, now time.Time) (int, wire.Reply) {
	k := Key{account, outTradeNo}
	p := s.payments[k]
	if p == nil {
		return 200, notFound(outTradeNo)
	}
	s.expire(p, now)
	if p.state == channels.StatePending {
		p.state, p.reason = channels.StateClosed, wire.ReasonClosed
	}
	return 200, s.reply(k, p)
}

// Decline is the PSP's own refusal of a pending payment, at once or when the
// payer tries. It gives the notice of it, and whether there was anything to decline.
func (s *State) Decline(k Key, reason string, now time.Time) (Notice, bool) {
	p := s.payments[k]
	if p == nil {
		return Notice{}, false
	}
	s.expire(p, now)
	if p.state != channels.StatePending {
		return Notice{}, false
	}
	p.state, p.reason = channels.StateDeclined, reason
	return s.notice(k, p, now), true
}

// UserPays takes the payer's money, once: amount, or what was asked for if it is
// the zero Amount. It gives the notice of it; false if the payment isn't pending.
func (s *State) UserPays(k Key, amount money.Amount, now time.Time) (Notice, bool) {
	p := s.payments[k]
	if p == nil {
		return Notice{}, false
	}
	s.expire(p, now)
	if p.state != channels.StatePending {
		return Notice{}, false
	}
	if amount == (money.Amount{}) {
		amount = p.body.Amount
	}
	if amount.Minor < 1 || amount.Currency.Validate() != nil {
		return Notice{}, false
	}
	p.state, p.taken, p.transactionID = channels.StatePaid, amount, "sbx"+s.id("transaction", k)
	return s.notice(k, p, now), true
}

// Find gives the record of a payment.
func (s *State) Find(k Key) (Record, bool) {
	p := s.payments[k]
	if p == nil {
		return Record{}, false
	}
	return record(k, p), true
}

// Payments gives all records, in the order of account and number.
func (s *State) Payments() []Record {
	all := make([]Record, 0, len(s.payments))
	for k, p := range s.payments {
		all = append(all, record(k, p))
	}
	slices.SortFunc(all, func(a, b Record) int { return a.compare(b.Key) })
	return all
}

func record(k Key, p *payment) Record {
	return Record{Key: k, Body: p.body, State: p.state, Reason: p.reason, Taken: p.taken,
		TransactionID: p.transactionID}
}

func (s *State) live(p *payment, now time.Time) bool { return now.UnixMilli() < p.body.ExpiresAtMillis }

// expire closes what nobody paid in time, before anything else looks at it.
func (s *State) expire(p *payment, now time.Time) {
	if p.state == channels.StatePending && !s.live(p, now) {
		p.state, p.reason = channels.StateClosed, wire.ReasonExpired
	}
}

func (s *State) reply(k Key, p *payment) wire.Reply {
	r := wire.Reply{
		Code: wire.CodeOK, OutTradeNo: k.OutTradeNo, State: p.state, Reason: p.reason, Amount: p.body.Amount,
		TransactionID: p.transactionID, Paid: p.taken, Attach: p.body.Attach,
	}
	if p.state == channels.StatePending {
		r.Credential = channels.Credential{Method: p.body.Method, Value: s.publicURL + "/pay/" + k.Account + "/" + k.OutTradeNo}
	}
	return r
}

// tell is the answer to a Pay that has been taken.
func (s *State) tell(k Key) (int, wire.Reply) { return 200, s.reply(k, s.payments[k]) }

func notFound(outTradeNo string) wire.Reply {
	return wire.Reply{Code: wire.CodeOK, OutTradeNo: outTradeNo, State: channels.StateNotFound}
}

func (s *State) notice(k Key, p *payment, now time.Time) Notice {
	return Notice{Key: k, URL: p.body.NotifyURL, Event: wire.Event{
		EventID: "sbe" + s.id("event "+string(p.state), k), OutTradeNo: k.OutTradeNo, State: p.state, Reason: p.reason,
		TransactionID: p.transactionID, Paid: p.taken, OccurredAtMillis: now.UnixMilli(), Attach: p.body.Attach,
	}}
}

// id is a number of the PSP's: the same seed gives the same.
func (s *State) id(purpose string, k Key) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d|%s|%s|%s", s.seed, purpose, k.Account, k.OutTradeNo))
	return hex.EncodeToString(sum[:12])
}
