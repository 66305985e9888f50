package sqldb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/tallystick/tallystick/internal/fault"
)

// versionTable is where goose keeps the version of a schema.
const versionTable = "schema_version"

// openPostgres checks the schema that Migrate has made.
func openPostgres(ctx context.Context, o Options) (*DB, error) {
	op := "sqldb: open " + o.Area
	p := o.Postgres
	if p.Number < 1 || p.Number > NumberMax {
		return nil, &fault.Error{Kind: fault.Invalid, Op: op, Field: "postgres.number", Code: "config_invalid", Fix: fmt.Sprintf("1 to %d", NumberMax)}
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
	var have int64
	there := false
	err := tx.Query(`SELECT to_regclass(?) IS NOT NULL`, []any{versionTable}, func(scan Scan) error { return scan(&there) })
	if err != nil {
		return err
	}
	if !there {
		return missing(fmt.Errorf("database %d has no schema %s", o.Postgres.Number, o.Postgres.schema(o.Area)))
	}
	if err := tx.Query(`SELECT max(version_id) FROM `+versionTable, nil, func(scan Scan) error { return scan(&have) }); err != nil {
		return err
	}
	switch want := int64(len(o.Migrations)); {
	case have > want:
		return schemaNewer(have, want)
	case have < want:
		return &fault.Error{Kind: fault.Conflict, Code: "schema_older", Fix: "run tallystick migrate",
			Err: fmt.Errorf("the schema has version %d, this build wants %d", have, want)}
	}
	stamp := map[string]string{}
	err = tx.Query(`SELECT name, value FROM stamp`, nil, func(scan Scan) error {
		var name, value string
		err := scan(&name, &value)
		stamp[name] = value
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(o.fullStamp())) {
		if want := o.fullStamp()[name]; stamp[name] != want {
			return db.stampMismatch(name, stamp[name], want)
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

// Migrate makes an area's schema in PostgreSQL, or brings it up to date, as the user
// of the URL, who must be allowed to. Several at once wait for each other. If
// reader is set, it is the role that the area's processes log in as: it may read
// and write the tables, and change none of them. It fails with fault.Conflict when
// the schema is newer than this build, or of another installation.
func Migrate(ctx context.Context, o Options, role string) (err error) {
	op := "sqldb: migrate " + o.Area
	config, err := o.Postgres.config(o.Area, false)
	if err != nil {
		return err
	}
	delete(config.RuntimeParams, "statement_timeout") // a migration takes as long as it takes
	delete(config.RuntimeParams, "lock_timeout")
	schema := pgx.Identifier{o.Postgres.schema(o.Area)}.Sanitize()
	pool := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, pool.Close()) }()
	run := func(query string, args ...any) error {
		_, err := pool.ExecContext(ctx, query, args...)
		if err != nil {
			return classify(op, err)
		}
		return nil
	}
	first := int64(o.Postgres.Number) * idsBlock
	for _, query := range []string{
		`CREATE SCHEMA IF NOT EXISTS ` + schema,
		fmt.Sprintf(`CREATE SEQUENCE IF NOT EXISTS ids AS BIGINT INCREMENT BY %d MINVALUE %d START WITH %d`, idsBlock*idsDatabases, first, first),
		`CREATE TABLE IF NOT EXISTS stamp (name TEXT PRIMARY KEY, value TEXT NOT NULL)`,
	} {
		if err := run(query); err != nil {
			return err
		}
	}
	for name, value := range o.fullStamp() {
		if err := run(`INSERT INTO stamp (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`, name, value); err != nil {
			return err
		}
	}
	scripts := make([]string, len(o.Migrations))
	for i, s := range o.Migrations {
		scripts[i] = postgresDDL(s)
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return fault.Wrap(op, err)
	}
	if err := migrateUp(ctx, pool, goose.DialectPostgres, scripts, goose.WithTableName(versionTable), goose.WithSessionLocker(locker)); err != nil {
		return fault.Wrap(op, err)
	}
	if role != "" {
		r := pgx.Identifier{role}.Sanitize()
		for _, query := range []string{
			`GRANT USAGE ON SCHEMA ` + schema + ` TO ` + r,
			`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ` + schema + ` TO ` + r,
			`GRANT USAGE ON ALL SEQUENCES IN SCHEMA ` + schema + ` TO ` + r,
			`REVOKE INSERT, UPDATE, DELETE ON ` + schema + `.stamp, ` + schema + `.` + versionTable + ` FROM ` + r,
		} {
			if err := run(query); err != nil {
				return err
			}
		}
	}
	o.NoSync = true // whether the server is durable is asked by who writes
	db, err := Open(ctx, o)
	if err != nil {
		return err
	}
	return db.Close()
}

// MakeRole makes a role that may log in, if there is none of that name, and gives it
// a password, if there is one.
func MakeRole(ctx context.Context, p Postgres, role, password string) (err error) {
	const op = "sqldb: make role"
	config, err := p.config("pg_catalog", false)
	if err != nil {
		return err
	}
	pool := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, pool.Close()) }()
	var there bool
	if err := pool.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1)`, role).Scan(&there); err != nil {
		return classify(op, err)
	}
	name := pgx.Identifier{role}.Sanitize()
	query := `CREATE ROLE ` + name + ` LOGIN`
	if there {
		if password == "" {
			return nil
		}
		query = `ALTER ROLE ` + name
	}
	if password != "" {
		query += ` PASSWORD '` + strings.ReplaceAll(password, "'", "''") + `'`
	}
	if _, err := pool.ExecContext(ctx, query); err != nil {
		return &fault.Error{Kind: fault.Internal, Op: op + " " + role, Err: errors.New("the server refused it")} // its message may have the password
	}
	return nil
}
