package api

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
)

// handshakeMax is for how long a connection that was being made when its listener was
// told to stop is waited for.
const handshakeMax = 100 * time.Millisecond

// listener hands out connections whose deadlines cost next to nothing, and can be
// stopped without losing one. The kernel makes connections on its own: those that
// nobody has taken when a socket is closed are reset, with whatever their clients have
// sent on them. The socket is therefore closed when new ones are refused and none waits.
type listener struct {
	net.Listener
	stopping atomic.Bool
	stopped  chan struct{} // closed with the socket, by Accept
}

// kernelListener is a listener with such a queue.
type kernelListener interface {
	net.Listener
	syscall.Conn
	SetDeadline(t time.Time) error
}

func newListener(ln net.Listener) *listener {
	return &listener{Listener: ln, stopped: make(chan struct{})}
}

// stop refuses new connections, and ends Accept when it has given all that there are or
// ctx ends.
func (l *listener) stop(ctx context.Context) error {
	k, ok := l.Listener.(kernelListener)
	if !ok { // in a test, in memory
		return nil
	}
	err := refuse(k) // where it fails, those that begin from now on may be lost
	bus.Sleep(ctx, handshakeMax)
	l.stopping.Store(true)
	if err := k.SetDeadline(time.Unix(1, 0)); err != nil {
		return errors.Join(err, l.Close())
	}
	select {
	case <-l.stopped:
	case <-ctx.Done():
	}
	return errors.Join(err, l.Close())
}

// Accept gives io.EOF when the listener was stopped and has no more. While there are no
// files for more connections it waits.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		switch {
		case err == nil:
			if l.stopping.Load() {
				err = l.Listener.(kernelListener).SetDeadline(time.Unix(1, 0))
			}
			return &conn{Conn: c}, err
		case noFiles(err):
			time.Sleep(10 * time.Millisecond)
		case !l.stopping.Load() || !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		default:
			if err := l.last(); err != nil {
				return nil, err
			}
		}
	}
}

// last lets Accept take one of the connections that are left when the listener is stopped,
// or ends it. Behind its deadline a socket gives none, so that it is lifted for each.
func (l *listener) last() error {
	k := l.Listener.(kernelListener)
	if waits(k) {
		return k.SetDeadline(time.Time{})
	}
	defer close(l.stopped)
	if err := l.Close(); err != nil {
		return err
	}
	return io.EOF
}

// noFiles reports whether a connection could not be taken, and can be later.
func noFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// Close closes the socket, if it is open.
func (l *listener) Close() error {
	if err := l.Listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
