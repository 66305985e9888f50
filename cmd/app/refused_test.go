package app_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/obs"
)

// lostGroup is the one of which the brokers lose the dispatches.
const lostGroup = 2

// soon waits until something is so.
func soon(t *testing.T, what string, so func() bool) {
	t.Helper()
	for range 1500 {
		if so() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("not yet: %s", what)
}

// shows reports whether a process's figures have a line.
func (s *system) shows(line string) bool {
	var figures bytes.Buffer
	s.app.Metrics.WritePrometheus(&figures)
	return slices.Contains(strings.Split(figures.String(), "\n"), line)
}

// unready is what a process says at its operator port that it lacks.
func (s *system) unready(t *testing.T) string {
	t.Helper()
	_, text, err := fasthttp.Get(nil, "http://"+s.app.OperatorAddr()+"/readyz")
	must(t, err)
	return string(text)
}

// asked is how often the PSP was asked for or about each number, by group.
func (c *cluster) asked() map[int]map[string]int {
	out := map[int]map[string]int{}
	for _, r := range c.psp.Payments() {
		g := ids.Code(r.OutTradeNo[:len(r.OutTradeNo)-1]).Group(testGroups)
		if out[g] == nil {
			out[g] = map[string]int{}
		}
		out[g][r.OutTradeNo] = r.Requests.Pay + r.Requests.Query + r.Requests.Close
	}
	return out
}

// without restarts the broker, while fn changes the folder of the partition.
func (c *cluster) without(fn func(dir string) error) {
	c.t.Helper()
	must(c.t, c.broker.Stop())
	must(c.t, fn(c.broker.PartitionDir(c.prefix+"dispatch", lostGroup)))
	must(c.t, c.broker.Start(c.t.Context()))
}

// withoutTheDatabase cuts core and prepay off from their database, for longer than a lease.
// Others may hold the groups meanwhile, so they tell of none that they refuse; afterwards
// they do again, and it is no news.
func (c *cluster) withoutTheDatabase(log *lockedBuffer, core, prepay *system) {
	c.t.Helper()
	refuse := func(groups string) bool {
		return core.shows(`tallystick_lease_refused_groups{area="core",database="1"} `+groups) && prepay.shows(`tallystick_lease_refused_groups{area="prepay",database="1"} `+groups)
	}
	logged := func() int { return strings.Count(log.String(), "group refused") }
	before := logged()
	must(c.t, c.pgs[0].Kill())
	soon(c.t, "who is cut off refuses nothing", func() bool { return refuse("0") })
	must(c.t, c.pgs[0].Start(c.t.Context()))
	soon(c.t, "they refuse the group again", func() bool { return refuse("1") })
	if n := logged(); n != before {
		c.t.Errorf("that the group is refused was logged %d times, and %d times before", n, before)
	}
}

// The brokers lose one partition of one topic. Core, whose log does not have any more
// what was in it, and prepay, who has read more than is there, work on all groups but
// this one: no call is made for it, nothing is read or booked, and it shows. When the
// partition is back, so is the group, with the processes that run.
func TestALostPartitionStallsItsGroupAlone(t *testing.T) {
	long(t)
	c := newClusterOf(newInstallationOn(t, ownBroker(t), sim.Faults{}), ownServers(t, 1), 1)
	c.env = append(c.env, "TALLYSTICK_LEASE_REFUSED_EVERY=300ms", "TALLYSTICK_PREPAY_BACKOFF_MAX_MILLIS=500")
	ask := func(sql string) string { return c.ask(1, sql) }
	log := &lockedBuffer{}
	c.tweak = func(d *app.Deps) { d.Log = obs.NewLogger(log, slog.LevelInfo, d.Now) }
	gateways := []*system{c.gateway(0)}
	ledger := c.worker("accounting")
	core, prepay := c.core(0), c.worker("prepay")
	var promised []string
	for ofLost := 0; len(promised) < 24 || ofLost < 2; { // one by one: what comes together is one row, and the last row stays
		promised = append(promised, pay(t, gateways, len(promised), len(promised)+1)...)
		if codeOf(t, promised[len(promised)-1]).Group(testGroups) == lostGroup {
			ofLost++
		}
		soon(t, "the PSP has all", func() bool { return len(c.psp.Payments()) == len(promised) })
	}
	first := len(promised)
	soon(t, "what was read is gone from core's log, but for the last", func() bool {
		return ask(fmt.Sprint("SELECT count(*) FROM core.log_dispatch WHERE grp = ", lostGroup)) == "1"
	})
	core.stop()
	prepay.stop()
	before := c.asked()
	saved := filepath.Join(t.TempDir(), "saved")
	c.without(func(dir string) error { return os.Rename(dir, saved) })

	core, prepay = c.core(0), c.worker("prepay")
	for s, area := range map[*system]string{core: "core", prepay: "prepay"} {
		soon(t, area+" refuses the group", func() bool { return s.shows(`tallystick_lease_refused_groups{area="` + area + `",database="1"} 1`) })
		soon(t, area+" is at work on the three others", func() bool { return s.shows(`tallystick_lease_groups{area="` + area + `",database="1"} 3`) })
		if lacks := s.unready(t); !strings.Contains(lacks, "stopped_groups") {
			t.Errorf("%s lacks %s", area, lacks)
		}
	}
	if !prepay.shows(`tallystick_consumer_stopped_groups{area="prepay",topic="dispatch"} 1`) {
		t.Error("the group does not count as stopped")
	}
	for _, reason := range []string{"topic_lost", "the log was replaced"} {
		if !strings.Contains(log.String(), reason) {
			t.Errorf("the log does not say %q", reason)
		}
	}
	c.withoutTheDatabase(log, core, prepay)
	for _, r := range c.psp.Payments() {
		c.psp.UserPays(r.Account, r.OutTradeNo, money.Amount{}) // those of the group, too
	}
	promised = append(promised, pay(t, gateways, first, first+24)...)
	others := 0
	for _, v := range promised[first:] {
		if codeOf(t, v).Group(testGroups) != lostGroup {
			others++
		}
	}
	soon(t, "new payments of the others are at the PSP", func() bool { return len(c.psp.Payments()) == first+others })
	soon(t, "what was paid of the others is booked", func() bool {
		return ask("SELECT count(*) FROM accounting.entries") == fmt.Sprint(first-len(before[lostGroup]))
	})
	soon(t, "the others are asked about", func() bool {
		for g, numbers := range c.asked() {
			for n, asked := range numbers {
				if g != lostGroup && before[g][n] == 0 && asked < 4 {
					return false
				}
			}
		}
		return true
	})
	if after := c.asked(); len(before[lostGroup]) == 0 || others == 24 || fmt.Sprint(after[lostGroup]) != fmt.Sprint(before[lostGroup]) {
		t.Errorf("the PSP was asked %v about the group, and %v before", after[lostGroup], before[lostGroup])
	}
	for _, v := range promised[first:] {
		if trade, err := core.app.Trade(t.Context(), codeOf(t, v)); err != nil || (trade == nil) != (codeOf(t, v).Group(testGroups) == lostGroup) {
			t.Errorf("core of %s, group %d: %v %v", v, codeOf(t, v).Group(testGroups), trade, err)
		}
	}

	c.without(func(dir string) error {
		must(t, os.RemoveAll(dir))
		return os.Rename(saved, dir)
	})
	for s, area := range map[*system]string{core: "core", prepay: "prepay"} {
		soon(t, area+" works on it again", func() bool {
			return s.shows(`tallystick_lease_refused_groups{area="`+area+`",database="1"} 0`) && s.shows(`tallystick_lease_groups{area="`+area+`",database="1"} 4`)
		})
	}
	soon(t, "all are at the PSP", func() bool { return len(c.psp.Payments()) == len(promised) })
	for _, r := range c.psp.Payments() {
		c.psp.UserPays(r.Account, r.OutTradeNo, money.Amount{})
	}
	c.settled(t.Context(), promised)
	for _, s := range []*system{core, prepay, ledger, gateways[0]} {
		s.stop()
	}
}
