package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/bus"
)

// embeddedSystem is everything in this process.
type embeddedSystem struct {
	app  *app.App
	stop func() error // stops it, and gives the first error; the stores stay open
}

// startEmbedded makes the folder, and starts the simulator and the app.
func (d *demo) startEmbedded(ctx context.Context) error {
	made, err := app.Init(d.dir)
	if err != nil {
		return err
	}
	d.apiKey = made.APIKey
	if d.log, err = os.Create(filepath.Join(d.dir, "demo.log")); err != nil {
		return err
	}
	deps, err := app.Production(d.dir, []string{"TALLYSTICK_LISTEN=127.0.0.1:0", "TALLYSTICK_LISTEN_OPERATOR=127.0.0.1:0", "TALLYSTICK_LOG_LEVEL=warn"}, d.log)
	if err != nil {
		return err
	}
	if err := d.startSim(ctx, deps); err != nil {
		return err
	}
	d.pointAtSimulator(deps.Directory)
	// The public address is known only once it is open, and the PSP calls back there.
	ln, err := app.FreeAddress()
	if err != nil {
		return err
	}
	deps.Config.Listen, deps.Config.PublicURL = ln, "http://"+ln
	// Nobody waits for hours here: an unknown payment is asked after every 5 s at least.
	deps.Config.Prepay.Backoff.PollFirstMillis, deps.Config.Prepay.Backoff.MaxMillis = 5_000, 5_000
	s := &embeddedSystem{stop: func() error { return nil }}
	if s.app, err = app.New(ctx, deps); err != nil {
		return err
	}
	d.system = s
	if err := s.app.Listen(); err != nil {
		return err
	}
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- s.app.Run(own) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-done })
	return nil
}

func (d *demo) startSim(ctx context.Context, deps app.Deps) (err error) {
	secrets := app.NewSecrets(filepath.Join(d.dir, app.SecretsDir), func(string) (string, bool) { return "", false })
	var accounts []sim.Account
	for _, name := range app.ExampleAccounts() {
		key, err := secrets.PSP(name)
		if err != nil {
			return err
		}
		accounts = append(accounts, sim.Account{Name: name, Keys: [][]byte{key}, Faults: sim.Realistic()})
	}
	if d.sim, err = sim.New(sim.Config{Desk: sim.DeskConfig{Accounts: accounts, Seed: d.Seed}, Now: time.Now, Log: deps.Log}); err != nil {
		return err
	}
	if err := d.sim.Listen("127.0.0.1:0"); err != nil {
		return err
	}
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- d.sim.Run(own) }()
	d.stopSim = sync.OnceValue(func() error { cancel(); return <-done })
	return nil
}

// pointAtSimulator puts a directory in force whose accounts are at the simulator.
func (d *demo) pointAtSimulator(dir *merchant.Directory) {
	s := *dir.Current()
	s.Version++
	s.Accounts = append([]merchant.ChannelAccount(nil), s.Accounts...)
	for i := range s.Accounts {
		s.Accounts[i].Endpoint = d.sim.URL()
	}
	s.Merchants = append([]merchant.Merchant(nil), s.Merchants...)
	for i := range s.Merchants {
		s.Merchants[i].RequestsPerSecond, s.Merchants[i].Burst = 2*d.Rate+100, int(2*d.Rate)+100
	}
	dir.Replace(&s)
}

func (s *embeddedSystem) addrs() string { return s.app.Addr() }

func (s *embeddedSystem) introduce(d *demo) {
	base := "http://" + s.app.Addr()
	fmt.Printf(`Tallystick demo: everything in one process, data in %[1]s
  API        %[2]s        operators  http://%[3]s/metrics
  PSP        %[4]s        (a simulator with faults; its log and ours: %[1]s/demo.log)

Try by hand while it runs:
%[5]s
`, d.dir, base, s.app.OperatorAddr(), d.sim.URL(), byHand(base, d.apiKey, d.sim.URL()))
}

// byHand are commands to try.
func byHand(base, apiKey, psp string) string {
	return fmt.Sprintf(`  curl -s %[1]s/v1/payments -H 'Authorization: Bearer %[2]s' \
    -H 'Content-Type: application/json' -d '{"order_id":"mug-1","amount":1999,"currency":"CNY","subject":"Coffee mug"}'
  curl -s '%[1]s/v1/vouchers/VOUCHER?wait=20' -H 'Authorization: Bearer %[2]s'
  curl -s %[1]s/v1/trades/VOUCHER -H 'Authorization: Bearer %[2]s'
  curl -s %[3]s/admin/faults
`, base, apiKey, psp)
}

func (s *embeddedSystem) figures(context.Context) (f figures) {
	f.unknown = s.app.Open(event.Unknown).Orders
	f.posted = int64(s.app.Metrics.GetOrCreateCounter(`tallystick_accounting_entries_total{result="posted"}`).Get()) //nolint:gosec // a count
	_, f.unread = s.app.Intake.Backlog(bus.Intents)
	for _, a := range app.ExampleAccounts() {
		if set, ok := s.app.Channels.(*app.ChannelSet); ok {
			f.breakers += " " + a + " " + set.BreakerState(a)
		}
	}
	return f
}

func (s *embeddedSystem) drained(ctx context.Context) bool {
	open := int64(0)
	ages, err := s.app.Stores.Core.Open(ctx)
	for _, a := range ages {
		open += a.Orders
	}
	return err == nil && open == 0 && s.app.Drained()
}

// books are those of a system that stands still.
func (s *embeddedSystem) books(ctx context.Context) (books, error) {
	if err := s.stop(); err != nil {
		return nil, err
	}
	return s.app.Stores, s.app.CatchUp(ctx)
}

func (s *embeddedSystem) close() error { return errors.Join(s.stop(), s.app.Close()) }
