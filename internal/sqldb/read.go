package sqldb

import (
	"context"

	"github.com/tallystick/tallystick/internal/fault"
)

// Read runs fn on a reading connection. Each statement sees the last commit;
// Snapshot sees one and the same for all.
func (db *DB) Read(ctx context.Context, fn func(*Tx) error) error {
	return db.read(ctx, false, fn)
}

// Snapshot runs fn in one reading transaction.
func (db *DB) Snapshot(ctx context.Context, fn func(*Tx) error) error {
	return db.read(ctx, true, fn)
}

// Survey is Snapshot for who reads tables whole. PostgreSQL plans its statements with
// all ways that it has, those of the others with the ones alone that find a few rows.
func (db *DB) Survey(ctx context.Context, fn func(*Tx) error) error {
	return db.Snapshot(ctx, func(tx *Tx) error {
		if db.postgres {
			var list []statement
			for _, way := range waysOfWholeTables {
				list = append(list, statement{query: `SET LOCAL ` + way + ` = on`})
			}
			if err := tx.send(nil, list...); err != nil {
				return err
			}
		}
		return fn(tx)
	})
}

func (db *DB) read(ctx context.Context, snapshot bool, fn func(*Tx) error) error {
	var c *conn
	select {
	case c = <-db.readers:
	case <-db.closed:
		return fault.New(fault.Unavailable, "sqldb: "+db.area, "database is closed")
	case <-ctx.Done():
		return fault.New(fault.Unavailable, "sqldb: "+db.area, "waiting to read: %w", ctx.Err())
	}
	defer func() { db.readers <- c }()
	if c == nil {
		opened, err := db.open(true)
		if err != nil {
			return fault.Wrap("sqldb: "+db.area, err)
		}
		c = newConn(opened)
	}
	tx := &Tx{db: db, conn: c}
	if p, ok := c.connection.(*postgres); ok {
		if _, err := p.ready(ctx); err != nil {
			return classify("sqldb: connect to "+db.area, err)
		}
		if snapshot {
			p.begin = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`
		}
	} else if snapshot {
		if _, err := tx.Exec(`BEGIN`); err != nil {
			return err
		}
	}
	if snapshot {
		defer tx.rollback()
	}
	return fn(tx)
}
