package bus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
)

// threeGroups is a topic of 3 groups with 4 messages each, each of its own key.
type threeGroups struct{}

func (threeGroups) Topic() bus.Topic              { return bus.Payments }
func (threeGroups) Groups() int                   { return 3 }
func (threeGroups) Head(int) bus.Place            { return bus.Place{Epoch: 1, Seq: 4} }
func (threeGroups) Refresh(context.Context) error { return nil }
func (threeGroups) Subscribe() (<-chan struct{}, func()) {
	return make(chan struct{}), func() {}
}

func (threeGroups) Read(_ context.Context, group int, after bus.Place, limit int) (out []bus.Message, _ error) {
	for seq := after.Seq + 1; seq <= 4 && len(out) < limit; seq++ {
		id := fmt.Sprintf("%d/%d", group, seq)
		out = append(out, bus.Message{Event: bus.Event{ID: id, Context: ids.Context{BizCode: ids.Code(id)}}, Group: group, Place: bus.Place{Epoch: 1, Seq: seq}})
	}
	return out, nil
}

type noPlaces struct{}

func (noPlaces) Places(context.Context, bus.Topic) (map[int]bus.Place, error) { return nil, nil }
func (noPlaces) ParkedKeys(context.Context, bus.Topic) (map[string]int, error) {
	return map[string]int{}, nil
}
func (noPlaces) TakeReplay(context.Context, bus.Topic) ([]bus.Message, []int64, error) {
	return nil, nil, nil
}

// TestStopError: the group stops where it was, the others go on, and what was
// parked stays the message that it was.
func TestStopError(t *testing.T) {
	var applied, parked []string
	var moved []int
	poison := map[string]bool{"0/2": true, "1/1": true, "2/4": true}
	apply := func(_ context.Context, b *bus.Batch) error {
		var stop error
		err := b.Live(func(i int, m *bus.Message) error {
			if poison[m.ID] {
				return &bus.PoisonError{Index: i, Err: errors.New("poison")}
			}
			if m.ID == "1/3" {
				stop = &bus.StopError{Group: 1, Err: errors.New("broken")}
			}
			return nil
		})
		if err = errors.Join(err, stop); err != nil {
			return err
		}
		for i := range b.Messages {
			if _, aside := b.Parked[i]; aside {
				parked = append(parked, b.Messages[i].ID)
			} else {
				applied = append(applied, b.Messages[i].ID)
			}
		}
		for _, m := range b.Moves {
			moved = append(moved, m.Group)
		}
		return nil
	}
	c := &bus.Consumer{Area: "test", Source: threeGroups{}, Places: noPlaces{}, Apply: apply, MessagesMax: 100,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for range 5 {
		if _, err := c.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(applied)
	slices.Sort(parked)
	slices.Sort(moved)
	if got := fmt.Sprint(applied, parked, moved, c.Stopped()); got != "[0/1 0/3 0/4 2/1 2/2 2/3] [0/2 2/4] [0 2] [1]" {
		t.Errorf("applied, parked, moved, stopped: %s", got)
	}
}
