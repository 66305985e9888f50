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

// Told are events for one topic.
type Told struct {
	Topic  bus.Topic
	Events []bus.Event
}

// emission is what one topic gets: the number of events of each group, the groups that
// have any, and the place of the last one of each.
type emission struct {
	*topicLog
	events []bus.Event
	count  []int64
	groups []int
	heads  []bus.Place
}

// Emit is EmitAll for one topic.
func (l *Log) Emit(tx *sqldb.Tx, topic bus.Topic, events []bus.Event) error {
	return l.EmitAll(tx, Told{topic, events})
}

// EmitAll appends events to topics as the last statements of the transaction that
// changes the state they tell of. Sequences come from a counter row per (topic,
// group), updated right here, so that their order is commit order, without
// gaps. Readers are woken after the commit. The payloads are kept, and must not
// be changed any more.
func (l *Log) EmitAll(tx *sqldb.Tx, told ...Told) error {
	var list []*emission
	for _, told := range told {
		if len(told.Events) == 0 {
			continue
		}
		op := "emit " + string(told.Topic)
		e := &emission{topicLog: l.topics[told.Topic], events: told.Events, count: make([]int64, l.groups), heads: make([]bus.Place, l.groups)}
		if e.topicLog == nil {
			return fault.New(fault.Internal, op, "this area does not write the topic")
		}
		for i := range e.events {
			if err := checkEvent(&e.events[i]); err != nil {
				return fault.Wrap(op, err)
			}
			e.count[e.events[i].Context.BizCode.Group(l.groups)]++
		}
		for g, n := range e.count {
			if n > 0 {
				e.groups = append(e.groups, g)
			}
		}
		list = append(list, e)
	}
	if err := count(tx, list); err != nil {
		return fault.Wrap("emit", err)
	}
	for _, e := range list {
		rows := pack(e.events, l.groups, e.heads, e.count, e.spare)
		if err := e.insert(tx, rows); err != nil {
			return fault.Wrap("emit "+string(e.topic), err)
		}
		tx.OnCommit(func() {
			recycle(rows, e.spare) // the transaction's end is the last that needs them
			e.mu.Lock()
			defer e.mu.Unlock()
			e.remember(e.events, e.heads, e.count)
			e.advance(e.groups, e.heads)
		})
	}
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
