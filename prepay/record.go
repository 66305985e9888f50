package prepay

import (
	"context"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	prepayevent "github.com/tallystick/tallystick/prepay/event"
)

// codeBytesMax bounds the PSP's code that is kept in a row.
const codeBytesMax = 64

// StepRecord records answers of all lanes, at most AnswersMax, in one
// transaction, and frees their slots. When that fails it keeps them, and their
// slots, for the next Step.
func (p *Prepay) StepRecord(ctx context.Context) (worked bool, err error) {
	p.mu.Lock()
	batch := p.answers[:min(len(p.answers), p.Config.AnswersMax)]
	p.mu.Unlock()
	if len(batch) == 0 {
		return false, nil
	}
	numbers := make([]string, len(batch))
	for i := range batch {
		numbers[i] = batch[i].call.OutTradeNo
	}
	err = p.Store.Update(ctx, Pick{Numbers: numbers}, func(picked Picked) (Change, error) {
		ch := p.record(batch, picked.Calls)
		p.expect(ch.Update)
		return ch, nil
	})
	if err != nil {
		return false, fault.Wrap("prepay: record", err)
	}
	p.release(batch)
	wake(p.wakeLanes)
	return true, nil
}

// release forgets recorded answers, which are the first of the queue, and frees
// their slots.
func (p *Prepay) release(batch []answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range batch {
		p.lanes[batch[i].call.Account].free(&batch[i].call)
	}
	rest := p.answers[len(batch):]
	if len(rest) == 0 {
		rest = nil // let go of what the recorded ones hold
	}
	p.answers = rest
}

// record decides, for each answer, what becomes of its call as it is now: a close
// or stop may have been asked for meanwhile.
func (p *Prepay) record(batch []answer, calls []Call) (ch Change) {
	now := p.nowMillis()
	byNumber := make(map[string]*Call, len(calls))
	for i := range calls {
		byNumber[calls[i].OutTradeNo] = &calls[i]
	}
	ch.Update, ch.Events = make([]Call, 0, len(batch)), make([]bus.Event, 0, len(batch))
	for i := range batch {
		a := &batch[i]
		c := byNumber[a.call.OutTradeNo]
		if c == nil || c.Status != Sending || c.Tries != a.call.Tries {
			// Another process took the call over, and asks for itself: each draw counts as
			// a try, so that this one is not the try that the row waits for.
			p.Metrics.GetOrCreateCounter("tallystick_prepay_answers_dropped_total").Inc()
			p.Log.Error("answer to a call that is no longer ours is dropped", p.attrs(&a.call, &a.outcome)...)
			continue
		}
		op := c.Op
		tell := p.settle(c, &a.outcome, a.repeatable, now)
		if a.outcome.Result == channels.Unknown {
			p.Log.Info("call ended unknown", append(p.attrs(c, &a.outcome), "op", string(op), "next_op", string(c.Op),
				"next_at_millis", c.NextAtMillis)...)
		}
		if tell {
			ch.Events = append(ch.Events, p.outcome(c, op, a.outcome, now))
		}
		ch.Update = append(ch.Update, *c)
	}
	return ch
}

// settle turns an answer into the call's next state; tell says that core is to
// hear of it.
func (p *Prepay) settle(c *Call, o *channels.Outcome, repeatable bool, nowMillis int64) (tell bool) {
	v := p.Config.Backoff.Decide(c, o, repeatable, nowMillis)
	if v.Standing == Closed && o.Result == channels.NotSent {
		*o = closedUnsent()
	}
	if c.CloseWanted {
		o.Credential = channels.Credential{} // nobody is to pay what core wants closed
	}
	c.LastResult, c.LastState, c.LastCode = o.Result, o.State, channels.TextMax(o.Code, codeBytesMax)
	c.HasCredential = c.HasCredential || o.Credential.Value != ""
	c.Standing, c.Asks, c.AskWanted, c.Owner = v.Standing, v.Asks, false, ""
	switch {
	case c.StopWanted && !v.Standing.Final():
		c.Status, c.NextAtMillis = Stopped, 0
	case v.Status == Due:
		c.due(v.Op, nowMillis+p.jitter(v.WaitMillis))
	default:
		c.Status, c.NextAtMillis = v.Status, 0
	}
	return v.Tell
}

// interrupted takes up a call that an earlier process left in sending.
func (p *Prepay) interrupted(c *Call) (e bus.Event, tell bool) {
	now := p.nowMillis()
	op := c.Op
	o := channels.Outcome{Result: channels.Unknown, Code: codeInterrupted}
	c.AskWanted = true
	asks := c.Asks
	tell = p.settle(c, &o, false, now)
	c.Asks = min(c.Asks, asks) // a restart of ours is no reason to ask the PSP less often
	if c.Status == Due {
		c.Op = event.OpQuery // first of all, whatever core wants
	}
	p.Log.Warn("call found in sending", append(p.attrs(c, &o), "op", string(op))...)
	if tell {
		e = p.outcome(c, op, o, now)
	}
	return e, tell
}

// jitter takes up to an eighth off a wait, so that calls which failed together do
// not come back together.
func (p *Prepay) jitter(waitMillis int64) int64 {
	if waitMillis < 8 {
		return waitMillis
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return waitMillis - p.Rand.Int64N(waitMillis/8+1)
}

// outcome is the event that tells core what a call came to.
func (p *Prepay) outcome(c *Call, op event.Op, o channels.Outcome, nowMillis int64) bus.Event {
	e := prepayevent.Outcome{OutTradeNo: c.OutTradeNo, Account: c.Account, Op: string(op), Try: c.Tries, Outcome: o, AtMillis: nowMillis}
	if c.Status == Due {
		e.NextAtMillis = c.NextAtMillis
	}
	return bus.Event{ID: p.IDs.New(ids.EventID), Type: prepayevent.TypeOutcome, Version: bus.EnvelopeVersion, Context: c.Context,
		AtMillis: nowMillis, Payload: e.Encode()}
}

// attrs are a call and its answer for the log, without the credential and the raw
// reply, which are the payer's.
func (p *Prepay) attrs(c *Call, o *channels.Outcome) []any {
	return append([]any{"out_trade_no", c.OutTradeNo, "account", c.Account, "try", c.Tries, "result", string(o.Result),
		"state", string(o.State), "code", o.Code}, c.Context.LogAttrs()...)
}
