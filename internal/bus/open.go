package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/internal/fault"
)

// Open reads the stored places, so that a log which ends before one of them, or
// begins behind it, is refused, with fault.Conflict, before anything runs: as soon as
// something is appended to it, the place is no longer behind its end, and what came in
// between would be skipped as known. The error names each group that is refused or
// cannot be looked at; the others can be consumed all the same. Step does the same, once,
// if nobody has. Not safe beside Step.
func (c *Consumer) Open(ctx context.Context) error {
	if c.loaded {
		return nil
	}
	return fault.Wrap(fmt.Sprintf("%s: open %s", c.Area, c.Source.Topic()), c.load(ctx))
}

// Refused are the groups that were refused, and why. Safe beside Step.
func (c *Consumer) Refused() map[int]error { return c.refusals.Refused() }

// load reads the stored places and what is parked. Groups that are refused stop, and
// those that cannot be looked at are looked at again by refresh: both are in the error.
// If there is no other group, the next load is for all.
func (c *Consumer) load(ctx context.Context) error {
	parked, err := c.Places.ParkedKeys(ctx, c.Source.Topic())
	if err != nil {
		return err
	}
	n := c.Source.Groups()
	c.mu.Lock()
	c.places, c.groups, c.gap = make([]Place, n), GroupsOf(c.Source, c.Groups), make([]bool, n)
	c.mu.Unlock()
	c.waiting = make([]bool, n)
	err = c.admit(ctx, c.groups)
	c.know(parked)
	c.replay = len(parked) > 0
	c.loaded = err == nil || slices.ContainsFunc(c.groups, func(g int) bool { return !c.waiting[g] })
	return err
}

// admit looks at groups and lets those be read whose log goes on from the stored place.
func (c *Consumer) admit(ctx context.Context, groups []int) error {
	for _, g := range groups {
		c.waiting[g] = true
	}
	ill, err := ByGroup(c.Source.Refresh(ctx))
	if err != nil {
		return err
	}
	stored, err := c.Places.Places(ctx, c.Source.Topic())
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range groups {
		why := ill[g]
		if why == nil {
			why = c.compare(g, stored[g])
		}
		errs = append(errs, why)
		if c.waiting[g] = why != nil && !refused(why); c.waiting[g] {
			continue
		}
		c.mu.Lock()
		c.places[g] = stored[g]
		c.mu.Unlock()
		c.refusals.Note(g, why)
		if why != nil {
			c.stop(g)
		}
	}
	return errors.Join(errs...)
}

// compare holds a group's log against the place that was stored.
func (c *Consumer) compare(group int, stored Place) error {
	topic, head, begin := c.Source.Topic(), c.Source.Head(group), BeginOf(c.Source, group)
	f, forgetful := c.Source.(Forgetful)
	switch {
	case begin.Seq > stored.Seq:
		return fault.New(fault.Conflict, "load places",
			"group %d of %s begins behind %d, and %d was consumed: what lies between was deleted, as it had been consumed by then: our places are from an older copy than the log keeps",
			group, topic, begin.Seq, stored.Seq)
	case stored == (Place{}):
	case forgetful && f.Forgot(group, stored):
	case head.Epoch == stored.Epoch && head.Seq >= stored.Seq:
	default:
		// A log that is empty or ends before our place is not the log that we have
		// read: what comes into it now would be skipped as known.
		return fault.New(fault.Conflict, "load places",
			"group %d of %s ends at %d of epoch %d, but %d of epoch %d was consumed: the log was replaced, or restored from an older copy",
			group, topic, head.Seq, head.Epoch, stored.Seq, stored.Epoch)
	}
	return nil
}

// refresh asks for the heads, and looks again at groups that could not be looked at.
// A group whose log has been replaced meanwhile stops.
func (c *Consumer) refresh(ctx context.Context) error {
	var groups []int
	for g, waits := range c.waiting {
		if waits {
			groups = append(groups, g)
		}
	}
	if len(groups) > 0 {
		return c.admit(ctx, groups)
	}
	err := c.Source.Refresh(ctx)
	ill, _ := ByGroup(err)
	for g, why := range ill {
		if refused(why) {
			c.refusals.Note(g, why)
			c.stop(g)
		}
	}
	return err
}
