package prepay

import (
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
)

// Backoff is how long to wait before a number is asked after again.
type Backoff struct {
	// PollFirstMillis is the first wait for a number that is pending: callbacks are
	// the usual way to hear, polls make up for those that are lost.
	PollFirstMillis int64 `yaml:"poll_first_millis"`
	// AskFirstMillis is the first wait for a number whose fate is unknown.
	AskFirstMillis int64 `yaml:"ask_first_millis"`
	// MaxMillis is what both grow to, doubling, and where they stay.
	MaxMillis int64 `yaml:"max_millis"`
}

// wait doubles the first wait once for each ask.
func (b Backoff) wait(first int64, asks int) int64 {
	for range asks {
		if first >= b.MaxMillis/2 {
			return b.MaxMillis
		}
		first *= 2
	}
	return min(first, b.MaxMillis)
}

// Verdict is what an answer makes of a call.
type Verdict struct {
	Status   Status
	Op       event.Op // of the next call, when Due
	Standing Standing
	Asks     int
	// WaitMillis is how long until the next call, before jitter.
	WaitMillis int64
	// Tell: core hears of it. Answers that change nothing are kept to ourselves.
	Tell bool
}

// lesson is what an answer says of the number, whatever was asked.
type lesson uint8

const (
	nothing lesson = iota // the call may or may not have arrived
	notSent
	refused // the call itself was refused: nothing about the number
	pending
	notFound
	paid
	declined
	closed
)

// sensible turns what a driver must not say into what may be built on: an answer
// that makes no sense for the call is no answer, and so is Unknown.
func sensible(op event.Op, o channels.Outcome) channels.Outcome {
	switch o.Result {
	case channels.Declined, channels.NotSent, channels.Unknown:
		return o
	case channels.Done:
		if op == event.OpPay && o.State == channels.StateNone {
			o.State = channels.StatePending
		}
		switch o.State {
		case channels.StatePaid:
			if o.Paid.Minor > 0 && o.Paid.Currency.Validate() == nil {
				return o
			}
		case channels.StatePending, channels.StateDeclined, channels.StateClosed:
			return o
		case channels.StateNotFound:
			if op != event.OpPay {
				return o
			}
		}
	}
	o.Result, o.State, o.Code = channels.Unknown, channels.StateNone, codeSenseless
	return o
}

func learn(op event.Op, o *channels.Outcome) lesson {
	switch o.Result {
	case channels.NotSent:
		return notSent
	case channels.Declined:
		if op == event.OpPay {
			return declined
		}
		return refused // a wrong signature, say: to refuse a question is not to decline the payment
	case channels.Done:
		switch o.State {
		case channels.StatePending:
			return pending
		case channels.StateNotFound:
			return notFound
		case channels.StatePaid:
			return paid
		case channels.StateDeclined:
			return declined
		case channels.StateClosed:
			return closed
		}
	}
	return nothing
}

// Decide says what the answer o to the call c makes of it. repeatable is the
// channel's promise that the same pay may be sent again with one effect.
//
// The answer is a sensible one. It holds promises that money hangs on: nothing but the PSP's definite word or
// a certain NotSent ends a number; a pay follows a pay that may have arrived only
// where that is repeatable and the PSP does not know the number, or, once it is
// pending, in order to fetch a credential that we never got.
func (b Backoff) Decide(c *Call, o *channels.Outcome, repeatable bool, nowMillis int64) Verdict {
	l := learn(c.Op, o)
	if l == declined && c.Op == event.OpPay && c.Standing == Pending && c.LastState != channels.StateNotFound {
		l = refused // the PSP has the payment: what it declined was to be told twice
	}
	switch l {
	case paid:
		return Verdict{Status: Answered, Standing: Paid, Tell: true}
	case declined:
		return Verdict{Status: Answered, Standing: Declined, Tell: true}
	case closed:
		return Verdict{Status: Answered, Standing: Closed, Tell: true}
	case notSent:
		if c.Op == event.OpPay && c.Standing == NeverSent && c.CloseWanted {
			return Verdict{Status: Answered, Standing: Closed, Tell: true} // it never will be sent
		}
		if c.Op == event.OpPay && c.Standing == NeverSent {
			return Verdict{Status: Answered, Standing: NeverSent, Tell: true}
		}
	}
	v := Verdict{Status: Due, Standing: c.Standing, Asks: c.Asks + 1}
	switch {
	case l == pending:
		v.Standing = Pending
	case c.Standing == NeverSent:
		v.Standing = Unknown
	}
	if v.Standing != c.Standing {
		v.Asks = 0
	}
	v.Tell = v.Standing != c.Standing || l == pending && o.Credential.Value != "" && !c.HasCredential
	v.Op = nextOp(c, o, l, repeatable, nowMillis)
	first := b.AskFirstMillis
	if v.Standing == Pending && v.Op == event.OpQuery && !c.CloseWanted {
		first = b.PollFirstMillis
	}
	v.WaitMillis = b.wait(first, v.Asks)
	if l == notFound && v.Op == event.OpPay {
		// An answer that can be acted on. Only silence makes the wait grow, and the
		// payer waits for this one.
		v.Asks, v.WaitMillis = c.Asks, b.wait(b.AskFirstMillis, 0)
	}
	if c.AskWanted {
		v.WaitMillis = 0
	}
	return v
}

// nextOp is the next call for a number whose fate is not known yet.
func nextOp(c *Call, o *channels.Outcome, l lesson, repeatable bool, nowMillis int64) event.Op {
	switch {
	case l == notFound && repeatable && (c.Standing != Pending || c.Op == event.OpClose) && (!c.CloseWanted || c.expired(nowMillis)):
		// Also when it has expired: the PSP then declines it, and that is definite. What
		// core wants closed is not asked for again before that.
		return event.OpPay
	case c.Op == event.OpClose:
		return event.OpQuery
	case c.CloseWanted:
		return event.OpClose
	case l == pending && c.Op == event.OpQuery && !c.HasCredential && o.Credential.Value == "" && repeatable && !c.expired(nowMillis):
		return event.OpPay
	}
	return event.OpQuery
}
