package sqldb

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"reflect"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// postgres is one connection. It is opened at its first use, and again when it broke.
type postgres struct {
	config  *pgx.ConnConfig
	conn    *pgx.Conn
	ctx     context.Context //nolint:containedctx // of who uses it now, without its end: nobody who leaves interrupts a transaction
	timeout time.Duration   // of a statement: the server's own, and some time on the way
	texts   map[string]string
	begin   string // what begins a transaction, and goes out with its first statement; empty if nothing waits
}

func newPostgres(p *Postgres, area string, readOnly bool) (*postgres, error) {
	c, err := p.config(area, readOnly)
	if err != nil {
		return nil, err
	}
	timeout := p.StatementTimeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	return &postgres{config: c, texts: map[string]string{}, timeout: timeout + min(timeout, 5*time.Second)}, nil
}

// ready connects if there is no connection: then it is made anew. It comes before each use.
func (c *postgres) ready(ctx context.Context) (anew bool, err error) {
	c.ctx, c.begin = context.WithoutCancel(ctx), ""
	if c.alive() {
		if !spoken(c.conn.PgConn().Conn()) {
			return false, nil
		}
		// It ended while nobody used it, and has said why: that is no reason for who
		// comes next to fail.
		_ = c.close()
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.ConnectTimeout)
	defer cancel()
	c.conn, err = pgx.ConnectConfig(ctx, c.config)
	return true, err
}

// spoken reports whether the server has said something, or hung up, without being
// asked. It looks at what has come in, and waits for nothing.
func spoken(conn net.Conn) (said bool) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	s, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true
	}
	// Not its Read, which waits for a reading that the driver may have left behind.
	err = raw.Control(func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT) //nolint:gosec // a file's number
		said = !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
	})
	return said || err != nil
}

func (c *postgres) text(query string) string {
	t, ok := c.texts[query]
	if !ok {
		if len(c.texts) >= knownMax {
			clear(c.texts)
		}
		t = postgresText(query)
		c.texts[query] = t
	}
	return t
}

var errNoConnection = errors.New("no connection")

// statement is one of those that are sent at once.
type statement struct {
	query string
	args  []any
	check func(rows int64) error // how many it changed or gave; nil if any number is right
}

// pipelineMax bounds what is sent before an answer is read.
const pipelineMax = 256

// send runs statements in order and waits for all of them at once, whatever their
// number: a round trip costs more than a statement. The rows of the last one go to row,
// if there is one. After an error, which is of statement number at, none of them counts.
func (c *postgres) send(list []statement, row func(Scan) error) (trips int64, at int, err error) {
	for at < len(list) {
		part, last := list[at:], row
		if len(part) > pipelineMax {
			part, last = part[:pipelineMax], nil
		}
		trips++
		ran, err := c.sendPart(part, last)
		if at += ran; err != nil {
			return trips, min(at, len(list)-1), err
		}
	}
	return trips, at, nil
}

// sendPart sends statements, behind what is to begin their transaction, and gives the
// number of those that did what they should.
func (c *postgres) sendPart(list []statement, row func(Scan) error) (ran int, err error) {
	if c.conn == nil {
		return 0, errNoConnection
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	if len(list) == 1 && c.begin == "" {
		err := list[0].result(row, func() (pgx.Rows, error) { return c.conn.Query(ctx, c.text(list[0].query), plain(list[0].args)...) })
		if err != nil {
			return 0, err
		}
		return 1, nil
	}
	var b pgx.Batch
	begins := c.begin != ""
	if begins {
		b.Queue(c.begin)
		c.begin = ""
	}
	for i := range list {
		b.Queue(c.text(list[i].query), plain(list[i].args)...)
	}
	results := c.conn.SendBatch(ctx, &b)
	defer func() {
		if e := results.Close(); err == nil { // else it says the same
			err = e
		}
	}()
	if begins {
		if _, err := results.Exec(); err != nil {
			return 0, err
		}
	}
	for i := range list {
		last := row
		if i < len(list)-1 {
			last = nil
		}
		if err := list[i].result(last, results.Query); err != nil {
			return i, err
		}
	}
	return len(list), nil
}

// result reads what a statement came to.
func (s *statement) result(row func(Scan) error, ask func() (pgx.Rows, error)) error {
	rows, err := ask()
	if err != nil {
		return err
	}
	defer rows.Close()
	scan := func(dst ...any) error { return rows.Scan(dst...) } // closes rows when it fails
	for rows.Next() {
		if row == nil {
			continue
		}
		if err := row(scan); err != nil {
			return &rowError{err}
		}
	}
	if err := rows.Err(); err != nil || s.check == nil {
		return err
	}
	if err := s.check(rows.CommandTag().RowsAffected()); err != nil {
		return &checkError{err}
	}
	return nil
}

// checkError is of who sent a statement, which went well.
type checkError struct{ err error }

func (e *checkError) Error() string { return e.err.Error() }

// commit is COMMIT: nil, an error of the server that says that it has rolled back,
// or any other, after which nobody knows.
func (c *postgres) commit() error {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	tag, err := c.conn.Exec(ctx, `COMMIT`)
	if err == nil && tag.String() != "COMMIT" { // it answers ROLLBACK, and no error, when a statement had failed
		return errRolledBack
	}
	return err
}

var errRolledBack = errors.New("the server has rolled it back, as a statement had failed")

// rolledBack reports whether what a COMMIT came to says for certain that nothing of
// it was kept.
func rolledBack(err error) bool {
	if errors.Is(err, errRolledBack) || errors.Is(err, errNoConnection) {
		return true
	}
	var pe *pgconn.PgError
	// 25P03 ended the session while the transaction waited for its next statement.
	return errors.As(err, &pe) && (pe.SeverityUnlocalized == "ERROR" || pe.Code == "25P03")
}

// open reports whether the server holds a transaction open, or a failed one.
func (c *postgres) open() bool { return c.alive() && c.conn.PgConn().TxStatus() != 'I' }

func (c *postgres) close() error {
	if c.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
	defer cancel()
	return c.conn.Close(ctx)
}

// alive reports whether the connection can be used for more.
func (c *postgres) alive() bool { return c.conn != nil && !c.conn.IsClosed() }

// still makes values of what args point to.
func still(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		switch v := a.(type) {
		case *string:
			a = *v
		case *int64:
			a = *v
		case *int:
			a = *v
		case *bool:
			a = *v
		default:
			if v := reflect.ValueOf(a); v.Kind() == reflect.Pointer && !v.IsNil() {
				a = v.Elem().Interface()
			}
		}
		out[i] = a
	}
	return out
}

// plain makes plain values of types that are made of them, in place.
func plain(args []any) []any {
	for i, a := range args {
		switch a.(type) {
		case nil, string, *string, int64, *int64, int, *int, bool, *bool, []byte:
			continue
		}
		switch v := reflect.ValueOf(a); v.Kind() {
		case reflect.String:
			args[i] = v.String()
		case reflect.Bool:
			args[i] = v.Bool()
		case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
			args[i] = v.Int()
		case reflect.Uint8, reflect.Uint16, reflect.Uint32:
			args[i] = int64(v.Uint()) //nolint:gosec // at most 32 bits
		}
	}
	return args
}
