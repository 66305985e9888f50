package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/wholefile"
)

// Folder is a data folder, and where its server is going to be.
type Folder struct {
	Dir, APIKey        string
	Addr, OperatorAddr string
	Env                []string // that the server needs; may be added to
}

// limitless is a bound that no load on one machine reaches.
const limitless = 1_000_000

// MakeFolder makes a data folder in dir: as init does, but with free addresses,
// and limits of merchant and channel accounts that are out of the way: a bench is
// to find the machine's limit. pspURL is set afterwards, by PointAt.
func MakeFolder(dir string) (f Folder, err error) {
	made, err := app.Init(dir)
	if err != nil {
		return f, err
	}
	free, err := quietAddresses(2)
	if err != nil {
		return f, err
	}
	f = Folder{Dir: dir, APIKey: made.APIKey, Addr: free[0], OperatorAddr: free[1]}
	f.Env = []string{"TALLYSTICK_LISTEN=" + f.Addr, "TALLYSTICK_LISTEN_OPERATOR=" + f.OperatorAddr, "TALLYSTICK_PUBLIC_URL=http://" + f.Addr,
		"TALLYSTICK_LOG_LEVEL=warn"}
	return f, f.Edit(func(s *merchant.Snapshot) {
		for i := range s.Merchants {
			s.Merchants[i].RequestsPerSecond, s.Merchants[i].Burst = limitless, limitless
		}
		for i := range s.Accounts {
			l := &s.Accounts[i].Limits
			l.CallsPerSecond, l.Burst, l.ConcurrentMax = limitless, limitless, 1024
		}
	})
}

// PointAt puts the PSP of all channel accounts at a URL.
func (f Folder) PointAt(pspURL string) error {
	return f.Edit(func(s *merchant.Snapshot) {
		for i := range s.Accounts {
			s.Accounts[i].Endpoint = pspURL
		}
	})
}

// Edit changes the directory, and raises its version. Whoever reads it meanwhile sees
// the old one or the new one.
func (f Folder) Edit(change func(*merchant.Snapshot)) error {
	path := filepath.Join(f.Dir, app.DirectoryFile)
	s, err := merchant.Load(path)
	if err != nil {
		return err
	}
	change(s)
	s.Version++
	text, err := yaml.Marshal(s)
	if err != nil {
		return err
	}
	if err := wholefile.Write(path, text); err != nil {
		return err
	}
	_, err = merchant.Load(path) // what the server would refuse is our mistake
	return err
}

// Deps are the folder's, to look at its stores with.
func (f Folder) Deps() (app.Deps, error) {
	return app.Production(f.Dir, slices.Clone(f.Env), io.Discard)
}

// Stores opens the folder's stores. Nothing may be serving it.
func (f Folder) Stores(ctx context.Context) (*app.Stores, error) {
	d, err := f.Deps()
	if err != nil {
		return nil, err
	}
	return app.OpenStores(ctx, d)
}

// StartPSP starts a simulated PSP in this process for the folder's channel
// accounts. stop ends it and gives its error.
func (f Folder) StartPSP(ctx context.Context, faults sim.Faults, seed uint64) (s *sim.Sim, stop func() error, err error) {
	s, stop, err = f.startPSP(ctx, faults, sim.DeskConfig{Seed: seed}, app.ExampleAccounts()...)
	if err != nil {
		return nil, nil, err
	}
	return s, stop, f.PointAt(s.URL())
}

// StartPSPs starts one for each channel account, so that one can refuse connections
// while others take them. stop, which is never nil, ends all.
func (f Folder) StartPSPs(ctx context.Context, faults sim.Faults, desk sim.DeskConfig) (psps map[string]*sim.Sim, stop func() error, err error) {
	var stops []func() error
	stop = func() error {
		var errs []error
		for _, one := range stops {
			errs = append(errs, one())
		}
		return errors.Join(errs...)
	}
	psps = map[string]*sim.Sim{}
	for _, name := range app.ExampleAccounts() {
		s, one, err := f.startPSP(ctx, faults, desk, name)
		if err != nil {
			return nil, stop, err
		}
		psps[name], stops = s, append(stops, one)
	}
	return psps, stop, f.Edit(func(s *merchant.Snapshot) {
		for i := range s.Accounts {
			s.Accounts[i].Endpoint = psps[s.Accounts[i].ID].URL()
		}
	})
}

func (f Folder) startPSP(ctx context.Context, faults sim.Faults, desk sim.DeskConfig, accounts ...string) (s *sim.Sim, stop func() error, err error) {
	secrets := app.NewSecrets(filepath.Join(f.Dir, app.SecretsDir), func(string) (string, bool) { return "", false })
	desk.Accounts = nil
	for _, name := range accounts {
		key, err := secrets.PSP(name)
		if err != nil {
			return nil, nil, err
		}
		desk.Accounts = append(desk.Accounts, sim.Account{Name: name, Keys: [][]byte{key}, Faults: faults})
	}
	s, err = sim.New(sim.Config{Desk: desk, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	if err := s.Listen("127.0.0.1:0"); err != nil {
		return nil, nil, err
	}
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- s.Run(own) }()
	return s, func() error { cancel(); return <-done }, nil
}

// quietAddresses are loopback addresses that were free a moment ago, no two the same,
// and outside of the ports that the system hands out: while a process is dead, no
// connection of somebody else can take, or even meet itself on, its port.
func quietAddresses(n int) (out []string, err error) {
	for range 200 * n {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))) //nolint:gosec // any that is free
		if err != nil {
			continue
		}
		defer ln.Close() //nolint:errcheck // nobody has connected
		if out = append(out, ln.Addr().String()); len(out) == n {
			return out, nil
		}
	}
	return nil, errors.New("not enough free ports from 10000 to 29999")
}

// TempDir makes a temporary folder; remove removes it with all that is in it,
// and belongs in a defer.
func TempDir(name string) (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp("", "tallystick-bench-"+name+"-")
	return dir, func() { _ = os.RemoveAll(dir) }, err
}

// Join gives an error for violations, at most ten of them in words.
func Join(violations []string) error {
	if len(violations) == 0 {
		return nil
	}
	errs := make([]error, 0, 11)
	for _, v := range violations[:min(10, len(violations))] {
		errs = append(errs, errors.New(v))
	}
	if more := len(violations) - 10; more > 0 {
		errs = append(errs, fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
}
