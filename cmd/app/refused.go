package app

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/lease"
)

// begin puts the area to work on the groups that are held, without those that are
// refused: their store may be an older copy, and nothing is read, told, called or timed
// for them. It gives nil if none is left.
func (c *cell) begin(ctx context.Context, m *lease.Member, held []int) (*duty, error) {
	for {
		groups := c.workable(held)
		if len(groups) == 0 { // nil would be all
			return nil, nil
		}
		d, err := c.openDuty(ctx, m, groups)
		if err != nil {
			return nil, err
		}
		if refused := d.refused(); len(refused) > 0 {
			c.refuse(refused)
			if err := d.stores.Close(); err != nil {
				return nil, err
			}
			continue
		}
		c.mu.Lock()
		c.duties++
		c.mu.Unlock()
		c.app.take(d)
		return d, nil
	}
}

// openDuty opens the store of a duty, and looks at its groups. That some are refused
// is no error: the duty says which.
func (c *cell) openDuty(ctx context.Context, m *lease.Member, groups []int) (*duty, error) {
	stores, err := c.app.storesFor(ctx, c.role, c.db, groups, m.Guard(groups))
	if err != nil {
		return nil, err
	}
	d, err := c.app.newDuty(c.role, stores, groups)
	if err == nil {
		// Brokers that hang hold up one look, and not the groups that the others lead.
		bounded, cancel := context.WithTimeout(ctx, c.app.Config.Lease.TTL/2)
		err = d.open(bounded)
		cancel()
		switch {
		case len(d.refused()) > 0:
			err = nil
		case fault.Is(err, fault.Unavailable):
			// Brokers that are gone come back: readers and relays ask again by themselves, and
			// timers and calls that are due wait for nobody.
			c.app.Log.Warn("on duty without the brokers", "cell", c.name(), "error", bus.Brief(err))
			err = nil
		}
	}
	if err != nil {
		return nil, errors.Join(err, stores.Close())
	}
	return d, nil
}

// workable are groups without those that are refused.
func (c *cell) workable(held []int) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(held), func(g int) bool { return c.refused[g] != nil })
}

// refuse takes note of groups that are refused. They are held on to: they would be
// refused elsewhere, too.
func (c *cell) refuse(groups map[int]error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for g, why := range groups {
		if c.refused[g] == nil {
			c.app.Log.Error("group refused: it stands still until it is put right", "cell", c.name(), "group", g, "error", why)
		}
		c.refused[g] = why
	}
}

// hold takes note of what is held, and gives what is not any more.
func (c *cell) hold(held []int) (gone []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gone = slices.DeleteFunc(c.held, func(g int) bool { return slices.Contains(held, g) })
	c.held = slices.Clone(held)
	return gone
}

// forgetRefused forgets refusals of groups that were given up.
func (c *cell) forgetRefused(groups []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range groups {
		delete(c.refused, g)
	}
}

// refusedGroups are those that are held and refused now, in order. Who is no member any
// more has none, as others may hold them; what was refused is remembered until he has
// joined again, as it most likely still is.
func (c *cell) refusedGroups() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(c.refused)), func(g int) bool { return !slices.Contains(c.held, g) })
}

// lookAgain looks now and then whether refused groups have been put right, until ctx
// ends. The next duty is for those as well.
func (c *cell) lookAgain(ctx context.Context) {
	every := c.app.Config.Lease.RefusedEvery
	for bus.Sleep(ctx, every); ctx.Err() == nil; bus.Sleep(ctx, every) {
		for _, g := range c.refusedGroups() {
			read, err := c.readStores(ctx)
			if err != nil {
				break
			}
			if err = c.app.newLook(c.role, read, []int{g}).open(ctx); err != nil || ctx.Err() != nil {
				continue
			}
			c.mu.Lock()
			delete(c.refused, g)
			c.mu.Unlock()
			c.app.Log.Info("group is put right, and is worked on again", "cell", c.name(), "group", g)
		}
	}
}

// refusedOf is how many groups of an area are refused, in all databases.
func (a *App) refusedOf(role Role) (n int) {
	for _, c := range a.cells {
		if c.role == role {
			n += len(c.refusedGroups())
		}
	}
	return n
}
