package sqldb

import (
	"errors"
	"fmt"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// engine is one connection to SQLite, called directly. Through database/sql and
// its driver a row costs more than SQLite itself does: each value is boxed,
// converted by reflection, copied into a block of its own and locked for. Here
// the values of a statement are copied into one block, and nothing is locked: an
// engine is used by one goroutine at a time, as the channels in DB see to.
type engine struct {
	tls   *libc.TLS
	db    uintptr
	stmts map[string]*stmt // bounded by the code: texts never come from data
	known map[textAt]*stmt // long texts by where they are, so that they need not be hashed
	out   uintptr          // where the library puts the two pointers that it gives back
	room  room
	words [256]string // short texts as they were last read: most are one of a few
}

// engineError is what SQLite said, with its extended code.
type engineError struct {
	code int32
	text string
}

func (e *engineError) Error() string { return fmt.Sprintf("%s (%d)", e.text, e.code) }

// openEngine opens the file, which exists or is made, and runs the pragmas.
func openEngine(path string, pragmas []string) (*engine, error) {
	e := &engine{tls: libc.NewTLS(), stmts: map[string]*stmt{}, known: map[textAt]*stmt{}}
	name, err := libc.CString(path)
	if err != nil {
		e.tls.Close()
		return nil, err
	}
	defer libc.Xfree(e.tls, name)
	if e.out = libc.Xmalloc(e.tls, libc.Tsize_t(2*pointerSize)); e.out == 0 {
		e.tls.Close()
		return nil, outOfMemory()
	}
	const flags = sqlite3.SQLITE_OPEN_READWRITE | sqlite3.SQLITE_OPEN_CREATE | sqlite3.SQLITE_OPEN_NOMUTEX
	rc := sqlite3.Xsqlite3_open_v2(e.tls, name, e.out, flags, 0)
	e.db = pointer(e.out)
	if rc == sqlite3.SQLITE_OK {
		rc = sqlite3.Xsqlite3_extended_result_codes(e.tls, e.db, 1)
	}
	if rc != sqlite3.SQLITE_OK {
		return nil, errors.Join(e.fail(rc), e.close())
	}
	for _, p := range pragmas {
		if _, err := e.exec("PRAGMA "+p, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("pragma %s: %w", p, err), e.close())
		}
	}
	return e, nil
}

func (e *engine) close() error {
	for _, s := range e.stmts {
		sqlite3.Xsqlite3_finalize(e.tls, s.p)
	}
	clear(e.stmts)
	clear(e.known)
	var err error
	if rc := sqlite3.Xsqlite3_close_v2(e.tls, e.db); rc != sqlite3.SQLITE_OK {
		err = e.fail(rc)
	}
	e.room.free(e.tls)
	libc.Xfree(e.tls, e.out)
	e.tls.Close()
	return err
}

// fail is the error of a result code, with what the connection says of it.
func (e *engine) fail(rc int32) error {
	text := libc.GoString(sqlite3.Xsqlite3_errstr(e.tls, rc))
	if e.db != 0 {
		if more := libc.GoString(sqlite3.Xsqlite3_errmsg(e.tls, e.db)); more != text {
			text += ": " + more
		}
	}
	return &engineError{code: rc, text: text}
}

// stmt is a prepared statement.
type stmt struct {
	e               *engine
	p               uintptr
	params, columns int
	running         bool
	scan            Scan
}

// textAt is a text's place in memory. As a key it keeps the text there.
type textAt struct {
	start *byte
	size  int
}

const (
	longText = 256  // bytes from which a text is looked for by its place
	knownMax = 1024 // texts that are put together anew each time are let go with all others
)

// prepare gives the statement of a text, which is prepared once.
func (e *engine) prepare(query string) (*stmt, error) {
	if len(query) < longText {
		return e.prepareText(query)
	}
	at := textAt{unsafe.StringData(query), len(query)}
	if s := e.known[at]; s != nil {
		return s, nil
	}
	s, err := e.prepareText(query)
	if err == nil {
		if len(e.known) >= knownMax {
			clear(e.known)
		}
		e.known[at] = s
	}
	return s, err
}

func (e *engine) prepareText(query string) (*stmt, error) {
	if s := e.stmts[query]; s != nil {
		return s, nil
	}
	text, err := libc.CString(query)
	if err != nil {
		return nil, err
	}
	defer libc.Xfree(e.tls, text)
	rc := sqlite3.Xsqlite3_prepare_v3(e.tls, e.db, text, -1, sqlite3.SQLITE_PREPARE_PERSISTENT, e.out, e.out+pointerSize)
	if rc != sqlite3.SQLITE_OK {
		return nil, e.fail(rc)
	}
	s := &stmt{e: e, p: pointer(e.out)}
	if rest := libc.GoString(pointer(e.out + pointerSize)); s.p == 0 || rest != "" {
		sqlite3.Xsqlite3_finalize(e.tls, s.p)
		return nil, fmt.Errorf("not one statement: %q is left", rest)
	}
	s.params = int(sqlite3.Xsqlite3_bind_parameter_count(e.tls, s.p))
	s.columns = int(sqlite3.Xsqlite3_column_count(e.tls, s.p))
	s.scan = s.scanRow
	e.stmts[query] = s
	return s, nil
}

// exec runs a statement to its end and gives the number of rows that it changed.
func (e *engine) exec(query string, args []any) (int64, error) {
	s, err := e.prepare(query)
	if err != nil {
		return 0, err
	}
	b, err := s.begin(args)
	if err != nil {
		return 0, err
	}
	for more := true; more && err == nil; {
		more, err = s.step()
	}
	changed := int64(sqlite3.Xsqlite3_changes(e.tls, e.db))
	s.end(b)
	return changed, err
}

// dataVersion changes when this connection has committed, or seen the commit of
// another one.
func (e *engine) dataVersion() uint32 {
	if rc := sqlite3.Xsqlite3_file_control(e.tls, e.db, 0, sqlite3.SQLITE_FCNTL_DATA_VERSION, e.out); rc != sqlite3.SQLITE_OK {
		panic(e.fail(rc)) // a bug: main is a file that every build can ask
	}
	return **(**uint32)(unsafe.Pointer(&e.out))
}

// query runs a statement and calls row for each row of its result. An error of
// row's own comes back as rowError.
func (e *engine) query(query string, args []any, row func(Scan) error) error {
	s, err := e.prepare(query)
	if err != nil {
		return err
	}
	b, err := s.begin(args)
	if err != nil {
		return err
	}
	defer s.end(b) // also when a crash point in row panics
	for {
		more, err := s.step()
		if err != nil || !more {
			return err
		}
		if err := row(s.scan); err != nil {
			return &rowError{err}
		}
	}
}

// rowError is an error of who reads a row, not of SQLite.
type rowError struct{ err error }

func (e *rowError) Error() string { return e.err.Error() }
func (e *rowError) Unwrap() error { return e.err }

func (s *stmt) step() (row bool, err error) {
	switch rc := sqlite3.Xsqlite3_step(s.e.tls, s.p); rc {
	case sqlite3.SQLITE_ROW:
		return true, nil
	case sqlite3.SQLITE_DONE:
		return false, nil
	default:
		return false, s.e.fail(rc)
	}
}

// begin binds the values. They stay where they are until end.
func (s *stmt) begin(args []any) (b block, err error) {
	if s.running {
		return b, errors.New("the statement is running: a row's function may not run it again")
	}
	if len(args) != s.params {
		return b, fmt.Errorf("%d values for %d parameters", len(args), s.params)
	}
	size := 0
	for _, a := range args {
		size += textLen(a)
	}
	if b, err = s.e.room.take(s.e.tls, size); err != nil {
		return b, err
	}
	at := b.start
	for i, a := range args {
		if at, err = s.bind(int32(i+1), a, at); err != nil { //nolint:gosec // SQLite allows 32,766
			s.e.room.give(s.e.tls, b)
			return b, err
		}
	}
	s.running = true
	return b, nil
}

// end makes the statement ready for its next run. What an error was has been said
// by step. Values that were bound are never looked at again: begin binds all.
func (s *stmt) end(b block) {
	sqlite3.Xsqlite3_reset(s.e.tls, s.p)
	s.running = false
	s.e.room.give(s.e.tls, b)
}

// room is memory outside the Go heap for the values of running statements: one
// block, used as a stack, as a statement may be run while another's rows are read.
type room struct {
	start      uintptr
	size, used int
}

// roomMin is the least that is allocated.
const roomMin = 16 << 10

// block is a part of the room, or memory of its own where the room is too small.
type block struct {
	start uintptr
	size  int
	own   bool
}

func (r *room) take(tls *libc.TLS, size int) (block, error) {
	if r.start == 0 || r.used+size > r.size && r.used == 0 { // an empty text has an address, too
		r.free(tls)
		n := max(roomMin, 2*size)
		if r.start = libc.Xmalloc(tls, libc.Tsize_t(n)); r.start == 0 { //nolint:gosec // positive
			return block{}, outOfMemory()
		}
		r.size = n
	}
	if r.used+size > r.size {
		b := block{start: libc.Xmalloc(tls, libc.Tsize_t(size)), own: true} //nolint:gosec // positive
		if b.start == 0 {
			return block{}, outOfMemory()
		}
		return b, nil
	}
	b := block{start: r.start + uintptr(r.used), size: size} //nolint:gosec // positive
	r.used += size
	return b, nil
}

func (r *room) give(tls *libc.TLS, b block) {
	if b.own {
		libc.Xfree(tls, b.start)
		return
	}
	r.used -= b.size
}

func (r *room) free(tls *libc.TLS) {
	if r.start != 0 {
		libc.Xfree(tls, r.start)
	}
	*r = room{}
}

func outOfMemory() error { return &engineError{code: sqlite3.SQLITE_NOMEM, text: "out of memory"} }

const pointerSize = unsafe.Sizeof(uintptr(0))

// pointer reads a pointer from the library's memory.
func pointer(at uintptr) uintptr { return **(**uintptr)(unsafe.Pointer(&at)) }

// view is n bytes of the library's memory, valid until its next call.
func view(p uintptr, n int) []byte {
	if p == 0 || n == 0 {
		return nil
	}
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&p)), n)
}
