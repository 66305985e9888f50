package embedded

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// A log row holds the events that one transaction adds to one group, as records
// one behind the other. A row per event was measured to cost more than all that
// the events tell of: each has an envelope of a dozen columns, and lies in the
// middle of a tree that has to be balanced for it.
//
// Its primary key is the group in the upper and the sequence of its last event in
// the lower bits: so a group is a range, what is behind a place is a range too,
// and no second index is needed.
const seqBits = 48

func rowID(group int, seq int64) int64 { return int64(group)<<seqBits | seq }

// rowBytesMax bounds a row, but for its last record: it is read as a whole.
const rowBytesMax = 64 << 10

var rowColumns = []string{"id", "events", "at_millis", "body"}

// logRow is one row, as it is written.
type logRow struct {
	id       int64
	events   int
	atMillis int64 // of the last event
	body     []byte
}

// pack makes rows of events. heads are the places of the last event of each
// group, count the events of each.
func pack(events []bus.Event, groups int, heads []bus.Place, count []int64) []logRow {
	rows := make([]logRow, 0, len(heads))
	open := make([]logRow, groups)
	left := slices.Clone(count)
	for i := range events {
		e := &events[i]
		g := e.Context.BizCode.Group(groups)
		r := &open[g]
		if r.body == nil {
			r.body = make([]byte, 0, min(int(left[g])*(len(e.Payload)+recordBytes), rowBytesMax)) //nolint:gosec // bounded
		}
		r.body = bus.AppendRecord(r.body, e)
		r.events++
		r.atMillis = e.AtMillis
		left[g]--
		if left[g] == 0 || len(r.body) >= rowBytesMax {
			r.id = rowID(g, heads[g].Seq-left[g])
			rows = append(rows, *r)
			*r = logRow{}
		}
	}
	slices.SortFunc(rows, func(a, b logRow) int { return cmp.Compare(a.id, b.id) })
	return rows
}

// recordBytes is about what an envelope takes: a guess for making room.
const recordBytes = 200

func (t *topicLog) insert(tx *sqldb.Tx, rows []logRow) error {
	_, err := tx.Insert(t.table, rowColumns, len(rows), "", func(dst []any, i int) []any {
		r := &rows[i]
		return append(dst, r.id, r.events, r.atMillis, r.body)
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
		query := `SELECT id, events, body FROM ` + t.table + ` WHERE id > ? AND id < ? ORDER BY id LIMIT ?`
		return tx.Query(query, []any{rowID(group, after.Seq), rowID(group+1, 0), limit}, func(scan sqldb.Scan) error {
			var r logRow
			if err := scan(&r.id, &r.events, &r.body); err != nil {
				return err
			}
			events, err := bus.ParseRecords(r.body)
			if err != nil {
				return err
			}
			if len(events) != r.events {
				return fault.New(fault.Internal, "parse", "row %d of %s says %d events and has %d", r.id, t.table, r.events, len(events))
			}
			for i := range events {
				seq := r.id&(1<<seqBits-1) - int64(r.events-1-i)
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
