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
	p.drawn(due, sending)
	p.execute(ctx, sending, ready)
	return worked, nil
}

// execute makes calls that are committed as sending.
func (p *Prepay) execute(ctx context.Context, sending []Call, ready map[string]*channels.Channel) {
	for i := range sending {
		c := &sending[i]
		p.Executor.Go(func() { p.call(ctx, ready[c.Account], c) })
	}
}

// sendAtOnce makes those of new calls sending that would be drawn next: nothing is due
// before them, and their lane has a free slot, which they take. They need neither a
// draw nor its transaction. Before the first draw no lane is known.
func (p *Prepay) sendAtOnce(calls []Call, nowMillis int64) (sending []Call, ready map[string]*channels.Channel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil
	}
	ready = map[string]*channels.Channel{}
	for i := range calls {
		c := &calls[i]
		l := p.lanes[c.Account]
		if l == nil || l.started[c.OutTradeNo] > 0 { // it is out, and not new
			continue
		}
		if c.Status != Due || c.NextAtMillis > nowMillis || c.unsendable(nowMillis) ||
			l.drawing || l.lookAtMillis <= nowMillis || l.inFlight >= p.slots(c.Account) {
			continue
		}
		if ready[c.Account] == nil {
			channel, ok := p.Channels.Channel(c.Account)
			if !ok {
				continue
			}
			ready[c.Account] = channel
		}
		p.send(c, ready[c.Account], nowMillis)
		l.take(c)
		sending = append(sending, *c)
	}
	return sending, ready
}

// notSent frees the slots of calls that sendAtOnce took and that were not committed.
func (p *Prepay) notSent(sending []Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range sending {
		p.lanes[sending[i].Account].free(&sending[i])
	}
	if len(sending) > 0 {
		wake(p.wakeLanes)
	}
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
			ready[a], l.drawing = channel, true
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
		p.send(c, ready[c.Account], nowMillis)
		sending = append(sending, *c)
	}
	return sending, ch
}

// send makes a call sending.
func (p *Prepay) send(c *Call, channel *channels.Channel, nowMillis int64) {
	if c.NotifyURL == "" {
		c.NotifyURL = p.NotifyURL(channel.Name, c.Account)
	}
	c.Status, c.Owner, c.SentAtMillis = Sending, p.owner, nowMillis
	c.NextAtMillis, c.AskWanted = 0, false
	c.Tries++
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
		l := p.lanes[d.Account]
		l.lookAtMillis, l.drawing = 0, false
	}
}

// drawn takes the slots of calls that were drawn.
func (p *Prepay) drawn(due []DueOf, sending []Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range sending {
		p.lanes[sending[i].Account].take(&sending[i])
	}
	for _, d := range due {
		p.lanes[d.Account].drawing = false
	}
}

func (l *lane) take(c *Call) {
	l.inFlight++
	l.started[c.OutTradeNo] = c.SentAtMillis
	l.metrics.inFlight.Set(float64(l.inFlight))
}

func (l *lane) free(c *Call) {
	l.inFlight--
	delete(l.started, c.OutTradeNo)
	l.metrics.inFlight.Set(float64(l.inFlight))
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
