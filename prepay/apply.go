package prepay

import (
	"context"
	"fmt"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// Apply stores what core asks for, and moves the batch's places in the same
// transaction. A new call that nothing is due before is stored as sending and made
// after the commit. A dispatch that says nothing new changes nothing. A message that
// can never be applied is a *bus.PoisonError.
func (p *Prepay) Apply(ctx context.Context, b *bus.Batch) error {
	dispatches := make([]*event.Dispatch, len(b.Messages))
	seen := map[string]bool{}
	var numbers, fresh []string
	err := b.Live(func(i int, m *bus.Message) error {
		d, err := decode(m)
		if err != nil {
			return &bus.PoisonError{Index: i, Err: err}
		}
		dispatches[i] = d
		if !seen[d.OutTradeNo] {
			seen[d.OutTradeNo] = true
			numbers = append(numbers, d.OutTradeNo)
			if d.Op == event.OpPay { // nearly always the first that is heard of it
				fresh = append(fresh, d.OutTradeNo)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var sending []Call
	var ready map[string]*channels.Channel
	err = p.Store.Update(ctx, Pick{Numbers: numbers, New: fresh}, func(picked Picked) (Change, error) {
		p.notSent(sending) // when all this was tried before
		sending = nil
		a := newApplication(p, picked.Calls)
		err := b.Live(func(i int, m *bus.Message) error {
			if err := a.apply(m, dispatches[i]); err != nil {
				return &bus.PoisonError{Index: i, Err: err}
			}
			return nil
		})
		if err != nil {
			return Change{}, err
		}
		ch := a.change()
		ch.Batch = b
		sending, ready = p.sendAtOnce(ch.Insert, a.now)
		p.expect(ch.Insert)
		p.expect(ch.Update)
		return ch, nil
	})
	if err != nil {
		p.notSent(sending)
		return fault.Wrap("prepay: apply", err)
	}
	p.execute(ctx, sending, ready)
	wake(p.wakeLanes)
	return nil
}

func decode(m *bus.Message) (*event.Dispatch, error) {
	if m.Type != event.TypeDispatch {
		return nil, fmt.Errorf("type %q on topic %s is not known to this build", m.Type, m.Topic)
	}
	d, err := event.ReadDispatch(m.Payload, m.Value)
	if err != nil {
		return nil, err
	}
	y, _, err := ids.ParseOutTradeNo(d.OutTradeNo)
	switch {
	case err != nil:
		return nil, err
	case y != d.Y || y.Slot() != m.Context.BizCode.Slot() || y.Traffic() != m.Context.Traffic:
		return nil, fmt.Errorf("number %s does not belong to %s of trade %s", d.OutTradeNo, d.Y, m.Context.BizCode)
	}
	switch d.Op {
	case event.OpQuery, event.OpClose, event.OpStop:
		return d, nil
	case event.OpPay:
		if d.Account == "" || d.Amount.Minor <= 0 {
			return nil, fmt.Errorf("pay of %s at account %q", d.Amount, d.Account)
		}
		return d, d.Amount.Currency.Validate()
	}
	return nil, fmt.Errorf("operation %q is not known to this build", d.Op)
}

// application is one batch being applied: calls as they become, in memory.
type application struct {
	p       *Prepay
	now     int64
	calls   map[string]*Call
	touched []string // numbers that changed, in order
	changed map[string]bool
	events  []bus.Event
}

func newApplication(p *Prepay, calls []Call) *application {
	a := &application{p: p, now: p.nowMillis(), calls: make(map[string]*Call, len(calls)), changed: map[string]bool{}}
	for i := range calls {
		a.calls[calls[i].OutTradeNo] = &calls[i]
	}
	return a
}

func (a *application) touch(c *Call) {
	if !a.changed[c.OutTradeNo] {
		a.changed[c.OutTradeNo] = true
		a.touched = append(a.touched, c.OutTradeNo)
	}
}

func (a *application) change() Change {
	ch := Change{Events: a.events}
	inserted := 0
	for _, n := range a.touched {
		if a.calls[n].ID == 0 {
			inserted++
		}
	}
	ch.Insert, ch.Update = make([]Call, 0, inserted), make([]Call, 0, len(a.touched)-inserted)
	for _, n := range a.touched {
		if c := a.calls[n]; c.ID == 0 {
			ch.Insert = append(ch.Insert, *c)
		} else {
			ch.Update = append(ch.Update, *c)
		}
	}
	return ch
}

func (a *application) apply(m *bus.Message, d *event.Dispatch) error {
	c := a.calls[d.OutTradeNo]
	if d.Op == event.OpPay {
		return a.pay(m, d, c)
	}
	if c == nil {
		a.p.orphan(m, d)
		return nil
	}
	switch {
	case d.Op == event.OpStop:
		a.stop(c)
	case d.Op == event.OpClose:
		a.close(c)
	case d.Op == event.OpQuery:
		if askNow(c, a.now) {
			a.touch(c)
		}
	}
	return nil
}

// pay stores a new number as due, or takes up one that certainly was not sent.
// Anything else is a repetition of what is known already.
func (a *application) pay(m *bus.Message, d *event.Dispatch, c *Call) error {
	at := max(a.now, d.NotBeforeMillis)
	if c == nil {
		c = &Call{Context: m.Context, OutTradeNo: d.OutTradeNo, Y: d.Y, Account: d.Account, Amount: d.Amount, Method: d.Method,
			Subject: d.Subject, ReturnURL: d.ReturnURL, ExpiresAtMillis: d.ExpiresAtMillis, Standing: NeverSent, CreatedAtMillis: a.now}
		c.due(event.OpPay, at)
		a.calls[c.OutTradeNo] = c
		a.touch(c)
		return nil
	}
	if c.Account != d.Account || c.Amount != d.Amount || c.Method != d.Method {
		return fmt.Errorf("number %s is %s at account %s already, and was dispatched as %s at %s: a number never changes",
			c.OutTradeNo, c.Amount, c.Account, d.Amount, d.Account)
	}
	if c.Status == Answered && c.Standing == NeverSent {
		c.due(event.OpPay, at)
		a.touch(c)
	}
	return nil
}

// stop ends all polling. A call that is out is still recorded.
func (a *application) stop(c *Call) {
	switch {
	case c.Status == Sending:
		c.StopWanted = true
	case c.Status == Due || c.Status == Answered && !c.Standing.Final():
		c.Status, c.NextAtMillis = Stopped, 0
	default:
		return
	}
	a.touch(c)
}

// close makes a close the next call, once: its repetitions are prepay's business.
// A number that was never sent needs none. It never will be sent, which core is
// told as a close: core wants the number gone, and not another one instead.
func (a *application) close(c *Call) {
	switch {
	case c.CloseWanted || c.Status == Stopped || c.Standing.Final():
		return
	case c.Status == Sending:
		c.AskWanted = true
	case c.Standing == NeverSent:
		c.Status, c.Standing, c.NextAtMillis = Answered, Closed, 0
		o := closedUnsent()
		c.LastResult, c.LastState, c.LastCode = o.Result, o.State, o.Code
		a.events = append(a.events, a.p.outcome(c, event.OpClose, o, a.now))
	default:
		c.Asks = 0
		c.due(event.OpClose, a.now)
	}
	c.CloseWanted = true
	a.touch(c)
}

// Codes of our own in outcomes.
const (
	codeExpired     = "expired"               // NotSent: it was too late for the first call
	codeClosed      = "closed_before_sending" // Done, closed: no call was ever made, and none will be
	codeInterrupted = "interrupted"           // Unknown: the process ended during the call
	codeSenseless   = "answer_senseless"      // Unknown: see sensible
)

func closedUnsent() channels.Outcome {
	return channels.Outcome{Result: channels.Done, State: channels.StateClosed, Code: codeClosed}
}

// expire ends a call that no byte has left of, and gives the event that says so.
func (p *Prepay) expire(c *Call, nowMillis int64) bus.Event {
	c.Status, c.NextAtMillis, c.Owner = Answered, 0, ""
	c.LastResult, c.LastState, c.LastCode = channels.NotSent, channels.StateNone, codeExpired
	return p.outcome(c, event.OpPay, channels.Outcome{Result: channels.NotSent, Code: codeExpired}, nowMillis)
}

// askNow brings the next question about an open call forward; false if there is
// nothing to ask.
func askNow(c *Call, nowMillis int64) bool {
	switch {
	case c.Status == Sending:
		c.AskWanted = true
	case c.Status != Due || c.Standing == NeverSent:
		return false
	default:
		if c.Op == event.OpPay {
			c.Op = event.OpQuery // only a fresh "not found" may repeat a pay
		}
		c.NextAtMillis = min(c.NextAtMillis, nowMillis)
	}
	return true
}

// orphan tells of a dispatch for a number without a row: see the package comment.
func (p *Prepay) orphan(m *bus.Message, d *event.Dispatch) {
	p.Metrics.GetOrCreateCounter("tallystick_prepay_dispatch_orphans_total").Inc()
	p.Log.Error("dispatch for an unknown number is ignored", append([]any{"op", string(d.Op), "out_trade_no", d.OutTradeNo,
		"account", d.Account, "event", m.ID}, m.Context.LogAttrs()...)...)
}
