package api_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway/api"
)

// countingListener counts the deadlines that are set on its connections.
type countingListener struct {
	net.Listener
	deadlines atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l}, err
}

type countingConn struct {
	net.Conn
	l *countingListener
}

func (c countingConn) SetReadDeadline(t time.Time) error {
	c.l.deadlines.Add(1)
	return c.Conn.SetReadDeadline(t)
}

func (c countingConn) SetWriteDeadline(t time.Time) error {
	c.l.deadlines.Add(1)
	return c.Conn.SetWriteDeadline(t)
}

// serveTCP serves the API with short timeouts.
func serveTCP(t *testing.T, read, idle time.Duration) *countingListener {
	t.Helper()
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Config.HTTP.ReadTimeout, d.Config.HTTP.IdleTimeout = read, idle })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &countingListener{Listener: ln}
	served := make(chan error, 1)
	go func() { served <- h.server.Serve(l) }()
	t.Cleanup(func() {
		if err := h.server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l
}

const getHealth = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

// A connection that keeps sending lives longer than any of its deadlines, few of
// which are set; one that stops is closed by the last that was asked for.
func TestDeadlinesAreSetRarelyAndKept(t *testing.T) {
	const read, idle = 200 * time.Millisecond, 500 * time.Millisecond
	l := serveTCP(t, read, idle)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test
	in := bufio.NewReader(c)
	ask := func() {
		t.Helper()
		if _, err := fmt.Fprint(c, getHealth); err != nil {
			t.Fatal(err)
		}
		if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("%q, %v", line, err)
		}
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line == "\r\n" {
				break
			}
		}
		if _, err := in.Discard(len(`{"status":"alive"}`)); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 {
		ask()
	}
	if n := l.deadlines.Load(); n > 200 {
		t.Errorf("%d deadlines were set for 1000 requests", n)
	}
	for range 5 { // beyond the read timeout, within the idle one
		time.Sleep(read + 50*time.Millisecond)
		ask()
	}
	start := time.Now()
	if _, err := in.ReadByte(); err == nil {
		t.Error("an idle connection said something")
	}
	if took := time.Since(start); took < idle-50*time.Millisecond || took > idle+5*time.Second {
		t.Errorf("an idle connection was closed after %s, want %s", took, idle)
	}
}

// A request that stops in the middle is answered by the read timeout, although the
// deadline of idling, which is later, was asked for before it.
func TestASlowRequestIsTimedOut(t *testing.T) {
	const read, idle = 200 * time.Millisecond, time.Minute
	l := serveTCP(t, read, idle)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test
	in := bufio.NewReader(c)
	if _, err := fmt.Fprint(c, getHealth+getHealth[:20]); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	statuses := ""
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			break
		}
		if _, status, ok := strings.Cut(line, "HTTP/1.1 "); ok { // behind a body, which ends no line
			statuses += status[:4]
		}
	}
	if took := time.Since(start); took < read-50*time.Millisecond || took > read+5*time.Second {
		t.Errorf("closed after %s, want %s", took, read)
	}
	if statuses != "200 408 " {
		t.Errorf("answered %s", statuses)
	}
}

// The same on connections in memory, whose errors are of another type.
func TestDeadlinesInMemory(t *testing.T) {
	h := newHarness(t, func(_ *harness, d *api.Deps) {
		d.Config.HTTP.ReadTimeout, d.Config.HTTP.IdleTimeout = 50*time.Millisecond, time.Minute
	}).listen()
	for range 4 {
		if a := h.get("/healthz", ""); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		time.Sleep(120 * time.Millisecond)
	}
}
