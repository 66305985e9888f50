package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/merchant"
)

// directoryPoint is passed only when the directory has changed.
const directoryPoint = "kafka.appended.directory"

// clusterGroups are few, so that a start is short.
const clusterGroups = 8

func clusterRoles() []app.Role {
	return []app.Role{app.RoleGateway, app.RoleCore, app.RolePrepay, app.RoleAccounting}
}

type clusterPoint struct {
	role app.Role
	name string
}

// clusterPoints are those of each role.
func clusterPoints() []clusterPoint {
	return []clusterPoint{
		{app.RoleGateway, "kafka.appended.intents"}, {app.RoleGateway, "gateway.committed_not_answered"},
		{app.RoleCore, "core.before_commit"}, {app.RoleCore, "core.after_commit"},
		{app.RoleCore, "kafka.appended.dispatch"}, {app.RoleCore, "kafka.appended.payments"}, {app.RoleCore, directoryPoint},
		{app.RolePrepay, "prepay.before_commit"}, {app.RolePrepay, "prepay.after_commit"},
		{app.RolePrepay, "prepay.sending_not_called"}, {app.RolePrepay, "prepay.called_not_recorded"}, {app.RolePrepay, "kafka.appended.outcomes"},
		{app.RoleGateway, "kafka.appended.callbacks"}, {app.RoleGateway, "gateway.callback_appended_not_acked"},
		{app.RoleAccounting, "accounting.before_commit"}, {app.RoleAccounting, "accounting.after_commit"}, {app.RoleAccounting, "kafka.appended.postings"},
	}
}

// clusterSchedule draws all kills from the seed, as schedule does. Each role has its own.
func (c *Config) clusterSchedule() (stops []stop) {
	r := rand.New(rand.NewPCG(c.Seed, 0xdead)) //nolint:gosec // a bench
	const members = 2
	roleOf := map[string]app.Role{}
	for _, p := range clusterPoints() {
		roleOf[p.name] = p.role
	}
	for _, name := range c.Points {
		s := stop{role: roleOf[name], point: name, passing: 1 + r.Int64N(10)}
		switch {
		case name == directoryPoint:
			s.passing = 1
		case strings.HasSuffix(name, "_commit"):
			s.passing += 10 + r.Int64N(40)
		}
		stops = append(stops, s)
	}
	r.Shuffle(len(stops), func(i, j int) { stops[i], stops[j] = stops[j], stops[i] })
	roles := clusterRoles()
	last := map[app.Role]int{}
	for i := range c.Random {
		s := stop{role: roles[i%len(roles)], member: r.IntN(members), after: time.Duration(1 + r.Int64N(int64(4*time.Second)))}
		if n := i / len(roles); n%5 == 4 { // while it starts, and takes up what the last one left
			s.member, s.after = last[s.role], time.Duration(1+r.Int64N(int64(80*time.Millisecond)))
		} else if s.role == app.RolePrepay {
			s.refused = n%4 == 3
		}
		last[s.role] = s.member
		stops = append(stops, s)
	}
	return stops
}

// cluster is two processes of each role.
type cluster struct {
	*bench
	rig      *rig.Cluster
	started  map[*rig.Member]*life
	watching sync.WaitGroup
	giveUp   context.CancelCauseFunc // ends all kills
}

// life is that of a member's process.
type life struct {
	begun time.Time
	leave context.CancelFunc // it is watched no more: whoever calls it kills it
}

func (b *bench) newCluster(ctx context.Context) (addrs string, err error) {
	if err := os.Chmod(b.dir, 0o711); err != nil { //nolint:gosec // the database's user passes through
		return "", err
	}
	c := &cluster{bench: b, started: map[*rig.Member]*life{}}
	// A member that is dead is missed soon.
	c.rig, err = rig.NewCluster(ctx, rig.ClusterConfig{Dir: b.dir, Exe: b.exe, Each: 2, Databases: 2, Groups: clusterGroups, Brief: true,
		Env: append(environ(), "TALLYSTICK_LEASE_TTL=2s", "TALLYSTICK_POSTGRES_IDLE_TIMEOUT=2s")})
	b.product = c
	if err != nil {
		return "", err
	}
	for _, m := range c.rig.Members() {
		c.started[m] = new(life)
	}
	b.folder = c.rig.Folder
	return c.rig.Addrs(), nil
}

// start starts a member, and watches it. PSPs are told to call back the gateway of the same
// number.
func (c *cluster) start(ctx context.Context, m *rig.Member, env ...string) error {
	dies := len(env) > 0
	for i, other := range c.rig.Members(m.Role) {
		if other == m {
			env = append(env, "TALLYSTICK_PUBLIC_URL=http://"+c.rig.Members(app.RoleGateway)[i].Addr)
		}
	}
	watched, leave := context.WithCancel(ctx)
	*c.started[m] = life{begun: time.Now(), leave: leave}
	begun := c.started[m].begun
	if err := m.Start(env...); err != nil {
		leave()
		return err
	}
	p := m.Process()
	c.watching.Go(func() {
		if err := c.watch(watched, p, m.OperatorAddr, begun, dies); err != nil {
			c.giveUp(fmt.Errorf("%s: %w", m.Name, err))
		}
	})
	return nil
}

// watch looks after a process until ctx ends. It must be ready in time, and may end only
// at its point, if it has one: nobody would start it again, and the others wait in vain.
func (b *bench) watch(ctx context.Context, p *rig.Process, addr string, begun time.Time, dies bool) error {
	err := b.timeReady(ctx, p, addr, begun)
	if err == nil {
		select {
		case <-ctx.Done():
		case <-p.Done():
		}
	}
	switch ended := p.Ended(); {
	case ctx.Err() != nil, ended != nil && dies && p.Killed():
		return nil
	case ended != nil:
		return ended
	}
	return err
}

// kills starts all members, and lets those of each role die as the stops say, one role
// beside the other. As soon as one of them cannot be started, or is lost for good, all end.
func (c *cluster) kills(ctx context.Context, stops []stop) error {
	ctx, c.giveUp = context.WithCancelCause(ctx)
	defer c.watching.Wait()
	defer c.giveUp(nil)
	of := map[app.Role][]stop{}
	for _, s := range stops {
		of[s.role] = append(of[s.role], s)
	}
	roles := clusterRoles()
	ended := make(chan error, len(roles))
	for _, role := range roles {
		go func() { ended <- c.killsOf(ctx, c.rig.Members(role), of[role]) }()
	}
	for range roles {
		if err := <-ended; err != nil {
			c.giveUp(err) // the others end as well
		}
	}
	return context.Cause(ctx)
}

// killsOf lets the members of a role die at points, each at the next one that is left,
// and then at random, one after the other.
func (c *cluster) killsOf(ctx context.Context, members []*rig.Member, stops []stop) error {
	points := make(chan stop, len(stops))
	for _, s := range stops {
		if s.point != "" {
			points <- s
		}
	}
	close(points)
	ended := make(chan error, len(members))
	for _, m := range members {
		go func() { ended <- c.killAt(ctx, m, points) }()
	}
	var errs []error
	for range members {
		errs = append(errs, <-ended)
	}
	err := errors.Join(errs...)
	for i := 0; i < len(stops) && err == nil; i++ {
		if stops[i].point == "" {
			err = c.kill(ctx, members[stops[i].member], stops[i])
		}
	}
	return err
}

// killAt starts a member until it has died at all points, and then to stay.
func (c *cluster) killAt(ctx context.Context, m *rig.Member, points <-chan stop) error {
	for s := range points {
		if err := c.start(ctx, m, s.crashAt()); err != nil {
			return err
		}
		if err := c.await(ctx, m.Process(), s); err != nil {
			return err
		}
		if err := c.end(s, m.Name, m.Process(), c.started[m].begun); err != nil {
			return err
		}
	}
	return c.start(ctx, m)
}

// kill kills a member at a random instant, and starts it again.
func (c *cluster) kill(ctx context.Context, m *rig.Member, s stop) error {
	if s.refused {
		unrefuse, err := c.refuseOne(s.after)
		if err != nil {
			return err
		}
		defer unrefuse()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.after):
	}
	c.started[m].leave()
	if err := c.end(s, m.Name, m.Process(), c.started[m].begun); err != nil {
		return err
	}
	return c.start(ctx, m)
}

// await waits until a process has passed its point. The directory changes until it has
// been this process that put it.
func (c *cluster) await(ctx context.Context, p *rig.Process, s stop) error {
	patience := time.NewTimer(c.cfg.PointMax)
	defer patience.Stop()
	tick := time.NewTicker(100 * time.Millisecond) // quicker than cores look, or one of them may always be the first
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.Done():
			return nil
		case <-patience.C:
			return nil
		case <-tick.C:
			if s.point != directoryPoint {
				continue
			}
			if err := c.folder.Edit(func(*merchant.Snapshot) {}); err != nil {
				return err
			}
		}
	}
}

func (c *cluster) serve(ctx context.Context) error { return c.rig.Serve(ctx) }

func (c *cluster) fate() error {
	for _, m := range c.rig.Members() {
		if err := m.Process().Ended(); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
}

// quiet asks all members. What nobody is on duty for shows in no figure of theirs.
func (c *cluster) quiet(ctx context.Context) bool {
	for _, name := range []string{"tallystick_core_open_payments", "tallystick_consumer_lag", "tallystick_relay_lag"} {
		if n, silent := c.rig.Sum(ctx, name); n != 0 || silent != 0 {
			return false
		}
	}
	held, silent := c.rig.Sum(ctx, "tallystick_lease_groups")
	return silent == 0 && held == 3*clusterGroups // of each area
}

func (c *cluster) stop() error { return c.rig.Stop() }

func (c *cluster) books(ctx context.Context) (books, error) { return c.rig.Databases(ctx) }

// Close ends engines and members.
func (c *cluster) Close() error { return c.rig.Close() }
