package embedded

import (
	"context"
	"strings"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Schema is the SQL of the tables that every area's database needs beside its
// own: places and parked messages, and for the topics that it writes, counters,
// log tables, and what is left of what was trimmed. An area's first migration is made of it.
func Schema(topics ...bus.Topic) string {
	var b strings.Builder
	b.WriteString(schemaShared)
	for _, t := range topics {
		b.WriteString(strings.ReplaceAll(schemaLog, "{topic}", string(t)))
	}
	return b.String()
}

const contextColumnsSQL = `biz_code TEXT NOT NULL, merchant TEXT NOT NULL, order_type TEXT NOT NULL, order_scene TEXT NOT NULL,
  institution TEXT NOT NULL, trace_id TEXT NOT NULL, form TEXT NOT NULL, traffic TEXT NOT NULL CHECK (traffic IN ('real', 'shadow'))`

const schemaShared = `
CREATE TABLE places (topic TEXT NOT NULL, grp INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY (topic, grp)) WITHOUT ROWID;
CREATE TABLE heads (topic TEXT NOT NULL, grp INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY (topic, grp)) WITHOUT ROWID;
CREATE TABLE marks (topic TEXT NOT NULL, grp INTEGER NOT NULL, seq INTEGER NOT NULL, id INTEGER NOT NULL,
  PRIMARY KEY (topic, grp, seq)) WITHOUT ROWID;
-- Up to where a log is gone, the latest moment at which anything of that was told, and
-- what it came to.
CREATE TABLE trimmed (topic TEXT NOT NULL, grp INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, at_millis INTEGER NOT NULL,
  PRIMARY KEY (topic, grp)) WITHOUT ROWID;
CREATE TABLE trimmed_sums (topic TEXT NOT NULL, grp INTEGER NOT NULL, what TEXT NOT NULL, merchant TEXT NOT NULL, account TEXT NOT NULL,
  currency TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (topic, grp, what, merchant, account, currency)) WITHOUT ROWID;
CREATE TABLE parked (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, grp INTEGER NOT NULL, epoch INTEGER NOT NULL,
  seq INTEGER NOT NULL, part INTEGER NOT NULL, reason TEXT NOT NULL, parked_at_millis INTEGER NOT NULL,
  replay BOOLEAN NOT NULL DEFAULT FALSE, event_id TEXT NOT NULL, type TEXT NOT NULL, version INTEGER NOT NULL,
  at_millis INTEGER NOT NULL, ` + contextColumnsSQL + `, extra BLOB NOT NULL, payload BLOB NOT NULL);
CREATE INDEX parked_key ON parked (topic, biz_code, id);
`

// In PostgreSQL a group's rows are found by their last sequence: an index whose
// groups grow apart costs little there, and ids say nothing of an order, as they are
// taken before a transaction waits for its counters, and as groups move between
// databases.
const schemaLog = `
CREATE TABLE log_{topic} (id INTEGER PRIMARY KEY, grp INTEGER NOT NULL, last INTEGER NOT NULL, events INTEGER NOT NULL, at_millis INTEGER NOT NULL, body BLOB NOT NULL);
-- postgres: CREATE UNIQUE INDEX log_{topic}_last ON log_{topic} (grp, last);
`

// Advance moves the batch's places, from exactly where it was read, parks what
// the batch says is to be parked, and removes what it replays. It belongs in the
// transaction that applies the batch, before Emit. It fails with fault.Fenced
// when the place is not where the batch was read from: someone else consumes. In
// PostgreSQL that may come later (sqldb.Tx.Expect).
func Advance(tx *sqldb.Tx, b *bus.Batch, nowMillis int64) error {
	op := "advance " + string(b.Topic)
	if err := move(tx, b.Topic, b.Moves); err != nil {
		return err
	}
	if len(b.Replays) > 0 {
		return fault.Wrap(op, advanceReplay(tx, b))
	}
	for i := range b.Messages { // in order: later events of a key stay behind the first
		reason, parked := b.Parked[i]
		if !parked {
			continue
		}
		if err := insertParked(tx, &b.Messages[i], reason, nowMillis); err != nil {
			return fault.Wrap(op, err)
		}
	}
	return nil
}

// advanceReplay removes what a replay applied. What it could not apply stays
// where it was, so that the order of its key is kept, and waits to be asked for
// again together with all that is behind it.
func advanceReplay(tx *sqldb.Tx, b *bus.Batch) error {
	again := false
	for i, id := range b.Replays {
		reason, parked := b.Parked[i]
		query, args := `DELETE FROM parked WHERE id = ?`, []any{id}
		if parked {
			query, args = `UPDATE parked SET reason = ? WHERE id = ?`, []any{text(reason), id}
			again = true
		}
		n, err := tx.Exec(query, args...)
		if err != nil {
			return err
		}
		if n != 1 {
			return fault.New(fault.Fenced, "replay", "parked message %d is gone: another consumer replayed it", id)
		}
	}
	// What is still there of the key came behind what this replay could take at once,
	// and goes on with the next; or it waits with what could not be applied.
	_, err := tx.Exec(`UPDATE parked SET replay = ? WHERE topic = ? AND biz_code = ?`, !again, string(b.Topic),
		string(b.Messages[0].Context.BizCode))
	return err
}

var parkedColumns = append([]string{"topic", "grp", "epoch", "seq", "part", "reason", "parked_at_millis"}, eventColumns...)

func insertParked(tx *sqldb.Tx, m *bus.Message, reason string, nowMillis int64) error {
	_, err := tx.Insert("parked", parkedColumns, 1, "", func(dst []any, _ int) []any {
		dst = append(dst, string(m.Topic), m.Group, m.Place.Epoch, m.Place.Seq, m.Part, text(reason), nowMillis)
		return appendEvent(dst, &m.Event)
	})
	return err
}

// text makes a reason fit for a database, which refuses, with the whole batch, what
// is no UTF-8 and any NUL: it may quote what it is the reason for.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// Parked is one message that was put aside.
type Parked struct {
	Row     int64
	Message bus.Message
	Reason  string
	// ParkedAtMillis is Unix time; Replay says that a replay was asked for.
	ParkedAtMillis int64
	Replay         bool
}

// Places implements bus.Places on an area's database.
type Places struct {
	DB *sqldb.DB
	// Groups are those whose replays are taken; nil is all.
	Groups []int
}

// Places gives the stored place of each group.
func (p Places) Places(ctx context.Context, topic bus.Topic) (map[int]bus.Place, error) {
	out := map[int]bus.Place{}
	err := p.DB.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT grp, epoch, seq FROM places WHERE topic = ?`, []any{string(topic)}, func(scan sqldb.Scan) error {
			var g int
			var at bus.Place
			if err := scan(&g, &at.Epoch, &at.Seq); err != nil {
				return err
			}
			out[g] = at
			return nil
		})
	})
	return out, fault.Wrap("places", err)
}

// Committed is, by group, the last message of a topic that the area will not need
// again: behind it are what it has not read, and what it has put aside.
func (p Places) Committed(ctx context.Context, topic bus.Topic) (map[int]bus.Place, error) {
	out := map[int]bus.Place{}
	err := p.DB.Snapshot(ctx, func(tx *sqldb.Tx) error {
		clear(out)
		err := tx.Query(`SELECT grp, epoch, seq FROM places WHERE topic = ?`, []any{string(topic)}, func(scan sqldb.Scan) error {
			var g int
			var at bus.Place
			err := scan(&g, &at.Epoch, &at.Seq)
			out[g] = at
			return err
		})
		if err != nil {
			return err
		}
		return tx.Query(`SELECT grp, min(seq) FROM parked WHERE topic = ? GROUP BY grp`, []any{string(topic)}, func(scan sqldb.Scan) error {
			var g int
			var first int64
			err := scan(&g, &first)
			if at := out[g]; first <= at.Seq {
				out[g] = bus.Place{Epoch: at.Epoch, Seq: first - 1}
			}
			return err
		})
	})
	return out, fault.Wrap("committed", err)
}

// ParkedKeys counts a topic's parked messages by their keys.
func (p Places) ParkedKeys(ctx context.Context, topic bus.Topic) (map[string]int, error) {
	out := map[string]int{}
	err := p.DB.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT biz_code, count(*) FROM parked WHERE topic = ?`+sqldb.Among("grp", p.Groups)+` GROUP BY biz_code`, []any{string(topic)}, func(scan sqldb.Scan) error {
			var k string
			var n int
			err := scan(&k, &n)
			out[k] = n
			return err
		})
	})
	return out, fault.Wrap("parked keys", err)
}

// TakeReplay gives the messages of the first key whose replay was asked for.
func (p Places) TakeReplay(ctx context.Context, topic bus.Topic) ([]bus.Message, []int64, error) {
	all, err := p.List(ctx, `WHERE topic = ? AND biz_code = (SELECT biz_code FROM parked WHERE topic = ? AND replay = TRUE`+
		sqldb.Among("grp", p.Groups)+` ORDER BY id LIMIT 1)`, string(topic), string(topic))
	var msgs []bus.Message
	var rows []int64
	for i := range all {
		msgs = append(msgs, all[i].Message)
		rows = append(rows, all[i].Row)
	}
	return msgs, rows, err
}

// listMax bounds a listing of parked messages.
const listMax = 1000

// List gives parked messages, oldest first, at most 1,000. where is SQL written
// by the caller's code, or empty.
func (p Places) List(ctx context.Context, where string, args ...any) ([]Parked, error) {
	var out []Parked
	err := p.DB.Read(ctx, func(tx *sqldb.Tx) error {
		query := `SELECT id, topic, grp, epoch, seq, part, reason, parked_at_millis, replay, event_id, type, version, at_millis,
			biz_code, merchant, order_type, order_scene, institution, trace_id, form, traffic, extra, payload FROM parked ` + where + ` ORDER BY id LIMIT ?`
		return tx.Query(query, append(args, listMax), func(scan sqldb.Scan) error {
			var r Parked
			m := &r.Message
			err := scan(append([]any{&r.Row, &m.Topic, &m.Group, &m.Place.Epoch, &m.Place.Seq, &m.Part, &r.Reason,
				&r.ParkedAtMillis, &r.Replay}, eventTargets(&m.Event)...)...)
			if len(m.Extra) == 0 {
				m.Extra = nil
			}
			out = append(out, r)
			return err
		})
	})
	return out, fault.Wrap("list parked", err)
}

// Count is the number of parked messages.
func (p Places) Count(ctx context.Context) (n int64, err error) {
	err = p.DB.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT count(*) FROM parked`, nil, func(scan sqldb.Scan) error { return scan(&n) })
	})
	return n, fault.Wrap("count parked", err)
}

// RequestReplay asks for the parked messages of one key to be applied again, by
// the consumer, in order. It gives the number of messages asked for; 0 means
// that the key has none.
func (p Places) RequestReplay(ctx context.Context, key ids.Code) (int64, error) {
	var n int64
	err := p.DB.Write(ctx, func(tx *sqldb.Tx) error {
		var err error
		n, err = tx.Exec(`UPDATE parked SET replay = TRUE WHERE biz_code = ?`, string(key))
		return err
	})
	return n, fault.Wrap("request replay", err)
}
