package sqldb_test

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

func TestPostgresMigrations(t *testing.T) {
	o := pgOptions(t, nil)
	_, err := sqldb.Open(t.Context(), o)
	refused(t, "no schema", err, fault.Conflict, "schema_missing")
	for range 2 { // the second time there is nothing to do
		migrated(t, o)
	}
	write(t, open(t, o), func(tx *sqldb.Tx) error { return insert(tx, "a") })

	newer := o
	newer.Migrations = append(slices.Clone(o.Migrations), `ALTER TABLE item ADD COLUMN note TEXT NOT NULL DEFAULT 'x'; CREATE TABLE other (id INTEGER PRIMARY KEY);`)
	_, err = sqldb.Open(t.Context(), newer)
	refused(t, "an older schema", err, fault.Conflict, "schema_older")
	migrated(t, newer)
	db := open(t, newer)
	write(t, db, func(tx *sqldb.Tx) error { _, err := tx.Exec(`UPDATE item SET note = 'y'`); return err })
	want(t, db, "a")

	broken := newer
	broken.Migrations = append(slices.Clone(newer.Migrations), `CREATE TABLE third (id INTEGER PRIMARY KEY); SELEKT;`)
	if err := sqldb.Migrate(t.Context(), broken, ""); err == nil {
		t.Error("a broken migration was applied")
	}
	if there := sql(t, `SELECT to_regclass('%s.third') IS NULL`, o.Postgres.Schema); there != "t" {
		t.Error("half of a broken migration was kept")
	}
	for what, err := range map[string]error{"open": second(sqldb.Open(t.Context(), o)), "migrate": sqldb.Migrate(t.Context(), o, "")} {
		refused(t, "an older build: "+what, err, fault.Conflict, "schema_newer")
	}
}

func second(db *sqldb.DB, err error) error {
	if err == nil {
		err = errors.Join(errors.New("it opened"), db.Close())
	}
	return err
}

// TestPostgresMigrateAtOnce: several processes migrate at once, and each finds it done.
func TestPostgresMigrateAtOnce(t *testing.T) {
	o := pgOptions(t, func(o *sqldb.Options) {
		o.Migrations = append(o.Migrations, `CREATE TABLE other (id INTEGER PRIMARY KEY);`)
		o.Stamp = map[string]string{"groups": "16"}
	})
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if err := sqldb.Migrate(t.Context(), o, ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	write(t, open(t, o), func(tx *sqldb.Tx) error { return insert(tx, "a") })
}

// TestPostgresStamp: data of another installation, or of another database of this
// one, is refused, and left as it is.
func TestPostgresStamp(t *testing.T) {
	o := pgOptions(t, func(o *sqldb.Options) { o.Stamp = map[string]string{"groups": "16", "secret": "abc"} })
	if err := open(t, migrated(t, o)).Close(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(o *sqldb.Options){
		"groups":          func(o *sqldb.Options) { o.Stamp = map[string]string{"groups": "32", "secret": "abc"} },
		"secret":          func(o *sqldb.Options) { o.Stamp = map[string]string{"groups": "16", "secret": "abd"} },
		"database_number": func(o *sqldb.Options) { p := *o.Postgres; p.Number = 2; o.Postgres = &p },
	} {
		other := o
		other.Migrations = append(slices.Clone(o.Migrations), `CREATE TABLE other (id INTEGER PRIMARY KEY);`)
		change(&other)
		err := sqldb.Migrate(t.Context(), other, "")
		refused(t, "migrate with another "+field, err, fault.Conflict, "stamp_mismatch")
		other.Migrations = o.Migrations
		err = second(sqldb.Open(t.Context(), other))
		refused(t, "open with another "+field, err, fault.Conflict, "stamp_mismatch")
		var e *fault.Error
		if !errors.As(err, &e) || e.Field != field || e.Fix == "" {
			t.Errorf("%s: %v names no field and fix", field, err)
		}
	}
	if err := open(t, o).Close(); err != nil {
		t.Errorf("a refused opening changed something: %v", err)
	}
}

func TestPostgresNumbers(t *testing.T) {
	for _, n := range []int{-1, 0, sqldb.NumberMax + 1} {
		o := pgOptions(t, func(o *sqldb.Options) { o.Postgres.Number = n })
		refused(t, fmt.Sprint("open ", n), second(sqldb.Open(t.Context(), o)), fault.Invalid, "config_invalid")
		refused(t, fmt.Sprint("migrate ", n), sqldb.Migrate(t.Context(), o, ""), fault.Invalid, "config_invalid")
	}
	o := migrated(t, pgOptions(t, func(o *sqldb.Options) { o.Postgres.Number = sqldb.NumberMax }))
	write(t, open(t, o), func(tx *sqldb.Tx) error {
		return tx.NewIDs("item", 1, func(_ int, id int64) {
			if id<<10>>10 != id {
				t.Errorf("%d does not fit with 10 bits more", id)
			}
		})
	})
}

// never is a trigger as accounting has them.
const never = `CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'never' USING ERRCODE = 'integrity_constraint_violation'; END $$;
CREATE TRIGGER item_never_goes BEFORE DELETE ON item FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER item_never_emptied BEFORE TRUNCATE ON item FOR EACH STATEMENT EXECUTE FUNCTION never();`

// TestPostgresRole: what a process logs in as reads and writes the rows of its area,
// and that is all.
func TestPostgresRole(t *testing.T) {
	o := pgOptions(t, func(o *sqldb.Options) { o.Migrations = append(o.Migrations, never) })
	other := migrated(t, pgOptions(t, nil))
	role := "role_" + o.Postgres.Schema
	for range 2 { // the second time it is there
		if err := sqldb.MakeRole(t.Context(), *o.Postgres, role, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := sqldb.Migrate(t.Context(), o, role); err != nil {
		t.Fatal(err)
	}
	o.Postgres.User = role
	db := open(t, o)
	write(t, db, func(tx *sqldb.Tx) error {
		if err := tx.NewIDs("item", 1, func(int, int64) {}); err != nil {
			return err
		}
		if err := insert(tx, "a"); err != nil {
			return err
		}
		_, err := tx.Exec(`UPDATE item SET n = 1`)
		return err
	})
	want(t, db, "a")
	for _, statement := range []string{
		`ALTER TABLE item ADD COLUMN x BIGINT`, `DROP TABLE item`, `TRUNCATE item`, `ALTER TABLE item DISABLE TRIGGER ALL`,
		`DROP TRIGGER item_never_goes ON item`, `CREATE OR REPLACE FUNCTION never() RETURNS trigger LANGUAGE sql AS ''`,
		`SET session_replication_role = replica`, `UPDATE stamp SET value = 'x'`, `DELETE FROM stamp`, `INSERT INTO stamp VALUES ('groups', 'b') ON CONFLICT (name) DO UPDATE SET value = 'b'`,
		`UPDATE schema_version SET version_id = 7`, `INSERT INTO schema_version (version_id, is_applied) VALUES (7, TRUE)`, `DELETE FROM schema_version`,
		`CREATE TABLE mine (id BIGINT)`, `CREATE TABLE public.mine (id BIGINT)`, `DROP SEQUENCE ids`, `SELECT setval('ids', 1)`, `ALTER SEQUENCE ids RESTART`,
		`SELECT * FROM ` + other.Postgres.Schema + `.item`, `INSERT INTO ` + other.Postgres.Schema + `.item (name) VALUES ('x')`,
		`SELECT nextval('` + other.Postgres.Schema + `.ids')`, `DROP SCHEMA ` + o.Postgres.Schema + ` CASCADE`, `CREATE ROLE another`,
		`ALTER ROLE ` + role + ` SUPERUSER`,
	} {
		err := db.Write(t.Context(), func(tx *sqldb.Tx) error { _, err := tx.Exec(statement); return err })
		if err == nil || !strings.Contains(err.Error(), "42501") { // insufficient_privilege
			t.Errorf("%s: %v", statement, err)
		}
	}
	err := db.Write(t.Context(), func(tx *sqldb.Tx) error { _, err := tx.Exec(`DELETE FROM item`); return err })
	refused(t, "a trigger", err, fault.Conflict, "constraint")
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "b") })
	if have := rows(t, o); have != "a b" {
		t.Errorf("rows %s", have)
	}
	if err := sqldb.Migrate(t.Context(), sqldb.Options{Area: "test", Postgres: o.Postgres, Migrations: append(o.Migrations, `CREATE TABLE mine (id BIGINT);`)}, ""); err == nil {
		t.Error("it migrated")
	}
}

// TestPostgresPasswords: they work, and are in no error and in no log of the server.
func TestPostgresPasswords(t *testing.T) {
	e, err := engines.StartPostgresWith(t.Context(), engines.PostgresOptions{Settings: []string{"log_statement=all", "log_min_error_statement=debug5"},
		HBA: []string{"host all postgres 127.0.0.1/32 trust", "host all all 127.0.0.1/32 scram-sha-256"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	const first, next, wrong = "hunter2'; DROP--", `correct "horse" \ battery`, "swordfish"
	p := sqldb.Postgres{URL: e.URL("postgres"), Schema: "s", Number: 1}
	o := sqldb.Options{Area: "test", Postgres: &p, Migrations: []string{schema}, NoSync: true}
	var said []string
	say := func(err error) error {
		if err != nil {
			said = append(said, err.Error())
		}
		return err
	}
	as := func(password string) error {
		q := p
		q.User, q.Password = "app", password
		c := o
		c.Postgres = &q
		db, err := sqldb.Open(t.Context(), c)
		if err == nil {
			err = db.Close()
		}
		return say(err)
	}
	for _, password := range []string{first, next} {
		if err := sqldb.MakeRole(t.Context(), p, "app", password); err != nil {
			t.Fatal(err)
		}
		if err := sqldb.Migrate(t.Context(), o, "app"); err != nil {
			t.Fatal(err)
		}
		if err := as(password); err != nil {
			t.Errorf("the right password: %v", err)
		}
		refused(t, "a wrong one", as(wrong), fault.Unavailable, "sqlstate_28P01")
	}
	refused(t, "the one before", as(first), fault.Unavailable, "sqlstate_28P01")
	refused(t, "none", as(""), fault.Unavailable, "sqlstate_28P01")
	refused(t, "no ASCII", say(sqldb.MakeRole(t.Context(), p, "app", "pässword"+wrong)), fault.Invalid, "config_invalid")
	// A role that may not make roles, and a name that none can have.
	low := p
	low.User, low.Password = "app", next
	if err := say(sqldb.MakeRole(t.Context(), low, "app2", wrong)); err == nil {
		t.Error("a role made a role")
	}
	_ = say(sqldb.MakeRole(t.Context(), p, "pg_x", wrong))
	for _, bad := range []string{"postgres://app:" + wrong + "@127.0.0.1:no-port/x", "postgres://app:" + wrong + "@127.0.0.1:1/x?sslmode=disable",
		"host=127.0.0.1 port=1 password=" + wrong + " sslmode=what", "postgres://app:" + url.QueryEscape(wrong) + "@%zz/x"} {
		q := p
		q.URL = bad
		c := o
		c.Postgres = &q
		for what, err := range map[string]error{"open": second(sqldb.Open(t.Context(), c)), "migrate": sqldb.Migrate(t.Context(), c, ""),
			"make role": sqldb.MakeRole(t.Context(), q, "app", wrong)} {
			if say(err) == nil {
				t.Errorf("%s of %s worked", what, bad)
			}
		}
	}
	logged, err := e.Logged()
	if err != nil || !strings.Contains(logged, "ALTER ROLE") {
		t.Fatalf("the server did not log what it did: %v", err)
	}
	for _, secret := range []string{first, next, wrong, "hunter2", "horse", "pässword"} {
		if strings.Contains(logged, secret) {
			t.Errorf("the server's log has %q", secret)
		}
		for _, s := range said {
			if strings.Contains(s, secret) {
				t.Errorf("an error has %q: %s", secret, s)
			}
		}
	}
}
