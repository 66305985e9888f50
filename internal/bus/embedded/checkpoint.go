package embedded

import (
	"context"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Sum is a part of what the trimmed messages of a group come to. What is the area's
// own word; what does not apply to it is empty.
type Sum struct {
	What, Merchant, Account, Currency string
	N                                 int64
}

// Summary is what a message adds to the sums. An error keeps it from being trimmed.
type Summary func(m *bus.Message) ([]Sum, error)

// Summarise keeps sums of what is trimmed of a topic. It is for whoever opens the log.
func (l *Log) Summarise(topic bus.Topic, s Summary) { l.topics[topic].sums = s }

// Checkpoint is what is left of the messages of a group that were trimmed.
type Checkpoint struct {
	// Place is the last one of them, the zero Place if there are none.
	Place bus.Place
	// AtMillis is the latest moment at which one of them was told, Unix time.
	AtMillis int64
	Sums     []Sum
}

// Sum is the sum of everything that has a name.
func (c *Checkpoint) Sum(what string) (n int64) {
	for _, s := range c.Sums {
		if s.What == what {
			n += s.N
		}
	}
	return n
}

// CheckpointIn reads a group's checkpoint inside the snapshot that reads the tables.
func CheckpointIn(tx *sqldb.Tx, topic bus.Topic, group int) (c Checkpoint, err error) {
	err = tx.Query(`SELECT epoch, seq, at_millis FROM trimmed WHERE topic = ? AND grp = ?`, []any{string(topic), group},
		func(scan sqldb.Scan) error { return scan(&c.Place.Epoch, &c.Place.Seq, &c.AtMillis) })
	if err == nil {
		err = tx.Query(`SELECT what, merchant, account, currency, n FROM trimmed_sums WHERE topic = ? AND grp = ? ORDER BY what, merchant, account, currency`,
			[]any{string(topic), group}, func(scan sqldb.Scan) error {
				var s Sum
				err := scan(&s.What, &s.Merchant, &s.Account, &s.Currency, &s.N)
				c.Sums = append(c.Sums, s)
				return err
			})
	}
	return c, fault.Wrap("checkpoint", err)
}

// In reads a topic inside a snapshot: it begins and ends where it did then, whatever
// is told or trimmed meanwhile. It is for the goroutine that has the snapshot.
func (l *Log) In(tx *sqldb.Tx, topic bus.Topic) (bus.Source, error) {
	t := l.topics[topic]
	s := &snapshotLog{topicLog: t, tx: tx}
	var err error
	if s.begins, _, err = t.groupPlaces(tx, "trimmed"); err == nil {
		s.heads, _, err = t.groupPlaces(tx, "heads")
	}
	return s, fault.Wrap("read "+string(topic), err)
}

// Snapshot calls fn with a topic as it is now; see In.
func (l *Log) Snapshot(ctx context.Context, topic bus.Topic, fn func(bus.Source) error) error {
	return l.db.Snapshot(ctx, func(tx *sqldb.Tx) error {
		src, err := l.In(tx, topic)
		if err != nil {
			return err
		}
		return fn(src)
	})
}

type snapshotLog struct {
	*topicLog
	tx            *sqldb.Tx
	heads, begins []bus.Place
}

func (s *snapshotLog) Head(group int) bus.Place { return s.heads[group] }

func (s *snapshotLog) Begin(group int) bus.Place { return s.begins[group] }

func (s *snapshotLog) Refresh(context.Context) error { return nil }

func (s *snapshotLog) Read(_ context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	out, err := s.readIn(s.tx, s.heads[group].Epoch, group, after, limit)
	return out, fault.Wrap("read "+string(s.topic), err)
}

// sizeRows is how many rows at each end of a log are looked at for what a message
// takes.
const sizeRows = 256

// Size is about how much of a log there is.
type Size struct {
	Messages, Bytes int64
	// OldestMillis is when the first one was told, Unix time; 0 without any.
	OldestMillis int64
	// WaitingMillis is when the first message was told that is behind UpTo in a group
	// that was asked for; 0 if there is none.
	WaitingMillis int64
}

// Size measures a topic's log, of all groups of its database. Messages are counted by
// the groups' counters, and what they take is told by those at the two ends: so it
// costs the same whatever the log has.
func (l *Log) Size(ctx context.Context, topic bus.Topic, groups []int, upTo map[int]bus.Place) (s Size, err error) {
	t := l.topics[topic]
	err = l.db.Snapshot(ctx, func(tx *sqldb.Tx) error {
		s = Size{}
		heads, _, err := t.groupPlaces(tx, "heads")
		if err != nil {
			return err
		}
		begins, _, err := t.groupPlaces(tx, "trimmed")
		if err != nil {
			return err
		}
		for g := range heads {
			s.Messages += heads[g].Seq - begins[g].Seq
		}
		for _, g := range bus.GroupsOf(t, groups) {
			if upTo[g].Seq >= heads[g].Seq {
				continue
			}
			at, err := t.toldAt(tx, g, upTo[g].Seq+1)
			if err != nil {
				return err
			}
			if at > 0 && (s.WaitingMillis == 0 || at < s.WaitingMillis) {
				s.WaitingMillis = at
			}
		}
		return t.weigh(tx, &s)
	})
	return s, fault.Wrap("size of "+string(topic), err)
}

// toldAt is when the row of a sequence was told; 0 if there is none.
func (t *topicLog) toldAt(tx *sqldb.Tx, group int, seq int64) (at int64, err error) {
	query, args, err := t.rowsBehind(tx, `at_millis`, group, seq-1, 1)
	if err != nil {
		return 0, err
	}
	err = tx.Query(query, args, func(scan sqldb.Scan) error { return scan(&at) })
	return at, err
}

func (t *topicLog) weigh(tx *sqldb.Tx, s *Size) error {
	var bytes, events int64
	for i, order := range []string{"id", "id DESC"} {
		err := tx.Query(`SELECT coalesce(CAST(sum(length(body)) AS BIGINT), 0), coalesce(CAST(sum(events) AS BIGINT), 0), coalesce(min(at_millis), 0)
			FROM (SELECT body, events, at_millis FROM `+t.table+` ORDER BY `+order+` LIMIT ?) AS ends`, []any{sizeRows}, func(scan sqldb.Scan) error {
			var b, n, at int64
			err := scan(&b, &n, &at)
			if bytes, events = bytes+b, events+n; i == 0 {
				s.OldestMillis = at
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if events > 0 {
		s.Bytes = int64(float64(s.Messages) * float64(bytes) / float64(events))
	}
	return nil
}
