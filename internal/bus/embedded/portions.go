package embedded

import (
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Portions are a group's rows in the tables of Schema(topics...).
func Portions(group int, topics ...bus.Topic) (out []sqldb.Portion) {
	tables := []string{"places", "heads", "marks", "trimmed", "trimmed_sums", "parked"}
	for _, t := range topics {
		tables = append(tables, "log_"+string(t))
	}
	for _, t := range tables {
		out = append(out, sqldb.Portion{Table: t, Where: "t.grp = ?", Args: []any{group}})
	}
	return out
}
