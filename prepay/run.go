package prepay

import (
	"context"
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
)

// backoffMax is the longest that a loop waits after an error.
const backoffMax = 2 * time.Second

// Run draws, records and sweeps until ctx ends. Then nothing is drawn any more,
// running calls end within their deadlines and are recorded, and Run returns. It
// fails with fault.Unknown as soon as a commit's fate is unknown, as nothing more may be
// done with what is in memory, and with fault.Unavailable when calls were still out after
// DrainMillis: they are found in sending by whoever opens the store next.
func (p *Prepay) Run(ctx context.Context) error {
	if err := p.Recover(ctx); err != nil {
		return err
	}
	drawing, stopDrawing := context.WithCancelCause(ctx)
	defer stopDrawing(nil)
	recording, stopRecording := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRecording()
	var drawers, recorder sync.WaitGroup
	forLong := func() time.Duration { return time.Hour }
	lanes := loop{name: "lanes", step: p.StepLanes, wake: p.wakeLanes, idle: p.untilNextLook, more: p.mayDrawMore}
	sweep := loop{name: "sweep", step: p.StepSweep, idle: p.untilNextSweep}
	record := loop{name: "record", step: p.StepRecord, wake: p.wakeRecord, idle: forLong, more: p.mayRecordMore}
	drawers.Go(func() { p.run(drawing, stopDrawing, lanes) })
	drawers.Go(func() { p.run(drawing, stopDrawing, sweep) })
	recorder.Go(func() { p.run(recording, stopDrawing, record) })
	drawers.Wait()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.drain(drawing)
	stopRecording()
	recorder.Wait()
	if cause := context.Cause(drawing); fault.Is(cause, fault.Unknown) {
		return cause
	}
	return err
}

// drain waits until every slot is free. A commit of unknown fate ends it at once.
func (p *Prepay) drain(drawing context.Context) error {
	limit := time.NewTimer(time.Duration(p.Config.DrainMillis) * time.Millisecond)
	defer limit.Stop()
	for {
		n := p.InFlight()
		if n == 0 || fault.Is(context.Cause(drawing), fault.Unknown) {
			return nil
		}
		poll := time.NewTimer(20 * time.Millisecond) // the recorder's wake-up is the lanes': see release
		select {
		case <-limit.C:
			poll.Stop()
			return fault.New(fault.Unavailable, "prepay: drain", "%d calls had no recorded answer after %d ms", n, p.Config.DrainMillis)
		case <-p.wakeLanes:
		case <-poll.C:
		}
		poll.Stop()
	}
}

// InFlight is the number of calls that are out or whose answer is not recorded.
func (p *Prepay) InFlight() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, l := range p.lanes {
		n += l.inFlight
	}
	return n
}

// loop is one of the things that Run does all the time.
type loop struct {
	name string
	step func(context.Context) (worked bool, err error)
	wake <-chan struct{}
	idle func() time.Duration // until the next step, unless it is woken
	more func() bool          // a step could not do all that there is: the next one follows without a pause
}

// run steps until ctx ends.
func (p *Prepay) run(ctx context.Context, stop context.CancelCauseFunc, l loop) {
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		begun := p.Now()
		worked, err := l.step(ctx)
		wake, wait := l.wake, time.Duration(0)
		switch {
		case fault.Is(err, fault.Unknown):
			stop(err)
			return
		case err != nil && ctx.Err() == nil:
			backoff = min(max(2*backoff, 10*time.Millisecond), backoffMax)
			p.Log.Error("prepay will retry", "loop", l.name, "error", err, "backoff_millis", backoff.Milliseconds())
			wait = backoff
		case !worked:
			wait = l.idle()
		case l.more == nil || l.more():
			backoff = 0
			continue
		default:
			backoff = 0
			wake, wait = nil, min(p.Now().Sub(begun), p.PauseMax)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// mayDrawMore reports whether the last draw gave a lane as many calls as it had free
// slots.
func (p *Prepay) mayDrawMore() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.drawnFull
}

// mayRecordMore reports whether there are as many answers as one step records.
func (p *Prepay) mayRecordMore() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.answers) >= p.Config.AnswersMax
}

// untilNextLook is how long no lane that has a free slot needs to look.
func (p *Prepay) untilNextLook() time.Duration {
	now := p.nowMillis()
	next := now + p.Config.LookMillis
	p.mu.Lock()
	defer p.mu.Unlock()
	for a, l := range p.lanes {
		if l.inFlight < p.slots(a) {
			next = min(next, l.lookAtMillis)
		}
	}
	return max(time.Duration(next-now)*time.Millisecond, time.Millisecond)
}

func (p *Prepay) untilNextSweep() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(time.Duration(p.sweepAt-p.nowMillis())*time.Millisecond, 10*time.Millisecond)
}
