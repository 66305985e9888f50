package storetest

import (
	"context"

	"github.com/tallystick/tallystick/internal/bus"
)

// Feed is a topic in memory, for a poster to read. Not safe for concurrent use.
type Feed struct{ groups [Groups][]bus.Message }

// Append adds an event to a group, whatever its key: tests choose.
func (f *Feed) Append(group int, e bus.Event) {
	f.groups[group] = append(f.groups[group], bus.Message{Event: e, Topic: bus.Payments, Group: group,
		Place: bus.Place{Epoch: 1, Seq: int64(len(f.groups[group]) + 1)}})
}

// Topic implements bus.Source.
func (f *Feed) Topic() bus.Topic { return bus.Payments }

// Groups implements bus.Source.
func (f *Feed) Groups() int { return Groups }

// Head implements bus.Source.
func (f *Feed) Head(group int) bus.Place {
	if len(f.groups[group]) == 0 {
		return bus.Place{}
	}
	return bus.Place{Epoch: 1, Seq: int64(len(f.groups[group]))}
}

// Refresh implements bus.Source.
func (f *Feed) Refresh(context.Context) error { return nil }

// Read implements bus.Source.
func (f *Feed) Read(_ context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	rest := f.groups[group][after.Seq:]
	return append([]bus.Message(nil), rest[:min(limit, len(rest))]...), nil
}

// Subscribe implements bus.Source; nothing is ever told.
func (f *Feed) Subscribe() (<-chan struct{}, func()) { return make(chan struct{}), func() {} }
