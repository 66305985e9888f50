package sim

import (
	"context"
	"errors"
	"html/template"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
)

// Config is what a Sim needs. Zero bounds mean the defaults beside them.
type Config struct {
	Desk DeskConfig // an empty PublicURL becomes the address listened on
	Now  func() time.Time
	Log  *slog.Logger

	ConnectionsMax        int   // 8,192; more wait to be accepted
	CallbackWorkers       int   // 64 callbacks under way at once
	CallbackTimeoutMillis int64 // 5,000
	TickMillis            int64 // 5: how late a payer or callback may be
}

func (c *Config) setDefaults() error {
	if c.Now == nil || c.Log == nil {
		return &fault.Error{Kind: fault.Invalid, Op: "sandbox simulator", Code: "config_invalid", Field: "now, log", Fix: "hand them in"}
	}
	if c.ConnectionsMax == 0 {
		c.ConnectionsMax = 8192
	}
	if c.CallbackWorkers == 0 {
		c.CallbackWorkers = 64
	}
	if c.CallbackTimeoutMillis == 0 {
		c.CallbackTimeoutMillis = 5_000
	}
	if c.TickMillis == 0 {
		c.TickMillis = 5
	}
	if c.ConnectionsMax < 1 || c.CallbackWorkers < 1 || c.CallbackTimeoutMillis < 1 || c.TickMillis < 1 {
		return &fault.Error{Kind: fault.Invalid, Op: "sandbox simulator", Code: "config_invalid",
			Field: "connections_max, callback_workers, callback_timeout_millis, tick_millis", Fix: "positive, or 0 for the default"}
	}
	return nil
}

// Sim serves a Desk over HTTP and delivers its callbacks: Listen, then Run. Its
// other methods may be called at any time after New.
type Sim struct {
	*Desk // SetFaults, Faults, Injected, Find, Payments
	cfg   Config

	mu    sync.Mutex
	addr  string
	ln    *gate // nil while connections are refused
	ready chan *gate
	done  chan struct{} // closed when Run ends
	pause chan time.Duration
	pages *template.Template
}

// New makes a simulator; nothing listens yet. Errors are of kind fault.Invalid.
func New(c Config) (*Sim, error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	d, err := NewDesk(c.Desk)
	if err != nil {
		return nil, err
	}
	return &Sim{Desk: d, cfg: c, ready: make(chan *gate, 1), done: make(chan struct{}),
		pause: make(chan time.Duration, 1), pages: newPage()}, nil
}

// Listen binds the address, "127.0.0.1:0" for any free port. Requests are
// answered once Run runs.
func (s *Sim) Listen(addr string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addr != "" {
		return fault.New(fault.Conflict, "sandbox simulator", "already listening on %s", s.addr)
	}
	if err := s.open(addr); err != nil {
		return err
	}
	s.addr = s.ln.Addr().String()
	s.setPublicURL("http://" + s.addr)
	return nil
}

// open binds and hands the listener to Run; s.mu is held.
func (s *Sim) open(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fault.Wrap("sandbox simulator", err)
	}
	s.ln = newGate(ln)
	s.ready <- s.ln
	return nil
}

// Addr is host and port listened on; empty before Listen.
func (s *Sim) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// URL is what a driver's Endpoint is.
func (s *Sim) URL() string { return "http://" + s.Addr() }

// Refuse closes all connections and refuses new ones (true), or takes them again
// (false). Payments and payers go on meanwhile. A second call changes nothing.
func (s *Sim) Refuse(refuse bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case refuse && s.ln != nil:
		s.ln.shut()
		s.ln = nil
		select { // not served yet
		case <-s.ready:
		default:
		}
	case !refuse && s.ln == nil && s.addr != "":
		select {
		case <-s.done:
			return fault.New(fault.Unavailable, "sandbox simulator", "stopped")
		default:
			return s.open(s.addr)
		}
	}
	return nil
}

// UserPays is a payer who pays now: amount, or what was asked for if it is the
// zero Amount. False if there is nothing to pay.
func (s *Sim) UserPays(account, outTradeNo string, amount money.Amount) bool {
	return s.Desk.UserPays(account, outTradeNo, amount, s.cfg.Now())
}

// Run serves until ctx ends; then it closes all connections, whatever they wait
// for, and returns nil. It may be called once.
func (s *Sim) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	deliveries := make(chan Delivery, 4*s.cfg.CallbackWorkers)
	client := s.newCallbackClient()
	for range s.cfg.CallbackWorkers {
		wg.Go(func() { s.deliver(ctx, client, deliveries) })
	}
	wg.Go(func() { s.tick(ctx, deliveries) })
	wg.Go(s.pauses)

	server := s.newServer(client)
	failed := make(chan error, 1)
	for err := error(nil); ; {
		select {
		case g := <-s.ready:
			wg.Go(func() {
				if err := server.Serve(g); err != nil && !g.isShut() {
					select {
					case failed <- err:
					default:
					}
				}
			})
			continue
		case err = <-failed:
		case <-ctx.Done():
		}
		cancel()
		close(s.done) // whoever waits in a handler goes home
		_ = s.Refuse(true)
		_ = server.Shutdown()
		wg.Wait()
		client.CloseIdleConnections()
		return fault.Wrap("sandbox simulator", err)
	}
}

// tick moves what is due from the heap to the workers. A full channel makes it
// wait: the merchant is slow, and the heap is bounded by the number of payments.
func (s *Sim) tick(ctx context.Context, to chan<- Delivery) {
	t := time.NewTicker(millis(s.cfg.TickMillis))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for _, v := range s.Due(s.cfg.Now(), cap(to)) {
			select {
			case to <- v:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (s *Sim) deliver(ctx context.Context, client *fasthttp.Client, from <-chan Delivery) {
	for {
		select {
		case <-ctx.Done():
			return
		case v := <-from:
			s.call(client, v)
		}
	}
}

// call makes one delivery. Only the one accepted answer counts.
func (s *Sim) call(client *fasthttp.Client, v Delivery) {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	seal, body := s.Sign(v, s.cfg.Now())
	req.SetRequestURI(v.URL)
	req.Header.SetMethod(fasthttp.MethodPost)
	req.Header.SetContentType(wire.ContentType)
	req.Header.Set(wire.HeaderAccount, seal.Account)
	req.Header.Set(wire.HeaderKey, seal.Key)
	req.Header.Set(wire.HeaderTimestamp, seal.Timestamp)
	req.Header.Set(wire.HeaderNonce, seal.Nonce)
	req.Header.Set(wire.HeaderSignature, seal.Signature)
	req.SetBodyRaw(body)
	err := client.DoTimeout(req, resp, millis(s.cfg.CallbackTimeoutMillis))
	accepted := err == nil && resp.StatusCode() == 200 && string(resp.Body()) == wire.AcceptedBody
	if err != nil {
		s.cfg.Log.Debug("callback not delivered", "account", v.Account, "out_trade_no", v.OutTradeNo,
			"attempt", v.Attempt, "error", err.Error())
	}
	s.Delivered(v, accepted, s.cfg.Now())
}

func (s *Sim) newCallbackClient() *fasthttp.Client {
	return &fasthttp.Client{
		MaxConnsPerHost:           2 * s.cfg.CallbackWorkers,
		MaxIdleConnDuration:       10 * time.Second,
		MaxIdemponentCallAttempts: 1,
		RetryIfErr:                func(*fasthttp.Request, int, error) (bool, bool) { return false, false },
		MaxResponseBodySize:       4096,
		NoDefaultUserAgentHeader:  true,
		DisablePathNormalizing:    true,
	}
}

// gate is a listener that knows its connections, so that all can be cut.
type gate struct {
	net.Listener
	mu     sync.Mutex
	conns  map[*gateConn]struct{}
	closed bool
}

type gateConn struct {
	net.Conn
	g *gate
}

func newGate(ln net.Listener) *gate { return &gate{Listener: ln, conns: map[*gateConn]struct{}{}} }

// Accept refuses what came in while the gate was being shut.
func (g *gate) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	gc := &gateConn{c, g}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	g.conns[gc] = struct{}{}
	return gc, nil
}

func (c *gateConn) Close() error {
	c.g.mu.Lock()
	delete(c.g.conns, c)
	c.g.mu.Unlock()
	return c.Conn.Close()
}

func (g *gate) isShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

func (g *gate) shut() {
	_ = g.Listener.Close()
	g.mu.Lock()
	g.closed = true
	conns := g.conns
	g.conns = map[*gateConn]struct{}{}
	g.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}
