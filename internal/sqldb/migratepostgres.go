package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/tallystick/tallystick/internal/fault"
)

// Migrate makes an area's schema in PostgreSQL, or brings it up to date, as the user
// of the URL, who must be allowed to, and owns what it makes. Several at once wait
// for each other. If role is set, it is the role that the area's processes log in
// as: it may read and write the tables, and change none of them. It fails with
// fault.Conflict, and changes nothing, when the schema is newer than this build, or
// of another installation.
func Migrate(ctx context.Context, o Options, role string) (err error) {
	op := "sqldb: migrate " + o.Area
	if err := o.Postgres.check(op); err != nil {
		return err
	}
	config, err := o.Postgres.config(o.Area, false)
	if err != nil {
		return err
	}
	for _, limit := range []string{"statement_timeout", "lock_timeout"} {
		delete(config.RuntimeParams, limit) // a migration takes as long as it takes
	}
	pool := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, pool.Close()) }()
	unlock, err := lockSchema(ctx, pool, o.Postgres.schema(o.Area))
	if err != nil {
		return classify(op, err)
	}
	defer unlock()
	m := migration{ctx: ctx, pool: pool, op: op, o: &o, schema: pgx.Identifier{o.Postgres.schema(o.Area)}.Sanitize()}
	for _, step := range []func() error{m.prepare, m.stamp, m.up, func() error { return m.grant(role) }} {
		if err := step(); err != nil {
			return err
		}
	}
	o.NoSync = true // whether the server is durable is asked by who writes
	db, err := Open(ctx, o)
	if err != nil {
		return err
	}
	return db.Close()
}

// lockSchema waits until nobody else migrates the schema. The lock is the
// connection's, and goes with it.
func lockSchema(ctx context.Context, pool *sql.DB, schema string) (unlock func(), err error) {
	h := fnv.New64a()
	_, _ = h.Write([]byte("tallystick migrate " + schema))
	key := int64(h.Sum64()) //nolint:gosec // any number will do
	c, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, key); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return func() {
		_, _ = c.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, key)
		_ = c.Close()
	}, nil
}

type migration struct {
	ctx    context.Context //nolint:containedctx // of one call
	pool   *sql.DB
	op     string
	o      *Options
	schema string // quoted
}

func (m *migration) run(query string, args ...any) error {
	_, err := m.pool.ExecContext(m.ctx, query, args...)
	return classify(m.op, err)
}

// prepare makes what is there before any version of the schema.
func (m *migration) prepare() error {
	first := int64(m.o.Postgres.Number) * idsBlock
	for _, query := range []string{
		`CREATE SCHEMA IF NOT EXISTS ` + m.schema,
		fmt.Sprintf(`CREATE SEQUENCE IF NOT EXISTS ids AS BIGINT INCREMENT BY %d MINVALUE %d MAXVALUE %d START WITH %d`,
			idsBlock*idsDatabases, first, int64(idsMax-idsBlock), first),
		`CREATE TABLE IF NOT EXISTS stamp (name TEXT PRIMARY KEY, value TEXT NOT NULL)`,
	} {
		if err := m.run(query); err != nil {
			return err
		}
	}
	return nil
}

// stamp stores what is new of the installation's constants, and refuses what is not
// as it was. That comes before anything of the schema is changed.
func (m *migration) stamp() error {
	rows, err := m.pool.QueryContext(m.ctx, `SELECT name, value FROM stamp`)
	if err != nil {
		return classify(m.op, err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err is asked
	have, err := readStamp(func(row func(Scan) error) error {
		for rows.Next() {
			if err := row(rows.Scan); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	if err != nil {
		return classify(m.op, err)
	}
	all := m.o.fullStamp()
	maps.Copy(all, have)
	if err := m.o.checkStamp(all); err != nil {
		return fault.Wrap(m.op, err)
	}
	for name, value := range all {
		if err := m.run(`INSERT INTO stamp (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`, name, value); err != nil {
			return err
		}
	}
	return nil
}

func (m *migration) up() error {
	scripts := make([]string, len(m.o.Migrations))
	for i, s := range m.o.Migrations {
		scripts[i] = postgresDDL(s)
	}
	return fault.Wrap(m.op, migrateUp(m.ctx, m.pool, goose.DialectPostgres, scripts, goose.WithTableName(versionTable)))
}

// grant lets a role read and write rows, and nothing else.
func (m *migration) grant(role string) error {
	if role == "" {
		return nil
	}
	r := pgx.Identifier{role}.Sanitize()
	for _, query := range []string{
		`GRANT USAGE ON SCHEMA ` + m.schema + ` TO ` + r,
		`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ` + m.schema + ` TO ` + r,
		`GRANT USAGE ON ALL SEQUENCES IN SCHEMA ` + m.schema + ` TO ` + r,
		`REVOKE INSERT, UPDATE, DELETE ON ` + m.schema + `.` + versionTable + ` FROM ` + r,
		`REVOKE UPDATE, DELETE ON ` + m.schema + `.stamp FROM ` + r, // see Stamp
	} {
		if err := m.run(query); err != nil {
			return err
		}
	}
	return nil
}
