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
	drawers.Go(func() { p.loop(drawing, stopDrawing, "lanes", p.StepLanes, p.wakeLanes, p.untilNextLook) })
	drawers.Go(func() { p.loop(drawing, stopDrawing, "sweep", p.StepSweep, nil, p.untilNextSweep) })
	recorder.Go(func() { p.loop(recording, stopDrawing, "record", p.StepRecord, p.wakeRecord, nil) })
	drawers.Wait()
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

// loop steps until ctx ends, waiting for wake, or for as long as idle says, when
// there is nothing to do.
func (p *Prepay) loop(ctx context.Context, stop context.CancelCauseFunc, name string, step func(context.Context) (bool, error),
	wake <-chan struct{}, idle func() time.Duration) {
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		worked, err := step(ctx)
		wait := time.Hour
		switch {
		case fault.Is(err, fault.Unknown):
			stop(err)
			return
		case err != nil && ctx.Err() == nil:
			backoff = min(max(2*backoff, 10*time.Millisecond), backoffMax)
			p.Log.Error("prepay will retry", "loop", name, "error", err, "backoff_millis", backoff.Milliseconds())
			wait = backoff
		case worked:
			backoff = 0
			continue
		case idle != nil:
			wait = idle()
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
