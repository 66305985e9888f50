package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// cell is an area in one database of the cluster, as seen by this process: it joins
// those that divide the database's groups, and is on duty for its share. When the
// share changes, or something goes wrong of which nobody knows how it ended, the
// duty ends, everything that was in memory is forgotten, and another one begins.
type cell struct {
	app  *App
	role Role
	db   database

	connecting chan struct{} // has a place for who connects
	asking     chan struct{} // and for who asks for the groups

	mu     sync.Mutex
	bound  bool    // the store's places are in this bus
	look   *Stores // reads, without a lease
	sight  sight   // of the database's groups, as they were last seen
	state  error   // why it is not at work
	duties int64   // that have begun
	twice  []int   // groups that another database owns as well

	held    []int         // groups; nil while it is no member
	refused map[int]error // groups that it holds, or held last, and does not work on, and why
}

// name tells cells apart: core in database 1.
func (c *cell) name() string { return fmt.Sprintf("%s_%d", c.role, c.db.number) }

// wake is what the area's processes wake each other by when groups are free.
func (c *cell) wake() string { return "groups." + c.name() }

// storesFor opens the area's store in the database. held and guard are those of a duty.
func (d Deps) storesFor(ctx context.Context, role Role, db database, held []int, guard func(*sqldb.Tx) error) (*Stores, error) {
	o := d.storeOptions()
	o.Postgres, o.Held = d.place(db, role), held
	o.Postgres.Guard = guard
	s := &Stores{}
	return s, s.open(ctx, d, role, o)
}

// readStores gives the store that is read without a lease. It is opened when the
// database can be reached.
func (c *cell) readStores(ctx context.Context) (*Stores, error) {
	c.mu.Lock()
	look := c.look
	c.mu.Unlock()
	if look != nil {
		return look, nil
	}
	select { // one connects; nobody is kept from what is known meanwhile
	case c.connecting <- struct{}{}:
		defer func() { <-c.connecting }()
	case <-ctx.Done():
		return nil, fault.New(fault.Unavailable, "connect", "%s: %w", c.name(), ctx.Err())
	}
	c.mu.Lock()
	look, bound := c.look, c.bound
	c.mu.Unlock()
	if look != nil {
		return look, nil
	}
	s, err := c.app.storesFor(ctx, c.role, c.db, nil, nil)
	if err == nil && !bound { // once: the brokers may be gone the next time
		if err = c.app.bus.bind(ctx, s); err != nil {
			err = errors.Join(err, s.Close())
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.state = err
		return nil, err
	}
	c.look, c.bound = s, true
	return s, nil
}

// run joins again and again, until ctx ends.
func (c *cell) run(ctx context.Context) error {
	l := c.app.Config.Lease
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		begun := c.app.Now()
		err := c.membership(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		c.set(err)
		c.forget()
		if c.app.Now().Sub(begun) > l.TTL {
			backoff = 0
		}
		backoff = min(max(2*backoff, l.RenewEvery), c.app.Config.Consumers.BackoffMax)
		c.app.Log.Error("off duty, will join again", "cell", c.name(), "error", err, "backoff_millis", backoff.Milliseconds())
		bus.Sleep(ctx, backoff)
	}
	return nil
}

// forget lets go of the store that is read: after a commit of which nobody knows how
// it ended it would write no more, and with it nobody renews.
func (c *cell) forget() {
	c.mu.Lock()
	look := c.look
	c.look = nil
	c.mu.Unlock()
	if look == nil {
		return
	}
	if err := look.Close(); err != nil {
		c.app.Log.Warn("a store did not close well", "cell", c.name(), "error", err)
	}
}

func (c *cell) set(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = err
}

// membership is the time from joining until it is lost, or ctx ends.
func (c *cell) membership(ctx context.Context) (err error) {
	read, err := c.readStores(ctx)
	if err != nil {
		return err
	}
	// What others own is known before anything is held. They are asked before joining, as
	// a member must renew.
	if err := ask(ctx, c.app.Config.Lease.TTL/2, c.others(), false); err != nil && ctx.Err() == nil {
		c.app.Log.Warn("groups of other databases not read", "cell", c.name(), "error", err)
	}
	m := lease.NewMember(read.db(), c.app.ids.New("mbr_"), whoami(c.app.Config.ListenOperator), c.app.Config.Lease.TTL)
	share, err := c.renew(ctx, m, true)
	if err != nil {
		return err
	}
	defer func() {
		c.hold(nil)
		// Whatever has happened: others need not wait for the end of our time.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.app.Config.Lease.TTL)
		defer cancel()
		if e := m.Leave(bounded); e != nil && ctx.Err() == nil {
			c.app.Log.Warn("could not leave", "cell", c.name(), "error", e)
		}
		c.app.Coord.Notify(c.wake())
	}()
	for {
		before := len(m.Held())
		held, err := m.Hold(ctx, c.want(ctx, m, share))
		if err != nil {
			return err
		}
		if len(held) < before {
			c.app.Coord.Notify(c.wake())
		}
		c.forgetRefused(c.hold(held))
		if share, err = c.onDuty(ctx, m, held, share.Members); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// others are the cells of the same area, in the other databases.
func (c *cell) others() (out []*cell) {
	for _, other := range c.app.cells {
		if other != c && other.role == c.role {
			out = append(out, other)
		}
	}
	return out
}

// ask asks databases which groups they own, side by side. What has not answered in time
// is done without; the error says so.
func ask(ctx context.Context, patience time.Duration, cells []*cell, anew bool) error {
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var asks []func() ([]int, error)
	for _, c := range cells {
		asks = append(asks, func() ([]int, error) {
			owned, err := c.groups(patient, anew)
			return owned, fault.Wrap(c.name(), err)
		})
	}
	_, err := sideBySide(patient, asks)
	return err
}

// onDuty works on the groups until others are wanted, or others are refused: then it
// gives the share. All that it has begun has ended when it returns, or can write no more.
func (c *cell) onDuty(ctx context.Context, m *lease.Member, held []int, members int) (share lease.Share, err error) {
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	stop := func() error { return nil }
	var d *duty
	err = c.renewing(ctx, m, func() (err error) {
		d, err = c.begin(ctx, m, held)
		return err
	})
	if err != nil {
		return share, err
	}
	if d != nil {
		go func() { ended <- runAll(own, c.app.runnersOf(d), c.app.Config.Lease.Patience) }()
		stop = func() error {
			cancel()
			err := <-ended
			c.app.drop(d)
			return errors.Join(err, d.stores.Close())
		}
	}
	working := c.workable(held)
	c.app.Log.Info("on duty", "cell", c.name(), "groups", working, "members", members)
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		c.lookAgain(own)
	}()
	defer func() {
		cancel()
		<-looked
	}()
	c.set(nil)
	tick := time.NewTicker(c.app.Config.Lease.RenewEvery)
	defer tick.Stop()
	freed, unsubscribe := c.app.Coord.Subscribe(c.wake())
	defer unsubscribe()
	renewed := c.app.Now()
	for {
		select {
		case <-ctx.Done():
			return share, stop()
		case err := <-ended:
			ended <- err
			return share, errors.Join(stop(), errors.New("a part has stopped"))
		case <-tick.C:
		case <-freed: // not at the next tick, but now
		}
		share, err = c.renew(ctx, m, false)
		if err == nil {
			renewed = c.app.Now()
		}
		if d != nil { // what nobody could see when it began
			c.refuse(d.refused())
		}
		switch {
		case fault.Is(err, fault.Fenced) || fault.Is(err, fault.Unknown) || err != nil && c.app.Now().Sub(renewed) > c.app.Config.Lease.TTL:
			return share, errors.Join(err, stop())
		case err != nil:
			c.set(err) // the database may come back before anybody takes us out
		case !slices.Equal(c.want(ctx, m, share), held) || !slices.Equal(c.workable(held), working):
			// The store is closed by then: a call that hangs, or a part that stops late, has
			// cost nothing but its own answer.
			if err := c.renewing(ctx, m, stop); fault.Is(err, fault.Fenced) || fault.Is(err, fault.Unknown) {
				return share, err
			} else if err != nil {
				c.app.Log.Warn("a part stopped late", "cell", c.name(), "error", err)
			}
			return share, nil
		default:
			c.set(nil)
		}
	}
}

// want is what this process should hold, without what another database owns as well: a
// copy that was restored believes to own what has moved away since. Neither is worked
// on until one of them is put right.
func (c *cell) want(ctx context.Context, m *lease.Member, share lease.Share) []int {
	twice, undecided := c.ownedTwice(ctx)
	contested := append(undecided, twice...)
	share.Wanted = append(share.Wanted, contested...)
	share.Free = slices.DeleteFunc(slices.Clone(share.Free), func(g int) bool { return slices.Contains(contested, g) })
	return m.Want(share)
}

// ownedTwice are the groups that another database owns as well. It is logged when there
// are others than before.
//
// Of a group that has just come, the database that it may have come from is asked
// again; until it answers the group is undecided. If it does not answer while a lease
// there would last, it has lost the group: its move was over.
func (c *cell) ownedTwice(ctx context.Context) (twice, undecided []int) {
	own, others := c.seen(), c.others()
	stale := slices.DeleteFunc(slices.Clone(others), func(other *cell) bool { return len(own.undecided(other.seen(), time.Time{})) == 0 })
	_ = ask(ctx, c.app.Config.Lease.RenewEvery, stale, true) // it is said where that database is renewed
	for _, other := range others {
		seen := other.seen()
		twice = append(twice, own.both(seen)...)
		undecided = append(undecided, own.undecided(seen, c.app.Now().Add(-c.app.Config.Lease.TTL))...)
	}
	slices.Sort(twice)
	twice = slices.Compact(twice)
	c.mu.Lock()
	before := c.twice
	c.twice = twice
	c.mu.Unlock()
	switch {
	case slices.Equal(before, twice):
	case len(twice) == 0:
		c.app.Log.Info("no group is owned by two databases any more", "cell", c.name(), "groups", before)
	default:
		c.app.Log.Error("groups are owned by two databases, and stand still", "cell", c.name(), "groups", twice)
	}
	return twice, undecided
}

// renewing begins or stops a duty, and keeps the member one meanwhile.
func (c *cell) renewing(ctx context.Context, m *lease.Member, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	tick := time.NewTicker(c.app.Config.Lease.RenewEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if _, err := c.renew(ctx, m, false); err != nil {
				c.set(err) // the next one afterwards tells what it means
			}
		}
	}
}

// renew renews, or joins, and takes note of the groups that the database owns.
func (c *cell) renew(ctx context.Context, m *lease.Member, join bool) (lease.Share, error) {
	bounded, cancel := context.WithTimeout(ctx, c.app.Config.Lease.TTL)
	defer cancel()
	begun := c.app.Now()
	share, err := m.Renew(bounded, join)
	if err != nil {
		return share, err
	}
	c.see(share.Owned, begun)
	return share, nil
}

// groups are those that the database owns: as they were last seen, or anew.
func (c *cell) groups(ctx context.Context, anew bool) ([]int, error) {
	called := c.app.Now()
	if s := c.seen(); s.groups != nil && !anew {
		return s.groups, nil
	}
	read, err := c.readStores(ctx)
	if err != nil {
		return nil, err
	}
	select { // a statement that hangs is waited for by one
	case c.asking <- struct{}{}:
		defer func() { <-c.asking }()
	case <-ctx.Done():
		return nil, fault.New(fault.Unavailable, "owned groups", "%s: %w", c.name(), ctx.Err())
	}
	if s := c.seen(); s.groups != nil && !s.begun.Before(called) {
		return s.groups, nil // whoever was before us has asked for us
	}
	begun := c.app.Now()
	owned, err := lease.Owned(ctx, read.db())
	if err != nil {
		return nil, err
	}
	c.see(owned, begun)
	return owned, nil
}

// whoami tells operators which process it is.
func whoami(address string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return fmt.Sprintf("%s %s pid %d", host, address, os.Getpid())
}

// close closes what is read.
func (c *cell) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.look == nil {
		return nil
	}
	return c.look.Close()
}

// ready says why the cell is not at work; nil if it is.
func (c *cell) ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// errNoOwner is for groups that no database that can be reached owns.
func errNoOwner(code ids.Code, group int, why error) error {
	err := fmt.Errorf("no database owns group %d of %s now", group, code)
	if why != nil {
		err = fmt.Errorf("no database that can be reached owns group %d of %s: %w", group, code, why)
	}
	return &fault.Error{Kind: fault.Unavailable, Op: "route", Code: "group_unreachable", Err: err}
}
