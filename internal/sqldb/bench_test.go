package sqldb_test

import (
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/internal/sqldb"
)

// BenchmarkPostgresRoundTrips shows what sending at once saves: a transaction of 64
// updates as Update sends them and one by one, and one of a single statement with BEGIN in
// front of it and sent apart. The server forgets, so that no disk is measured.
func BenchmarkPostgresRoundTrips(b *testing.B) {
	o := migrated(b, pgOptions(b, nil))
	db := open(b, o)
	var list []string
	for i := range 64 {
		list = append(list, fmt.Sprint("name ", i))
	}
	write(b, db, func(tx *sqldb.Tx) error { return insert(tx, list...) })
	const update = `UPDATE item SET n = n + 1 WHERE name = ?`
	for _, c := range []struct {
		name string
		fn   func(tx *sqldb.Tx) error
	}{
		{"64 at once", func(tx *sqldb.Tx) error {
			return setN(tx, 1, list...)
		}},
		{"64 one by one", func(tx *sqldb.Tx) error {
			for _, name := range list {
				if _, err := tx.Exec(update, name); err != nil {
					return err
				}
			}
			return nil
		}},
		{"one", func(tx *sqldb.Tx) error { _, err := tx.Exec(update, list[0]); return err }},
		{"one, BEGIN apart", func(tx *sqldb.Tx) error {
			if err := sqldb.Begun(tx); err != nil {
				return err
			}
			_, err := tx.Exec(update, list[0])
			return err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				write(b, db, c.fn)
			}
		})
	}
}
