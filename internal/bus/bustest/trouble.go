package bustest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
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
	rejected := 0
	c.Apply = f.rejecting(func(m *bus.Message) bool {
		if sick[m.ID] {
			rejected++
		}
		return sick[m.ID]
	})
	f.drain(c)
	for range 2 { // nothing changes while the first stays poison, whoever asks
		f.requestReplay(events[0].Context.BizCode, 5)
		c.CheckReplays()
		f.drain(c)
		f.sameByKey(events2(events, 2, 12), f.parked())
	}
	for range 4 { // who did not ask again is not tried again
		c.CheckReplays()
		f.drain(c)
	}
	if rejected != 3 {
		f.Errorf("poison was tried %d times: once at first, and once for each of two requests", rejected)
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

// replaced is a source whose log ends elsewhere than it did.
type replaced struct {
	bus.Source
	head func(bus.Place) bus.Place
}

func (r replaced) Head(group int) bus.Place { return r.head(r.Source.Head(group)) }

func replacedLog(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	for i := range 3 {
		f.publish(Events(string(rune('a'+i)), 9, 9))
	}
	f.drain(f.consumer(10))
	for name, head := range map[string]func(bus.Place) bus.Place{
		"empty":   func(bus.Place) bus.Place { return bus.Place{} },
		"shorter": func(p bus.Place) bus.Place { return bus.Place{Epoch: p.Epoch, Seq: max(0, p.Seq-1)} },
		"newer":   func(p bus.Place) bus.Place { return bus.Place{Epoch: p.Epoch + 1, Seq: p.Seq + 5} },
	} {
		c := f.consumer(10)
		c.Source = replaced{f.Source, head}
		if worked, err := c.Step(f.Context()); worked || !fault.Is(err, fault.Conflict) {
			f.Errorf("%s log: %v, %v; want a conflict", name, worked, err)
		}
	}
	f.allOnce()
}

func replayUnderLoad(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	events := Events("a", 4, 2)
	f.publish(events)
	sick := true
	c := f.consumer(100)
	c.Apply = f.rejecting(func(m *bus.Message) bool { return sick && m.ID == events[0].ID })
	f.drain(c)
	sick = false
	f.requestReplay(events[0].Context.BizCode, 2)
	c.CheckReplays()
	for i := range 4 {
		f.publish(Events(string(rune('b'+i)), 2, 2)[1:]) // there is always news, of another key
		if _, err := c.Step(f.Context()); err != nil {
			f.Fatalf("consume: %v", err)
		}
	}
	if p := f.parked(); len(p) != 0 {
		f.Errorf("%d messages wait for a replay until there is no news", len(p))
	}
	f.drain(c)
	f.allOnce()
}

func failingReplay(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	events := Events("a", 4, 2)
	f.publish(events)
	c := f.consumer(100)
	c.Apply = f.rejecting(func(m *bus.Message) bool { return m.ID == events[0].ID })
	f.drain(c)
	f.requestReplay(events[0].Context.BizCode, 2)
	c.CheckReplays()
	c.Apply = func(ctx context.Context, b *bus.Batch) error {
		if len(b.Replays) > 0 {
			return errors.New("the test fails every replay")
		}
		return f.Apply(ctx, b)
	}
	f.publish(Events("b", 2, 2)[1:])
	failed := 0
	for range 4 {
		if _, err := c.Step(f.Context()); err != nil {
			failed++
		}
	}
	if n := len(f.effects()); n != 3 || failed == 0 {
		f.Errorf("%d effects, want 3; the replay failed %d times: it must hold up nobody, and be tried again", n, failed)
	}
	c.Apply = f.Apply
	f.drain(c)
	f.drain(c)
	f.allOnce()
}

func parkedOnlyWhenStored(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	events := Events("a", 6, 2)
	f.publish(events)
	c := f.consumer(100)
	poisonous := f.rejecting(func(m *bus.Message) bool { return m.ID == events[2].ID })
	c.Apply = func(ctx context.Context, b *bus.Batch) error {
		if len(b.Parked) > 0 {
			return errors.New("the test fails the transaction that parks")
		}
		return poisonous(ctx, b)
	}
	for range 3 {
		if _, err := c.Step(f.Context()); err == nil {
			f.Errorf("a failed batch was reported as applied")
		}
	}
	c.Apply = f.Apply // the cause is gone
	f.drain(c)
	if p := f.parked(); len(p) != 0 {
		f.Errorf("%d messages parked for a poison that was never stored", len(p))
	}
	f.allOnce()
}
