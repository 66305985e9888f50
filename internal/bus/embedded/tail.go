package embedded

import (
	"context"

	"github.com/tallystick/tallystick/internal/bus"
)

// The bounds of what a topic keeps in memory, over all its groups: about as much
// as readers are behind under load.
const (
	tailMessagesMax = 2048
	tailBytesMax    = 2 << 20 // of payloads; values beside them take about as much again
)

// tail holds the last messages of one group that this process has committed, in
// an unbroken sequence. Readers in the same process are nearly always in it, and
// need not ask the database for what was in memory a moment ago.
type tail struct {
	messages []bus.Message
	bytes    int
}

// add appends a committed message, and lets the oldest go that are over the
// bounds of one of so many groups.
func (t *tail) add(m bus.Message, groups int) {
	if n := len(t.messages); n > 0 {
		if last := t.messages[n-1].Place; last.Epoch != m.Place.Epoch || last.Seq+1 != m.Place.Seq {
			*t = tail{} // someone else wrote in between
		}
	}
	t.messages = append(t.messages, m)
	t.bytes += len(m.Payload)
	most, gone := max(8, tailMessagesMax/groups), 0
	if len(t.messages) > most {
		gone = 1 + most/4 // some at once: what stays is moved
		for i := range gone {
			t.bytes -= len(t.messages[i].Payload)
		}
	}
	for gone < len(t.messages) && t.bytes > tailBytesMax/groups {
		t.bytes -= len(t.messages[gone].Payload)
		gone++
	}
	if gone > 0 {
		kept := copy(t.messages, t.messages[gone:])
		clear(t.messages[kept:])
		t.messages = t.messages[:kept]
	}
}

// read gives at most limit messages behind after; none when the first of them
// is not held.
func (t *tail) read(after bus.Place, limit int) []bus.Message {
	if len(t.messages) == 0 {
		return nil
	}
	first := t.messages[0].Place
	if after != (bus.Place{}) && after.Epoch != first.Epoch {
		return nil
	}
	from := after.Seq + 1 - first.Seq
	if from < 0 || from >= int64(len(t.messages)) {
		return nil
	}
	return append([]bus.Message(nil), t.messages[from:min(from+int64(limit), int64(len(t.messages)))]...)
}

// remember keeps the events of a committed emit in memory; t.mu is held. heads
// are the places of the last event of each group, count the events of each.
func (t *topicLog) remember(events []bus.Event, heads []bus.Place, count []int64) {
	next := make([]int64, len(heads))
	for g := range heads {
		next[g] = heads[g].Seq - count[g] + 1
	}
	for i := range events {
		g := events[i].Context.BizCode.Group(t.log.groups)
		t.tails[g].add(bus.Message{Event: events[i], Topic: t.topic, Group: g, Place: bus.Place{Epoch: heads[g].Epoch, Seq: next[g]}}, t.log.groups)
		next[g]++
	}
}

// held reads from memory.
func (t *topicLog) held(group int, after bus.Place, limit int) []bus.Message {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tails[group].read(after, limit)
}

// Stored reads a topic from the database alone: for whoever checks what is there.
func (l *Log) Stored(t bus.Topic) bus.Source { return storedLog{l.topics[t]} }

type storedLog struct{ *topicLog }

// Read asks the database, whatever is in memory.
func (s storedLog) Read(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	return s.stored(ctx, group, after, limit)
}
