package bus_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
)

// trickle is one group with a message every millisecond of a bubble's time.
type trickle struct{ begun time.Time }

func (t trickle) Topic() bus.Topic              { return "trickle" }
func (t trickle) Groups() int                   { return 1 }
func (t trickle) Refresh(context.Context) error { return nil }
func (t trickle) Head(int) bus.Place {
	return bus.Place{Epoch: 1, Seq: 1 + time.Since(t.begun).Milliseconds()}
}

func (t trickle) Read(_ context.Context, _ int, after bus.Place, limit int) (out []bus.Message, err error) {
	for seq := after.Seq + 1; seq <= t.Head(0).Seq && len(out) < limit; seq++ {
		out = append(out, bus.Message{Topic: "trickle", Place: bus.Place{Epoch: 1, Seq: seq}})
	}
	return out, nil
}

func (t trickle) Subscribe() (<-chan struct{}, func()) { return make(chan struct{}), func() {} }

// Under load a consumer gathers for as long as a batch took, within bounds; a full
// batch is followed by the next at once, and the first message is never held up.
func TestPauses(t *testing.T) {
	for name, c := range map[string]struct {
		took, least, most time.Duration
		messagesMax       int
		want              []int // messages of the first batches
	}{
		"none":            {4 * time.Millisecond, 0, 0, 100, []int{1, 4, 4, 4}},
		"as long":         {4 * time.Millisecond, 0, 20 * time.Millisecond, 100, []int{1, 8, 8, 8}},
		"at most":         {40 * time.Millisecond, 0, 20 * time.Millisecond, 100, []int{1, 60, 60, 60}},
		"at least":        {4 * time.Millisecond, 50 * time.Millisecond, 50 * time.Millisecond, 100, []int{1, 54, 54, 54}},
		"not when full":   {4 * time.Millisecond, 0, 20 * time.Millisecond, 3, []int{1, 3, 3, 3}},
		"without a clock": {4 * time.Millisecond, 0, 20 * time.Millisecond, 100, []int{1, 4, 4, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				begun := time.Now()
				var have []int
				consumer := &bus.Consumer{Area: "test", Source: trickle{begun}, Places: noPlaces{}, MessagesMax: c.messagesMax,
					PauseMin: c.least, PauseMax: c.most, Now: time.Now, Log: slog.New(slog.DiscardHandler),
					Apply: func(_ context.Context, b *bus.Batch) error {
						if len(have) == 0 && time.Since(begun) != 0 {
							t.Error("the first message was held up")
						}
						have = append(have, len(b.Messages))
						time.Sleep(c.took)
						if len(have) == len(c.want) {
							cancel()
						}
						return nil
					}}
				if name == "without a clock" {
					consumer.Now = nil
				}
				if err := consumer.Run(ctx, time.Hour, time.Second); err != nil {
					t.Fatal(err)
				}
				for i := range c.want {
					if have[i] != c.want[i] {
						t.Fatalf("batches of %v, want %v", have, c.want)
					}
				}
			})
		})
	}
}
