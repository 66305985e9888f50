package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/channels/breaker"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
)

// clusterSystem is engines and two processes of each role.
type clusterSystem struct {
	*rig.Cluster
	data *app.Databases
	stop func() error
}

// startCluster starts the engines, then the processes.
func (d *demo) startCluster(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	fmt.Println("Starting PostgreSQL, Kafka and Redis (the first time they are fetched, which may take a minute) ...")
	c, err := rig.NewCluster(ctx, rig.ClusterConfig{Dir: d.dir, Exe: exe, Each: 2, Databases: 1, Groups: 16, Env: []string{
		"TALLYSTICK_PREPAY_BACKOFF_POLL_FIRST_MILLIS=5000", "TALLYSTICK_PREPAY_BACKOFF_MAX_MILLIS=5000"}})
	s := &clusterSystem{Cluster: c}
	s.stop = sync.OnceValue(c.Stop)
	d.system = s
	if err != nil {
		return err
	}
	d.apiKey = c.APIKey
	if d.sim, d.stopSim, err = c.StartPSP(ctx, sim.Realistic(), d.Seed); err != nil {
		return err
	}
	fmt.Println("Starting two processes of each role ...")
	if err := c.Start(ctx); err != nil {
		return err
	}
	s.data, err = c.Databases(ctx)
	return err
}

func (s *clusterSystem) addrs() string { return s.Addrs() }

func (s *clusterSystem) introduce(d *demo) {
	fmt.Printf("Tallystick demo: a cluster of two processes of each role; data and logs in %s\n", d.dir)
	for _, m := range s.Members() {
		api := ""
		if m.Role == app.RoleGateway {
			api = "  API http://" + m.Addr
		}
		fmt.Printf("  %-14s operators http://%s%s\n", m.Name, m.OperatorAddr, api)
	}
	fmt.Printf("  %-14s %s\n", "Kafka", s.Kafka.Addr)
	fmt.Printf("  %-14s %s\n", "Redis", s.Redis.Addr)
	for i, p := range s.Postgres {
		fmt.Printf("  %-14s %s\n", fmt.Sprint("PostgreSQL ", i+1), p.URL("tallystick"))
	}
	fmt.Printf("  %-14s %s (a simulator with faults)\n\nTry by hand while it runs:\n%s\n", "PSP", d.sim.URL(),
		byHand("http://"+s.Members(app.RoleGateway)[0].Addr, d.apiKey, d.sim.URL()))
}

// figures asks all operator ports.
func (s *clusterSystem) figures(ctx context.Context) (f figures) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	states := map[string]string{}
	for _, m := range s.Members() {
		all, err := rig.ReadFigures(ctx, m.OperatorAddr)
		if err != nil {
			continue
		}
		f.unknown += int64(all[`tallystick_core_open_payments{status="unknown"}`])
		f.posted += int64(all[`tallystick_accounting_entries_total{result="posted"}`])
		f.unread = max(f.unread, time.Duration(all[`tallystick_intake_oldest_unread_seconds{topic="intents"}`]*float64(time.Second)))
		for _, a := range app.ExampleAccounts() {
			for _, state := range []string{breaker.Open, breaker.HalfOpen} {
				if all[fmt.Sprintf(`tallystick_channel_breaker_state{account=%q,which=%q,state=%q}`, a, breaker.Pay, state)] > 0 {
					states[a] = state
				}
			}
		}
	}
	for _, a := range app.ExampleAccounts() {
		if states[a] == "" {
			states[a] = breaker.Closed
		}
		f.breakers += " " + a + " " + states[a]
	}
	return f
}

// drained looks at the books while they are written: nothing is open, and nothing
// unread.
func (s *clusterSystem) drained(ctx context.Context) bool {
	ages, err := s.data.Open(ctx)
	if err != nil {
		return false
	}
	for _, a := range ages {
		if a.Orders > 0 {
			return false
		}
	}
	v, err := s.data.Verify(ctx)
	if err != nil {
		return false
	}
	for _, u := range v.Unread {
		if u.Count > 0 {
			return false
		}
	}
	return true
}

func (s *clusterSystem) books(context.Context) (books, error) { return s.data, s.stop() }

func (s *clusterSystem) close() error {
	var errs []error
	if s.data != nil {
		errs = append(errs, s.data.Close())
	}
	errs = append(errs, s.stop(), s.Cluster.Close())
	return errors.Join(errs...)
}
