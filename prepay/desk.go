package prepay

import (
	"context"

	"github.com/tallystick/tallystick/internal/fault"
	prepayevent "github.com/tallystick/tallystick/prepay/event"
)

// StepSweep looks, every SweepMillis, after what no lane sees to: calls that
// expired while their lane had no slot for them, calls that grew old, those that
// nobody needs any more, and the figures. Each is bounded by SweepMax; worked is true while there is more.
func (p *Prepay) StepSweep(ctx context.Context) (worked bool, err error) {
	now := p.nowMillis()
	p.mu.Lock()
	sweepAt := p.sweepAt
	p.mu.Unlock()
	if now < sweepAt {
		return false, nil
	}
	expired, err := p.sweepExpired(ctx, now)
	if err != nil {
		return false, fault.Wrap("prepay: sweep expired", err)
	}
	old, err := p.sweepOld(ctx, now)
	if err != nil {
		return false, fault.Wrap("prepay: sweep old", err)
	}
	more, err := p.clean(ctx, now)
	if err != nil {
		return false, fault.Wrap("prepay: clean", err)
	}
	if expired == p.Config.SweepMax || old == p.Config.SweepMax || more {
		return true, nil
	}
	p.mu.Lock()
	p.sweepAt = now + p.Config.SweepMillis
	p.mu.Unlock()
	return expired+old > 0, p.figures(ctx, now)
}

func (p *Prepay) sweepExpired(ctx context.Context, now int64) (n int, err error) {
	err = p.Store.Update(ctx, Pick{Expired: true, NowMillis: now, Limit: p.Config.SweepMax}, func(picked Picked) (Change, error) {
		ch := Change{Update: picked.Calls}
		for i := range ch.Update {
			ch.Events = append(ch.Events, p.expire(&ch.Update[i], now))
		}
		n = len(ch.Update)
		return ch, nil
	})
	return n, err
}

// sweepOld puts calls on the desk, once each. They are asked after as before.
func (p *Prepay) sweepOld(ctx context.Context, now int64) (n int, err error) {
	var old []Call
	pick := Pick{OldOpen: true, BeforeMillis: now - p.Config.DeskMillis, Limit: p.Config.SweepMax}
	err = p.Store.Update(ctx, pick, func(picked Picked) (Change, error) {
		old = picked.Calls
		for i := range old {
			old[i].DeskAtMillis = now
		}
		return Change{Update: old}, nil
	})
	if err != nil {
		return 0, err
	}
	for i := range old {
		c := &old[i]
		p.Metrics.GetOrCreateCounter("tallystick_prepay_desk_total").Inc()
		p.Log.Warn("call is on the desk: no final answer yet", append([]any{"out_trade_no", c.OutTradeNo, "account", c.Account,
			"standing", string(c.Standing), "op", string(c.Op), "next_at_millis", c.NextAtMillis,
			"age_millis", now - c.CreatedAtMillis}, c.Context.LogAttrs()...)...)
	}
	return len(old), nil
}

// cleanAgainMillis is how often all old calls are looked at for cleaning, and not
// only those that have grown old since.
const cleanAgainMillis = 24 * 3_600_000

// clean deletes calls that were final long ago; more is true if there may be others.
func (p *Prepay) clean(ctx context.Context, now int64) (more bool, err error) {
	p.mu.Lock()
	if now >= p.cleanAt {
		p.cleaned, p.cleanAt = 0, now+cleanAgainMillis
	}
	after := p.cleaned
	p.mu.Unlock()
	did, err := p.Store.Clean(ctx, Old{BeforeMillis: now - p.Config.KeepMillis, NowMillis: now, After: after, Limit: p.Config.SweepMax})
	if err != nil {
		return false, err
	}
	p.Metrics.GetOrCreateCounter("tallystick_prepay_calls_cleaned_total").Add(did.Rows)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleaned = did.Last
	return did.More, nil
}

// AskNow makes the next question about a number due at once, for operators and
// recon. It fails with fault.NotFound for an unknown number, and with
// fault.Conflict when there is nothing to ask: its fate is known, core stopped
// it, or it was never sent. A second call changes nothing.
func (p *Prepay) AskNow(ctx context.Context, outTradeNo string) error {
	err := p.Store.Update(ctx, Pick{Numbers: []string{outTradeNo}}, func(picked Picked) (Change, error) {
		if len(picked.Calls) == 0 {
			return Change{}, &fault.Error{Kind: fault.NotFound, Code: "number_unknown", Field: "out_trade_no"}
		}
		c := &picked.Calls[0]
		if !askNow(c, p.nowMillis()) {
			return Change{}, &fault.Error{Kind: fault.Conflict, Code: "nothing_to_ask", Field: "out_trade_no",
				Fix: "the call is " + string(c.Status) + " and its standing " + string(c.Standing)}
		}
		p.expect(picked.Calls)
		return Change{Update: picked.Calls}, nil
	})
	if err != nil {
		return fault.Wrap("prepay: ask now", err)
	}
	wake(p.wakeLanes)
	return nil
}

// Find shows the calls of one number; fault.NotFound if there are none.
func (p *Prepay) Find(ctx context.Context, outTradeNo string) (prepayevent.Call, error) {
	c, ok, err := p.Store.Find(ctx, outTradeNo)
	if err == nil && !ok {
		err = &fault.Error{Kind: fault.NotFound, Code: "number_unknown", Field: "out_trade_no"}
	}
	if err != nil {
		return prepayevent.Call{}, fault.Wrap("prepay: find", err)
	}
	return c.view(p.nowMillis()), nil
}

// List shows open calls, oldest first, with their age and next action: at most
// limit, which is cut to ListMax, behind the cursor. next is the cursor of the
// following page, 0 when there is none; the first page's is 0.
func (p *Prepay) List(ctx context.Context, f Filter, cursor int64, limit int) (page []prepayevent.Call, next int64, err error) {
	limit = max(1, min(limit, p.Config.ListMax))
	calls, err := p.Store.ListOpen(ctx, f, cursor, limit+1)
	if err != nil {
		return nil, 0, fault.Wrap("prepay: list", err)
	}
	if len(calls) > limit {
		calls = calls[:limit]
		next = calls[limit-1].ID
	}
	now := p.nowMillis()
	for i := range calls {
		page = append(page, calls[i].view(now))
	}
	return page, next, nil
}
