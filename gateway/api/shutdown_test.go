package api_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/api"
)

// A gateway that is stopped, beside others, goes on answering for a while: over
// connections that are there and over new ones, and each answer ends its own. Nobody
// meets an end that he could not see.
func TestLinger(t *testing.T) {
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Others, d.Config.Linger = true, 10*time.Second }).listen()
	if a := h.pay(goodBody, "k1"); a.status != 202 || a.header["Connection"] == "close" {
		t.Fatalf("before: %d, connection %q", a.status, a.header["Connection"])
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- h.server.Shutdown(ctx) }()
	for h.get("/readyz", "").status != 503 {
		time.Sleep(time.Millisecond)
	}
	a, x, i := h.accepted()
	h.core.knows(x, paymentOf(i, event.Pending, 3))
	for _, path := range []string{"/v1/vouchers/" + a.get("voucher") + "?wait=60", "/v1/trades/" + a.get("trade"), "/v1/payments"} {
		if a := h.get(path, apiKey); a.status != 200 || a.header["Connection"] != "close" {
			t.Errorf("%s while it lingers: %d, connection %q", path, a.status, a.header["Connection"])
		}
	}
	for range 5 {
		if a := h.pay(goodBody, "k1"); a.status != 202 || a.header["Connection"] != "close" {
			t.Errorf("while it lingers: %d, connection %q", a.status, a.header["Connection"])
		}
	}
	stop()
	<-stopped
}

// One that is alone has nobody to leave its clients to, and stops at once.
func TestNoLingerAlone(t *testing.T) {
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Config.Linger = 10 * time.Second }).listen()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := h.server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// gated is a listener that nobody takes a connection of until it is opened.
type gated struct {
	*net.TCPListener
	open chan struct{}
}

func (g gated) Accept() (net.Conn, error) {
	<-g.open
	return g.TCPListener.Accept()
}

// serveTCP serves on a real socket, as a queue of connections is what a kernel has, and
// gives a function that makes a connection and one that stops the server.
func (h *harness) serveTCP(ln net.Listener) (dial func() (*net.TCPConn, error), stop func() error) {
	served := make(chan error, 1)
	go func() { served <- h.server.Serve(ln) }()
	dial = func() (*net.TCPConn, error) {
		c, err := (&net.Dialer{}).DialContext(h.t.Context(), "tcp4", ln.Addr().String())
		if err != nil {
			return nil, err
		}
		h.t.Cleanup(func() { _ = c.Close() })
		return c.(*net.TCPConn), c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	stop = func() error {
		ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
		defer cancel()
		return errors.Join(h.server.Shutdown(ctx), <-served)
	}
	return dial, stop
}

// ask sends a request over a connection and reads its answer.
func ask(c net.Conn) (*http.Response, error) {
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return nil, err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, err
	}
	return r, r.Body.Close()
}

func listenTCP(t *testing.T) *net.TCPListener {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.(*net.TCPListener)
}

// Connections that the kernel has made and that nobody has taken when the server is
// stopped are answered, and those that come later are refused.
func TestWaitingConnectionsAreAnswered(t *testing.T) {
	h := newHarness(t, nil)
	ln := gated{listenTCP(t), make(chan struct{})}
	dial, stop := h.serveTCP(ln)
	var conns []net.Conn
	for range 20 {
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for !h.server.Closing() {
		time.Sleep(time.Millisecond)
	}
	time.AfterFunc(100*time.Millisecond, func() { close(ln.open) }) // later than it waits for handshakes
	for i, c := range conns {
		r, err := ask(c)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if r.StatusCode != 200 || !r.Close {
			t.Errorf("connection %d: %d, ends %v", i, r.StatusCode, r.Close)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a connection to a server that has stopped: %v", err)
	}
}

// scarce is a listener of a process that has no files left, for some times.
type scarce struct {
	*net.TCPListener
	left atomic.Int64
	err  syscall.Errno
}

func (s *scarce) Accept() (net.Conn, error) {
	if s.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", s.err)}
	}
	return s.TCPListener.Accept()
}

// A server without files for more connections waits for some; what came meanwhile is
// answered.
func TestNoFilesForMore(t *testing.T) {
	for _, err := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		h := newHarness(t, nil)
		ln := &scarce{TCPListener: listenTCP(t), err: err}
		ln.left.Store(3)
		dial, stop := h.serveTCP(ln)
		c, failed := dial()
		if failed != nil {
			t.Fatal(failed)
		}
		if r, failed := ask(c); failed != nil || r.StatusCode != 200 {
			t.Errorf("after %v: %v, %v", err, r, failed)
		}
		if failed := stop(); failed != nil {
			t.Errorf("after %v: %v", err, failed)
		}
	}
}

// While clients make connections as fast as they can, each is answered or refused.
func TestNoConnectionIsCut(t *testing.T) {
	for range 10 {
		h := newHarness(t, nil)
		dial, stop := h.serveTCP(listenTCP(t))
		var clients sync.WaitGroup
		var answered atomic.Int64
		for range 8 {
			clients.Go(func() {
				for {
					c, err := dial()
					if errors.Is(err, syscall.ECONNREFUSED) {
						return
					}
					if err == nil {
						_, err = ask(c)
						_ = c.Close()
					}
					if err != nil {
						t.Errorf("a request was cut: %v", err)
						return
					}
					answered.Add(1)
				}
			})
		}
		for answered.Load() < 100 {
			time.Sleep(time.Millisecond)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		clients.Wait()
	}
}

// idleConn is a connection over which one request was answered, and more may come.
func idleConn(t *testing.T, dial func() (*net.TCPConn, error)) net.Conn {
	t.Helper()
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	if r, err := ask(c); err != nil || r.Close {
		t.Fatalf("before: %v, %+v", err, r)
	}
	return c
}

// Beside other gateways a connection that is idle may bring one more request, though new
// ones are refused already.
func TestLastRequest(t *testing.T) {
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Others, d.Config.LastRequest = true, 10*time.Second })
	dial, stop := h.serveTCP(listenTCP(t))
	idle := idleConn(t, dial)
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for {
		c, err := dial()
		if errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if err == nil {
			_ = c.Close()
		}
	}
	time.Sleep(300 * time.Millisecond) // longer than it waits for handshakes
	if r, err := ask(idle); err != nil || r.StatusCode != 200 || !r.Close {
		t.Fatalf("the last request: %v, %+v", err, r)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A connection that brings none does not keep the server.
func TestNoLastRequest(t *testing.T) {
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Others, d.Config.LastRequest = true, 50*time.Millisecond })
	dial, stop := h.serveTCP(listenTCP(t))
	idle := idleConn(t, dial)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if r, err := ask(idle); err == nil {
		t.Errorf("a server that has stopped answers %d", r.StatusCode)
	}
}
