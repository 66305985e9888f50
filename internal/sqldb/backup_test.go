package sqldb_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Two databases are written in turn, the first always first: at every moment the
// first has as many rows as the second, or one more. So must have every backup.
func TestBackupIsOfOneMoment(t *testing.T) {
	a, b := options(t, nil), options(t, nil)
	first, second := open(t, a), open(t, b)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			for _, db := range []*sqldb.DB{first, second} {
				if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, fmt.Sprint("row ", n)) }); err != nil {
					t.Errorf("a writer beside a backup: %v", err)
					return
				}
			}
		}
	})
	defer writer.Wait()
	defer close(stop)
	last := 0
	for round := range 8 {
		dir := t.TempDir()
		copies := []sqldb.Copy{{From: b.Path, To: filepath.Join(dir, "b.db")}, {From: a.Path, To: filepath.Join(dir, "a.db")}}
		if err := sqldb.Backup(t.Context(), copies); err != nil {
			t.Fatal(err)
		}
		var n [2]int
		for i, c := range copies {
			o := a
			o.Path = c.To
			db := open(t, o)
			n[i] = len(names(t, db))
			if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, "after") }); err != nil {
				t.Errorf("a copy cannot be written: %v", err)
			}
		}
		if n[1] != n[0] && n[1] != n[0]+1 {
			t.Fatalf("round %d: the copy of the first database has %d rows, that of the second %d", round, n[1], n[0])
		}
		if n[0] < last {
			t.Fatalf("round %d: %d rows, %d in the backup before", round, n[0], last)
		}
		last = n[0]
	}
	if last == 0 {
		t.Error("nothing was ever in a backup")
	}
}

func TestBackupRefuses(t *testing.T) {
	o := options(t, nil)
	db := open(t, o)
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(to, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sqldb.Backup(t.Context(), []sqldb.Copy{{From: o.Path, To: to}}); !fault.Is(err, fault.Conflict) {
		t.Errorf("over a file that is there: %v", err)
	}
	if b, _ := os.ReadFile(to); string(b) != "mine" {
		t.Errorf("the file is now %q", b)
	}
	if err := sqldb.Backup(t.Context(), []sqldb.Copy{{From: filepath.Join(t.TempDir(), "none.db"), To: to + "2"}}); err == nil {
		t.Error("a database that does not exist was copied")
	}
	if _, err := os.Stat(to + "2"); err == nil {
		t.Error("and left a file behind")
	}
	if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { return insert(tx, "later") }); err != nil {
		t.Errorf("a writer after a refused backup: %v", err)
	}
}
