package sqldb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/internal/fault"
)

// Portion is the rows of a table that belong together, and go together to the same
// table of another PostgreSQL database.
type Portion struct {
	Table string
	// Where is the condition on them, of which Args are arguments. The table is t.
	Where string
	Args  []any
	// Join is put behind the table where rows are read to be carried, and Values are
	// expressions for columns that are not carried as they are.
	Join   string
	Values map[string]string
}

// Columns are a table's, in their order.
func (tx *Tx) Columns(table string) (names []string, err error) {
	err = tx.Query(`SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = ? ORDER BY ordinal_position`,
		[]any{table}, func(scan Scan) error {
			var name string
			err := scan(&name)
			names = append(names, name)
			return err
		})
	if err == nil && len(names) == 0 {
		err = fault.New(fault.Internal, "sqldb: "+tx.db.area, "there is no table %s", table)
	}
	return names, err
}

// selectText reads the portion; mapped says that it is read to be carried.
func (p Portion) selectText(columns []string, mapped bool) (string, error) {
	exprs, join := make([]string, len(columns)), ""
	for i, c := range columns {
		exprs[i] = "t." + c
		if e := p.Values[c]; mapped && e != "" {
			exprs[i] = e
		}
	}
	if mapped {
		join = " " + p.Join
	}
	where, err := inline(p.Where, p.Args)
	return "SELECT " + strings.Join(exprs, ", ") + " FROM " + p.Table + " AS t" + join + " WHERE " + where, err
}

// inline puts arguments into a text, for statements that can have none.
func inline(text string, args []any) (string, error) {
	for _, a := range args {
		literal := ""
		switch v := a.(type) {
		case string:
			if strings.ContainsAny(v, "\\?\x00") {
				return "", fault.New(fault.Internal, "sqldb", "%q cannot be put into a statement", v)
			}
			literal = "'" + strings.ReplaceAll(v, "'", "''") + "'"
		case int, int64:
			literal = fmt.Sprint(v)
		default:
			return "", fault.New(fault.Internal, "sqldb", "%T cannot be put into a statement", a)
		}
		text = strings.Replace(text, "?", literal, 1)
	}
	return text, nil
}

// Carry copies a portion from a transaction of one database into one of another, as
// a stream: neither side holds more of it than a buffer. It gives the number of
// rows. Both transactions are of no use any more when it fails.
func Carry(from, to *Tx, p Portion) (int64, error) {
	op := "sqldb: carry " + to.db.area + "." + p.Table
	src, okSrc := from.conn.connection.(*postgres)
	dst, okDst := to.conn.connection.(*postgres)
	if !okSrc || !okDst {
		return 0, fault.New(fault.Internal, op, "only PostgreSQL can")
	}
	columns, err := from.Columns(p.Table)
	if err != nil {
		return 0, err
	}
	text, err := p.selectText(columns, true)
	if err != nil {
		return 0, err
	}
	for _, tx := range []*Tx{from, to} { // what comes next must not go out before it
		if err := tx.flush(); err != nil {
			return 0, err
		}
		if err := tx.begun(); err != nil {
			return 0, err
		}
		tx.ran(1, 1)
	}
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(src.ctx, src.timeout)
		defer cancel()
		_, err := src.conn.PgConn().CopyTo(ctx, w, "COPY ("+text+") TO STDOUT (FORMAT binary)")
		_ = w.CloseWithError(err) // nil is the end of the stream
		ended <- err
	}()
	ctx, cancel := context.WithTimeout(dst.ctx, dst.timeout)
	defer cancel()
	tag, err := dst.conn.PgConn().CopyFrom(ctx, r, "COPY "+p.Table+" ("+strings.Join(columns, ", ")+") FROM STDIN (FORMAT binary)")
	_ = r.CloseWithError(errors.New("the other side has failed"))
	srcErr := <-ended
	switch {
	case err != nil:
		to.failed = true
		return 0, to.classify("COPY "+p.Table, err)
	case srcErr != nil:
		from.failed, to.failed = true, true
		return 0, from.classify("COPY "+p.Table, srcErr)
	}
	return tag.RowsAffected(), nil
}

// Digest tells equal sets of rows from others.
type Digest struct {
	Rows int64
	Sum  string // of the rows' hashes, in whatever order
}

// Digest reads a portion of one database: as it is carried, if mapped is set.
func (tx *Tx) Digest(p Portion, mapped bool) (d Digest, err error) {
	columns, err := tx.Columns(p.Table)
	if err != nil {
		return d, err
	}
	text, err := p.selectText(columns, mapped)
	if err != nil {
		return d, err
	}
	err = tx.Query(`SELECT count(*), coalesce(sum(('x' || left(md5(q::text), 16))::bit(64)::bigint::numeric), 0)::text FROM (`+text+`) AS q`, nil,
		func(scan Scan) error { return scan(&d.Rows, &d.Sum) })
	return d, err
}

// Remove deletes portions, the last one first, and gives the number of rows.
func (tx *Tx) Remove(portions []Portion) (rows int64, err error) {
	for _, p := range slices.Backward(portions) {
		n, err := tx.Exec(`DELETE FROM `+p.Table+` AS t WHERE `+p.Where, slices.Clone(p.Args)...)
		if err != nil {
			return rows, err
		}
		rows += n
	}
	return rows, nil
}

// LastID is above every id that the schema has given by now, and may be given next.
func (tx *Tx) LastID() (id int64, err error) {
	err = tx.Query(`SELECT last_value FROM ids`, nil, func(scan Scan) error { return scan(&id) })
	return id + idsBlock, err
}

// RaiseIDs makes all ids that the schema gives from now on higher than above, but for
// blocks that are in use (NewIDs). It waits for transactions that have taken one, and new
// ones wait for it.
func (tx *Tx) RaiseIDs(above int64) error {
	// This alone changes nothing, and lets nobody take a number until the end.
	if _, err := tx.Exec(fmt.Sprintf(`ALTER SEQUENCE ids INCREMENT BY %d`, idsBlock*idsDatabases)); err != nil {
		return err
	}
	last, err := tx.LastID()
	if err != nil || last > above {
		return err
	}
	const round = idsBlock * idsDatabases
	next := (above/round+1)*round + int64(tx.db.number)*idsBlock
	_, err = tx.Exec(fmt.Sprintf(`ALTER SEQUENCE ids RESTART WITH %d`, next))
	return err
}
