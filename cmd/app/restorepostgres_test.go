package app_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/fault"
)

// One of two databases comes from a copy that is older than the brokers. Its groups are
// refused, and after a rewind everything that was accepted ends once, also what the copy
// has never heard of. The gateway runs all the while, and whoever follows a voucher through
// it hears how it ends.
func TestADatabaseOlderThanTheBrokers(t *testing.T) {
	long(t)
	// Whoever has paid already is not waited for again: there is less to tell the second time,
	// and what is told of new payments has sequences that the gateway has read before.
	c := newCluster(t, 2, sim.Faults{AutoPayShare: 1, AutoPayDelayMillis: 500})
	i := slices.Index(c.env, "TALLYSTICK_LEASE_TTL=1s")
	c.env[i] = "TALLYSTICK_LEASE_TTL=30s" // nobody is taken for dead on a machine that is busy
	ask := func(sql string) {
		t.Helper()
		_, err := c.pgs[0].Query(t.Context(), "postgres", sql)
		must(t, err)
	}
	g := []*system{c.gateway(0)}
	var all []*system
	start := func() { all = []*system{c.core(0), c.worker("prepay"), c.worker("accounting")} }
	stop := func() {
		for _, s := range all {
			s.stop()
		}
	}
	start()
	promised := pay(t, g, 0, 12)
	c.settled(t.Context(), promised)
	stop()
	ask("CREATE DATABASE " + c.place + "_copy TEMPLATE " + c.database(1))
	start()
	promised = append(promised, pay(t, g, 12, 80)...)
	c.settled(t.Context(), promised)
	stop()
	ask("DROP DATABASE " + c.database(1) + " WITH (FORCE)")
	ask("ALTER DATABASE " + c.place + "_copy RENAME TO " + c.database(1))
	start()
	soon(t, "the groups of the old copy are refused", func() bool {
		return all[0].shows(`tallystick_lease_refused_groups{area="core",database="1"} 2`)
	})
	refused := func(who ...string) {
		t.Helper()
		soon(t, "all that serve are named", func() bool {
			err := app.Rewind(t.Context(), c.deps("TALLYSTICK_ROLES=core"))
			if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "still_serving") {
				t.Fatalf("a rewind beside processes that serve: %v", err)
			}
			return !slices.ContainsFunc(who, func(w string) bool {
				return !strings.Contains(err.Error(), w+" of database 1: ") || !strings.Contains(err.Error(), w+" of database 2: ")
			})
		})
	}
	refused("core", "prepay", "accounting")
	all[0].stop()
	all[1].stop()
	refused("accounting") // which is not among the roles of the folder
	all[2].stop()
	must(t, app.Rewind(t.Context(), c.deps("TALLYSTICK_ROLES=core,prepay,accounting")))
	start()
	news := pay(t, g, 80, 92)
	promised = append(promised, news...)
	var wg sync.WaitGroup
	for _, voucher := range append(news, promised[12:24]...) {
		wg.Go(func() {
			view, deadline := load.View{}, time.Now().Add(time.Minute)
			for !view.Final() {
				next, status, err := g[0].client.Await(load.Accepted{Voucher: voucher, Token: c.made.APIKey}, view.Version, 5*time.Second)
				if status == 200 {
					view = next
				}
				if time.Now().After(deadline) {
					t.Errorf("%s of group %d is %+v after a minute, and the last answer %d %v", voucher, codeOf(t, voucher).Group(testGroups), view, status, err)
					return
				}
			}
		})
	}
	wg.Wait()
	v := c.settled(t.Context(), promised)
	if v.Orders[0].Accepted != 92 || v.Orders[0].Succeeded != 92 {
		t.Errorf("%+v", v.Orders)
	}
	if n := len(c.psp.Payments()); n != 92 {
		t.Errorf("the PSP has %d payments of 92", n)
	}
	stop()
	g[0].stop()
}
