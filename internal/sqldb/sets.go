package sqldb

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/internal/fault"
)

// NewIDs gives n new rows of a table their keys. They increase: in an SQLite table
// without holes, and in PostgreSQL from one sequence for the whole schema, of which
// a block is taken when the last one is used up. There, what another process takes at
// the same time may be lower, and still be committed later. Who gets rows from another
// database opens his anew, as what is left of his block may be below theirs.
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
	db := tx.db
	for ; i < n && db.nextID < db.lastID; i++ {
		set(i, db.nextID)
		db.nextID++
	}
	if i == n {
		return nil
	}
	blocks := (n - i + idsBlock - 1) / idsBlock
	return tx.Query(`SELECT nextval('ids') FROM generate_series(1, ?)`, []any{blocks}, func(scan Scan) error {
		var first int64
		if err := scan(&first); err != nil {
			return err
		}
		if first+idsBlock > idsMax {
			return fault.New(fault.Internal, "sqldb: "+db.area, "database %d has given all its ids", db.number)
		}
		db.nextID, db.lastID = first, first+idsBlock
		for ; i < n && db.nextID < db.lastID; i++ {
			set(i, db.nextID)
			db.nextID++
		}
		return nil
	})
}

// chunks are the sizes in which sets of rows and keys are cut, so that a set of
// any size uses a few prepared statements.
var chunks = [...]int{64, 16, 4, 1}

// QueryIn runs a query whose text contains "(?*)" once, as in "WHERE x IN (?*)",
// for all keys, a chunk at a time. Fixed arguments are not possible. Equal keys
// give their rows once per chunk. In PostgreSQL a chunk is keysMax.
func QueryIn[K ~string | ~int64](tx *Tx, query string, keys []K, row func(Scan) error) error {
	if tx.db.postgres {
		return queryAny(tx, query, keys, row)
	}
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

// keysMax bounds the keys of one statement in PostgreSQL.
const keysMax = 4096

// queryAny is QueryIn with an array for the keys: one text whatever their number.
func queryAny[K ~string | ~int64](tx *Tx, query string, keys []K, row func(Scan) error) error {
	for ; len(keys) > 0; keys = keys[min(keysMax, len(keys)):] {
		part := keys[:min(keysMax, len(keys))]
		var array any
		if reflect.TypeFor[K]().Kind() == reflect.String {
			list := make([]string, len(part))
			for i, k := range part {
				list[i] = reflect.ValueOf(k).String()
			}
			array = list
		} else {
			list := make([]int64, len(part))
			for i, k := range part {
				list[i] = reflect.ValueOf(k).Int()
			}
			array = list
		}
		if err := tx.Query(tx.inText(query, 0), []any{array}, row); err != nil {
			return err
		}
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
	last string // column, so that a table's statements do not take turns
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
		if tx.db.postgres {
			m.text = strings.Replace(query, "IN (?*)", "= ANY(?)", 1)
		} else {
			m.text = strings.Replace(query, "(?*)", "(?"+strings.Repeat(",?", n-1)+")", 1)
		}
		tx.conn.texts[k] = m
	}
	return m.text
}

func (tx *Tx) insertText(table string, columns []string, n int, tail string) string {
	k := textKey{head: table, size: n, tail: tail, last: columns[len(columns)-1]}
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
// fault.Conflict and the transaction must be given up: in PostgreSQL the statements then
// run with the next one that is waited for, or at the transaction's end, and so does
// their error come.
func (tx *Tx) Insert(table string, columns []string, n int, tail string, row func(dst []any, i int) []any) (int64, error) {
	if tx.db.postgres {
		return tx.insertAll(table, columns, n, tail, row)
	}
	var added int64
	for i := 0; i < n; {
		size := tx.Cut(n - i)
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

// insertAll is Insert in PostgreSQL.
func (tx *Tx) insertAll(table string, columns []string, n int, tail string, row func(dst []any, i int) []any) (added int64, err error) {
	var list []statement
	count := func(rows int64) error { added += rows; return nil }
	for i := 0; i < n; {
		size := tx.Cut(n - i)
		args := make([]any, 0, size*len(columns))
		for j := range size {
			args = row(args, i+j)
		}
		list = append(list, statement{tx.insertText(table, columns, size, tail), args, count})
		i += size
	}
	if tail == "" {
		return int64(n), tx.later(list...)
	}
	if len(list) == 0 {
		return 0, nil
	}
	err = tx.send(nil, list...)
	return added, err
}

// cuts are the sizes in PostgreSQL, where a statement costs more than another text does.
var cuts = [...]int{64, 32, 16, 12, 8, 6, 4, 3, 2, 1}

// Cut is the size of the next statement for n rows, at most 64.
func (tx *Tx) Cut(n int) int {
	sizes := chunks[:]
	if tx.db.postgres {
		sizes = cuts[:]
	}
	for _, size := range sizes {
		if n >= size {
			return size
		}
	}
	return 1
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

// Columns are names of columns with their types, as "version BIGINT", of those that
// TypedRow knows.
type Columns []string

// split gives the names and the types.
func (c Columns) split() (names, types []string) {
	for _, column := range c {
		name, kind, _ := strings.Cut(column, " ")
		names, types = append(names, name), append(types, kind)
	}
	return names, types
}

// Update changes n rows of a table, each found by its keys, which together are unique,
// and expects every one to be there: a row that is no longer what it was read as is
// fault.Fenced. row appends the values of row i: what columns become, then its keys. In
// PostgreSQL a few statements change them, and may run later, as Insert's.
func (tx *Tx) Update(table string, columns, keys Columns, n int, row func(dst []any, i int) []any) error {
	for i := 0; i < n; {
		size := 1
		if tx.db.postgres {
			size = tx.Cut(n - i)
		}
		text := tx.updateText(table, columns, keys, size)
		args := tx.args[:0]
		for j := range size {
			args = row(args, i+j)
		}
		tx.args = args
		changed := int64(size)
		var err error
		if tx.db.postgres {
			err = tx.Expect(changed, func(have int64) error { return tx.stale(table, have, size) }, text, args...)
		} else if changed, err = tx.Exec(text, args...); err == nil && changed != 1 {
			err = tx.stale(table, changed, 1)
		}
		if err != nil {
			return err
		}
		i += size
	}
	return nil
}

func (tx *Tx) stale(table string, changed int64, rows int) error {
	return &fault.Error{Kind: fault.Fenced, Op: "sqldb: " + tx.db.area, Code: "stale_row",
		Err: fmt.Errorf("%d of %d rows of %s are still what they were read as", changed, rows, table)}
}

func (tx *Tx) updateText(table string, columns, keys Columns, size int) string {
	k := textKey{head: table, size: size, tail: "UPDATE", last: columns[len(columns)-1]}
	m, ok := tx.conn.texts[k]
	if n := len(columns); !ok || len(m.columns) != n+len(keys) || !slices.Equal(m.columns[:n], columns) || !slices.Equal(m.columns[n:], keys) {
		m = madeText{text: updateText(table, columns, keys, size), columns: slices.Concat(columns, keys)}
		tx.conn.texts[k] = m
	}
	return m.text
}

func updateText(table string, columns, keys Columns, size int) string {
	names, types := columns.split()
	where, keyTypes := keys.split()
	if size == 1 {
		return "UPDATE " + table + " SET " + strings.Join(names, " = ?, ") + " = ? WHERE " + strings.Join(where, " = ? AND ") + " = ?"
	}
	types = append(types, keyTypes...)
	var given, set, found []string
	for i, name := range names {
		given = append(given, fmt.Sprintf("c%d", i))
		set = append(set, fmt.Sprintf("%s = v.c%d", name, i))
	}
	for i, name := range where {
		given = append(given, fmt.Sprintf("k%d", i))
		found = append(found, fmt.Sprintf("t.%s = v.k%d", name, i))
	}
	return "WITH v (" + strings.Join(given, ", ") + ") AS (VALUES " + TypedRow(types...) + strings.Repeat(",(?"+strings.Repeat(",?", len(types)-1)+")", size-1) +
		") UPDATE " + table + " AS t SET " + strings.Join(set, ", ") + " FROM v WHERE " + strings.Join(found, " AND ")
}
