package sqldb_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

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
	db := open(t, options(t, func(o *sqldb.Options) {
		o.Migrations = []string{`CREATE TABLE v (id INTEGER PRIMARY KEY, a, b, c, d, e, f, g, h) STRICT`}
		o.Migrations[0] = strings.NewReplacer("a,", "a TEXT,", "b,", "b TEXT,", "c,", "c INTEGER,", "d,", "d INTEGER,", "e,", "e INTEGER,",
			"f,", "f INTEGER,", "g,", "g BLOB,", "h)", "h BLOB)").Replace(o.Migrations[0])
	}))
	long := strings.Repeat("long é", 20_000)
	for i, want := range [][]any{
		{"", word(""), 0, count(0), false, flag(false), []byte{}, raw(nil)}, // first, when nothing was ever bound
		{"x", word("yy"), -1, count(7), true, flag(true), []byte{0, 1}, raw{2}},
		{"a\x00b", word("é' --"), 1 << 40, count(-7), false, flag(true), []byte(nil), raw{}},
		{long, word(long), 1, count(1), true, flag(true), []byte(long), raw(long)},
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
		var a string
		var b word
		var c int
		var d count
		var e bool
		var f flag
		var g []byte
		var h raw
		err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
			return tx.Query(`SELECT a, b, c, d, e, f, g, h FROM v WHERE id = ? AND a = ? AND g IS ?`, []any{i, want[0], want[6]},
				func(scan sqldb.Scan) error { return scan(&a, &b, &c, &d, &e, &f, &g, &h) })
		})
		if err != nil || a != want[0] || b != want[1] || c != want[2] || d != want[3] || e != want[4] || f != want[5] ||
			!bytes.Equal(g, want[6].([]byte)) || !bytes.Equal(h, want[7].(raw)) {
			t.Errorf("row %d: %.20q %.20q %d %d %v %v %.20q %.20q, %v", i, a, b, c, d, e, f, g, h, err)
		}
	}
}

func TestValuesThatDoNotFit(t *testing.T) {
	db := open(t, options(t, nil))
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
		"a large number into a small": read(`SELECT 1 << 40`, nil, &small),
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
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := read(`SELECT count(*) FROM item`, nil, &n); err != nil || n != 1 {
		t.Errorf("%d rows, %v after all that", n, err)
	}
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
