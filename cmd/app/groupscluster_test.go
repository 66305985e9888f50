package app_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
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

// Groups move there and back while payments come, with two of each role: every
// payment is accepted meanwhile, every voucher is found wherever its group is, and
// everything is explained in the end.
func TestGroupsMoveUnderLoad(t *testing.T) {
	c := newCluster(t, 2, sim.Faults{AutoPayShare: 1, LostReplyShare: .05, DeclineShare: .1, DuplicateCallbackShare: .1, EarlyCallbackShare: .1})
	gateways := []*system{c.gateway(0), c.gateway(1)}
	var all, cores []*system
	for n := range 2 {
		cores = append(cores, c.core(n))
		all = append(all, c.worker("prepay"), c.worker("accounting"))
	}
	all = append(append(all, cores...), gateways...)
	promised := pay(t, gateways, 0, 20)
	p := startPayer(t, gateways, 20)
	for _, m := range []struct{ group, to int }{{0, 2}, {3, 1}, {0, 1}, {3, 2}, {1, 2}} {
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
				if trade, err := core.app.Trade(t.Context(), codeOf(t, v)); err != nil {
					t.Errorf("after group %d went to %d, core %d about %s: %v %v", m.group, m.to, i, v, trade, err)
				}
			}
		}
	}
	p.stop()
	promised = append(promised, p.vouchers...)
	if len(p.refused) > 0 || len(promised) < 40 {
		t.Errorf("%d accepted, and not: %q", len(promised), p.refused)
	}
	v := c.settled(t.Context(), promised)
	if v.Orders[0].Accepted != int64(len(promised)) {
		t.Errorf("%d accepted, %d promised", v.Orders[0].Accepted, len(promised))
	}
	for _, s := range all {
		s.stop()
	}
}

// A database that is gone stalls its own groups. Payments of the others settle, new
// ones are accepted for all, and when it is back everything settles.
func TestOneDeadDatabaseStallsItsGroupsAlone(t *testing.T) {
	c := newClusterOn(t, 2, 2, sim.Faults{AutoPayShare: 1})
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
	var startErr error
	for range 100 { // its children may still be there for a moment
		if startErr = c.pgs[1].Start(t.Context()); startErr == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	must(t, startErr)
	promised = append(promised, dead...)
	c.settled(t.Context(), append(promised, pay(t, gateways, 40, 45)...))
	for _, s := range all {
		s.stop()
	}
}
