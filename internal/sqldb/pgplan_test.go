package sqldb_test

import (
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/sqldb"
)

const planSchema = `
CREATE TABLE step (id INTEGER PRIMARY KEY, kind TEXT NOT NULL);
CREATE INDEX step_kind ON step (kind);
`

// planOf is what the server does for a statement that this connection has run.
func planOf(tx *sqldb.Tx, text, args string) (plan string, err error) {
	var name string
	err = tx.Query(`SELECT name FROM pg_prepared_statements WHERE statement LIKE ?`, []any{text + "%"}, func(scan sqldb.Scan) error { return scan(&name) })
	if err != nil {
		return "", err
	}
	err = tx.Query(`EXPLAIN EXECUTE `+name+args, nil, func(scan sqldb.Scan) error {
		var line string
		err := scan(&line)
		plan += line + "\n"
		return err
	})
	return plan, err
}

// What finds a few rows is kept from reading tables whole, as a plan that is made while
// they are empty stays for a minute or longer. Who reads them whole may do so.
func TestSurveyPlansFreely(t *testing.T) {
	o := migrated(t, pgOptions(t, func(o *sqldb.Options) { o.Migrations = []string{planSchema} }))
	db := open(t, o)
	sql(t, `INSERT INTO %s.step SELECT n, 'k' || n FROM generate_series(1, 20000) n; ANALYZE %[1]s.step`, o.Postgres.Schema)
	n := 0
	for name, c := range map[string]struct {
		read  func(func(*sqldb.Tx) error) error
		whole bool
	}{
		"survey":   {func(fn func(*sqldb.Tx) error) error { return db.Survey(t.Context(), fn) }, true},
		"snapshot": {func(fn func(*sqldb.Tx) error) error { return db.Snapshot(t.Context(), fn) }, false},
		"read":     {func(fn func(*sqldb.Tx) error) error { return db.Read(t.Context(), fn) }, false},
	} {
		err := c.read(func(tx *sqldb.Tx) error {
			query := `SELECT count(*) AS ` + name + ` FROM step a JOIN step b ON b.kind = a.kind`
			if err := tx.Query(query, nil, func(scan sqldb.Scan) error { return scan(&n) }); err != nil || n != 20_000 {
				t.Errorf("%s: %d, %v", name, n, err)
			}
			plan, err := planOf(tx, query, "")
			if whole := strings.Contains(plan, "Hash Join") && strings.Contains(plan, "Seq Scan"); whole != c.whole {
				t.Errorf("%s: reads whole tables: %t, want %t:\n%s", name, whole, c.whole, plan)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
