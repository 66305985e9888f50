package app

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/obs"
)

// Await waits for the directory as it is now, where there are brokers to have it from: for
// kafka.produce_timeout at most, or for kafka.start_timeout without a snapshot. It is for
// who will Listen: before that clients go to another replica; afterwards they are refused,
// or, with a snapshot, let in with a key that was revoked meanwhile.
func (a *App) Await(ctx context.Context) {
	select {
	case <-a.bus.ready():
	default:
		return
	}
	patience := a.Config.Kafka.StartTimeout
	if a.Directory.Current().Version > 0 {
		patience = a.Config.Kafka.ProduceTimeout
	}
	own, cancel := context.WithTimeout(ctx, patience)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.followDirectory(own) // it ends with own
	}()
	select {
	case <-a.directory.Settled():
	case <-own.Done():
	}
	cancel()
	<-ended
}

func (a *App) followDirectory(ctx context.Context) error {
	return a.directory.Run(ctx, a.Config.DirectoryPoll)
}

// Listen opens the addresses of the configuration; port 0 means any free one.
// Run must follow.
func (a *App) Listen() (err error) {
	if a.Config.has(RoleGateway) {
		if a.public, err = net.Listen("tcp", a.Config.Listen); err != nil {
			return &fault.Error{Kind: fault.Invalid, Op: "listen", Field: "listen", Code: "cannot_listen", Fix: "choose a free address", Err: err}
		}
	}
	if a.operator, err = net.Listen("tcp", a.Config.ListenOperator); err != nil {
		if a.public != nil {
			_ = a.public.Close()
		}
		return &fault.Error{Kind: fault.Invalid, Op: "listen", Field: "listen_operator", Code: "cannot_listen", Fix: "choose a free address", Err: err}
	}
	if at, ok := a.operator.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() {
		a.Log.Warn("the operator port can be reached from other machines and has no login: metrics, profiles and core's answers are open to whoever reaches it",
			"listen_operator", at.String())
	}
	return nil
}

// FreeAddress is a loopback address that was free a moment ago.
func FreeAddress() (string, error) {
	all, err := FreeAddresses(1)
	if err != nil {
		return "", err
	}
	return all[0], nil
}

// FreeAddresses are loopback addresses that were free a moment ago, no two the same.
func FreeAddresses(n int) (out []string, err error) {
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fault.Wrap("free address", err)
		}
		defer ln.Close() //nolint:errcheck // nobody has connected
		out = append(out, ln.Addr().String())
	}
	return out, nil
}

// Addr is the address of the public API, once Listen has returned; empty where
// there is none.
func (a *App) Addr() string {
	if a.public == nil {
		return ""
	}
	return a.public.Addr().String()
}

// OperatorAddr is the address of metrics and profiles.
func (a *App) OperatorAddr() string { return a.operator.Addr().String() }

// Run runs everything until ctx ends, then stops it in reverse order: the public
// API first, so that nothing new comes in, and the intake last. It returns at
// once when a part fails that cannot go on: in the embedded profile after a commit of
// unknown outcome, which in the cluster ends a duty alone. What was accepted is in the
// stores, and the next process goes on with it.
func (a *App) Run(ctx context.Context) error {
	TuneGC()
	c := a.Config.Consumers
	runners := append([]runner{{"coordination", a.Coord.Run}}, a.bus.first()...)
	// Nothing is read or told before the bus is ready, and nobody is on duty before the
	// directory is that of today: core would pay what is forbidden by now, and reject what
	// it does not know.
	if a.Config.has(RoleGateway) {
		for _, r := range append(a.carriers, runner{"voucher view", func(ctx context.Context) error { return a.Views.Run(ctx, c.Idle, c.BackoffMax) }}) {
			runners = append(runners, after(a.bus.ready(), r))
		}
	}
	if a.Config.has(RoleAccounting) {
		runners = append(runners, runner{"ledger watch", a.Watch.Run})
	}
	runners = append(runners, runner{"gauges", a.runGauges}, runner{"operator port", a.serveOperator}, after(a.bus.ready(), runner{"directory", a.followDirectory}))
	work := a.runnersOf(a.atWork()...)
	for _, cell := range a.cells {
		work = append(work, runner{cell.name(), cell.run})
	}
	for _, r := range work {
		runners = append(runners, after(a.bus.ready(), after(a.directory.Settled(), r)))
	}
	if a.Config.has(RoleGateway) {
		runners = append(runners, runner{"public API", a.servePublic})
	}
	a.Log.Info("serving", "address", a.Addr(), "operator_address", a.OperatorAddr(), "groups", a.Config.Groups)
	err := runAll(ctx, runners, a.Config.ShutdownTimeout)
	a.Log.Info("stopped", "error", err)
	return err
}

func (a *App) servePublic(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- a.API.Serve(a.public) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.Config.ShutdownTimeout)
	defer cancel()
	err := a.API.Shutdown(grace)
	_ = a.public.Close() // Shutdown does not know of it when Serve has only just been called
	return errors.Join(err, <-failed)
}

// operatorConnsMax bounds connections to the operator port: a few of operators', and
// up to queryConnsMax of each gateway.
const operatorConnsMax = 1024

func (a *App) serveOperator(ctx context.Context) error {
	handler := obs.Operator(a.Metrics)
	if a.Config.has(RoleCore) {
		handler = answerQueries(core.Queries{Store: a.trades()}, a.Config.Voucher.QueryTimeout, handler)
	}
	s := &fasthttp.Server{Handler: answerHealth(a.probes(), handler), Name: "tallystick", ReadTimeout: 10 * time.Second, Concurrency: operatorConnsMax,
		MaxRequestBodySize: 1 << 10, ReadBufferSize: 4096, CloseOnShutdown: true}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(a.operator) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		err := s.ShutdownWithContext(context.WithoutCancel(ctx))
		_ = a.operator.Close() // as above
		return errors.Join(err, <-failed)
	}
}
