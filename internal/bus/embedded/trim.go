package embedded

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Trim says what of a log may go.
type Trim struct {
	// UpTo is, by group, the last place that everyone who must read it has committed.
	// A group that is not there stays as it is.
	UpTo map[int]bus.Place
	// BeforeMillis keeps what was told then (Unix time) or later.
	BeforeMillis int64
	// RowsMax bounds the rows that one step looks at.
	RowsMax int
}

// Everything is a BeforeMillis that keeps nothing for its age.
const Everything = math.MaxInt64

// trimBytesMax bounds the bodies that one step holds.
const trimBytesMax = 4 << 20

// Trimmer deletes the beginning of a topic's log, bit by bit: it goes through the
// rows in their order, and from the beginning again when it has come to what is too
// young. The last row of a group stays, so that whoever asks for a group's end finds
// it. Not safe for concurrent use, and there is one for each group of a log.
type Trimmer struct {
	t      *topicLog
	groups []int // nil is all

	from    int64        // the row to go on from; in PostgreSQL, which of the groups
	blocked map[int]bool // groups of which nothing more may go in this pass
}

// Trimmer trims some groups of a topic that the area writes; nil is all.
func (l *Log) Trimmer(topic bus.Topic, groups []int) *Trimmer {
	return &Trimmer{t: l.topics[topic], groups: groups, blocked: map[int]bool{}}
}

// trimming is what one step deletes.
type trimming struct {
	heads   []bus.Place
	groups  map[int]*trimGroup
	bytes   int
	next    int64 // the row to go on from
	deleted int64
	ended   bool // the pass has
}

// trimGroup is what it deletes of a group: rows without a gap between them.
type trimGroup struct {
	was, at     checkpointAt
	first, last int64 // rows
	rows        int64
	sums        map[Sum]int64 // N is the value
}

// checkpointAt is a row of table trimmed.
type checkpointAt struct {
	bus.Place
	atMillis int64
}

// Step deletes rows that may go, and keeps what they come to, in one transaction.
// more says that there are others to look at. A log with a hole, or with a row that
// cannot be read, is not trimmed there: fault.Internal. When somebody else trims the
// same group it fails with fault.Fenced. The next step after an error begins anew.
func (r *Trimmer) Step(ctx context.Context, w Trim) (deleted int64, more bool, err error) {
	var p *trimming
	err = r.t.log.db.Snapshot(ctx, func(tx *sqldb.Tx) (err error) { p, err = r.plan(tx, w); return err })
	if err == nil && len(p.groups) > 0 {
		err = r.t.log.db.Write(ctx, func(tx *sqldb.Tx) error { return r.t.delete(tx, p) })
	}
	if err != nil || p.ended {
		r.from = 0
		clear(r.blocked)
	} else {
		r.from = p.next
	}
	if err != nil {
		return 0, false, fault.Wrap("trim "+string(r.t.topic), err)
	}
	return p.deleted, !p.ended, nil
}

// plan looks for what may go. Rows do not change, so that it needs no lock.
func (r *Trimmer) plan(tx *sqldb.Tx, w Trim) (*trimming, error) {
	p := &trimming{groups: map[int]*trimGroup{}, next: r.from, ended: true}
	trimmed, err := r.t.checkpoints(tx)
	if err == nil {
		p.heads, _, err = r.t.groupPlaces(tx, "heads")
	}
	if err != nil {
		return nil, err
	}
	look := r.byRow
	if tx.Postgres() {
		look = r.byGroup
	}
	list, err := look(tx, p, w, trimmed)
	if err != nil {
		return nil, err
	}
	if tx.Postgres() {
		clear(r.blocked) // each step looks at the beginning of its groups
	}
	for _, c := range list {
		if p.bytes >= trimBytesMax {
			p.ended = false
			break
		}
		if !tx.Postgres() {
			p.next = c.id + 1
		}
		if err := r.consider(tx, p, w, trimmed[c.group], c.id, &c.logRow); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// candidate is a row that is old enough to go.
type candidate struct {
	logRow
	id int64
}

const candidateColumns = `id, grp, last, events, at_millis`

// errYoung ends a look: behind the first young row all are.
var errYoung = errors.New("young")

func (r *Trimmer) collect(tx *sqldb.Tx, w Trim, lastMax int64, list *[]candidate, query string, args []any) (looked int, err error) {
	err = tx.Query(query, args, func(scan sqldb.Scan) error {
		var c candidate
		if err := scan(&c.id, &c.group, &c.last, &c.events, &c.atMillis); err != nil {
			return err
		}
		if c.atMillis >= w.BeforeMillis || c.last > lastMax {
			return errYoung
		}
		looked++
		*list = append(*list, c)
		return nil
	})
	if errors.Is(err, errYoung) {
		err = nil
	}
	return looked, err
}

// byRow looks at rows in the order in which they were appended, whatever their group.
func (r *Trimmer) byRow(tx *sqldb.Tx, p *trimming, w Trim, _ []checkpointAt) (list []candidate, err error) {
	looked, err := r.collect(tx, w, math.MaxInt64, &list, `SELECT `+candidateColumns+` FROM `+r.t.table+` WHERE id >= ?`+sqldb.Among("grp", r.groups)+` ORDER BY id LIMIT ?`,
		[]any{r.from, w.RowsMax})
	p.ended = looked < w.RowsMax
	return list, err
}

// byGroup looks at the beginnings of groups, one after the other: in PostgreSQL the
// keys of rows say nothing about their order.
func (r *Trimmer) byGroup(tx *sqldb.Tx, p *trimming, w Trim, trimmed []checkpointAt) (list []candidate, err error) {
	groups := bus.GroupsOf(r.t, r.groups)
	for ; int(p.next) < len(groups) && len(list) < w.RowsMax; p.next++ {
		g := groups[p.next]
		upTo, head := w.UpTo[g], p.heads[g]
		if upTo.Epoch != head.Epoch {
			continue
		}
		query, args, err := r.t.rowsBehind(tx, candidateColumns, g, trimmed[g].Seq, w.RowsMax-len(list))
		if err != nil {
			return nil, err
		}
		if _, err := r.collect(tx, w, min(upTo.Seq, head.Seq-1), &list, query, args); err != nil {
			return nil, err
		}
		if len(list) == w.RowsMax { // there may be more of this one
			break
		}
	}
	p.ended = int(p.next) == len(groups)
	return list, nil
}

// consider takes a row into the plan if it may go.
func (r *Trimmer) consider(tx *sqldb.Tx, p *trimming, w Trim, was checkpointAt, id int64, row *logRow) error {
	upTo := w.UpTo[row.group]
	if r.blocked[row.group] || row.last > upTo.Seq || row.last >= p.heads[row.group].Seq || upTo.Epoch != p.heads[row.group].Epoch {
		r.blocked[row.group] = true
		return nil
	}
	g := p.groups[row.group]
	if g == nil {
		g = &trimGroup{was: was, at: was, first: id, sums: map[Sum]int64{}}
	}
	if row.first() != g.at.Seq+1 {
		return fault.New(fault.Internal, "plan", "group %d: the row up to %d begins with %d, and follows %d: there is a hole", row.group, row.last, row.first(), g.at.Seq)
	}
	err := tx.Query(`SELECT body FROM `+r.t.table+` WHERE id = ?`, []any{id}, func(scan sqldb.Scan) error { return scan(&row.body) })
	if err != nil {
		return err
	}
	events, err := r.t.parse(row)
	if err != nil {
		return err
	}
	p.groups[row.group] = g
	p.bytes += len(row.body)
	p.deleted++
	g.rows, g.last = g.rows+1, id
	for i := range events {
		g.at.atMillis = max(g.at.atMillis, events[i].AtMillis)
		if r.t.sums == nil {
			continue
		}
		m := bus.Message{Event: events[i], Topic: r.t.topic, Group: row.group, Place: bus.Place{Epoch: upTo.Epoch, Seq: row.first() + int64(i)}}
		sums, err := r.t.sums(&m)
		if err != nil {
			return err
		}
		for _, s := range sums {
			n := s.N
			s.N = 0
			g.sums[s] += n
		}
	}
	g.at.Place = bus.Place{Epoch: upTo.Epoch, Seq: row.last}
	return nil
}

// delete does what was planned, if nobody else has done it meanwhile.
func (t *topicLog) delete(tx *sqldb.Tx, p *trimming) error {
	var groups []int
	for g := range p.groups {
		groups = append(groups, g)
	}
	slices.Sort(groups)
	for _, group := range groups {
		g := p.groups[group]
		moved, err := tx.Exec(`INSERT INTO trimmed (topic, grp, epoch, seq, at_millis) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (topic, grp) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq, at_millis = excluded.at_millis
			WHERE trimmed.epoch = ? AND trimmed.seq = ?`, string(t.topic), group, g.at.Epoch, g.at.Seq, g.at.atMillis, g.was.Epoch, g.was.Seq)
		if err != nil {
			return err
		}
		query, args := `DELETE FROM `+t.table+` WHERE id BETWEEN ? AND ? AND grp = ?`, []any{g.first, g.last, group}
		if tx.Postgres() {
			query, args = `DELETE FROM `+t.table+` WHERE last BETWEEN ? AND ? AND grp = ?`, []any{g.was.Seq + 1, g.at.Seq, group}
		}
		gone, err := tx.Exec(query, args...)
		if err != nil {
			return err
		}
		if moved != 1 || gone != g.rows {
			return fault.New(fault.Fenced, "delete", "group %d: %d of %d rows behind %d are there: somebody else trims", group, gone, g.rows, g.was.Seq)
		}
		if _, err := tx.Exec(`DELETE FROM marks WHERE topic = ? AND grp = ? AND seq <= ?`, string(t.topic), group, g.at.Seq); err != nil {
			return err
		}
		if err := t.addSums(tx, group, g.sums); err != nil {
			return err
		}
	}
	tx.OnCommit(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for group, g := range p.groups {
			t.begun(group, g.at.Place)
		}
	})
	return nil
}

func (t *topicLog) addSums(tx *sqldb.Tx, group int, sums map[Sum]int64) error {
	var keys []Sum
	for s := range sums {
		keys = append(keys, s)
	}
	slices.SortFunc(keys, func(a, b Sum) int {
		return cmp.Or(cmp.Compare(a.What, b.What), cmp.Compare(a.Merchant, b.Merchant), cmp.Compare(a.Account, b.Account), cmp.Compare(a.Currency, b.Currency))
	})
	for _, s := range keys {
		_, err := tx.Exec(`INSERT INTO trimmed_sums (topic, grp, what, merchant, account, currency, n) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (topic, grp, what, merchant, account, currency) DO UPDATE SET n = trimmed_sums.n + excluded.n`,
			string(t.topic), group, s.What, s.Merchant, s.Account, s.Currency, sums[s])
		if err != nil {
			return err
		}
	}
	return nil
}

// checkpoints are how far each group was trimmed.
func (t *topicLog) checkpoints(tx *sqldb.Tx) ([]checkpointAt, error) {
	out := make([]checkpointAt, t.log.groups)
	err := tx.Query(`SELECT grp, epoch, seq, at_millis FROM trimmed WHERE topic = ?`, []any{string(t.topic)}, func(scan sqldb.Scan) error {
		var g int
		var c checkpointAt
		err := scan(&g, &c.Epoch, &c.Seq, &c.atMillis)
		if err == nil && g >= 0 && g < len(out) {
			out[g] = c
		}
		return err
	})
	return out, err
}
