package bustest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
)

// lossy is a source that lost some messages.
type lossy struct {
	bus.Source
	lost func(m *bus.Message) bool
}

func (l lossy) Read(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	msgs, err := l.Source.Read(ctx, group, after, limit)
	return slices.DeleteFunc(msgs, func(m bus.Message) bool { return l.lost(&m) }), err
}

// victim is the group of a published event, and its last place.
func (f *fixture) victim() (group int, end bus.Place) {
	for g := range f.Source.Groups() {
		if h := f.Source.Head(g); h.Seq >= 3 {
			return g, h
		}
	}
	f.Fatalf("no group has three places")
	return 0, bus.Place{}
}

func gapStopsGroup(tb testing.TB, open Open) {
	loseAndCheck(tb, open, func(m *bus.Message, _ bus.Place) bool { return m.Place.Seq == 2 }, 1)
}

func lostEnd(tb testing.TB, open Open) {
	loseAndCheck(tb, open, func(m *bus.Message, end bus.Place) bool { return m.Place.Seq == end.Seq }, -1)
}

// loseAndCheck loses a place of one group. That group must be read up to the
// loss (seq, or the last but -seq) and stop there with an alarm; all others are
// read to their ends.
func loseAndCheck(tb testing.TB, open Open, lost func(m *bus.Message, end bus.Place) bool, upTo int64) {
	f := newFixture(tb, open)
	for i := range 8 {
		f.publish(Events(string(rune('a'+i)), 9, 9))
	}
	victim, end := f.victim()
	if upTo < 0 {
		upTo += end.Seq
	}
	c := f.consumer(10)
	c.Source = lossy{f.Source, func(m *bus.Message) bool { return m.Group == victim && lost(m, end) }}
	f.drain(c)
	if s := c.Stopped(); len(s) != 1 || s[0] != victim {
		f.Errorf("stopped groups: %v, want %d alone", s, victim)
	}
	if n := f.alarms.count["group stopped at a gap"]; n != 1 {
		f.Errorf("%d alarms, want 1", n)
	}
	read := map[string]bool{}
	for _, m := range f.effects() {
		read[m.ID] = true
	}
	for g := range f.Source.Groups() {
		for _, m := range f.read(g) {
			if want := g != victim || m.Place.Seq <= upTo; read[m.ID] != want {
				f.Errorf("group %d, place %d: applied %v, want %v", g, m.Place.Seq, read[m.ID], want)
			}
		}
	}
	f.drain(f.consumer(10)) // the whole log is back: nothing was skipped
	f.allOnce()
}

// rejecting applies all but what is poison.
func (f *fixture) rejecting(poison func(m *bus.Message) bool) func(ctx context.Context, b *bus.Batch) error {
	return func(ctx context.Context, b *bus.Batch) error {
		err := b.Live(func(i int, m *bus.Message) error {
			if poison(m) {
				return &bus.PoisonError{Index: i, Err: errors.New("the test finds it poisonous")}
			}
			return nil
		})
		if err != nil {
			return err
		}
		return f.Apply(ctx, b)
	}
}

func (f *fixture) requestReplay(key ids.Code, want int) {
	f.Helper()
	n, err := f.RequestReplay(f.Context(), key)
	if err != nil || n != int64(want) {
		f.Fatalf("replay: %d messages, %v; want %d", n, err, want)
	}
}

func poison(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	events := Events("a", 30, 3) // key 0 has 0, 3, 6 ...
	f.publish(events)
	sick := events[6]
	c := f.consumer(4)
	c.Apply = f.rejecting(func(m *bus.Message) bool { return m.ID == sick.ID })
	f.drain(c)
	more := Events("b", 6, 3)
	f.publish(more)
	f.drain(c)

	var applied, behind []bus.Event
	for i, e := range slices.Concat(events, more) {
		if e.Context.BizCode == sick.Context.BizCode && i >= 6 {
			behind = append(behind, e)
		} else {
			applied = append(applied, e)
		}
	}
	f.sameByKey(applied, f.effects())
	f.sameByKey(behind, f.parked())
	if n := f.alarms.count["message parked"]; n != 1 {
		f.Errorf("%d alarms for one poisonous message", n)
	}

	f.reopen(nil) // what is parked survives, and keeps its key back
	last := Events("c", 3, 3)
	f.publish(last)
	c = f.consumer(4)
	f.drain(c)
	behind = append(behind, last[0])
	f.sameByKey(append(applied, last[1:]...), f.effects())
	f.sameByKey(behind, f.parked())
	f.requestReplay("nobody", 0)
	f.requestReplay(sick.Context.BizCode, len(behind))
	c.CheckReplays()
	f.drain(c)
	f.drain(c)
	if p := f.parked(); len(p) != 0 {
		f.Errorf("still parked after the replay: %d", len(p))
	}
	f.publish(Events("d", 3, 3)) // the key is free again
	f.drain(c)
	f.allOnce()
}

func poisonAgain(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	events := Events("a", 12, 2)
	f.publish(events)
	sick := map[string]bool{events[2].ID: true, events[6].ID: true} // both of key 0
	c := f.consumer(5)
	c.Apply = f.rejecting(func(m *bus.Message) bool { return sick[m.ID] })
	f.drain(c)
	for range 2 { // nothing changes while the first stays poison, whoever asks
		f.requestReplay(events[0].Context.BizCode, 5)
		c.CheckReplays()
		f.drain(c)
		f.sameByKey(events2(events, 2, 12), f.parked())
	}
	delete(sick, events[2].ID) // the replay now comes as far as the second
	f.requestReplay(events[0].Context.BizCode, 5)
	c.CheckReplays()
	f.drain(c)
	f.drain(c)
	f.sameByKey(events2(events, 6, 12), f.parked())
	delete(sick, events[6].ID)
	f.requestReplay(events[0].Context.BizCode, 3)
	c.CheckReplays()
	f.drain(c)
	f.drain(c)
	f.allOnce()
}

// events2 gives every second event.
func events2(events []bus.Event, from, to int) []bus.Event {
	var out []bus.Event
	for i := from; i < to; i += 2 {
		out = append(out, events[i])
	}
	return out
}
