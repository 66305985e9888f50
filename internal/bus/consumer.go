package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
)

// Places is the part of an area's store that a consumer starts from.
type Places interface {
	// Places gives the stored place of each group of a topic that has one.
	Places(ctx context.Context, topic Topic) (map[int]Place, error)
	// ParkedKeys counts the parked messages of a topic by their keys.
	ParkedKeys(ctx context.Context, topic Topic) (map[string]int, error)
	// TakeReplay gives the parked messages, oldest first, of one key whose replay
	// was asked for, and their row ids; none when nothing was asked for.
	TakeReplay(ctx context.Context, topic Topic) ([]Message, []int64, error)
}

// Consumer reads a topic for an area. Step does one bounded piece of work, and
// is not safe for concurrent use; Lag and Stopped are. Two consumers of one
// store on one topic fence each other.
type Consumer struct {
	Area        string
	Source      Source
	Places      Places
	Apply       func(ctx context.Context, b *Batch) error
	MessagesMax int // of one batch; at least 1
	// Groups are those that it reads; nil is all.
	Groups []int
	// ParkedMax bounds the messages of the topic that are parked. At the bound the
	// group of what would be parked next stops instead. 0 is no bound.
	ParkedMax int
	// Advanced, if set, is told after a batch was committed.
	Advanced func(topic Topic, moves []Move)
	// After a batch that was not full, Run pauses for as long as the batch took, but
	// at least PauseMin and at most PauseMax, so that more comes into the next one: a
	// commit costs by what it touches, not by its messages. What comes to one who has
	// nothing to do is never paused for. Now measures it; without it the pause is
	// PauseMin.
	PauseMin, PauseMax time.Duration
	Now                func() time.Time
	// Log receives alarms: gaps, fences and parked messages.
	Log *slog.Logger

	loaded     bool
	replayed   bool       // the last step looked for replays: they and news take turns
	mu         sync.Mutex // guards places, groups and gap, which Step alone writes, for whoever watches
	places     []Place
	groups     []int          // that it reads
	gap        []bool         // groups that stopped
	refusals   Refusals       // those of them whose log is not the one that was read
	waiting    []bool         // groups that could not be looked at yet; for Step alone
	looked     looks          // what was told of them
	parked     map[string]int // messages by key, and their sum
	parkedRows int
	replay     bool // look for replays at the next step
	first      int  // which of its groups the last batch began with
	full       bool // the last batch was: there may be more already
}

// Stopped gives the groups that stopped: at a gap, by a StopError, or refused.
func (c *Consumer) Stopped() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []int
	for g, s := range c.gap {
		if s {
			out = append(out, g)
		}
	}
	return out
}

// Lag is the number of places between this consumer and the heads it knows of.
func (c *Consumer) Lag() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lag int64
	for _, g := range c.groups {
		lag += max(0, c.Source.Head(g).Seq-c.places[g].Seq)
	}
	return lag
}

// Step reads one batch and applies it; worked is false when there was nothing.
// After fault.Fenced it starts again from the stored places.
func (c *Consumer) Step(ctx context.Context) (worked bool, err error) {
	op := fmt.Sprintf("%s: consume %s", c.Area, c.Source.Topic())
	if !c.loaded {
		if err := c.load(ctx); err != nil {
			return false, fault.Wrap(op, err)
		}
	}
	if c.replay && !c.replayed {
		c.replayed = true
		if worked, err := c.stepReplay(ctx); worked || err != nil {
			return worked, fault.Wrap(op, err)
		}
	}
	c.replayed = false
	b, err := c.gather(ctx)
	if err != nil {
		return false, fault.Wrap(op, err)
	}
	if len(b.Moves) == 0 {
		return false, nil
	}
	if err := c.apply(ctx, b); err != nil {
		return false, fault.Wrap(op, err)
	}
	c.mu.Lock()
	for _, m := range b.Moves {
		c.places[m.Group] = m.To
	}
	c.mu.Unlock()
	if c.Advanced != nil {
		c.Advanced(b.Topic, b.Moves)
	}
	return true, nil
}

// CheckReplays makes one of the next two Steps look for messages whose replay
// was asked for. Not safe beside Step.
func (c *Consumer) CheckReplays() { c.replay = true }

// know takes note of what is parked.
func (c *Consumer) know(parked map[string]int) {
	c.parked, c.parkedRows = parked, 0
	for _, n := range parked {
		c.parkedRows += n
	}
}

// stop keeps a group from being read until the next load.
func (c *Consumer) stop(group int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gap[group] = true
}

// gather reads from every group that has news, until the batch is full. A group
// that cannot be read now holds up no other: its error is told when there is
// nothing else to do. One with a message that nobody here can read stops, as does one
// whose log ends before its place.
func (c *Consumer) gather(ctx context.Context) (*Batch, error) {
	b := &Batch{Topic: c.Source.Topic()}
	var failed error
	// Each batch starts at another group, so that a busy one starves none.
	c.first = (c.first + 1) % max(1, len(c.groups))
	for i := range c.groups {
		g := c.groups[(c.first+i)%len(c.groups)]
		from := c.places[g]
		if c.gap[g] || c.waiting[g] || c.Source.Head(g).Seq <= from.Seq || len(b.Messages) >= c.MessagesMax {
			continue
		}
		msgs, err := c.Source.Read(ctx, g, from, c.MessagesMax-len(b.Messages))
		switch {
		case errors.Is(err, ErrRecord):
			c.stop(g)
			c.Log.Error("group stopped at a message that this build cannot read", "area", c.Area, "topic", string(b.Topic), "group", g,
				"behind_seq", from.Seq, "error", err)
			continue
		case fault.Is(err, fault.Conflict):
			c.refusals.Note(g, err)
			c.stop(g)
			c.Log.Error("group stopped: its log is not the one that was read", "area", c.Area, "topic", string(b.Topic), "group", g, "error", err)
			continue
		case err != nil:
			failed = errors.Join(failed, ofGroup(g, err))
			continue
		}
		to := c.take(b, g, from, msgs)
		if to != from {
			b.Moves = append(b.Moves, Move{Group: g, From: from, To: to})
		}
	}
	c.full = len(b.Messages) >= c.MessagesMax
	if len(b.Moves) > 0 {
		failed = nil
	}
	return b, failed
}

// take adds a group's messages behind from to the batch, and gives the place
// that it comes to. At a gap the group stops.
func (c *Consumer) take(b *Batch, group int, from Place, msgs []Message) (to Place) {
	to = from
	before, begin := from, len(b.Messages) // of the place that is being taken: a place is taken as a whole
	part := 0
	for i := range msgs {
		p := msgs[i].Place
		if p.Seq < to.Seq || p.Seq == to.Seq && (p == from || msgs[i].Part <= part) {
			continue // a duplicate
		}
		if p.Seq > to.Seq+1 || from.Epoch != 0 && p.Epoch != from.Epoch {
			c.stopAtGap(b.Topic, group, to.Seq+1, p)
			return to
		}
		if p != to {
			before, begin = to, len(b.Messages)
		}
		to, part = p, msgs[i].Part
		if c.parked[string(msgs[i].Context.BizCode)] > 0 {
			if c.parkedFull(b) {
				c.stopFull(b.Topic, group)
				b.cut(begin)
				return before
			}
			c.park(b, len(b.Messages), "behind a parked message of the same key")
		}
		b.Messages = append(b.Messages, msgs[i])
	}
	if len(msgs) == 0 {
		c.stopAtGap(b.Topic, group, to.Seq+1, Place{}) // the head is behind from, and there is nothing
	}
	return to
}

func (c *Consumer) stopAtGap(topic Topic, group int, want int64, have Place) {
	c.stop(group)
	c.Log.Error("group stopped at a gap", "area", c.Area, "topic", string(topic), "group", group,
		"want_seq", want, "have_seq", have.Seq, "have_epoch", have.Epoch)
}

// parkedFull reports whether nothing more may be parked.
func (c *Consumer) parkedFull(b *Batch) bool {
	return c.ParkedMax > 0 && c.parkedRows+len(b.Parked) >= c.ParkedMax
}

func (c *Consumer) stopFull(topic Topic, group int) {
	c.stop(group)
	c.Log.Error("group stopped: too much is parked", "area", c.Area, "topic", string(topic), "group", group, "parked_max", c.ParkedMax)
}

func (c *Consumer) park(b *Batch, i int, reason string) {
	if b.Parked == nil {
		b.Parked = map[int]string{}
	}
	b.Parked[i] = reason
}

// apply hands the batch to the area, parking what is poison, until it goes
// through. What is parked is remembered only then, as it is stored only then.
func (c *Consumer) apply(ctx context.Context, b *Batch) error {
	for range len(b.Messages) + len(b.Moves) + 1 {
		err := c.Apply(ctx, b)
		var stop *StopError
		var poison *PoisonError
		switch {
		case err == nil:
			for i := range b.Parked {
				if b.Replays == nil { // else it was parked before
					c.parked[string(b.Messages[i].Context.BizCode)]++
					c.parkedRows++
				}
			}
			return nil
		case errors.As(err, &stop) && b.without(stop.Group):
			c.stop(stop.Group)
			c.Log.Error("group stopped: an invariant is violated", "area", c.Area, "topic", string(b.Topic),
				"group", stop.Group, "error", stop.Err)
			if len(b.Moves) == 0 {
				return nil
			}
		case errors.As(err, &poison) && b.Replays == nil && c.parkedFull(b):
			group := b.Messages[poison.Index].Group
			if !b.without(group) {
				return err
			}
			c.stopFull(b.Topic, group)
			if len(b.Moves) == 0 {
				return nil
			}
		case errors.As(err, &poison):
			c.parkWithKey(b, poison)
		default:
			c.loaded = c.loaded && !fault.Is(err, fault.Fenced)
			return err
		}
	}
	return fault.New(fault.Internal, "apply", "a batch of %d messages was refused more often than it has messages", len(b.Messages))
}

// parkWithKey puts a message aside, and with it all that follow of its key.
func (c *Consumer) parkWithKey(b *Batch, poison *PoisonError) {
	m := &b.Messages[poison.Index]
	args := append([]any{"area", c.Area, "topic", string(b.Topic), "event", m.ID, "type", m.Type, "error", poison.Err}, m.Context.LogAttrs()...)
	c.Log.Error("message parked", args...)
	c.park(b, poison.Index, poison.Err.Error())
	for i := poison.Index + 1; i < len(b.Messages); i++ {
		if _, done := b.Parked[i]; !done && b.Messages[i].Context.BizCode == m.Context.BizCode {
			c.park(b, i, "behind a parked message of the same key")
		}
	}
}

// stepReplay applies the parked messages of one key again.
func (c *Consumer) stepReplay(ctx context.Context) (bool, error) {
	msgs, rows, err := c.Places.TakeReplay(ctx, c.Source.Topic())
	if err != nil || len(msgs) == 0 {
		c.replay = false
		return false, err
	}
	b := &Batch{Topic: c.Source.Topic(), Messages: msgs, Replays: rows}
	if err := c.apply(ctx, b); err != nil {
		return false, err
	}
	parked, err := c.Places.ParkedKeys(ctx, b.Topic)
	c.know(parked)
	if err != nil {
		c.loaded = false
	}
	return true, err
}

// Run steps until ctx ends, sleeping while there is nothing to do. Errors are
// logged and retried with backoff, up to backoffMax; fault.Unknown (a commit of
// which nobody knows how it ended) ends Run, as nothing more may be done with what
// is in memory.
func (c *Consumer) Run(ctx context.Context, idle, backoffMax time.Duration) error {
	wake, cancel := c.Source.Subscribe()
	defer cancel()
	tick := time.NewTicker(idle)
	defer tick.Stop()
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		begun := c.now()
		worked, err := c.Step(ctx)
		switch {
		case fault.Is(err, fault.Unknown):
			return err
		case err != nil && ctx.Err() == nil:
			backoff = min(max(2*backoff, 10*time.Millisecond), backoffMax)
			c.Log.Error("consumer will retry", "area", c.Area, "topic", string(c.Source.Topic()),
				"error", Brief(err), "backoff_millis", backoff.Milliseconds())
			Sleep(ctx, backoff)
			continue
		}
		backoff = 0
		if worked {
			select {
			case <-tick.C: // also where there always is news
				c.look(ctx)
			default:
			}
			if d := min(max(c.now().Sub(begun), c.PauseMin), c.PauseMax); d > 0 && !c.full {
				Sleep(ctx, d)
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-tick.C:
			c.look(ctx)
		}
	}
	return nil
}

func (c *Consumer) now() time.Time {
	if c.Now == nil {
		return time.Time{}
	}
	return c.Now()
}

// look is for what nobody wakes a consumer for: replays that were asked for, and
// heads that another process moved.
func (c *Consumer) look(ctx context.Context) {
	c.CheckReplays()
	if c.looked.log == nil {
		c.looked.log = c.Log.With("area", c.Area, "topic", string(c.Source.Topic()))
	}
	if err := c.refresh(ctx); ctx.Err() == nil {
		c.looked.tell(err)
	}
}

// Sleep waits for d, or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
