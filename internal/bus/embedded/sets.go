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
		` ON CONFLICT (topic, grp) DO UPDATE SET seq = heads.seq + excluded.seq RETURNING grp, epoch, seq`)
	moveTexts = setTexts(`WITH v (topic, grp, epoch, seq, from_epoch, from_seq) AS (VALUES `, sqldb.TypedRow("TEXT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT"), `(?,?,?,?,?,?)`,
		`) UPDATE places SET epoch = v.epoch, seq = v.seq FROM v WHERE places.topic = v.topic AND places.grp = v.grp
			AND places.epoch = v.from_epoch AND places.seq = v.from_seq`)
	beginTexts = setTexts(`INSERT INTO places (topic, grp, epoch, seq) VALUES `, `(?,?,?,?)`, `(?,?,?,?)`, ` ON CONFLICT DO NOTHING`)
)

// count takes the next numbers of each group from the counters, so many of each,
// and gives the groups and the place of the last event of each.
func (l *Log) count(tx *sqldb.Tx, topic bus.Topic, events []int64) (groups []int, heads []bus.Place, err error) {
	heads = make([]bus.Place, l.groups)
	for g, n := range events {
		if n > 0 {
			groups = append(groups, g)
		}
	}
	found := 0
	var args []any
	for rest := groups; len(rest) > 0; {
		n := cut(tx, len(rest))
		args = args[:0]
		for _, g := range rest[:n] {
			args = append(args, string(topic), g, events[g])
		}
		err := tx.Query(countTexts[n], args, func(scan sqldb.Scan) error {
			var g int
			var p bus.Place
			if err := scan(&g, &p.Epoch, &p.Seq); err != nil {
				return err
			}
			heads[g] = p
			found++
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
		rest = rest[n:]
	}
	if found != len(groups) {
		return nil, nil, fault.New(fault.Internal, "count", "the counters of %d groups gave %d rows", len(groups), found)
	}
	return groups, heads, nil
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
