package core

import (
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	prepay "github.com/tallystick/tallystick/prepay/event"
)

// ErrNoPayment parks a message about a payment order that is not there yet: its
// intent may still be on the way. It is replayed when the order appears.
var ErrNoPayment = errors.New("waits for its payment order")

// find gives the order and attempt that an out_trade_no names.
func (r *rules) find(outTradeNo string) (*Trade, *Payment, *Attempt, error) {
	y, n, err := ids.ParseOutTradeNo(outTradeNo)
	if err != nil {
		return nil, nil, nil, err
	}
	t, p := r.work.payment(y)
	if p == nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", outTradeNo, ErrNoPayment)
	}
	a := p.attempt(n)
	if a == nil {
		return nil, nil, nil, fmt.Errorf("payment order %s has no attempt %d", p.Y, n)
	}
	return t, p, a, nil
}

// applyOutcome settles what one of our own calls came to.
func (r *rules) applyOutcome(m *bus.Message) error {
	o, err := prepay.Decode(m.Payload)
	if err != nil {
		return err
	}
	t, p, a, err := r.find(o.OutTradeNo)
	if err != nil {
		return err
	}
	if o.Account != a.Account {
		return fmt.Errorf("outcome of %s is from account %s, the attempt is on %s", o.OutTradeNo, o.Account, a.Account)
	}
	clean := o.Outcome.Storable() // also what an older build has told
	out := &clean
	switch out.Result {
	case channels.Done:
		if out.State == channels.StatePaid {
			return r.settle(t, p, a, success{out.TransactionID, out.Paid})
		}
		return r.learn(t, p, a, out.State, out.Credential, out.Code)
	case channels.Declined:
		if o.Op != string(event.OpPay) {
			return nil // the question was refused, not the payment
		}
		return r.learn(t, p, a, channels.StateDeclined, channels.Credential{}, out.Code)
	case channels.NotSent:
		return r.notSent(t, p, a, o.Op, out.Code)
	case channels.Unknown:
		return r.unknown(p, a, o.Op, out.Code)
	}
	return fmt.Errorf("outcome of %s: no result %q", o.OutTradeNo, out.Result)
}

func (r *rules) notSent(t *Trade, p *Payment, a *Attempt, op, code string) error {
	if op != string(event.OpPay) || a.Status != event.Dispatched {
		return nil
	}
	if err := r.attemptTo(p, a, AttemptNotSent, code); err != nil || !p.Open() {
		return err
	}
	if t.Status == TradePaid {
		// The order was paid meanwhile: nobody is to be asked for it again.
		if err := r.paymentTo(p, event.Closed, ReasonOrderPaid); err != nil {
			return err
		}
	} else if err := r.reroute(p, code); err != nil {
		return err
	}
	r.changed(p, -1)
	return nil
}

// unknown is never failure: the order says so, and prepay asks until it knows.
func (r *rules) unknown(p *Payment, a *Attempt, op, code string) error {
	if op != string(event.OpPay) || !p.Open() || a.Status != event.Dispatched {
		return nil
	}
	if err := r.attemptTo(p, a, event.Unknown, code); err != nil {
		return err
	}
	if err := r.paymentTo(p, event.Unknown, code); err != nil {
		return err
	}
	r.changed(p, -1)
	return nil
}

// callback is what core reads of event.CallbackReceived: what the PSP said, not
// how it said it.
type callback struct {
	Channel string                 `json:"channel"`
	Account string                 `json:"account"`
	Event   channels.CallbackEvent `json:"event"`
}

// readCallback decodes a callback, once for each message of a batch: what it
// gives is kept with the message, for whoever applies it.
func readCallback(m *bus.Message) (*callback, error) {
	if c, ok := m.Value.(*callback); ok {
		return c, nil
	}
	c := &callback{}
	if err := event.Decode(m.Payload, c); err != nil {
		return nil, err
	}
	c.Event = c.Event.Storable() // also what an older build has kept
	m.Value = c
	return c, nil
}

// applyCallback settles what a PSP told us. It may be late, repeated, reordered
// or earlier than the reply to our own call: all converge.
func (r *rules) applyCallback(m *bus.Message) error {
	c, err := readCallback(m)
	if err != nil {
		return err
	}
	t, p, a, err := r.find(c.Event.OutTradeNo)
	if err != nil {
		return err
	}
	if c.Account != a.Account || c.Channel != a.Channel {
		// Properly signed, but by an account that this attempt is not on: it proves
		// nothing. The account that knows is asked instead.
		r.dispatch(p, a, event.OpQuery, 0)
		return nil
	}
	open := p.Open()
	if c.Event.State == channels.StatePaid {
		err = r.settle(t, p, a, success{c.Event.TransactionID, c.Event.Paid})
	} else {
		err = r.learn(t, p, a, c.Event.State, channels.Credential{}, c.Event.Code)
	}
	if err == nil && open && !p.Open() {
		r.dispatch(p, a, event.OpStop, 0) // prepay need not ask any more
	}
	return err
}

// applyTimer does what is due for an open payment order: what has expired is
// closed at the channel first, and only then here.
func (r *rules) applyTimer(t *Trade) error {
	for _, p := range t.Payments {
		if !p.Open() || p.NextAtMillis == 0 || p.NextAtMillis > r.now {
			continue
		}
		r.closeAttempts(p)
		p.NextAction, p.NextAtMillis = ActionCloseAgain, r.now+r.cfg.CloseAgainMillis
		r.changed(p, -1)
	}
	return nil
}
