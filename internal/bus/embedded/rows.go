package embedded

import (
	"context"
	"errors"
	"slices"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// A log row holds the events that one transaction adds to one group, as records
// one behind the other. A row per event was measured to cost more than all that
// the events tell of.
//
// Rows are appended, whatever their group: in the middle of a tree each of them
// would have its neighbours written again. So a group's rows lie among those of
// the others, and in SQLite a mark is set every markEvery events of a group, from which a
// reader begins to look.
const markEvery = 64

// rowBytesMax bounds a row, but for its last record: it is read as a whole.
const rowBytesMax = 256 << 10

var (
	rowColumns  = []string{"id", "grp", "last", "events", "at_millis", "body"}
	markColumns = []string{"topic", "grp", "seq", "id"}
)

// logRow is one row, as it is written.
type logRow struct {
	group    int
	last     int64 // the sequence of the last event
	events   int
	atMillis int64 // of the last event
	body     []byte
}

// first is the sequence of the first event.
func (r *logRow) first() int64 { return r.last - int64(r.events) + 1 }

// marked reports whether the row has a mark.
func (r *logRow) marked() bool { return (r.first()-1)/markEvery != r.last/markEvery || r.first() == 1 }

// pack makes rows of events. heads are the places of the last event of each
// group, count the events of each. Bodies are taken from spare, which has one for
// each group, as long as they last.
func pack(events []bus.Event, groups int, heads []bus.Place, count []int64, spare [][]byte) []logRow {
	rows := make([]logRow, 0, len(heads))
	open := make([]logRow, groups)
	left := slices.Clone(count)
	for i := range events {
		e := &events[i]
		g := e.Context.BizCode.Group(groups)
		r := &open[g]
		if r.body == nil {
			if r.body, spare[g] = spare[g][:0], nil; r.body == nil {
				r.body = make([]byte, 0, min(int(left[g])*(len(e.Payload)+recordBytes), rowBytesMax)) //nolint:gosec // bounded
			}
		}
		r.body = bus.AppendRecord(r.body, e)
		r.events++
		r.atMillis = e.AtMillis
		left[g]--
		if left[g] == 0 || len(r.body) >= rowBytesMax {
			r.group, r.last = g, heads[g].Seq-left[g]
			rows = append(rows, *r)
			*r = logRow{}
		}
	}
	return rows
}

// recordBytes is about what an envelope takes: a guess for making room.
const recordBytes = 200

// spareBytesMax bounds the bodies that a topic keeps for its next rows, each.
const spareBytesMax = 16 << 10

// recycle keeps the bodies of rows that were written.
func recycle(rows []logRow, spare [][]byte) {
	for i := range rows {
		if r := &rows[i]; cap(r.body) <= spareBytesMax {
			spare[r.group] = r.body
		}
	}
}

// insert appends rows, and sets their marks.
func (t *topicLog) insert(tx *sqldb.Tx, rows []logRow) error {
	list := make([]int64, len(rows))
	if err := tx.NewIDs(t.table, len(rows), func(i int, id int64) { list[i] = id }); err != nil {
		return err
	}
	var marked []int
	_, err := tx.Insert(t.table, rowColumns, len(rows), "", func(dst []any, i int) []any {
		r := &rows[i]
		if r.marked() {
			marked = append(marked, i)
		}
		return append(dst, list[i], r.group, r.last, r.events, r.atMillis, r.body)
	})
	if err != nil || tx.Postgres() {
		return err
	}
	_, err = tx.Insert("marks", markColumns, len(marked), "", func(dst []any, i int) []any {
		r := &rows[marked[i]]
		return append(dst, string(t.topic), r.group, r.first(), list[marked[i]])
	})
	return err
}

// errEnough ends a query.
var errEnough = errors.New("enough")

// stored reads from the database. The first row may begin before what is asked
// for, and the last one reach beyond it.
func (t *topicLog) stored(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	var out []bus.Message
	epoch := t.Head(group).Epoch
	err := t.log.db.Read(ctx, func(tx *sqldb.Tx) error {
		out = nil
		query, args, err := t.rowsBehind(tx, group, after.Seq, limit)
		if err != nil {
			return err
		}
		return tx.Query(query, args, func(scan sqldb.Scan) error {
			r := logRow{group: group}
			if err := scan(&r.last, &r.events, &r.body); err != nil {
				return err
			}
			events, err := bus.ParseRecords(r.body)
			if err != nil {
				return err
			}
			if len(events) != r.events {
				return fault.New(fault.Internal, "parse", "the row of %s up to %d of group %d says %d events and has %d", t.table, r.last, group, r.events, len(events))
			}
			for i := range events {
				seq := r.first() + int64(i)
				if seq > after.Seq && len(out) < limit {
					out = append(out, bus.Message{Event: events[i], Topic: t.topic, Group: group, Place: bus.Place{Epoch: epoch, Seq: seq}})
				}
			}
			if len(out) == limit {
				return errEnough
			}
			return nil
		})
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return out, fault.Wrap("read "+string(t.topic), err)
}

// rowsBehind is the statement that reads a group's rows behind a place, in order.
func (t *topicLog) rowsBehind(tx *sqldb.Tx, group int, after int64, limit int) (query string, args []any, err error) {
	const columns = `SELECT last, events, body FROM `
	if tx.Postgres() {
		return columns + t.table + ` WHERE grp = ? AND last > ? ORDER BY last LIMIT ?`, []any{group, after, limit}, nil
	}
	var from int64 // the row to look from; all of them where no mark is left
	err = tx.Query(`SELECT id FROM marks WHERE topic = ? AND grp = ? AND seq <= ? ORDER BY seq DESC LIMIT 1`,
		[]any{string(t.topic), group, after + 1}, func(scan sqldb.Scan) error { return scan(&from) })
	return columns + t.table + ` WHERE id >= ? AND grp = ? AND last > ? ORDER BY id LIMIT ?`, []any{from, group, after, limit}, err
}

// trim deletes a group's rows whose last event is at or before upTo, at most
// rowsMax of them, and their marks.
func (t *topicLog) trim(tx *sqldb.Tx, group int, upTo, rowsMax int64) (int64, error) {
	if tx.Postgres() {
		return tx.Exec(`DELETE FROM `+t.table+` WHERE grp = ? AND last IN (SELECT last FROM `+t.table+` WHERE grp = ? AND last <= ?
			ORDER BY last LIMIT ?)`, group, group, upTo, rowsMax)
	}
	var last int64
	err := tx.Query(`SELECT coalesce(max(id), 0) FROM (SELECT id FROM `+t.table+` WHERE grp = ? AND last <= ? ORDER BY id LIMIT ?) AS rows`,
		[]any{group, upTo, rowsMax}, func(scan sqldb.Scan) error { return scan(&last) })
	if err != nil || last == 0 {
		return 0, err
	}
	if _, err := tx.Exec(`DELETE FROM marks WHERE topic = ? AND grp = ? AND id <= ?`, string(t.topic), group, last); err != nil {
		return 0, err
	}
	return tx.Exec(`DELETE FROM `+t.table+` WHERE grp = ? AND id <= ?`, group, last)
}
