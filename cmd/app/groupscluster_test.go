package app_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/obs"
)

// payer pays at both gateways in turn until it is stopped.
type payer struct {
	mu       sync.Mutex
	vouchers []string
	refused  []string // what was no 202
	stop     func()
}

func (p *payer) so(far int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.vouchers[min(far, len(p.vouchers)):]...)
}

func startPayer(t *testing.T, gateways []*system, from int) *payer {
	t.Helper()
	p := &payer{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	order := load.Orders(1)
	go func() {
		defer close(done)
		for n := from; ctx.Err() == nil; n++ {
			a, status, err := gateways[n%len(gateways)].client.Pay(order(n))
			p.mu.Lock()
			if status == 202 {
				p.vouchers = append(p.vouchers, a.Voucher)
			} else {
				p.refused = append(p.refused, fmt.Sprintf("payment %d: %d %v", n, status, err))
			}
			p.mu.Unlock()
			time.Sleep(20 * time.Millisecond)
		}
	}()
	p.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(p.stop)
	return p
}

// codeOf is the code of an id.
func codeOf(t *testing.T, id string) ids.Code {
	t.Helper()
	_, c, err := ids.ParseID(id)
	must(t, err)
	return c
}

// frozen freezes a group of the second database, as a move that does not go on, and
// pays: everything is accepted, and core works on all but this group until it is
// taken back. It gives the vouchers, once all are known to core.
func (c *cluster) frozen(gateways []*system, core *system, group int) []string {
	c.t.Helper()
	ask := func(sql string) string {
		c.t.Helper()
		return c.ask(2, fmt.Sprintf(sql, group))
	}
	until := func(what string, done func() bool) {
		c.t.Helper()
		for range 1500 {
			if done() {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		c.t.Fatalf("not yet: %s", what)
	}
	ask("UPDATE core.leases SET frozen = TRUE WHERE grp = %d")
	until("it is given up", func() bool { return ask("SELECT member FROM core.leases WHERE grp = %d") == "" })
	promised := pay(c.t, gateways, 20, 60)
	known := func(v string) bool {
		trade, err := core.app.Trade(c.t.Context(), codeOf(c.t, v))
		must(c.t, err)
		return trade != nil
	}
	waiting := 0
	for _, v := range promised {
		if codeOf(c.t, v).Group(4) == group {
			waiting++
		} else {
			until("a payment of another group", func() bool { return known(v) })
		}
	}
	for _, v := range promised {
		if codeOf(c.t, v).Group(4) == group && known(v) {
			c.t.Errorf("%s is known to core, and its group is frozen", v)
		}
	}
	if waiting == 0 {
		c.t.Fatal("no payment is of the frozen group: the test shows nothing")
	}
	moved, err := app.MoveGroup(c.t.Context(), c.deps(), group, 2, app.MoveOptions{As: "postgres"})
	must(c.t, err)
	if !moved {
		c.t.Error("the group was not taken back")
	}
	for _, v := range promised {
		until("a payment of the group that was frozen", func() bool { return known(v) })
	}
	return promised
}

// Groups move there and back while payments come, with two of each role: every
// payment is accepted meanwhile, every voucher is found wherever its group is, and
// everything is explained in the end.
func TestGroupsMoveUnderLoad(t *testing.T) {
	long(t)
	c := newCluster(t, 2, sim.Faults{AutoPayShare: 1, LostReplyShare: .05, DeclineShare: .1, DuplicateCallbackShare: .1, EarlyCallbackShare: .1})
	log := &lockedBuffer{}
	c.tweak = func(d *app.Deps) { d.Log = obs.NewLogger(log, slog.LevelInfo, d.Now) }
	gateways := []*system{c.gateway(0), c.gateway(1)}
	var all, cores []*system
	for n := range 2 {
		cores = append(cores, c.core(n))
		all = append(all, c.worker("prepay"), c.worker("accounting"))
	}
	all = append(append(all, cores...), gateways...)
	promised := pay(t, gateways, 0, 20)
	c.settled(t.Context(), promised)
	promised = append(promised, c.frozen(gateways, cores[0], 2)...)
	p := startPayer(t, gateways, 100)
	listed := startLister(t, gateways, slices.Clone(promised))
	for _, m := range []struct{ group, to int }{{0, 2}, {3, 1}, {0, 1}} {
		accepted := len(p.so(0))
		moved, err := app.MoveGroup(t.Context(), c.deps(), m.group, m.to, app.MoveOptions{As: "postgres"})
		must(t, err)
		if !moved {
			t.Errorf("group %d did not move to database %d", m.group, m.to)
		}
		for range 500 { // some come while the group is where it is now
			if len(p.so(accepted)) > 5 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		for _, v := range promised {
			for i, core := range cores {
				if trade, err := core.app.Trade(t.Context(), codeOf(t, v)); err != nil || trade == nil {
					t.Errorf("after group %d went to %d, core %d about %s: %v %v", m.group, m.to, i, v, trade, err)
				}
			}
		}
	}
	if n := listed(); n < 3 {
		t.Errorf("%d lists were read while groups moved", n)
	}
	p.stop()
	promised = append(promised, p.vouchers...)
	if len(p.refused) > 0 || len(promised) < 40 {
		t.Errorf("%d accepted, and not: %q", len(promised), p.refused)
	}
	v := c.settled(t.Context(), promised)
	if list := lists(t, gateways); len(list) != len(promised) || len(lacks(list, promised)) > 0 {
		t.Errorf("%d are listed, %d promised, not listed %v", len(list), len(promised), lacks(list, promised))
	}
	if v.Orders[0].Accepted != int64(len(promised)) {
		t.Errorf("%d accepted, %d promised", v.Orders[0].Accepted, len(promised))
	}
	for _, s := range all {
		s.stop()
	}
	if strings.Contains(log.String(), "owned by two databases") {
		t.Error("a group that moved was taken for one that two databases own")
	}
}

// A group has moved, and the database that it came from does not answer any more: it is
// worked on where it is.
func TestAGroupThatCameFromADatabaseThatHangs(t *testing.T) {
	long(t)
	c := newClusterOf(newInstallation(t, sim.Faults{AutoPayShare: 1}), ownServers(t, 2), 2)
	c.env = append(c.env, "TALLYSTICK_LEASE_TTL=4s", "TALLYSTICK_LEASE_RENEW_EVERY=1s") // most likely the source is not looked at in between
	log := &lockedBuffer{}
	c.tweak = func(d *app.Deps) { d.Log = obs.NewLogger(log, slog.LevelInfo, d.Now) }
	gateways := []*system{c.gateway(0)}
	core := c.core(0)
	promised := pay(t, gateways, 0, 20)
	known := func(v string) bool {
		trade, err := core.app.Trade(t.Context(), codeOf(t, v))
		return err == nil && trade != nil
	}
	for _, v := range promised {
		soon(t, "core knows "+v, func() bool { return known(v) })
	}
	deps := c.deps("TALLYSTICK_MOVE_COPY_TIMEOUT=2s") // the mover is not to wait for long, either
	deps.Points = func(name string) {
		if name == "move.core.settled" {
			must(t, c.pgs[0].Freeze())
			panic(abandoned{})
		}
	}
	func() {
		defer func() {
			if r := recover(); r != (abandoned{}) {
				t.Fatalf("it did not move: %v", r)
			}
		}()
		_, err := app.MoveGroup(t.Context(), deps, 0, 2, unserved)
		must(t, err)
	}()
	soon(t, "it is worked on", func() bool { return core.shows(`tallystick_lease_groups{area="core",database="2"} 3`) })
	for _, v := range pay(t, gateways, 20, 40) {
		promised = append(promised, v)
		if codeOf(t, v).Group(testGroups) != 1 { // which is where nobody answers
			soon(t, "core knows "+v, func() bool { return known(v) })
		}
	}
	must(t, c.pgs[0].Thaw())
	moved, err := app.MoveGroup(t.Context(), c.deps(), 0, 2, unserved)
	if must(t, err); !moved {
		t.Error("the rest was not removed")
	}
	for _, v := range promised {
		soon(t, "core knows "+v, func() bool { return known(v) })
	}
	core.stop()
	gateways[0].stop()
	if strings.Contains(log.String(), "owned by two databases") {
		t.Error("it was taken for one that two databases own")
	}
}

// A group that comes to a database while another one, which had it, hangs is not worked on
// before a lease there has run out: nobody knows whether that one has it still.
func TestAGroupThatADatabaseThatHangsMayHave(t *testing.T) {
	long(t)
	c := newClusterOf(newInstallation(t, sim.Faults{}), ownServers(t, 2), 2)
	const ttl = 3 * time.Second
	c.env = append(c.env, "TALLYSTICK_LEASE_TTL="+ttl.String())
	core := c.core(0)
	has := func(groups int) bool {
		return core.shows(fmt.Sprintf(`tallystick_lease_groups{area="core",database="1"} %d`, groups))
	}
	soon(t, "it has the groups of both", func() bool { return has(2) && core.shows(`tallystick_lease_groups{area="core",database="2"} 2`) })
	must(t, c.pgs[1].Freeze())
	begun := time.Now()
	c.ask(1, "INSERT INTO core.leases (grp) VALUES (3)")
	soon(t, "it is worked on", func() bool { return has(3) })
	if took := time.Since(begun); took < ttl {
		t.Errorf("it was worked on after %s", took)
	}
	must(t, c.pgs[1].Thaw())
	soon(t, "it is worked on in neither", func() bool {
		return has(2) && core.shows(`tallystick_lease_groups{area="core",database="2"} 1`)
	})
	core.stop()
}

// isSeenWithout looks from outside while a database is gone, with the groups that it
// owns: what is in the others is looked at, and what is not is named.
func (c *cluster) isSeenWithout(database int, groups []int) {
	t := c.t
	t.Helper()
	all, err := app.OpenDatabases(t.Context(), c.deps())
	must(t, err)
	defer all.Close() //nolint:errcheck // it was read
	v, err := all.Verify(t.Context())
	must(t, err)
	want := fmt.Sprintf("database %d cannot be reached: groups %v, which no other database owns, are not verified", database, groups)
	if len(v.Violations) != 1 || !strings.HasPrefix(v.Violations[0], want) || v.Core.Payments == 0 {
		t.Errorf("verified %d payment orders, with violations %q", v.Core.Payments, v.Violations)
	}
	if _, err := all.Open(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("open payments of a part: %v", err)
	}
	if _, err := all.Trade(t.Context(), ids.Code(code(groups[0], 1))); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), fmt.Sprintf("core in database %d cannot be reached", database)) {
		t.Errorf("a trade of a database that is gone: %v", err)
	}
	areas, unreachable, done, err := app.OpenParked(t.Context(), c.deps())
	must(t, err)
	defer done()
	if len(areas) != 3 || len(unreachable) != 3 || unreachable[0].Database != database {
		t.Errorf("parked messages of %d areas, and not of %v", len(areas), unreachable)
	}
}

// A database that does not answer holds up the figures of no other, nor for long who
// asks for them.
func TestAFrozenDatabaseHoldsUpNoFigures(t *testing.T) {
	long(t)
	c := newClusterOf(newInstallation(t, sim.Faults{}), ownServers(t, 2), 2)
	core := c.core(0)
	open := func() int64 { return core.app.Open(event.Pending).Orders }
	gateways := []*system{c.gateway(0)}
	workers := []*system{core, c.worker("prepay"), gateways[0]}
	promised := pay(t, gateways, 0, 20)
	soon(t, "all wait for their payers", func() bool { return open() == 20 })
	must(t, c.pgs[1].Freeze())
	promised = append(promised, pay(t, gateways, 20, 40)...)
	others := int64(0)
	for _, v := range promised[20:] {
		if codeOf(t, v).Group(testGroups) < 2 { // those of the first database
			others++
		}
	}
	begun := time.Now()
	err := core.app.ReadGauges(t.Context())
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the figures took %s: %v", took, err)
	}
	for open() != 20+others {
		if time.Since(begun) > 8*time.Second {
			t.Fatalf("%d are open, want %d: those of before, and %d of the database that answers", open(), 20+others, others)
		}
		time.Sleep(20 * time.Millisecond)
	}
	must(t, c.pgs[1].Thaw())
	soon(t, "all are open", func() bool { return open() == 40 })
	for _, s := range workers {
		s.stop()
	}
}

// A database that does not answer keeps no process off the others: one that is started
// meanwhile takes its share of those, and keeps it.
func TestAFrozenDatabaseKeepsNobodyOffTheOthers(t *testing.T) {
	long(t)
	c := newClusterOf(newInstallation(t, sim.Faults{}), ownServers(t, 2), 2)
	log := &lockedBuffer{}
	first := c.core(0)
	has := func(s *system, groups, database int) bool {
		return s.shows(fmt.Sprintf(`tallystick_lease_groups{area="core",database="%d"} %d`, database, groups))
	}
	soon(t, "the first has all groups", func() bool { return has(first, 2, 1) && has(first, 2, 2) })
	must(t, c.pgs[1].Freeze())
	c.tweak = func(d *app.Deps) { d.Log = obs.NewLogger(log, slog.LevelInfo, d.Now) }
	second := c.core(1)
	soon(t, "each has one group of the database that answers", func() bool { return has(first, 1, 1) && has(second, 1, 1) })
	for begun := time.Now(); time.Since(begun) < 4*time.Second; time.Sleep(20 * time.Millisecond) { // of a lease of one
		if !has(first, 1, 1) || !has(second, 1, 1) {
			t.Fatal("its groups are divided anew")
		}
	}
	if strings.Contains(log.String(), "lease_lost") {
		t.Errorf("the second was taken out: %s", log.String())
	}
	must(t, c.pgs[1].Thaw())
	soon(t, "each has one group of the other", func() bool { return has(first, 1, 2) && has(second, 1, 2) })
	first.stop()
	second.stop()
}

// A database that is gone stalls its own groups. Payments of the others settle, new
// ones are accepted for all, and when it is back everything settles.
func TestOneDeadDatabaseStallsItsGroupsAlone(t *testing.T) {
	long(t)
	c := newClusterOf(newInstallation(t, sim.Faults{AutoPayShare: 1}), ownServers(t, 2), 2)
	gateways := []*system{c.gateway(0)}
	core := c.core(0)
	all := append([]*system{core, c.worker("prepay"), c.worker("accounting")}, gateways...)
	promised := pay(t, gateways, 0, 10)
	c.settled(t.Context(), promised)
	must(t, c.pgs[1].Kill())
	dead := pay(t, gateways, 10, 40)
	groups := map[int]int{}
	for _, v := range dead {
		code := codeOf(t, v)
		group := code.Group(4)
		groups[group]++
		for tries := 0; ; tries++ {
			trade, err := core.app.Trade(t.Context(), code)
			if group >= 2 { // those of the second database
				if !fault.Is(err, fault.Unavailable) {
					t.Fatalf("group %d: %+v %v, and its database is dead", group, trade, err)
				}
				break
			}
			must(t, err)
			if trade != nil && trade.Payment(code) != nil && trade.Payment(code).Status.Final() {
				break
			}
			if tries > 1500 {
				t.Fatalf("%s of group %d does not settle: %+v", v, group, trade)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if groups[0]+groups[1] == 0 || groups[2]+groups[3] == 0 {
		t.Fatalf("payments were of groups %v: the test shows nothing", groups)
	}
	list, err := app.ListGroups(t.Context(), c.deps())
	must(t, err)
	if len(list.Unreachable) != 3 || list.Unreachable[0].Database != 2 || len(list.Groups) != 4 {
		t.Errorf("the list: %+v", list)
	}
	c.isSeenWithout(2, []int{2, 3})
	if page, status, _ := gateways[0].client.List("", 10); status != 503 || len(page.Payments) > 0 {
		t.Errorf("a list of a part: %d %+v", status, page)
	}
	var startErr error
	for range 100 { // its children may still be there for a moment
		if startErr = c.pgs[1].Start(t.Context()); startErr == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	must(t, startErr)
	promised = append(promised, dead...)
	promised = append(promised, pay(t, gateways, 40, 45)...)
	c.settled(t.Context(), promised)
	if missing := lacks(lists(t, gateways), promised); len(missing) > 0 {
		t.Errorf("the list lacks %v", missing)
	}
	for _, s := range all {
		s.stop()
	}
}
