package sqldb_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

type (
	word  string
	count int32
	flag  bool
	raw   []byte
)

// TestValues: what is stored is what is read, in types made of the plain ones too,
// and whatever was bound before.
func TestValues(t *testing.T) {
	table := func(o *sqldb.Options) {
		kinds := []any{"INTEGER", "STRICT"}
		if o.Postgres != nil {
			kinds = []any{"BOOLEAN", ""}
		}
		o.Migrations = []string{fmt.Sprintf(`CREATE TABLE v (id INTEGER PRIMARY KEY, a TEXT, b TEXT, c INTEGER, d INTEGER, e %[1]s, f %[1]s, g BLOB, h BLOB) %[2]s`, kinds...)}
	}
	onBoth(t, table, func(t *testing.T, db *sqldb.DB) {
		long := strings.Repeat("long é", 20_000)
		for i, want := range [][]any{
			{"", word(""), 0, count(0), false, flag(false), []byte{}, raw(nil)}, // first, when nothing was ever bound
			{"x", word("yy"), -1, count(7), true, flag(true), []byte{0, 1}, raw{2}},
			{"a\x01b", word("é' -- ? $1"), 1 << 40, count(-7), false, flag(true), []byte(nil), raw{}},
			{long, word(long), math.MinInt64, count(1), true, flag(true), []byte(long), raw(long)},
			{"\u00a0\U0001F4B0\\", word("\t\n"), math.MaxInt64, count(math.MinInt32), true, flag(false), []byte("\xff\x00"), raw("\xfe")},
			{"", word(""), 0, count(0), false, flag(false), []byte{}, raw(nil)},
		} {
			write(t, db, func(tx *sqldb.Tx) error {
				values := append([]any{i}, append(want[:7:7], []byte(want[7].(raw)))...)
				if i%2 == 1 { // by what points to them
					id, a, n, e := int64(i), want[0].(string), want[2].(int), want[4].(bool)
					values[0], values[1], values[3], values[5] = &id, &a, &n, &e
				}
				_, err := tx.Exec(`INSERT INTO v VALUES (?,?,?,?,?,?,?,?,?)`, values...)
				return err
			})
			readBack(t, db, i, want)
		}
	})
}

func readBack(t *testing.T, db *sqldb.DB, i int, want []any) {
	t.Helper()
	var a string
	var b word
	var c int
	var d count
	var e bool
	var f flag
	var g []byte
	var h raw
	err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT a, b, c, d, e, f, g, h FROM v WHERE id = ? AND a = ? AND g IS NOT DISTINCT FROM ?`, []any{i, want[0], want[6]},
			func(scan sqldb.Scan) error { return scan(&a, &b, &c, &d, &e, &f, &g, &h) })
	})
	if err != nil || a != want[0] || b != want[1] || c != want[2] || d != want[3] || e != want[4] || f != want[5] ||
		!bytes.Equal(g, want[6].([]byte)) || !bytes.Equal(h, want[7].(raw)) {
		t.Errorf("row %d: %.20q %.20q %d %d %v %v %.20q %.20q, %v", i, a, b, c, d, e, f, g, h, err)
	}
}

// TestTextsThatPostgresCannotKeep: SQLite keeps any bytes as a text. PostgreSQL
// refuses the statement, and with it the transaction: they are to be cleaned where
// they come in.
func TestTextsThatPostgresCannotKeep(t *testing.T) {
	for name, text := range map[string]string{"NUL": "a\x00b", "half a character": "\xc3", "no UTF-8": "\xff", "a surrogate": "\xed\xa0\x80"} {
		t.Run(name, func(t *testing.T) {
			lite := open(t, options(t, nil))
			write(t, lite, func(tx *sqldb.Tx) error { return insert(tx, text) })
			want(t, lite, text)
			db := openPG(t, nil)
			err := db.Write(t.Context(), func(tx *sqldb.Tx) error { _ = insertNow(tx, "good", text); return nil })
			if !fault.Is(err, fault.Unavailable) { // as a statement had failed
				t.Error(err)
			}
			err = db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, text) })
			refused(t, "the statement", err, fault.Internal, "sqlstate_22021")
			write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "next") })
			want(t, db, "next")
		})
	}
}

// TestOrderIsByBytes: ranges of codes are asked for.
func TestOrderIsByBytes(t *testing.T) {
	onBoth(t, nil, func(t *testing.T, db *sqldb.DB) {
		list := []string{"B", "a", "Z", "é", "_", "b", "A", "-", "1", "z", "aa", "a-b"}
		write(t, db, func(tx *sqldb.Tx) error { return insert(tx, list...) })
		slices.Sort(list)
		var have []string
		err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
			return tx.Query(`SELECT name FROM item WHERE name >= ? ORDER BY name`, []any{""}, func(scan sqldb.Scan) error {
				have = append(have, "")
				return scan(&have[len(have)-1])
			})
		})
		if err != nil || !slices.Equal(have, list) {
			t.Errorf("have %q, want %q, %v", have, list, err)
		}
	})
}

func TestValuesThatDoNotFit(t *testing.T) {
	onBoth(t, nil, func(t *testing.T, db *sqldb.DB) {
		write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a") })
		var n int
		var small count
		var s string
		var wrong struct{}
		read := func(query string, args []any, dst ...any) error {
			return db.Read(t.Context(), func(tx *sqldb.Tx) error {
				return tx.Query(query, args, func(scan sqldb.Scan) error { return scan(dst...) })
			})
		}
		for name, err := range map[string]error{
			"a text into a number":        read(`SELECT name FROM item`, nil, &n),
			"nothing into a text":         read(`SELECT NULL`, nil, &s),
			"nothing into a number":       read(`SELECT NULL`, nil, &n),
			"a large number into a small": read(`SELECT 1099511627776`, nil, &small),
			"too few targets":             read(`SELECT 1, 2`, nil, &n),
			"too many targets":            read(`SELECT 1`, nil, &n, &s),
			"into what is no target":      read(`SELECT 1`, nil, &wrong),
			"into what is no pointer":     read(`SELECT 1`, nil, n),
			"too few values":              read(`SELECT ?, ?`, []any{1}, &n, &n),
			"too many values":             read(`SELECT ?`, []any{1, 2}, &n),
			"a value of no known type":    read(`SELECT ?`, []any{wrong}, &n),
			"two statements":              read(`SELECT 1; SELECT 2`, nil, &n),
			"no statement":                read(``, nil),
		} {
			if err == nil && (name != "no statement" || strings.HasSuffix(t.Name(), "SQLite")) { // which PostgreSQL takes, as nothing
				t.Errorf("%s: no error", name)
			}
		}
		if err := read(`SELECT count(*) FROM item`, nil, &n); err != nil || n != 1 {
			t.Errorf("%d rows, %v after all that", n, err)
		}
	})
}

// TestStatementsInsideRows: others may run while rows are read, and leave the
// values of the first alone; the same one may not.
func TestStatementsInsideRows(t *testing.T) {
	db := open(t, options(t, nil))
	var list []string
	for i := range 300 {
		list = append(list, fmt.Sprint(i, strings.Repeat("x", 400)))
	}
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, list...) })
	seen := 0
	write(t, db, func(tx *sqldb.Tx) error {
		return sqldb.QueryIn(tx, `SELECT name FROM item WHERE name IN (?*) ORDER BY id`, list[:128], func(scan sqldb.Scan) error {
			var have string
			if err := scan(&have); err != nil {
				return err
			}
			if have != list[seen] {
				t.Errorf("row %d is %.10q", seen, have)
			}
			seen++
			changed, err := tx.Exec(`UPDATE item SET n = n + 1 WHERE name = ?`, have)
			if changed != 1 {
				t.Errorf("%d rows changed", changed)
			}
			return err
		})
	})
	if seen != 128 {
		t.Errorf("%d rows of 128", seen)
	}
	const self = `SELECT name FROM item`
	err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(self, nil, func(sqldb.Scan) error { return tx.Query(self, nil, func(sqldb.Scan) error { return nil }) })
	})
	if err == nil {
		t.Error("a statement ran inside itself")
	}
	want(t, db, list...)
}

// TestNoStatementInsideRowsOfPostgres: there none runs while rows are read, and it says so.
func TestNoStatementInsideRowsOfPostgres(t *testing.T) {
	db := openPG(t, nil)
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a", "b") })
	err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT name FROM item`, nil, func(sqldb.Scan) error {
			_, err := tx.Exec(`UPDATE item SET n = n + 1`)
			return err
		})
	})
	if err == nil {
		t.Error("a statement ran inside the rows of another")
	}
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "c") })
	want(t, db, "a", "b", "c")
}

// TestLongTexts: a statement is found by its text, wherever that is.
func TestLongTexts(t *testing.T) {
	db := open(t, options(t, nil))
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a", "b") })
	for i := range 3000 {
		text := fmt.Sprintf("SELECT count(*) FROM item WHERE n >= 0 AND name <> '%s%d'", strings.Repeat("x", 300), i%2) // anew each time
		err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
			var n int
			err := tx.Query(text+" AND id > ?", []any{i % 2}, func(scan sqldb.Scan) error { return scan(&n) })
			if n != 2-i%2 {
				t.Fatalf("%d rows, want %d", n, 2-i%2)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
