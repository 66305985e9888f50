package bus_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
)

// endless always has news.
type endless struct{ head atomic.Int64 }

func (s *endless) Topic() bus.Topic              { return "t" }
func (s *endless) Groups() int                   { return 1 }
func (s *endless) Head(int) bus.Place            { return bus.Place{Epoch: 1, Seq: s.head.Add(1)} }
func (s *endless) Refresh(context.Context) error { return nil }
func (s *endless) Read(_ context.Context, _ int, after bus.Place, _ int) ([]bus.Message, error) {
	return []bus.Message{{Event: bus.Event{Context: ids.Context{BizCode: "x"}}, Place: bus.Place{Epoch: 1, Seq: after.Seq + 1}}}, nil
}
func (s *endless) Subscribe() (<-chan struct{}, func()) { return make(chan struct{}), func() {} }

// asked counts the looks for replays.
type asked struct {
	noPlaces
	takes int
}

func (p *asked) TakeReplay(context.Context, bus.Topic) ([]bus.Message, []int64, error) {
	p.takes++
	return nil, nil, nil
}

// A replay that was asked for is done within moments, however much news there is.
func TestABusyConsumerLooksForReplays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &asked{}
		c := &bus.Consumer{Area: "a", Source: &endless{}, Places: p, MessagesMax: 10, Log: slog.New(slog.DiscardHandler),
			Apply: func(context.Context, *bus.Batch) error { time.Sleep(time.Millisecond); return nil }}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := c.Run(ctx, time.Second, time.Second); err != nil {
			t.Fatal(err)
		}
		if p.takes < 9 || p.takes > 11 {
			t.Errorf("%d looks for replays in 10 s of steady news, want one a second", p.takes)
		}
	})
}
