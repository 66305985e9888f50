package accept

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tallystick/tallystick/bench/load"
)

// repeatEvery: every so many-th request repeats the one before on its connection.
const repeatEvery = 100

// responseBytesMax bounds a response with its head.
const responseBytesMax = 16 << 10

// The phases of a run. Only what is answered while measuring counts.
const (
	warming int32 = iota
	measuring
	stopping
)

// client drives one server from one thread. run may be called once.
type client struct {
	phase  atomic.Int32
	epoll  int
	conns  []conn
	open   int // connections with a request under way
	sent   int // requests
	result result
	// vouchers checks that a repeat gets the first one's voucher; an echo can't.
	vouchers bool
}

// conn is one connection and the request that is under way on it.
type conn struct {
	fd     int
	req    request
	in     []byte
	n      int // bytes in in
	order  int // of the last request
	repeat bool
	sent   time.Time
}

// result is what a run came to.
type result struct {
	measured   int // 202s while measuring
	repeats    int // 202s to repeats, in all
	mismatched int // of them with another voucher
	limited    int // 429, in all
	shed       int // 503, in all
	other      map[int]int
	latency    load.Histogram
	fates      []fate // by order
}

// fate is what the first request of an order was answered.
type fate struct {
	status  int16 // 0: no answer
	voucher voucher
}

// newClient opens the connections.
func newClient(addr, apiKey string, connections int, vouchers bool) (*client, error) {
	epoll, err := syscall.EpollCreate1(0)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	c := &client{epoll: epoll, conns: make([]conn, connections), vouchers: vouchers, result: result{other: map[int]int{}}}
	for i := range c.conns {
		c.conns[i] = conn{fd: -1, req: newRequest(addr, apiKey), in: make([]byte, responseBytesMax)}
	}
	for i := range c.conns {
		if c.conns[i].fd, err = dial(addr); err == nil {
			err = syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, c.conns[i].fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)}) //nolint:gosec // a few hundred
		}
		if err != nil {
			c.close()
			return nil, fmt.Errorf("connection %d to %s: %w", i, addr, err)
		}
	}
	return c, nil
}

// dial connects, and takes the connection out of Go's own poller.
func dial(addr string) (int, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil || !to.Addr().Is4() {
		return -1, fmt.Errorf("%q is no IPv4 address with a port", addr)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	err = errors.Join(err, syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1), syscall.SetNonblock(fd, true))
	return fd, err
}

func (c *client) close() {
	for i := range c.conns {
		if c.conns[i].fd >= 0 {
			_ = syscall.Close(c.conns[i].fd)
		}
	}
	_ = syscall.Close(c.epoll)
}

// run sends until the phase is stopping and every request is answered. A
// connection that breaks, or answers that stay away for ten seconds, end it.
func (c *client) run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range c.conns {
		if err := c.next(&c.conns[i]); err != nil {
			return err
		}
	}
	events := make([]syscall.EpollEvent, len(c.conns))
	for c.open > 0 {
		n, err := syscall.EpollWait(c.epoll, events, 10_000)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("epoll: %w", err)
		case n == 0:
			return fmt.Errorf("%d requests had no answer after 10 s", c.open)
		}
		phase := c.phase.Load()
		for _, e := range events[:n] {
			if err := c.readable(&c.conns[e.Fd], phase); err != nil {
				return err
			}
		}
	}
	return nil
}

// next sends a connection's next request.
func (c *client) next(k *conn) error {
	c.sent++
	k.repeat = c.sent > len(c.conns) && c.sent%repeatEvery == 0 && c.result.fates[k.order].status == 202
	if !k.repeat {
		k.order = len(c.result.fates)
		c.result.fates = append(c.result.fates, fate{})
		k.req.set(k.order)
	}
	k.sent = time.Now()
	c.open++
	n, err := syscall.Write(k.fd, k.req.bytes)
	if err != nil || n != len(k.req.bytes) {
		return fmt.Errorf("wrote %d of %d bytes: %w", n, len(k.req.bytes), err)
	}
	return nil
}

func (c *client) readable(k *conn, phase int32) error {
	n, err := syscall.Read(k.fd, k.in[k.n:])
	switch {
	case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("read: %w", err)
	case n == 0:
		return fmt.Errorf("the server closed a connection: %w", net.ErrClosed)
	}
	k.n += n
	a := readAnswer(k.in[:k.n])
	switch {
	case a.size == 0 && k.n < len(k.in):
		return nil
	case a.size != k.n || a.status < 0:
		return fmt.Errorf("a response cannot be read: %.300q", k.in[:k.n])
	}
	k.n = 0
	c.open--
	c.note(k, &a, phase)
	if phase == stopping {
		return nil
	}
	return c.next(k)
}

func (c *client) note(k *conn, a *answer, phase int32) {
	r, f := &c.result, &c.result.fates[k.order]
	switch a.status {
	case 202:
		if phase == measuring {
			r.measured++
			r.latency.Record(time.Since(k.sent))
		}
	case 429:
		r.limited++
	case 503:
		r.shed++
	default:
		r.other[a.status]++
	}
	switch {
	case !k.repeat:
		f.status, f.voucher = int16(a.status), a.voucher //nolint:gosec // three digits
	case a.status == 202:
		r.repeats++
		if c.vouchers && f.voucher != a.voucher {
			r.mismatched++
		}
	}
}
