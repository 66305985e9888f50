package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// shelf is a topic of some groups, in memory.
type shelf struct {
	heads []int64
	ill   map[int]error // what a look at a group comes to
	torn  map[int]error // what reading it comes to
	dead  error
}

func (s *shelf) Topic() bus.Topic                     { return "shelf" }
func (s *shelf) Groups() int                          { return len(s.heads) }
func (s *shelf) Head(g int) bus.Place                 { return bus.Place{Epoch: 1, Seq: s.heads[g]} }
func (s *shelf) Subscribe() (<-chan struct{}, func()) { return make(chan struct{}), func() {} }
func (s *shelf) Refresh(context.Context) error {
	errs := []error{s.dead}
	for g, err := range s.ill {
		errs = append(errs, &bus.GroupError{Group: g, Err: err})
	}
	return fault.Wrap("refresh", errors.Join(errs...))
}

func (s *shelf) Read(_ context.Context, g int, after bus.Place, limit int) (out []bus.Message, err error) {
	for seq := after.Seq + 1; seq <= s.heads[g] && len(out) < limit; seq++ {
		out = append(out, bus.Message{Topic: "shelf", Group: g, Place: bus.Place{Epoch: 1, Seq: seq}})
	}
	return out, s.torn[g]
}

// placesOf are stored places.
type placesOf struct {
	noPlaces
	seqs map[int]int64
}

func (p placesOf) Places(context.Context, bus.Topic) (map[int]bus.Place, error) {
	out := map[int]bus.Place{}
	for g, seq := range p.seqs {
		out[g] = bus.Place{Epoch: 1, Seq: seq}
	}
	return out, nil
}

// A group that is refused, and one that cannot be looked at, hold up no other. The
// first one stands still, the second is read as soon as it can be.
func TestGroupsAreOpenedEachForItself(t *testing.T) {
	s := &shelf{heads: []int64{5, 5, 5, 5}, ill: map[int]error{
		2: fault.New(fault.Unavailable, "broker", "no leader"), 3: fmt.Errorf("at the end: %w", bus.ErrRecord)}, torn: map[int]error{}}
	read := map[int]int{}
	c := &bus.Consumer{Area: "test", Source: s, Places: placesOf{seqs: map[int]int64{0: 2, 1: 9, 2: 3}}, MessagesMax: 100, Log: slog.New(slog.DiscardHandler),
		Apply: func(_ context.Context, b *bus.Batch) error {
			for _, m := range b.Messages {
				read[m.Group]++
			}
			return nil
		}}
	step := func() {
		t.Helper()
		for worked, err := true, error(nil); worked || err != nil; {
			if worked, err = c.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := func(what string, messages map[int]int, stopped ...int) {
		t.Helper()
		if !maps.Equal(read, messages) || !slices.Equal(c.Stopped(), stopped) || !slices.Equal(slices.Sorted(maps.Keys(c.Refused())), stopped) {
			t.Errorf("%s: read %v, want %v; stopped %v, refused %v, want %v", what, read, messages, c.Stopped(), c.Refused(), stopped)
		}
	}
	s.dead = fault.New(fault.Unavailable, "brokers", "gone")
	if err := c.Open(t.Context()); !fault.Is(err, fault.Unavailable) || len(c.Refused()) > 0 {
		t.Errorf("with no broker: %v, refused %v", err, c.Refused())
	}
	s.dead = nil
	if err := c.Open(t.Context()); err == nil {
		t.Error("opened without an error")
	}
	step()
	want("one is well", map[int]int{0: 3}, 1, 3)
	s.ill = nil
	c.Look(t.Context())
	step()
	want("another one can be looked at", map[int]int{0: 3, 2: 2}, 1, 3)
	s.heads[0], s.torn[0] = 6, fault.New(fault.Conflict, "fetch", "it ends before")
	step()
	want("one was replaced", map[int]int{0: 3, 2: 2}, 0, 1, 3)
	s.heads[2], s.ill = 7, map[int]error{2: fault.New(fault.Conflict, "fetch", "it ends before")}
	c.Look(t.Context())
	step()
	want("another one, with no news of it", map[int]int{0: 3, 2: 2}, 0, 1, 2, 3)
}

// While one group cannot be looked at, another one that was replaced stops all the same.
func TestAReplacedGroupStopsWhileAnotherWaits(t *testing.T) {
	s := &shelf{heads: []int64{5, 5}, ill: map[int]error{0: fault.New(fault.Unavailable, "broker", "no leader")}}
	c := &bus.Consumer{Area: "test", Source: s, Places: placesOf{seqs: map[int]int64{0: 5, 1: 5}}, MessagesMax: 100, Log: slog.New(slog.DiscardHandler)}
	_ = c.Open(t.Context()) // says that one waits
	s.ill[1] = fault.New(fault.Conflict, "fetch", "it ends before")
	c.Look(t.Context())
	if stopped := c.Stopped(); !slices.Equal(stopped, []int{1}) || c.Refused()[1] == nil {
		t.Errorf("stopped %v, refused %v", stopped, c.Refused())
	}
}
