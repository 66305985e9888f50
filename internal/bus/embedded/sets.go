package embedded

import (
	"slices"
	"strings"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// setMax is the largest set.
const setMax = 64

// cut is the size of the next statement for n rows. In PostgreSQL every size is made, as
// counters are waited for.
func cut(tx *sqldb.Tx, n int) int {
	if tx.Postgres() {
		return min(n, setMax)
	}
	return tx.Cut(n)
}

// setTexts are the texts of a statement by size: a first row, and as many others as
// are wanted. A batch touches most groups, and a statement for each of them costs more
// than what it changes, so that counters and places are moved set-wise.
func setTexts(before, first, row, after string) map[int]string {
	out := map[int]string{}
	for n := 1; n <= setMax; n++ {
		out[n] = before + first + strings.Repeat(","+row, n-1) + after
	}
	return out
}

var (
	countTexts = setTexts(`INSERT INTO heads (topic, grp, epoch, seq) VALUES `, `(?,?,1,?)`, `(?,?,1,?)`,
		` ON CONFLICT (topic, grp) DO UPDATE SET seq = heads.seq + excluded.seq RETURNING topic, grp, epoch, seq`)
	moveTexts = setTexts(`WITH v (topic, grp, epoch, seq, from_epoch, from_seq) AS (VALUES `, sqldb.TypedRow("TEXT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT"), `(?,?,?,?,?,?)`,
		`) UPDATE places SET epoch = v.epoch, seq = v.seq FROM v WHERE places.topic = v.topic AND places.grp = v.grp
			AND places.epoch = v.from_epoch AND places.seq = v.from_seq`)
	beginTexts = setTexts(`INSERT INTO places (topic, grp, epoch, seq) VALUES `, `(?,?,?,?)`, `(?,?,?,?)`, ` ON CONFLICT DO NOTHING`)
)

// count takes the next numbers of each topic's groups from the counters.
func count(tx *sqldb.Tx, list []*emission) error {
	type counter struct {
		*emission
		group int
	}
	var all []counter
	of := map[bus.Topic]*emission{}
	for _, e := range list {
		of[e.topic] = e
		for _, g := range e.groups {
			all = append(all, counter{e, g})
		}
	}
	found := 0
	var args []any
	for rest := all; len(rest) > 0; {
		n := cut(tx, len(rest))
		args = args[:0]
		for _, c := range rest[:n] {
			args = append(args, string(c.topic), c.group, c.count[c.group])
		}
		err := tx.Query(countTexts[n], args, func(scan sqldb.Scan) error {
			var topic bus.Topic
			var g int
			var p bus.Place
			if err := scan(&topic, &g, &p.Epoch, &p.Seq); err != nil {
				return err
			}
			of[topic].heads[g] = p
			found++
			return nil
		})
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	if found != len(all) {
		return fault.New(fault.Internal, "count", "the counters of %d groups gave %d rows", len(all), found)
	}
	return nil
}

// move moves places, each from exactly where its batch was read. One that is not there
// any more is fault.Fenced.
func move(tx *sqldb.Tx, topic bus.Topic, moves []bus.Move) error {
	var args []any
	set := func(texts map[int]string, rest []bus.Move) error {
		for len(rest) > 0 {
			n := cut(tx, len(rest))
			args = args[:0]
			for _, m := range rest[:n] {
				args = append(args, string(topic), m.Group, m.To.Epoch, m.To.Seq)
				if m.From != (bus.Place{}) {
					args = append(args, m.From.Epoch, m.From.Seq)
				}
			}
			err := tx.Expect(int64(n), func(moved int64) error {
				return fault.New(fault.Fenced, "advance "+string(topic), "%d of %d groups are no longer where they were read: another consumer moved them",
					int64(n)-moved, n)
			}, texts[n], args...)
			if err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	}
	if !slices.ContainsFunc(moves, begins) {
		return set(moveTexts, moves)
	}
	var begun, others []bus.Move
	for _, m := range moves {
		if begins(m) {
			begun = append(begun, m)
		} else {
			others = append(others, m)
		}
	}
	if err := set(beginTexts, begun); err != nil {
		return err
	}
	return set(moveTexts, others)
}

// begins reports whether a group had no place yet.
func begins(m bus.Move) bool { return m.From == (bus.Place{}) }
