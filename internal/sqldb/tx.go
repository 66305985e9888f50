package sqldb

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/internal/fault"
)

// Tx runs statements, inside a transaction (Write, Snapshot) or one by one
// (Read). Statements use ? as placeholder and are prepared once per connection,
// so their texts come from code, never from data. Not safe for concurrent use.
type Tx struct {
	db   *DB
	conn *conn
	args []any

	onCommit []func()
}

// OnCommit registers what is to happen after the commit, and only then: waking
// whoever reads what was written. It must not fail or block.
func (tx *Tx) OnCommit(f func()) { tx.onCommit = append(tx.onCommit, f) }

// Scan reads the current row into pointers to texts, integers, bools and slices
// of bytes, or types made of them. A NULL fits a slice of bytes alone.
type Scan func(dst ...any) error

// Exec runs a statement and gives the number of rows that it changed.
func (tx *Tx) Exec(query string, args ...any) (int64, error) {
	tx.db.statements.Add(1)
	n, err := tx.conn.exec(query, args)
	if err != nil {
		return 0, classify("sqldb: "+tx.db.area+": "+query, err)
	}
	return n, nil
}

func (tx *Tx) commit() error {
	if tx.db.fault != nil {
		if err := tx.db.fault(); err != nil {
			if fault.Is(err, fault.Unknown) {
				_, _ = tx.Exec(`COMMIT`) // it worked, and nobody is told so
			}
			return fault.Wrap("sqldb: "+tx.db.area+": COMMIT", err)
		}
	}
	_, err := tx.Exec(`COMMIT`)
	return err
}

// LastRowID is the integer key of the row that the transaction added last. Rows
// that one Insert adds without keys of their own have consecutive ones.
func (tx *Tx) LastRowID() int64 { return tx.conn.lastRowID() }

// ForeignWrites changes when another connection than this database's writing one,
// say of another process, has written since the last writing transaction: what
// was kept in memory of the rows is to be read again. It is for transactions of Write.
func (tx *Tx) ForeignWrites() int64 { return tx.db.foreign }

// Query calls row for each row of the result.
func (tx *Tx) Query(query string, args []any, row func(Scan) error) error {
	tx.db.statements.Add(1)
	err := tx.conn.query(query, args, row)
	if err == nil {
		return nil
	}
	var re *rowError
	if errors.As(err, &re) {
		return fault.Wrap("sqldb: "+tx.db.area+": row of "+query, re.err)
	}
	return classify("sqldb: "+tx.db.area+": "+query, err)
}

// chunks are the sizes in which sets of rows and keys are cut, so that a set of
// any size uses a few prepared statements.
var chunks = [...]int{64, 16, 4, 1}

// QueryIn runs a query whose text contains "(?*)" once, as in "WHERE x IN (?*)",
// for all keys, a chunk at a time. Fixed arguments are not possible. Equal keys
// give their rows once per chunk.
func QueryIn[K ~string | ~int64](tx *Tx, query string, keys []K, row func(Scan) error) error {
	for len(keys) > 0 {
		size := 1
		for _, c := range chunks {
			// A chunk is padded when it is at least half full: fewer statements.
			if len(keys) >= c || len(keys) > c/2 {
				size = c
				break
			}
		}
		args := tx.args[:0]
		for i := range size {
			args = append(args, key(keys[min(i, len(keys)-1)]))
		}
		tx.args = args
		if err := tx.Query(tx.inText(query, size), args, row); err != nil {
			return err
		}
		keys = keys[min(size, len(keys)):]
	}
	return nil
}

func key[K ~string | ~int64](k K) any {
	v := reflect.ValueOf(k)
	if v.Kind() == reflect.String {
		return v.String()
	}
	return v.Int()
}

// textKey is what the text of a statement for a chunk is made from. Columns and
// tail come from code, one way for each table in an area: a wrong guess here
// costs a rebuilt text, never a wrong one, as madeText compares the parts.
type textKey struct {
	head string
	size int
	tail string
}

// madeText is a statement's text, and the columns that it was made for.
type madeText struct {
	text    string
	columns []string
}

func (tx *Tx) inText(query string, n int) string {
	k := textKey{head: query, size: n}
	m, ok := tx.conn.texts[k]
	if !ok {
		m.text = strings.Replace(query, "(?*)", "(?"+strings.Repeat(",?", n-1)+")", 1)
		tx.conn.texts[k] = m
	}
	return m.text
}

func (tx *Tx) insertText(table string, columns []string, n int, tail string) string {
	k := textKey{head: table, size: n, tail: tail}
	m, ok := tx.conn.texts[k]
	if !ok || !slices.Equal(m.columns, columns) {
		m = madeText{text: insertText(table, columns, n, tail), columns: slices.Clone(columns)}
		tx.conn.texts[k] = m
	}
	return m.text
}

// Insert adds n rows in few statements. row appends the values of row i, in the
// order of columns. tail is appended to the statement ("ON CONFLICT DO NOTHING").
// It gives the number of rows added; without a tail, a duplicate key is
// fault.Conflict and the transaction must be given up.
func (tx *Tx) Insert(table string, columns []string, n int, tail string, row func(dst []any, i int) []any) (int64, error) {
	var added int64
	for i := 0; i < n; {
		size := 1
		for _, c := range chunks {
			if n-i >= c {
				size = c
				break
			}
		}
		args := tx.args[:0]
		for j := range size {
			args = row(args, i+j)
		}
		tx.args = args
		a, err := tx.Exec(tx.insertText(table, columns, size, tail), args...)
		if err != nil {
			return added, err
		}
		added += a
		i += size
	}
	return added, nil
}

func insertText(table string, columns []string, size int, tail string) string {
	var b strings.Builder
	b.Grow(64 + len(columns)*(16+2*size))
	b.WriteString("INSERT INTO ")
	b.WriteString(table)
	b.WriteString(" (")
	b.WriteString(strings.Join(columns, ", "))
	b.WriteString(") VALUES ")
	row := "(?" + strings.Repeat(",?", len(columns)-1) + ")"
	for i := range size {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(row)
	}
	if tail != "" {
		b.WriteByte(' ')
		b.WriteString(tail)
	}
	return b.String()
}

// Each runs one statement for each of n rows, and expects every one to change
// exactly one row: a row that is no longer what it was read as is fault.Fenced.
func (tx *Tx) Each(query string, n int, row func(dst []any, i int) []any) error {
	for i := range n {
		tx.args = row(tx.args[:0], i)
		changed, err := tx.Exec(query, tx.args...)
		if err != nil {
			return err
		}
		if changed != 1 {
			return &fault.Error{Kind: fault.Fenced, Op: "sqldb: " + tx.db.area, Code: "stale_row",
				Err: fmt.Errorf("row %d of %q: %d rows changed, want 1", i, query, changed)}
		}
	}
	return nil
}
