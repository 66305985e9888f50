package sqldb

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/tallystick/tallystick/internal/fault"
)

// versionTable is where goose keeps the version of a schema.
const versionTable = "schema_version"

// openPostgres checks the schema that Migrate has made.
func openPostgres(ctx context.Context, o Options) (*DB, error) {
	op := "sqldb: open " + o.Area
	p := o.Postgres
	if err := p.check(op); err != nil {
		return nil, err
	}
	db := newDB(o, func(readOnly bool) (connection, error) { return newPostgres(p, o.Area, readOnly) })
	db.postgres, db.number = true, p.Number
	c, err := db.open(false)
	if err != nil {
		return nil, err
	}
	db.writer <- newConn(c)
	checked := false
	defer func() {
		if !checked {
			_ = db.Close()
		}
	}()
	if err := db.Read(ctx, func(tx *Tx) error { return db.checkSchema(tx, o) }); err != nil {
		return nil, fault.Wrap(op, err)
	}
	db.guard = p.Guard
	checked = true
	return db, nil
}

// checkSchema refuses a schema that is not this installation's or not of this build.
func (db *DB) checkSchema(tx *Tx, o Options) error {
	if !o.NoSync {
		if err := checkDurable(tx); err != nil {
			return err
		}
	}
	missing := func(err error) error {
		return &fault.Error{Kind: fault.Conflict, Code: "schema_missing", Fix: "run tallystick migrate", Err: err}
	}
	var version int64
	there := false
	err := tx.Query(`SELECT to_regclass(?) IS NOT NULL`, []any{versionTable}, func(scan Scan) error { return scan(&there) })
	if err != nil {
		return err
	}
	if !there {
		return missing(fmt.Errorf("database %d has no schema %s", o.Postgres.Number, o.Postgres.schema(o.Area)))
	}
	if err := tx.Query(`SELECT max(version_id) FROM `+versionTable, nil, func(scan Scan) error { return scan(&version) }); err != nil {
		return err
	}
	switch want := int64(len(o.Migrations)); {
	case version > want:
		return schemaNewer(version, want)
	case version < want:
		return &fault.Error{Kind: fault.Conflict, Code: "schema_older", Fix: "run tallystick migrate",
			Err: fmt.Errorf("the schema has version %d, this build wants %d", version, want)}
	}
	have, err := readStamp(func(row func(Scan) error) error { return tx.Query(`SELECT name, value FROM stamp`, nil, row) })
	if err != nil {
		return err
	}
	return o.checkStamp(have)
}

func readStamp(query func(row func(Scan) error) error) (map[string]string, error) {
	stamp := map[string]string{}
	err := query(func(scan Scan) error {
		var name, value string
		err := scan(&name, &value)
		stamp[name] = value
		return err
	})
	return stamp, err
}

// checkStamp refuses a stamp that is not this installation's.
func (o *Options) checkStamp(have map[string]string) error {
	want := o.fullStamp()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if have[name] != want[name] {
			return stampMismatch(o.Area, name, have[name], want[name])
		}
	}
	return nil
}

// fullStamp is the stamp with the number of the database, by which its ids are its own.
func (o *Options) fullStamp() map[string]string {
	all := maps.Clone(o.Stamp)
	if all == nil {
		all = map[string]string{}
	}
	all["database_number"] = fmt.Sprint(o.Postgres.Number)
	return all
}
