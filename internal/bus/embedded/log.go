package embedded

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Log is an area's side of the topics that it writes. Safe for concurrent use.
type Log struct {
	db     *sqldb.DB
	groups int
	topics map[bus.Topic]*topicLog
}

// topicLog is one topic's table and the heads that this process has seen.
type topicLog struct {
	bus.Wakes
	log   *Log
	topic bus.Topic
	table string

	// spare are bodies of rows that were written, by group: they are used inside
	// the database's writing transaction only, and so by one goroutine at a time.
	spare [][]byte

	sums Summary // of what is trimmed; nil for none

	mu     sync.Mutex
	heads  []bus.Place
	begins []bus.Place // up to which the log is gone
	tails  []tail      // by group
}

// eventColumns are the columns of an event that has a row to itself.
var eventColumns = append([]string{"event_id", "type", "version", "at_millis"}, append(slices.Clone(ids.Columns), "extra", "payload")...)

// NewLog opens the logs of the topics in an area's database, which has the
// tables of Schema(topics...).
func NewLog(db *sqldb.DB, groups int, topics ...bus.Topic) *Log {
	l := &Log{db: db, groups: groups, topics: map[bus.Topic]*topicLog{}}
	for _, t := range topics {
		l.topics[t] = &topicLog{log: l, topic: t, table: "log_" + string(t),
			heads: make([]bus.Place, groups), begins: make([]bus.Place, groups), tails: make([]tail, groups), spare: make([][]byte, groups)}
	}
	return l
}

// Source reads one of the log's topics: what this process has just committed from
// memory, all else from the database. Messages are shared: nobody changes a payload.
func (l *Log) Source(t bus.Topic) bus.Source { return l.topics[t] }

// Emit appends events to a topic as the last statements of the transaction that
// changes the state they tell of. Sequences come from a counter row per (topic,
// group), updated right here, so that their order is commit order, without
// gaps. Readers are woken after the commit. The payloads are kept, and must not
// be changed any more.
func (l *Log) Emit(tx *sqldb.Tx, topic bus.Topic, events []bus.Event) error {
	if len(events) == 0 {
		return nil
	}
	op := "emit " + string(topic)
	t := l.topics[topic]
	if t == nil {
		return fault.New(fault.Internal, op, "this area does not write the topic")
	}
	count := make([]int64, l.groups)
	for i := range events {
		e := &events[i]
		if err := checkEvent(e); err != nil {
			return fault.Wrap(op, err)
		}
		count[e.Context.BizCode.Group(l.groups)]++
	}
	moved, heads, err := l.count(tx, topic, count)
	if err != nil {
		return fault.Wrap(op, err)
	}
	rows := pack(events, l.groups, heads, count, t.spare)
	if err := t.insert(tx, rows); err != nil {
		return fault.Wrap(op, err)
	}
	tx.OnCommit(func() {
		recycle(rows, t.spare) // the transaction's end is the last that needs them
		t.mu.Lock()
		defer t.mu.Unlock()
		t.remember(events, heads, count)
		t.advance(moved, heads)
	})
	return nil
}

// checkEvent refuses what no reader could take: it would stand in their way for ever.
func checkEvent(e *bus.Event) error {
	if e.Version != bus.EnvelopeVersion {
		return fault.New(fault.Internal, "check", "event %s %s has version %d, this build writes %d", e.Type, e.ID, e.Version, bus.EnvelopeVersion)
	}
	if e.Context.BizCode.Slot() < 0 {
		return fault.New(fault.Internal, "check", "event %s %s: %q is no code", e.Type, e.ID, string(e.Context.BizCode))
	}
	if err := e.Context.Validate(); err != nil {
		return fault.New(fault.Internal, "check", "event %s %s: %w", e.Type, e.ID, err)
	}
	return nil
}

func appendEvent(dst []any, e *bus.Event) []any {
	dst = append(dst, e.ID, e.Type, e.Version, e.AtMillis)
	return append(e.Context.AppendValues(dst), append([]byte{}, e.Extra...), e.Payload)
}

func eventTargets(e *bus.Event) []any {
	return append(append([]any{&e.ID, &e.Type, &e.Version, &e.AtMillis}, e.Context.Targets()...), &e.Extra, &e.Payload)
}

// advance moves heads, never back, and wakes the readers; t.mu is held.
func (t *topicLog) advance(groups []int, heads []bus.Place) {
	for _, g := range groups {
		if heads[g].Seq > t.heads[g].Seq {
			t.heads[g] = heads[g]
		}
	}
	t.Wake()
}

func (t *topicLog) Topic() bus.Topic { return t.topic }

func (t *topicLog) Groups() int { return t.log.groups }

func (t *topicLog) Head(group int) bus.Place {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.heads[group]
}

// Begin implements bus.Begun.
func (t *topicLog) Begin(group int) bus.Place {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.begins[group]
}

func (t *topicLog) Refresh(ctx context.Context) error {
	var heads, begins []bus.Place
	var groups []int
	err := t.log.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		// The beginnings first: a log never begins behind the end that is read later.
		if begins, _, err = t.groupPlaces(tx, "trimmed"); err == nil {
			heads, groups, err = t.groupPlaces(tx, "heads")
		}
		return err
	})
	if err != nil {
		return fault.Wrap("refresh heads", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for g, p := range begins {
		t.begun(g, p)
	}
	t.advance(groups, heads)
	return nil
}

// begun moves a beginning, never back; t.mu is held.
func (t *topicLog) begun(group int, at bus.Place) {
	if at.Seq > t.begins[group].Seq {
		t.begins[group] = at
	}
}

// groupPlaces reads a table that has a place for each group, and says which have one.
func (t *topicLog) groupPlaces(tx *sqldb.Tx, table string) (places []bus.Place, groups []int, err error) {
	places = make([]bus.Place, t.log.groups)
	err = tx.Query(`SELECT grp, epoch, seq FROM `+table+` WHERE topic = ?`, []any{string(t.topic)}, func(scan sqldb.Scan) error {
		var g int
		var p bus.Place
		if err := scan(&g, &p.Epoch, &p.Seq); err != nil {
			return err
		}
		if g < 0 || g >= t.log.groups {
			return fmt.Errorf("group %d of %s is outside 0 to %d", g, t.topic, t.log.groups-1)
		}
		places[g] = p
		groups = append(groups, g)
		return nil
	})
	return places, groups, err
}

func (t *topicLog) Read(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	if msgs := t.held(group, after, limit); len(msgs) > 0 {
		return msgs, nil
	}
	return t.stored(ctx, group, after, limit)
}
