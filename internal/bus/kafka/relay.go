package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

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

// Standings are for a bus.Watchdog. Of a group whose end at the brokers is not known
// yet, nothing counts as published.
func (r *Relay) Standings() []bus.Standing {
	r.mu.Lock()
	defer r.mu.Unlock()
	groups := bus.GroupsOf(r.Source, r.Groups)
	out := make([]bus.Standing, len(groups))
	for i, g := range groups {
		out[i] = bus.Standing{Group: g, At: r.places[g], Head: r.Source.Head(g)}
	}
	return out
}

// Lag is the number of events in the area's log that are not published yet.
func (r *Relay) Lag() (lag int64) {
	for _, s := range r.Standings() {
		lag += max(0, s.Head.Seq-s.At.Seq)
	}
	return lag
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
	records := r.Cluster.pack(msgs)
	if _, err := r.Cluster.produce(ctx, r.Source.Topic(), group, records); err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places[group] = msgs[len(records)-1].Place
	return true, nil
}

// Open reads how far each group was published. A topic that ends behind its log was
// written from another one, or from this one before it was restored from an older
// copy: what comes next would be taken for published already. It is refused, with
// fault.Conflict; see Rewind.
func (r *Relay) Open(ctx context.Context) error {
	for _, g := range bus.GroupsOf(r.Source, r.Groups) {
		if _, err := r.place(ctx, g); err != nil {
			return fault.Wrap("relay "+string(r.Source.Topic()), err)
		}
	}
	return nil
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
	if err == nil {
		err = r.Source.Refresh(ctx) // after it: another relay publishes what comes meanwhile
	}
	if err != nil {
		return at, err
	}
	if head := r.Source.Head(group); end.place != (bus.Place{}) && (end.place.Epoch != head.Epoch || end.place.Seq > head.Seq) {
		return at, &fault.Error{Kind: fault.Conflict, Op: "relay", Code: "log_behind_topic", Fix: "stop everything, and run `tallystick rewind`",
			Err: fmt.Errorf("group %d of %s was published up to %d of epoch %d, and its log ends at %d of epoch %d: the log was replaced, or restored from an older copy",
				group, r.Source.Topic(), end.place.Seq, end.place.Epoch, head.Seq, head.Epoch)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.places == nil {
		r.places = map[int]bus.Place{}
	}
	r.places[group] = end.place
	return end.place, nil
}

// Run publishes until ctx ends, each group for itself: one whose leader is gone holds
// up no other. Errors are logged, and tried again with backoff up to backoffMax: a
// broker that is gone comes back.
func (r *Relay) Run(ctx context.Context, idle, backoffMax time.Duration) error {
	log := r.Log.With("topic", string(r.Source.Topic()))
	groups := bus.GroupsOf(r.Source, r.Groups)
	wakes := make([]chan struct{}, len(groups))
	var wg sync.WaitGroup
	for i, g := range groups {
		wakes[i] = make(chan struct{}, 1)
		wg.Go(func() { r.follow(ctx, g, wakes[i], log.With("group", g), backoffMax) })
	}
	bus.Follow(ctx, r.Source, "relay", log, idle, backoffMax, func(context.Context) (bool, error) {
		for _, w := range wakes {
			select {
			case w <- struct{}{}:
			default:
			}
		}
		return false, nil
	})
	wg.Wait()
	return nil
}

// follow publishes one group.
func (r *Relay) follow(ctx context.Context, group int, wake <-chan struct{}, log *slog.Logger, backoffMax time.Duration) {
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		worked, err := r.step(ctx, group)
		switch {
		case err != nil && ctx.Err() == nil:
			backoff = min(max(2*backoff, 10*time.Millisecond), backoffMax)
			log.Error("relay will retry", "error", err, "backoff_millis", backoff.Milliseconds())
			select {
			case <-ctx.Done():
			case <-time.After(backoff):
			}
		case worked:
			backoff = 0
		default:
			backoff = 0
			select {
			case <-ctx.Done():
			case <-wake:
			}
		}
	}
}
