package kafka

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// Relay publishes an area's log in its order: one request under way for each
// partition; after an error it goes on behind the last sequence that was
// acknowledged. It keeps no place of its own: the topic's end says how far it
// came. Two relays at once make repetitions, which readers know by their places.
type Relay struct {
	Cluster     *Cluster
	Source      bus.Source // the area's log, from the database
	MessagesMax int        // of one request
	Groups      []int      // that are published; nil is all
	Log         *slog.Logger

	mu     sync.Mutex
	places map[int]bus.Place // acknowledged
}

// Step publishes at most one batch of each group. worked is false when there was
// nothing. Of several errors it gives all.
func (r *Relay) Step(ctx context.Context) (worked bool, err error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, g := range bus.GroupsOf(r.Source, r.Groups) {
		wg.Go(func() {
			did, e := r.step(ctx, g)
			mu.Lock()
			defer mu.Unlock()
			worked, err = worked || did, errors.Join(err, e)
		})
	}
	wg.Wait()
	return worked, fault.Wrap("relay "+string(r.Source.Topic()), err)
}

func (r *Relay) step(ctx context.Context, group int) (worked bool, err error) {
	at, err := r.place(ctx, group)
	if err != nil || r.Source.Head(group).Seq <= at.Seq {
		return false, err
	}
	msgs, err := r.Source.Read(ctx, group, at, r.MessagesMax)
	if err != nil || len(msgs) == 0 {
		return false, err
	}
	records := make([]kafka.Record, len(msgs))
	for i := range msgs {
		records[i] = record(&msgs[i].Event, msgs[i].Place)
	}
	if _, err := r.Cluster.produce(ctx, r.Source.Topic(), group, records); err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places[group] = msgs[len(msgs)-1].Place
	return true, nil
}

// place is how far a group was published: known, or read from the topic's end.
func (r *Relay) place(ctx context.Context, group int) (bus.Place, error) {
	r.mu.Lock()
	at, known := r.places[group]
	r.mu.Unlock()
	if known {
		return at, nil
	}
	end, err := r.Cluster.end(ctx, r.Source.Topic(), group)
	if err != nil {
		return at, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.places == nil {
		r.places = map[int]bus.Place{}
	}
	r.places[group] = end.place
	return end.place, nil
}

// Run steps until ctx ends. Errors are logged, and tried again with backoff up to
// backoffMax: a broker that is gone comes back.
func (r *Relay) Run(ctx context.Context, idle, backoffMax time.Duration) error {
	bus.Follow(ctx, r.Source, "relay", r.Log.With("topic", string(r.Source.Topic())), idle, backoffMax, r.Step)
	return nil
}
