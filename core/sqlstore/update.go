package sqlstore

import (
	"fmt"
	"strings"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// updateSizes are how many rows one statement changes; sets of rows are cut into
// these, so that few texts are prepared.
var updateSizes = [...]int{64, 16, 4, 1}

// updateTexts are the statements that set columns of a table in the rows whose
// guards (the key, and what the row was read as) hold.
func updateTexts(table string, guards, columns []string) map[int]string {
	var set, where []string
	for _, c := range columns {
		set = append(set, c+" = v."+c)
	}
	for _, c := range guards {
		where = append(where, table+"."+c+" = v.was_"+c)
	}
	values := "(?" + strings.Repeat(",?", len(guards)+len(columns)-1) + ")"
	head := "WITH v (was_" + strings.Join(guards, ", was_") + ", " + strings.Join(columns, ", ") + ") AS (VALUES " + values
	tail := ") UPDATE " + table + " SET " + strings.Join(set, ", ") + " FROM v WHERE " + strings.Join(where, " AND ")
	texts := map[int]string{}
	for _, n := range updateSizes {
		texts[n] = head + strings.Repeat(","+values, n-1) + tail
	}
	return texts
}

// update changes n rows, each guarded by what it was read as. row appends the
// values of a row's guards and columns. A row that is no longer what it was read
// as is fault.Fenced.
func update(tx *sqldb.Tx, texts map[int]string, n int, row func(dst []any, i int) []any) error {
	var args []any
	for i := 0; i < n; {
		size := 1
		for _, s := range updateSizes {
			if n-i >= s {
				size = s
				break
			}
		}
		args = args[:0]
		for j := range size {
			args = row(args, i+j)
		}
		changed, err := tx.Exec(texts[size], args...)
		if err != nil {
			return err
		}
		if changed != int64(size) {
			return &fault.Error{Kind: fault.Fenced, Op: "core/sqlstore: update", Code: "stale_row",
				Err: fmt.Errorf("%d of %d rows are no longer what they were read as", int64(size)-changed, size)}
		}
		i += size
	}
	return nil
}
