package sqldb_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/sqldb"
)

func TestStatementsForPostgreSQL(t *testing.T) {
	for _, c := range []struct{ name, from, want string }{
		{"placeholders have numbers", `UPDATE t SET a = ?, b = ? WHERE id = ?`, `UPDATE t SET a = $1, b = $2 WHERE id = $3`},
		{"those that have one keep it", `UPDATE t SET a = ?3 WHERE id = ?1 AND version = ?2`, `UPDATE t SET a = $3 WHERE id = $1 AND version = $2`},
		{"ten and more", `IN (?,?,?,?,?,?,?,?,?,?,?)`, `IN ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)`},
		{"one in a text is none", `SELECT '?', 'it''s ?', ?`, `SELECT '?', 'it''s ?', $1`},
		{"an index is the planner's choice", `SELECT a FROM t INDEXED BY t_a WHERE b = ?`, `SELECT a FROM t WHERE b = $1`},
		{"so is the order of a join", `FROM progress p CROSS JOIN calls c ON c.id = p.id WHERE p.id = ?`, `FROM progress p JOIN calls c ON c.id = p.id WHERE p.id = $1`},
		{"and what an index is not for", `WHERE +p.traffic = ? AND (+p.account = ?)`, `WHERE p.traffic = $1 AND (p.account = $2)`},
		{"a sum is a sum", `SET seq = heads.seq + excluded.seq, n = n + 1`, `SET seq = heads.seq + excluded.seq, n = n + 1`},
		{"a cross join without a condition is left", `FROM a CROSS JOIN b`, `FROM a CROSS JOIN b`},
		{"rows with types", `VALUES ` + sqldb.TypedRow("TEXT", "BIGINT", "BOOLEAN") + `,(?,?,?)`,
			`VALUES (CAST($1 AS TEXT),CAST($2 AS BIGINT),($3 = TRUE)),($4,$5,$6)`},
		{"other characters", `SELECT 'é?', ? -- ü`, `SELECT 'é?', $1 -- ü`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if have := sqldb.PostgresText(c.from); have != c.want {
				t.Errorf("have %s\nwant %s", have, c.want)
			}
		})
	}
}

func TestSchemasForPostgreSQL(t *testing.T) {
	for _, c := range []struct{ name, from, want string }{
		{"keys", `id INTEGER PRIMARY KEY, n INTEGER NOT NULL`, `id BIGINT PRIMARY KEY DEFAULT nextval('ids'), n BIGINT NOT NULL`},
		{"texts compare by bytes", `a TEXT, b TEXT NOT NULL`, `a TEXT COLLATE "C", b TEXT COLLATE "C" NOT NULL`},
		{"bytes", `body BLOB NOT NULL`, `body BYTEA NOT NULL`},
		{"no row ids", "PRIMARY KEY (a, b)) WITHOUT ROWID;\nCREATE", "PRIMARY KEY (a, b));\nCREATE"},
		{"a part of a word is no word", `TEXTS, POINTER, INTEGERS`, `TEXTS, POINTER, INTEGERS`},
		{"a line for it alone", "a;\n-- postgres: CREATE INDEX x ON y (z);\n-- a comment", "a;\nCREATE INDEX x ON y (z);\n-- a comment"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if have := sqldb.PostgresDDL(c.from); have != c.want {
				t.Errorf("have %s\nwant %s", have, c.want)
			}
		})
	}
}

// TestGoldenSchema holds the tables that every area has: they are what a released
// migration has made.
func TestGoldenSchema(t *testing.T) {
	have := strings.TrimSpace(sqldb.PostgresDDL(embedded.Schema(bus.Payments))) + "\n"
	path := filepath.Join("testdata", "schema_postgres.sql")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(have), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if have != string(want) {
		t.Errorf("the schema is not %s (UPDATE_GOLDEN=1 writes it):\n%s", path, have)
	}
}
