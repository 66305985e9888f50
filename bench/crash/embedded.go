package crash

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
)

// embedded is one process on one folder, again and again.
type embedded struct {
	*bench
	lives   int
	p       *rig.Process
	started time.Time
}

func (b *bench) newEmbedded() (addrs string, err error) {
	b.folder, err = rig.MakeFolder(filepath.Join(b.dir, "data"))
	b.folder.Env = append(b.folder.Env, environ()...)
	b.product = &embedded{bench: b}
	return b.folder.Addr, err
}

// start runs `tallystick serve` on the folder; before is a command that runs it,
// in the child's own process.
func (e *embedded) start(env []string, before ...string) (err error) {
	e.lives++
	args := append(before, e.exe, "serve", "--data", e.folder.Dir)
	e.started = time.Now()
	e.p, err = rig.Start(args[0], append(e.folder.Env, env...), filepath.Join(e.dir, fmt.Sprintf("serve.%d.log", e.lives)), args[1:]...)
	return err
}

func (e *embedded) kills(ctx context.Context, stops []stop) error {
	for _, s := range stops {
		if err := e.kill(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// kill lets one child live until its stop.
func (e *embedded) kill(ctx context.Context, s stop) error {
	if s.refused {
		unrefuse, err := e.refuseOne(s.after)
		if err != nil {
			return err
		}
		defer unrefuse()
	}
	var env []string
	patience := s.after
	if s.point != "" {
		env, patience = []string{s.crashAt()}, e.cfg.PointMax
	}
	if err := e.start(env); err != nil {
		return err
	}
	p, started := e.p, e.started
	defer p.Kill()
	ready := make(chan struct{})
	go func() { defer close(ready); _ = e.timeReady(ctx, p, e.folder.Addr, started) }()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.Done():
	case <-time.After(patience):
	}
	_ = e.end(s, "serve", p, started) // the next one starts all the same
	<-ready
	return nil
}

// serve starts the last child of a round.
func (e *embedded) serve(ctx context.Context) error {
	if err := e.start(nil); err != nil {
		return err
	}
	return e.p.Ready(ctx, e.folder.Addr, e.cfg.ReadyMax)
}

func (e *embedded) fate() error { return e.p.Ended() }

func (e *embedded) quiet(ctx context.Context) bool {
	f, err := rig.ReadFigures(ctx, e.folder.OperatorAddr)
	return err == nil && f.Sum("tallystick_core_open_payments") == 0 && f.Sum("tallystick_consumer_lag") == 0
}

func (e *embedded) stop() error { return e.p.Stop(e.cfg.ReadyMax) }

func (e *embedded) books(ctx context.Context) (books, error) { return e.folder.Stores(ctx) }

// Close kills the child.
func (e *embedded) Close() error {
	if e.p != nil {
		e.p.Kill()
	}
	return nil
}
