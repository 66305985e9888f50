package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
)

// theServer is the name of the embedded profile's one process in rig.CPU.
const theServer = "server"

// server is a process of the product.
type server struct {
	*rig.Process
	operatorAddr string
}

// start builds and starts the servers, and the PSP in this process. stop ends them;
// engines ends those of a cluster, which are still needed to verify.
func (b *bench) start(ctx context.Context, dir string, seed uint64) (stop, engines func() error, err error) {
	stopPSP, none := func() error { return nil }, func() error { return nil }
	stop, engines = func() error { return errors.Join(b.stopServers(), stopPSP()) }, none
	exe, err := rig.Build(ctx, dir)
	if err != nil {
		return stop, engines, err
	}
	if b.onCluster {
		b.making.Dir, b.making.Exe = dir, exe
		b.cluster, err = rig.NewCluster(ctx, b.making)
		b.folder, engines = b.cluster.Folder, b.cluster.Close
	} else {
		if b.keep == "" {
			b.keep = filepath.Join(dir, "data")
		}
		b.folder, err = rig.MakeFolder(b.keep)
	}
	if err != nil {
		return stop, engines, err
	}
	if b.psp, stopPSP, err = b.folder.StartPSP(ctx, sim.Realistic(), seed); err != nil {
		return stop, engines, err
	}
	b.users.order = load.Orders(seed)
	if b.onCluster {
		return stop, engines, b.startCluster(ctx)
	}
	return stop, engines, b.startServer(ctx, exe, filepath.Join(dir, "server.log"))
}

func (b *bench) startServer(ctx context.Context, exe, log string) error {
	p, err := rig.Start(exe, b.folder.Env, log, "serve", "--data", b.folder.Dir)
	if err != nil {
		return err
	}
	b.servers = []server{{p, b.folder.OperatorAddr}}
	b.users.client = load.NewClient(b.folder.Addr, b.folder.APIKey, b.users.count)
	return p.Ready(ctx, b.folder.Addr, 30*time.Second)
}

func (b *bench) startCluster(ctx context.Context) error {
	if err := b.cluster.Start(ctx); err != nil {
		return err
	}
	for _, m := range b.cluster.Members() {
		b.servers = append(b.servers, server{m.Process(), m.OperatorAddr})
	}
	b.users.client = load.NewClient(b.cluster.Addrs(), b.folder.APIKey, b.users.count)
	return nil
}

func (b *bench) stopServers() error {
	if b.cluster != nil {
		return b.cluster.Stop()
	}
	var errs []error
	for _, s := range b.servers {
		errs = append(errs, s.Stop(2*time.Minute))
	}
	return errors.Join(errs...)
}

// cpu is the processor time so far.
func (b *bench) cpu() (rig.CPU, error) {
	if b.cluster != nil {
		return b.cluster.CPU()
	}
	cpu, err := b.servers[0].CPU()
	return rig.CPU{theServer: cpu, rig.Ourselves: rig.SelfCPU()}, err
}

func (b *bench) loggedErrors() (n int) {
	for _, s := range b.servers {
		n += s.LoggedErrors()
	}
	return n
}

// takeProfile profiles the servers, all as one, while payments are offered.
func (b *bench) takeProfile(ctx context.Context) error {
	sleep(ctx, b.d/10) // not the start
	raws, errs := make([][]byte, len(b.servers)), make([]error, len(b.servers))
	var wg sync.WaitGroup
	for i, s := range b.servers {
		wg.Go(func() { raws[i], errs[i] = rig.Profile(ctx, s.operatorAddr, b.d*8/10) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	raw, err := merge(raws...)
	if err != nil {
		return err
	}
	if b.profile != "" {
		if err := os.WriteFile(b.profile, raw, 0o600); err != nil {
			return err
		}
	}
	b.spent, b.functions, err = attribute(raw)
	return err
}
