package rig

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Link is a wire between a process and an engine, that can be cut and made slow: a
// TCP proxy on loopback. Its methods may be called at any time.
type Link struct {
	to string
	ln net.Listener

	mu       sync.Mutex
	cut      bool
	delay    time.Duration
	catching bool
	caught   [][]byte
	mended   chan struct{} // closed, and made anew, when it is
	conns    map[net.Conn]bool
}

// NewLink opens a link to an address. Close ends it.
func NewLink(ctx context.Context, to string) (*Link, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{to: to, ln: ln, mended: make(chan struct{}), conns: map[net.Conn]bool{}}
	go l.serve(context.WithoutCancel(ctx))
	return l, nil
}

// Addr is where the processes connect to.
func (l *Link) Addr() string { return l.ln.Addr().String() }

// Cut breaks all connections, and lets no new one through until Mend.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for c := range l.conns {
		_ = c.Close()
	}
}

// Slow holds back whatever goes over the link, in each direction and each time.
func (l *Link) Slow(delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = delay
}

// Catch holds back until Mend what is sent to the engine from now on, and all that
// follows on the same connection.
func (l *Link) Catch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catching = true
}

// Let lets through what comes from now on; what was caught stays where it is.
func (l *Link) Let() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catching = false
}

// Caught reports whether something that was caught has a text.
func (l *Link) Caught(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.caught, func(b []byte) bool { return bytes.Contains(b, []byte(text)) })
}

// Mend makes the link whole and quick again, and lets go of what was caught.
func (l *Link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut, l.delay, l.catching, l.caught = false, 0, false, nil
	close(l.mended)
	l.mended = make(chan struct{})
}

// Close ends the link and what goes over it.
func (l *Link) Close() error {
	l.Mend() // whatever waits goes on, to its end
	l.Cut()
	return l.ln.Close()
}

func (l *Link) serve(ctx context.Context) {
	for {
		near, err := l.ln.Accept()
		if err != nil {
			return // closed
		}
		go l.connect(ctx, near)
	}
}

// connect carries one connection until either side ends it.
func (l *Link) connect(ctx context.Context, near net.Conn) {
	defer near.Close() //nolint:errcheck // it ends here
	if !l.keep(near) {
		return
	}
	defer l.forget(near)
	var d net.Dialer
	far, err := d.DialContext(ctx, "tcp", l.to)
	if err != nil {
		return
	}
	defer far.Close() //nolint:errcheck // it ends here
	if !l.keep(far) {
		return
	}
	defer l.forget(far)
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			l.carry(way[0], way[1], way[1] == far)
			done <- struct{}{}
		}()
	}
	<-done
}

// keep notes a connection; false if the link is cut.
func (l *Link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.cut {
		l.conns[c] = true
	}
	return !l.cut
}

func (l *Link) forget(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// hold keeps what was sent to the engine while it is to be caught. What follows on the
// connection stays with it, as the connection is not read meanwhile.
func (l *Link) hold(b []byte) {
	l.mu.Lock()
	mended, catching := l.mended, l.catching
	if catching {
		l.caught = append(l.caught, slices.Clone(b))
	}
	l.mu.Unlock()
	if catching {
		<-mended
	}
}

func (l *Link) carry(from io.Reader, to io.Writer, toEngine bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && toEngine {
			l.hold(buf[:n])
		}
		if n > 0 {
			l.mu.Lock()
			delay := l.delay
			l.mu.Unlock()
			time.Sleep(delay)
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
