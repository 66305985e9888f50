package sqldb_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// proxy stands between a handle and the server, and knows a COMMIT when it passes.
type proxy struct {
	ln   net.Listener
	to   string
	mu   sync.Mutex
	hook func(c *link) (pass bool) // asked at each COMMIT; nil passes it on
	wg   sync.WaitGroup
	open map[net.Conn]bool
}

// link is one connection through a proxy.
type link struct{ client, server net.Conn }

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, to: to, open: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		p.mu.Lock()
		for c := range p.open {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

// url is that of a server, through the proxy.
func (p *proxy) url(t *testing.T, direct string) string {
	t.Helper()
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.ln.Addr().String()
	return u.String()
}

func (p *proxy) onCommit(f func(c *link) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = f
}

func (p *proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.open[client], p.open[server] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.up(&link{client, server}) })
	}
}

func (c *link) cut() {
	_ = c.client.Close()
	_ = c.server.Close()
}

// down hands the server's words to the client until either is gone.
func (c *link) down(done chan struct{}) {
	defer close(done)
	_, _ = io.Copy(c.client, c.server)
	c.cut()
}

// up hands the client's messages to the server, one by one.
func (p *proxy) up(c *link) {
	defer c.cut()
	done := make(chan struct{})
	p.wg.Go(func() { c.down(done) })
	start := true // the first message has no type
	for {
		head := make([]byte, 5)
		if start {
			head = head[:4]
		}
		if _, err := io.ReadFull(c.client, head); err != nil {
			return
		}
		body := make([]byte, int(binary.BigEndian.Uint32(head[len(head)-4:]))-4)
		if _, err := io.ReadFull(c.client, body); err != nil {
			return
		}
		if !start && head[0] == 'Q' && strings.TrimRight(string(body), "\x00;") == "COMMIT" {
			p.mu.Lock()
			hook := p.hook
			p.mu.Unlock()
			if hook != nil && !hook(c) {
				return
			}
		}
		start = false
		if _, err := c.server.Write(append(head, body...)); err != nil {
			return
		}
	}
}

// errorResponse is a server's error, and that it is ready for more.
func errorResponse(severity, code, message string) []byte {
	var b bytes.Buffer
	fields := "S" + severity + "\x00V" + severity + "\x00C" + code + "\x00M" + message + "\x00\x00"
	b.WriteByte('E')
	_ = binary.Write(&b, binary.BigEndian, int32(len(fields)+4))
	b.WriteString(fields)
	b.WriteString("Z\x00\x00\x00\x05I")
	return b.Bytes()
}
