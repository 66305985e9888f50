package sqldb_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/engines/pgtest"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

var server pgtest.Server

func TestMain(m *testing.M) { server.Main(m) }

// pgOptions are those of a schema that nobody has used.
func pgOptions(t testing.TB, change func(o *sqldb.Options)) sqldb.Options {
	t.Helper()
	o := sqldb.Options{Area: "test", Postgres: server.Schema(t), Migrations: []string{schema}, NoSync: true}
	if change != nil {
		change(&o)
	}
	return o
}

// migrated makes the schema of options.
func migrated(t testing.TB, o sqldb.Options) sqldb.Options {
	t.Helper()
	if err := sqldb.Migrate(t.Context(), o, ""); err != nil {
		t.Fatal(err)
	}
	return o
}

// openPG opens a schema that nobody has used.
func openPG(t testing.TB, change func(o *sqldb.Options)) *sqldb.DB {
	t.Helper()
	return open(t, migrated(t, pgOptions(t, change)))
}

// onBoth runs a test on both engines. PostgreSQL's schema is made first.
func onBoth(t *testing.T, change func(o *sqldb.Options), test func(t *testing.T, db *sqldb.DB)) {
	t.Run("SQLite", func(t *testing.T) { test(t, open(t, options(t, change))) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, openPG(t, change)) })
}

// sql runs SQL as the superuser.
func sql(t testing.TB, query string, args ...any) string {
	t.Helper()
	out, err := server.Engine(t).Query(t.Context(), "postgres", fmt.Sprintf(query, args...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// refused checks what an error says to who must react.
func refused(t testing.TB, what string, err error, kind fault.Kind, code string) {
	t.Helper()
	var e *fault.Error
	if !errors.As(err, &e) || fault.KindOf(err) != kind || e.Code != code {
		t.Errorf("%s: %v, want %s %s", what, err, kind, code)
	}
}

// backend is the server's process of a transaction.
func backend(tx *sqldb.Tx) (pid int, err error) {
	err = tx.Query(`SELECT pg_backend_pid()`, nil, func(scan sqldb.Scan) error { return scan(&pid) })
	return pid, err
}

// rows are the names in a schema, by the superuser's eyes.
func rows(t testing.TB, o sqldb.Options) string {
	t.Helper()
	return strings.ReplaceAll(sql(t, `SELECT name FROM %s.item ORDER BY id`, o.Postgres.Schema), "\n", " ")
}
