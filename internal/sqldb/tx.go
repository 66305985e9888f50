package sqldb

import (
	"context"
	"errors"

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

	writes bool        // it is Write's
	failed bool        // a statement has: nothing of the transaction can be kept any more, in PostgreSQL
	due    []statement // that wait for the next one; see later
	guards int         // how many of them are the guard's
}

// OnCommit registers what is to happen after the commit, and only then: waking
// whoever reads what was written. It must not fail or block.
func (tx *Tx) OnCommit(f func()) { tx.onCommit = append(tx.onCommit, f) }

// Scan reads the current row into pointers to texts, integers, bools and slices
// of bytes, or types made of them. A NULL fits a slice of bytes alone.
type Scan func(dst ...any) error

// Exec runs a statement and gives the number of rows that it changed.
func (tx *Tx) Exec(query string, args ...any) (n int64, err error) {
	if tx.db.postgres {
		err = tx.send(nil, statement{query, args, func(rows int64) error { n = rows; return nil }})
		return n, err
	}
	tx.ran(1, 1)
	n, err = tx.conn.connection.(*engine).exec(query, args)
	if err != nil {
		return 0, tx.classify(query, err)
	}
	return n, nil
}

// Do runs a statement, whatever number of rows it changes. In PostgreSQL it may run later,
// as Insert's.
func (tx *Tx) Do(query string, args ...any) error {
	if tx.db.postgres {
		return tx.later(statement{query: query, args: args})
	}
	_, err := tx.Exec(query, args...)
	return err
}

// Expect runs a statement that changes, or gives, so many rows: with any other number
// what refused gives for it is the error. In PostgreSQL it may run later, as Insert's.
func (tx *Tx) Expect(rows int64, refused func(have int64) error, query string, args ...any) error {
	check := func(have int64) error {
		if have != rows {
			return refused(have)
		}
		return nil
	}
	if tx.db.postgres {
		return tx.later(statement{query, args, check})
	}
	have, err := tx.Exec(query, args...)
	if err != nil {
		return err
	}
	return check(have)
}

// later leaves a statement, in PostgreSQL, to the next one that is waited for, or to the
// end of the transaction: a round trip costs more than a statement. Its error comes with
// that one's. Its arguments are taken as they are now, but for slices of bytes.
func (tx *Tx) later(list ...statement) error {
	if err := tx.usable(); err != nil {
		return err
	}
	for _, s := range list {
		s.args = still(s.args)
		tx.due = append(tx.due, s)
	}
	if !tx.writes { // it has no end at which the rest would run
		return tx.flush()
	}
	return nil
}

// flush runs what is left.
func (tx *Tx) flush() error {
	if len(tx.due) == 0 {
		return nil
	}
	return tx.send(nil)
}

// send runs what is due and a list of statements in PostgreSQL, at once. Rows of the last
// one go to row, if there is one.
func (tx *Tx) send(row func(Scan) error, list ...statement) error {
	if err := tx.usable(); err != nil {
		return err
	}
	all := append(tx.due, list...)
	tx.due = nil
	trips, at, err := tx.conn.connection.(*postgres).send(all, row)
	tx.ran(len(all), trips)
	if err == nil {
		return nil
	}
	if e := tx.ofReader(all[at].query, err); e != nil {
		return e
	}
	tx.failed = true
	var ce *checkError
	if errors.As(err, &ce) {
		return ce.err
	}
	return tx.classify(all[at].query, err)
}

// ofReader is an error of who reads rows, and not of the statement, which went well.
func (tx *Tx) ofReader(query string, err error) error {
	var re *rowError
	if !errors.As(err, &re) {
		return nil
	}
	return fault.Wrap("sqldb: "+tx.db.area+": row of "+query, re.err)
}

// usable refuses what comes after a statement of a writing transaction that failed, in
// PostgreSQL: it would be refused there, or, if it was the first one, be outside of any.
func (tx *Tx) usable() error {
	if tx.db.postgres && tx.failed {
		return fault.New(fault.Unavailable, "sqldb: "+tx.db.area, "a statement of the transaction had failed")
	}
	return nil
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
		anew, err := c.ready(ctx)
		if err != nil {
			return nil, classify("sqldb: connect to "+db.area, err)
		}
		if anew { // a server that was restarted may have forgotten that it gave the block
			db.nextID = db.lastID
		}
		c.begin = `BEGIN`
	}
	end = func(bool) { tx.rollback() }
	if db.guard != nil {
		if err := db.guard(tx); err != nil {
			end(false)
			return nil, err
		}
		tx.guards = len(tx.due)
	}
	return end, nil
}

// ran counts statements, and how often the server was waited for.
func (tx *Tx) ran(statements int, trips int64) {
	tx.db.statements.Add(int64(statements))
	tx.db.trips.Add(trips)
}

// begun begins a PostgreSQL transaction in which no statement has run, with what guards
// it, so that its answer is the server's all the same. What else is due is let go.
func (tx *Tx) begun() error {
	c, ok := tx.conn.connection.(*postgres)
	if !ok || c.begin == "" {
		return nil
	}
	if tx.due = tx.due[:min(tx.guards, len(tx.due))]; len(tx.due) > 0 {
		return tx.flush()
	}
	begin := c.begin
	c.begin = ""
	_, err := tx.Exec(begin)
	return err
}

// rollback ends what the server still holds open.
func (tx *Tx) rollback() {
	c, ok := tx.conn.connection.(*postgres)
	if !ok || c.open() {
		tx.due, tx.failed = nil, false
		_, _ = tx.Exec(`ROLLBACK`)
	}
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
	c, ok := tx.conn.connection.(*postgres)
	if !ok {
		_, err := tx.Exec(`COMMIT`)
		return err
	}
	op := "sqldb: " + tx.db.area + ": COMMIT"
	if tx.failed { // COMMIT would roll it back, and say that all is well
		return fault.New(fault.Unavailable, op, "a statement of the transaction had failed")
	}
	tx.ran(1, 1)
	switch err := c.commit(); {
	case err == nil:
		return nil
	case rolledBack(err):
		e := &fault.Error{Kind: fault.Unavailable, Op: op, Err: err}
		var pe *pgconn.PgError
		if errors.As(err, &pe) {
			e.Code = "sqlstate_" + pe.Code
		}
		return e
	default:
		return fault.New(fault.Unknown, op, "%w", err)
	}
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
	if tx.db.postgres {
		return tx.send(row, statement{query: query, args: args})
	}
	tx.ran(1, 1)
	err := tx.conn.connection.(*engine).query(query, args, row)
	if err == nil {
		return nil
	}
	if e := tx.ofReader(query, err); e != nil {
		return e
	}
	return tx.classify(query, err)
}

// Postgres reports whether the engine is PostgreSQL, for the few places where that
// decides which statement is the right one: a statement costs a round trip there,
// so that one of any size is better than a few of sizes that are prepared.
func (tx *Tx) Postgres() bool { return tx.db.postgres }
