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
	for _, g := range c.groups {
		c.waiting[g] = true
	}
	ill, err := ByGroup(c.Source.Refresh(ctx))
	if err == nil {
		err = c.admit(ctx, c.groups, ill)
	}
	c.know(parked)
	c.replay = len(parked) > 0
	c.loaded = err == nil || slices.ContainsFunc(c.groups, func(g int) bool { return !c.waiting[g] })
	return err
}

// admit lets those of the waiting groups be read whose log goes on from the stored place.
// ill is what a look at the logs found wrong with some.
func (c *Consumer) admit(ctx context.Context, groups []int, ill map[int]error) error {
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
		errs = append(errs, ofGroup(g, why))
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
// A group whose log has been replaced meanwhile stops. The error is about all groups with
// which something is wrong.
func (c *Consumer) refresh(ctx context.Context) error {
	ill, dead := ByGroup(c.Source.Refresh(ctx))
	errs := []error{dead}
	var groups []int
	for g, waits := range c.waiting {
		why := ill[g]
		switch {
		case waits:
			groups = append(groups, g)
			continue
		case why != nil && refused(why):
			c.refusals.Note(g, why)
			c.stop(g)
		}
		errs = append(errs, ofGroup(g, why))
	}
	if len(groups) > 0 && dead == nil {
		errs = append(errs, c.admit(ctx, groups, ill))
	}
	return errors.Join(errs...)
}
