package api

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// conn sets a deadline on its connection only when it is earlier than the one that
// is set. The server asks for three with each request, each some seconds later than
// the one before; a timer was set for each of them. One that goes off too early is
// set anew to what was asked for last, so that nothing ends earlier or later than
// it was asked to. One goroutine may read, and one write.
type conn struct {
	net.Conn
	read, write lazyDeadline
}

// lazyDeadline is in nanoseconds since 1970; 0 is none.
type lazyDeadline struct{ asked, set atomic.Int64 }

// ask gives the deadline that must be set; false if none must.
func (d *lazyDeadline) ask(t time.Time) bool {
	asked := int64(0)
	if !t.IsZero() {
		asked = t.UnixNano()
	}
	d.asked.Store(asked)
	set := d.set.Load()
	if set == asked || set != 0 && asked > set {
		return false
	}
	d.set.Store(asked)
	return true
}

// early tells, after a deadline went off, whether a later one had been asked for.
func (d *lazyDeadline) early(err error) (next time.Time, yes bool) {
	var timeout interface{ Timeout() bool }
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		return next, false
	}
	asked := d.asked.Load()
	if asked <= d.set.Load() {
		return next, false
	}
	d.set.Store(asked)
	return time.Unix(0, asked), true
}

func (c *conn) SetReadDeadline(t time.Time) error {
	if !c.read.ask(t) {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	if !c.write.ask(t) {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err == nil || n > 0 {
			return n, err
		}
		next, early := c.read.early(err)
		if !early {
			return n, err
		}
		if err := c.Conn.SetReadDeadline(next); err != nil {
			return n, err
		}
	}
}

func (c *conn) Write(b []byte) (int, error) {
	written := 0
	for {
		n, err := c.Conn.Write(b[written:])
		written += n
		if err == nil {
			return written, nil
		}
		next, early := c.write.early(err)
		if !early {
			return written, err
		}
		if err := c.Conn.SetWriteDeadline(next); err != nil {
			return written, err
		}
	}
}
