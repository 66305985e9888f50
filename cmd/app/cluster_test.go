package app_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/obs"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// long is for tests that take more than a few seconds: the race detector would make
// minutes of them, and the shorter ones pass through the same code.
func long(t *testing.T) {
	t.Helper()
	if raced || testing.Short() {
		t.Skip("covered by the run without the race detector")
	}
}

// cluster is an installation on Kafka and PostgreSQL, with as many processes' worth
// as are started.
type cluster struct {
	*installation
	pgs   []*engines.Postgres
	ports []string // public of two gateways, operators' of two cores
}

// newCluster makes one on so many databases of the server that tests share.
func newCluster(t *testing.T, databases int, faults sim.Faults) *cluster {
	t.Helper()
	return newClusterOf(newInstallation(t, faults), []*engines.Postgres{server.Engine(t)}, databases)
}

// newClusterOf makes one on so many databases of servers, in turn.
func newClusterOf(in *installation, pgs []*engines.Postgres, databases int) *cluster {
	t := in.t
	t.Helper()
	c := &cluster{installation: in, pgs: pgs}
	for i := range databases {
		_, err := c.server(i+1).Query(t.Context(), "postgres", "CREATE DATABASE "+c.database(i+1))
		must(t, err)
	}
	for range 4 {
		addr, err := app.FreeAddress()
		must(t, err)
		c.ports = append(c.ports, addr)
	}
	c.env = append(c.env, "TALLYSTICK_STORES=postgres", "TALLYSTICK_POSTGRES_DATABASES="+c.urls(databases), "TALLYSTICK_POSTGRES_USER_PREFIX="+c.place+"_", "TALLYSTICK_LEASE_TTL=1s", "TALLYSTICK_POSTGRES_IDLE_TIMEOUT=2s", "TALLYSTICK_LEASE_RENEW_EVERY=100ms",
		"TALLYSTICK_PUBLIC_URL=http://"+c.ports[0], "TALLYSTICK_CORE_URL=http://"+c.ports[2]+" http://"+c.ports[3])
	_, err := app.Migrate(t.Context(), c.deps(), "postgres", "")
	must(t, err)
	return c
}

// server is where a database is, by its number, and database is its name there.
func (c *cluster) server(number int) *engines.Postgres { return c.pgs[(number-1)%len(c.pgs)] }

func (c *cluster) database(number int) string { return fmt.Sprint(c.place, "_pay", number) }

// urls are those of the first so many databases.
func (c *cluster) urls(databases int) (urls string) {
	for n := 1; n <= databases; n++ {
		urls += fmt.Sprintf("%d=%s ", n, c.server(n).URL(c.database(n)))
	}
	return urls
}

// ask runs SQL in a database, as who may do anything.
func (c *cluster) ask(number int, sql string) string {
	c.t.Helper()
	out, err := c.server(number).Query(c.t.Context(), c.database(number), sql)
	must(c.t, err)
	return out
}

// deps are those of a process that looks from outside.
func (c *cluster) deps(env ...string) app.Deps {
	c.t.Helper()
	d, err := app.Production(c.folder("outside"), append(slices.Clone(c.env), env...), io.Discard)
	must(c.t, err)
	d.NoSync = true
	return d
}

func (c *cluster) gateway(n int) *system {
	return c.start(c.only("gateway", c.folder(fmt.Sprint("gateway", n))), "TALLYSTICK_ROLES=gateway", "TALLYSTICK_LISTEN="+c.ports[n])
}

func (c *cluster) core(n int) *system {
	return c.start(c.only("core", c.folder(fmt.Sprint("core", n))), "TALLYSTICK_ROLES=core", "TALLYSTICK_LISTEN_OPERATOR="+c.ports[2+n])
}

func (c *cluster) worker(role string) *system {
	return c.start(c.only(role, c.folder(role)), "TALLYSTICK_ROLES="+role)
}

// only leaves a role's folder no secrets but those that it needs.
func (c *cluster) only(role, dir string) string {
	files, err := os.ReadDir(filepath.Join(dir, app.SecretsDir))
	must(c.t, err)
	for _, f := range files {
		if !slices.Contains(slices.Concat(sharedSecrets, secretsOf()[role]), f.Name()) {
			must(c.t, os.Remove(filepath.Join(dir, app.SecretsDir, f.Name())))
		}
	}
	return dir
}

// settled waits until nothing is open and nothing on its way, and verifies.
func (c *cluster) settled(ctx context.Context, promised []string) app.Verification {
	c.t.Helper()
	all, err := app.OpenDatabases(ctx, c.deps())
	must(c.t, err)
	defer all.Close() //nolint:errcheck // it was read
	var v app.Verification
	var lost []string
	for range 600 {
		_, lost, err = all.CheckVouchers(ctx, promised) // first: what core knows by now is verified
		must(c.t, err)
		v, err = all.Verify(ctx)
		must(c.t, err)
		open, unread := int64(0), int64(0)
		for _, o := range v.Orders {
			open += o.InFlight
		}
		for _, u := range v.Unread {
			unread += u.Count
		}
		if len(v.Violations)+len(lost) == 0 && open+unread == 0 && !v.Moved && len(v.Trimmed) > 0 {
			return v // also of what everyone had read, and is gone
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatalf("not settled: violations %q, lost %q, orders %+v, unread %+v, trimmed %+v", v.Violations, lost, v.Orders, v.Unread, v.Trimmed)
	return v
}

// pay makes orders from one number to another, at both gateways in turn, and gives
// their vouchers.
func pay(t *testing.T, gateways []*system, from, to int) (promised []string) {
	t.Helper()
	order := load.Orders(1)
	for n := from; n < to; n++ {
		a, status, err := gateways[n%len(gateways)].client.Pay(order(n))
		if status != 202 {
			t.Fatalf("pay %d: %d %v", n, status, err)
		}
		promised = append(promised, a.Voucher)
	}
	return promised
}

// Two of each role share two databases. Each is stopped and started again while
// payments come; each pair divides the groups between it, and everything is explained
// in the end.
func TestTwoOfEachRole(t *testing.T) {
	c := newCluster(t, 2, sim.Faults{AutoPayShare: 1, LostReplyShare: .05, DeclineShare: .1, DuplicateCallbackShare: .1, EarlyCallbackShare: .1})
	log := &lockedBuffer{}
	c.tweak = func(d *app.Deps) { d.Log = obs.NewLogger(log, slog.LevelDebug, d.Now) }
	gateways := []*system{c.gateway(0), c.gateway(1)}
	workers := map[string]*system{}
	begin := map[string]func() *system{}
	for n := range 2 {
		begin[fmt.Sprint("core", n)] = func() *system { return c.core(n) }
		begin[fmt.Sprint("prepay", n)] = func() *system { return c.worker("prepay") }
		begin[fmt.Sprint("accounting", n)] = func() *system { return c.worker("accounting") }
	}
	names := []string{"core0", "prepay0", "accounting0", "core1", "prepay1", "accounting1"}
	for _, name := range names {
		workers[name] = begin[name]()
	}
	promised := pay(t, gateways, 0, 20)
	for i, name := range names {
		workers[name].stop()
		promised = append(promised, pay(t, gateways, 20+10*i, 30+10*i)...)
		workers[name] = begin[name]()
	}
	v := c.settled(t.Context(), promised)
	if v.Orders[0].Accepted != int64(len(promised)) {
		t.Errorf("%d accepted, %d promised", v.Orders[0].Accepted, len(promised))
	}
	for _, w := range workers {
		w.stop()
	}
	for _, g := range gateways {
		g.stop()
	}
	c.checkContexts(log)
}

// checkContexts is that of one folder for all databases, and what is at the brokers.
func (c *cluster) checkContexts(log *lockedBuffer) {
	t := c.t
	t.Helper()
	all, err := app.OpenDatabases(t.Context(), c.deps())
	must(t, err)
	defer all.Close() //nolint:errcheck // it was read
	rows, messages := 0, 0
	for _, s := range all.All {
		for _, db := range []*sqldb.DB{s.Core.DB(), s.Prepay.DB(), s.Accounting.DB()} {
			rows += checkTables(t, db, `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'`)
		}
	}
	for _, topic := range []bus.Topic{bus.Intents, bus.Callbacks, bus.Dispatch, bus.Outcomes, bus.Payments, bus.Postings} {
		of := c.messages(c.prefix, topic)
		for _, m := range of {
			checkContext(t, "a message of "+string(topic), m.Context)
		}
		if len(of) == 0 {
			t.Errorf("topic %s has no messages", topic)
		}
		messages += len(of)
	}
	lines := checkLines(t, log)
	if rows < 300 || messages < 300 {
		t.Errorf("only %d rows and %d messages were read: the run shows nothing", rows, messages)
	}
	t.Logf("%d rows, %d messages, %d log lines about payments", rows, messages, lines)
}

// Every few dozen commits of any area, the renewals of leases among them, end without
// an answer, while they were done. Each time the process forgets all that it held and
// joins again; nothing is lost and nothing comes twice.
func TestCommitsWithoutAnAnswer(t *testing.T) {
	long(t)
	c := newCluster(t, 1, sim.Faults{AutoPayShare: 1, DuplicateCallbackShare: .1})
	var commits, silent atomic.Int64
	c.tweak = func(d *app.Deps) {
		d.CommitFault = func() error {
			if commits.Add(1)%37 == 0 && silent.Load() < 10 {
				silent.Add(1)
				return fault.New(fault.Unknown, "test", "no answer")
			}
			return nil
		}
	}
	gateways := []*system{c.gateway(0)}
	workers := []*system{c.core(0), c.worker("prepay"), c.worker("accounting")}
	promised := pay(t, gateways, 0, 120)
	for silent.Load() < 10 {
		time.Sleep(20 * time.Millisecond) // renewals are commits as well
	}
	promised = append(promised, pay(t, gateways, 120, 140)...)
	if v := c.settled(t.Context(), promised); v.Orders[0].Accepted != 140 {
		t.Errorf("%d accepted, 140 promised", v.Orders[0].Accepted)
	}
	for _, s := range append(workers, gateways...) {
		s.stop()
	}
}

// A configuration that does not name all databases gives away nothing that another
// one owns, and a database that was lost is not taken for a new one.
func TestMigrateGivesNothingAwayTwice(t *testing.T) {
	c := newCluster(t, 2, sim.Faults{})
	urls := strings.Fields(c.urls(2))
	migrate := func(databases string) error {
		_, err := app.Migrate(t.Context(), c.deps("TALLYSTICK_POSTGRES_DATABASES="+databases), "postgres", "")
		return err
	}
	must(t, migrate(urls[0]+" "+urls[1])) // again
	for _, one := range urls {
		if err := migrate(one); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "groups_without_owner") {
			t.Errorf("only %s: %v", one, err)
		}
	}
	for _, do := range []string{"DROP", "CREATE"} {
		_, err := c.server(2).Query(t.Context(), "postgres", do+" DATABASE "+c.database(2))
		must(t, err)
	}
	if err := migrate(urls[0] + " " + urls[1]); !fault.Is(err, fault.Conflict) {
		t.Errorf("a database that was lost: %v", err)
	}
	if owned := c.ask(1, "SELECT count(*) FROM core.leases"); owned != "2" {
		t.Errorf("database 1 owns %s of 4 groups", owned)
	}
}

// A duty that takes longer to open than its lease is good for is opened all the same: the
// member renews meanwhile.
func TestADutyThatOpensSlowly(t *testing.T) {
	c := newCluster(t, 1, sim.Faults{})
	ask := func(sql string) string { return c.ask(1, sql) }
	log := &lockedBuffer{}
	c.tweak = func(d *app.Deps) { d.Log = obs.NewLogger(log, slog.LevelInfo, d.Now) }
	core := c.core(0)
	soon(t, "it has all groups", func() bool { return core.shows(`tallystick_lease_groups{area="core",database="1"} 4`) })
	opened := make(chan error, 1)
	go func() { // a store is not opened without a look at this one
		_, err := c.server(1).Query(t.Context(), c.database(1), "BEGIN; LOCK TABLE core.stamp; SELECT pg_sleep(3); COMMIT")
		opened <- err
	}()
	soon(t, "it would open slowly", func() bool {
		return ask("SELECT count(*) FROM pg_locks WHERE relation = 'core.stamp'::regclass AND mode = 'AccessExclusiveLock'") == "1"
	})
	ask("UPDATE core.leases SET frozen = TRUE WHERE grp = 3") // the next duty is without it
	soon(t, "it opens", func() bool { return ask("SELECT count(*) FROM core.leases WHERE member <> ''") == "3" })
	for begun := true; begun; {
		if ask("SELECT count(*) FROM core.members WHERE until > clock_timestamp()") != "1" {
			t.Fatal("it did not renew its lease")
		}
		select {
		case err := <-opened:
			must(t, err)
			begun = false
		default:
		}
	}
	soon(t, "it is on duty", func() bool { return core.shows(`tallystick_lease_groups{area="core",database="1"} 3`) })
	core.stop()
	if strings.Contains(log.String(), "off duty") {
		t.Error("it had to join again")
	}
}

// A group that two databases own, as one of them is an old copy, is worked on in
// neither; all others are.
func TestAGroupThatTwoDatabasesOwn(t *testing.T) {
	c := newCluster(t, 2, sim.Faults{AutoPayShare: 1})
	for _, area := range []string{"core", "prepay", "accounting"} {
		c.ask(1, "INSERT INTO "+area+".leases (grp) SELECT 3 WHERE NOT EXISTS (SELECT 1 FROM "+area+".leases WHERE grp = 3)")
	}
	log := &lockedBuffer{}
	c.tweak = func(d *app.Deps) { d.Log = obs.NewLogger(log, slog.LevelInfo, d.Now) }
	core := c.core(0)
	held := func(database int) string {
		return strings.ReplaceAll(c.ask(database, "SELECT grp FROM core.leases WHERE member <> '' ORDER BY grp"), "\n", " ")
	}
	for held(1) != "0 1" || held(2) != "2" {
		time.Sleep(20 * time.Millisecond) // it ends with the test's own time, if never
	}
	twice := `tallystick_lease_groups_owned_twice{area="core",database="2"} `
	soon(t, "it shows", func() bool { return core.shows(twice + "1") })
	time.Sleep(500 * time.Millisecond) // some renewals
	c.ask(1, "DELETE FROM core.leases WHERE grp = 3")
	for held(2) != "2 3" {
		time.Sleep(20 * time.Millisecond)
	}
	soon(t, "it shows no more", func() bool { return core.shows(twice + "0") })
	core.stop()
	if n, end := strings.Count(log.String(), "groups are owned by two databases"), strings.Count(log.String(), "no group is owned by two databases any more"); n != 2 || end != 2 {
		t.Errorf("each of two databases is to log once that it begins and once that it ends: %d and %d times", n, end)
	}
}
