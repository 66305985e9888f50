package prepay

import (
	"context"
	"slices"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
)

// StepLanes draws due calls for every lane that has free slots, commits them as
// sending in one transaction, and hands them to the executor. It recovers first
// if nobody has.
func (p *Prepay) StepLanes(ctx context.Context) (worked bool, err error) {
	if err := p.Recover(ctx); err != nil {
		return false, err
	}
	now := p.nowMillis()
	due, ready := p.free(now)
	if len(due) == 0 {
		return false, nil
	}
	var sending []Call
	err = p.Store.Update(ctx, Pick{Due: due, NowMillis: now}, func(picked Picked) (Change, error) {
		var ch Change
		sending, ch = p.draw(picked.Calls, ready, now)
		p.looked(due, picked, now)
		worked = !ch.empty()
		return ch, nil
	})
	if err != nil {
		p.lookAgain(due)
		return false, fault.Wrap("prepay: draw", err)
	}
	p.take(sending)
	for i := range sending {
		c := &sending[i]
		p.Executor.Go(func() { p.call(ctx, ready[c.Account], c) })
	}
	return worked, nil
}

// free gives the lanes, by account, that have free slots and may have calls due,
// with their channels.
func (p *Prepay) free(nowMillis int64) (due []DueOf, ready map[string]*channels.Channel) {
	accounts := p.Channels.Accounts()
	p.mu.Lock()
	defer p.mu.Unlock()
	ready = map[string]*channels.Channel{}
	for _, a := range accounts {
		l := p.lane(a)
		if l == nil {
			p.Metrics.GetOrCreateCounter("tallystick_prepay_lanes_refused_total").Inc()
			continue
		}
		n := p.slots(a) - l.inFlight
		if n <= 0 || l.lookAtMillis > nowMillis {
			continue
		}
		if channel, ok := p.Channels.Channel(a); ok {
			ready[a] = channel
			due = append(due, DueOf{Account: a, Limit: n})
		}
	}
	if len(p.lanes) > len(accounts) { // an account has gone
		for a, l := range p.lanes {
			if _, here := slices.BinarySearch(accounts, a); !here && l.inFlight == 0 {
				l.metrics.clear() // its calls count as tallystick_prepay_calls_without_lane from now on
				delete(p.lanes, a)
			}
		}
	}
	return due, ready
}

func (p *Prepay) slots(account string) int {
	return min(p.Channels.Limits(account).ConcurrentMax, p.Config.SlotsMax)
}

// draw makes calls sending, all but those that have expired unsent.
func (p *Prepay) draw(calls []Call, ready map[string]*channels.Channel, nowMillis int64) (sending []Call, ch Change) {
	ch.Update = calls
	for i := range calls {
		c := &calls[i]
		if c.unsendable(nowMillis) {
			ch.Events = append(ch.Events, p.expire(c, nowMillis))
			continue
		}
		if c.NotifyURL == "" {
			c.NotifyURL = p.NotifyURL(ready[c.Account].Name, c.Account)
		}
		c.Status, c.Owner, c.SentAtMillis = Sending, p.owner, nowMillis
		c.NextAtMillis, c.AskWanted = 0, false
		c.Tries++
		sending = append(sending, *c)
	}
	return sending, ch
}

// looked notes when each lane has to look again.
func (p *Prepay) looked(due []DueOf, picked Picked, nowMillis int64) {
	count := map[string]int{}
	for i := range picked.Calls {
		count[picked.Calls[i].Account]++
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drawnFull = false
	for i, d := range due {
		l := p.lanes[d.Account]
		l.lookAtMillis = nowMillis + p.Config.LookMillis
		if next := picked.NextAtMillis[i]; next > 0 {
			l.lookAtMillis = min(l.lookAtMillis, next)
		}
		if count[d.Account] == d.Limit {
			l.lookAtMillis = nowMillis // there may be more
			p.drawnFull = true
		}
	}
}

func (p *Prepay) lookAgain(due []DueOf) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range due {
		p.lanes[d.Account].lookAtMillis = 0
	}
}

func (p *Prepay) take(sending []Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range sending {
		c := &sending[i]
		l := p.lanes[c.Account]
		l.inFlight++
		l.started[c.OutTradeNo] = c.SentAtMillis
		l.metrics.inFlight.Set(float64(l.inFlight))
	}
}

// answer is what one call came to.
type answer struct {
	call       Call // as it was drawn
	outcome    channels.Outcome
	repeatable bool
}

// call asks the PSP, within the account's deadline, and queues the answer for
// the recorder. The call is committed as sending. It outlives ctx: when the
// process is asked to stop, running calls end by themselves or by their deadline.
func (p *Prepay) call(ctx context.Context, channel *channels.Channel, c *Call) {
	p.Points.At("prepay.sending_not_called")
	start := p.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.Channels.Limits(c.Account).Deadline())
	defer cancel()
	a := answer{call: *c, repeatable: channel.Features.PayRepeatable}
	switch c.Op {
	case event.OpPay:
		a.outcome = channel.Pay.Prepay(ctx, c.payRequest())
	case event.OpClose:
		a.outcome = channel.Pay.Close(ctx, channels.QueryRequest{OutTradeNo: c.OutTradeNo})
	default:
		a.outcome = channel.Pay.Query(ctx, channels.QueryRequest{OutTradeNo: c.OutTradeNo})
	}
	a.outcome = sensible(c.Op, a.outcome).Storable()
	p.Points.At("prepay.called_not_recorded")
	seconds := p.Now().Sub(start).Seconds()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lanes[c.Account].metrics.called(c.Op, a.outcome.Result, seconds)
	p.answers = append(p.answers, a)
	wake(p.wakeRecord)
}
