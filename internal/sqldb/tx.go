package sqldb

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

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

	failed bool // a statement has: nothing of the transaction can be kept any more, in PostgreSQL

	nextID, lastID int64 // what is left of the ids that it has taken; see NewIDs
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
		tx.failed = true
		return 0, tx.classify(query, err)
	}
	return n, nil
}

func (tx *Tx) classify(query string, err error) error {
	op := "sqldb: " + tx.db.area + ": " + query
	if p, ok := tx.conn.connection.(*postgres); ok && !p.alive() {
		// Whatever it was that broke it: nothing is committed without COMMIT.
		return &fault.Error{Kind: fault.Unavailable, Op: op, Code: "database_unreachable", Err: err}
	}
	return classify(op, err)
}

// begin begins a writing transaction. end rolls it back unless it was committed.
func (tx *Tx) begin(ctx context.Context) (end func(committed bool), err error) {
	db := tx.db
	switch c := tx.conn.connection.(type) {
	case *engine:
		if _, err := tx.Exec(`BEGIN IMMEDIATE`); err != nil {
			return nil, err
		}
		if db.version != c.dataVersion() {
			db.foreign++
		}
		return func(committed bool) {
			if !committed {
				_, _ = tx.Exec(`ROLLBACK`) // SQLite may have rolled back by itself
			}
			db.version = c.dataVersion()
		}, nil
	case *postgres:
		if err := c.ready(ctx); err != nil {
			return nil, classify("sqldb: connect to "+db.area, err)
		}
		if _, err := tx.Exec(`BEGIN`); err != nil {
			return nil, err
		}
	}
	end = func(committed bool) {
		if !committed {
			_, _ = tx.Exec(`ROLLBACK`) // also of a connection that broke, where it is not needed
		}
	}
	if db.guard != nil {
		if err := db.guard(tx); err != nil {
			end(false)
			return nil, err
		}
	}
	return end, nil
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
	if !tx.db.postgres {
		_, err := tx.Exec(`COMMIT`)
		return err
	}
	if tx.failed { // COMMIT would roll it back, and say that all is well
		return fault.New(fault.Unavailable, "sqldb: "+tx.db.area+": COMMIT", "a statement of the transaction had failed")
	}
	tx.db.statements.Add(1)
	_, err := tx.conn.exec(`COMMIT`, nil)
	if err == nil {
		return nil
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.Severity == "ERROR" { // the server rolled it back, and lives
		return &fault.Error{Kind: fault.Unavailable, Op: "sqldb: " + tx.db.area + ": COMMIT", Code: "sqlstate_" + pe.Code, Err: err}
	}
	return fault.New(fault.Unknown, "sqldb: "+tx.db.area+": COMMIT", "%w", err)
}

// NewIDs gives n new rows of a table their keys. They increase: in an SQLite table
// without holes, and in PostgreSQL from one sequence for the whole schema, of which
// a transaction takes as many as it needs. There, what another process takes at the
// same time may be lower, and still be committed later.
func (tx *Tx) NewIDs(table string, n int, set func(i int, id int64)) error {
	if n == 0 {
		return nil
	}
	if !tx.db.postgres {
		var last int64
		err := tx.Query(`SELECT coalesce(max(id), 0) FROM `+table, nil, func(scan Scan) error { return scan(&last) })
		for i := range n {
			set(i, last+1+int64(i))
		}
		return err
	}
	i := 0
	for ; i < n && tx.nextID < tx.lastID; i++ {
		set(i, tx.nextID)
		tx.nextID++
	}
	if i == n {
		return nil
	}
	blocks := (n - i + idsBlock - 1) / idsBlock
	return tx.Query(`SELECT nextval('ids') FROM generate_series(1, ?)`, []any{blocks}, func(scan Scan) error {
		if err := scan(&tx.nextID); err != nil {
			return err
		}
		if tx.nextID+idsBlock > idsMax {
			return fault.New(fault.Internal, "sqldb: "+tx.db.area, "database %d has given all its ids", tx.db.number)
		}
		tx.lastID = tx.nextID + idsBlock
		for ; i < n && tx.nextID < tx.lastID; i++ {
			set(i, tx.nextID)
			tx.nextID++
		}
		return nil
	})
}

// Triggers are the names of the schema's triggers that are in force.
func (tx *Tx) Triggers() (names []string, err error) {
	query := `SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY name`
	if tx.db.postgres {
		query = `SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
			WHERE NOT t.tgisinternal AND t.tgenabled = 'O' AND c.relnamespace = current_schema()::regnamespace ORDER BY t.tgname`
	}
	err = tx.Query(query, nil, func(scan Scan) error {
		var name string
		err := scan(&name)
		names = append(names, name)
		return err
	})
	return names, err
}

// ForeignWrites changes when another connection than this database's writing one,
// say of another process, has written since the last writing transaction: what
// was kept in memory of the rows is to be read again. It is for transactions of Write.
// PostgreSQL does not say; there Guard keeps others out.
func (tx *Tx) ForeignWrites() int64 { return tx.db.foreign }

// Query calls row for each row of the result.
func (tx *Tx) Query(query string, args []any, row func(Scan) error) error {
	tx.db.statements.Add(1)
	err := tx.conn.query(query, args, row)
	if err == nil {
		return nil
	}
	tx.failed = true
	var re *rowError
	if errors.As(err, &re) {
		return fault.Wrap("sqldb: "+tx.db.area+": row of "+query, re.err)
	}
	return tx.classify(query, err)
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
