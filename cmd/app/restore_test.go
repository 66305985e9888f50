package app_test

import (
	"io"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Stores of one folder belong together. When one was restored from an older copy,
// its readers have seen more than it holds: to go on would skip what comes next.
func TestAnOlderCopyOfOneStoreIsRefused(t *testing.T) {
	for _, tc := range []struct{ reader, topic string }{
		{"core", "intents"}, {"core", "callbacks"}, {"core", "outcomes"}, {"prepay", "dispatch"}, {"accounting", "payments"},
	} {
		t.Run(tc.reader+" of "+tc.topic, func(t *testing.T) {
			dir, _ := initialised(t)
			a, err := app.Open(t.Context(), dir, nil, io.Discard)
			must(t, err)
			must(t, a.Close())
			db, err := sqldb.Open(t.Context(), sqldb.Options{Area: tc.reader, Path: filepath.Join(dir, app.StoresDir, tc.reader+".db")})
			must(t, err)
			must(t, db.Write(t.Context(), func(tx *sqldb.Tx) error {
				_, err := tx.Exec(`INSERT INTO places (topic, grp, epoch, seq) VALUES (?, 0, 1, 7)`, tc.topic)
				return err
			}))
			must(t, db.Close())
			if a, err := app.Open(t.Context(), dir, nil, io.Discard); !fault.Is(err, fault.Conflict) {
				t.Errorf("opened, although 7 messages were read of a log that is empty: %v", err)
				if err == nil {
					must(t, a.Close())
				}
			}
		})
	}
}
