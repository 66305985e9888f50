package app_test

import (
	"testing"

	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
)

// One of two databases comes from a copy that is older than the brokers. Its groups are
// refused, and after a rewind everything that was accepted ends once, also what the copy
// has never heard of.
func TestADatabaseOlderThanTheBrokers(t *testing.T) {
	long(t)
	c := newCluster(t, 2, sim.Faults{AutoPayShare: 1})
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
	promised = append(promised, pay(t, g, 12, 30)...)
	c.settled(t.Context(), promised)
	stop()
	ask("DROP DATABASE " + c.database(1) + " WITH (FORCE)")
	ask("ALTER DATABASE " + c.place + "_copy RENAME TO " + c.database(1))
	start()
	soon(t, "the groups of the old copy are refused", func() bool {
		return all[0].shows(`tallystick_lease_refused_groups{area="core",database="1"} 2`)
	})
	stop()
	must(t, app.Rewind(t.Context(), c.deps("TALLYSTICK_ROLES=core,prepay,accounting")))
	start()
	promised = append(promised, pay(t, g, 30, 40)...)
	v := c.settled(t.Context(), promised)
	if v.Orders[0].Accepted != 40 || v.Orders[0].Succeeded != 40 {
		t.Errorf("%+v", v.Orders)
	}
	if n := len(c.psp.Payments()); n != 40 {
		t.Errorf("the PSP has %d payments of 40", n)
	}
	stop()
	g[0].stop()
}
