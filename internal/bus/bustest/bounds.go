package bustest

import (
	"reflect"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
)

// At the bound the group of what would be parked next stops, with an alarm, and
// nothing of it is lost: it goes on when there is room.
func parkedIsBounded(tb testing.TB, open Open) {
	const most = 4
	f := newFixture(tb, open)
	events := Events("a", 2, 9)
	f.publish(events)
	sick := events[0]
	poisonous := f.rejecting(func(m *bus.Message) bool { return m.ID == sick.ID })
	c := f.consumer(3)
	c.ParkedMax, c.Apply = most, poisonous
	f.drain(c)
	for i := range 6 { // one more of the sick key each time
		f.publish(Events(string(rune('b'+i)), 9, 9))
		f.drain(c)
	}
	if n := len(f.parked()); n != most {
		f.Errorf("%d messages are parked, the bound is %d", n, most)
	}
	if n := f.alarms.count["group stopped: too much is parked"]; n != 1 {
		f.Errorf("%d alarms, want 1", n)
	}
	group := sick.Context.BizCode.Group(f.Source.Groups())
	if s := c.Stopped(); len(s) != 1 || s[0] != group {
		f.Errorf("stopped groups: %v, want %d alone", s, group)
	}
	f.others(c, group)

	// A poison of its own at the bound stops its group as well.
	c = f.consumer(3)
	c.ParkedMax = most
	c.Apply = f.rejecting(func(m *bus.Message) bool { return m.ID == sick.ID || m.ID[:5] == "evt_z" })
	f.publish(Events("z", 9, 9))
	f.drain(c)
	if n := len(f.parked()); n != most {
		f.Errorf("%d messages are parked after another poison, the bound is %d", n, most)
	}

	c = f.consumer(3) // the cause is gone, and there is room
	f.requestReplay(sick.Context.BizCode, most)
	c.CheckReplays()
	for range 3 {
		f.drain(c)
	}
	if n := len(f.parked()); n != 0 {
		f.Errorf("%d messages are parked after the replay", n)
	}
	f.allOnce()
}

// others checks that all groups but one were read to their ends.
func (f *fixture) others(c *bus.Consumer, stopped int) {
	f.Helper()
	applied := map[string]bool{}
	for _, m := range f.effects() {
		applied[m.ID] = true
	}
	for g := range f.Source.Groups() {
		if g == stopped {
			continue
		}
		for _, m := range f.read(g) {
			if !applied[m.ID] {
				f.Errorf("group %d stands still at place %d although group %d stopped", g, m.Place.Seq, stopped)
			}
		}
	}
	if c.Lag() == 0 {
		f.Errorf("nothing waits in the group that stopped")
	}
}

// A message of a newer build is put aside by this one, and applied by that one: with
// all that this one does not know.
func parkedWhole(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	events := Events("a", 2, 2)
	events[0].Version, events[0].Extra = bus.EnvelopeVersion+1, []byte("\x00later")
	events[0].Type, events[0].Payload = "test.unknown", []byte(`{"i":0,"later":[1]}`)
	b := &bus.Batch{Topic: f.Source.Topic(), Parked: map[int]string{}}
	for i := range events {
		b.Parked[i] = "its type is unknown"
		b.Messages = append(b.Messages, bus.Message{Event: events[i], Topic: b.Topic, Group: i, Place: bus.Place{Epoch: 1, Seq: 7}, Part: i})
	}
	if err := f.Apply(f.Context(), b); err != nil {
		f.Fatalf("apply: %v", err)
	}
	f.reopen(nil)
	for i, have := range f.parked() {
		if !reflect.DeepEqual(have, b.Messages[i]) {
			f.Errorf("put aside\n%+v, and taken back\n%+v", b.Messages[i], have)
		}
	}
	if n := len(f.parked()); n != len(events) {
		f.Errorf("%d are parked, want %d", n, len(events))
	}
	f.requestReplay(events[0].Context.BizCode, 1)
	msgs, _, err := f.Places.TakeReplay(f.Context(), b.Topic)
	if err != nil || len(msgs) != 1 || !reflect.DeepEqual(msgs[0], b.Messages[0]) {
		f.Errorf("a replay takes %+v, want %+v; %v", msgs, b.Messages[0], err)
	}
}
