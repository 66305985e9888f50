package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// Relay publishes an area's log in its order: one request under way for each
// partition, with what else goes to the same broker; after an error it goes on behind
// the last sequence that was acknowledged. It keeps no place of its own: the topic's end
// says how far it came. Two relays at once make repetitions, which readers know by their
// places.
//
// The last message of a group is published again before the brokers delete it for its
// age, so that a topic's end always says so.
type Relay struct {
	Cluster     *Cluster
	Source      bus.Source // the area's log, from the database
	MessagesMax int        // of one group in a request; above 512 it is 512
	Groups      []int      // that are published; nil is all
	// AgainAfter is the age from which a group's last message is published again, by
	// Now; 0 never does.
	AgainAfter time.Duration
	Now        func() time.Time
	Log        *slog.Logger

	refusals bus.Refusals

	mu     sync.Mutex
	places map[int]bus.Place // acknowledged
	last   map[int]time.Time // about when the last one was
	steps  int64             // requests of all groups that brought it forward
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
	var mu sync.Mutex
	s := newShipper(r.Cluster, 0, r.lanes())
	s.failed = func(_ lane, _ int, e error) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		err = errors.Join(err, e)
		return 0
	}
	r.mu.Lock()
	before, begun := r.steps, r.places != nil
	r.mu.Unlock()
	if !begun { // where the log begins, too
		if err := r.Source.Refresh(ctx); err != nil {
			return false, fault.Wrap("relay "+string(r.Source.Topic()), err)
		}
	}
	s.once(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.steps > before, fault.Wrap("relay "+string(r.Source.Topic()), err)
}

// lanes are those of the groups.
func (r *Relay) lanes() (out []lane) {
	for _, g := range bus.GroupsOf(r.Source, r.Groups) {
		out = append(out, &relayed{relay: r, group: g})
	}
	return out
}

// relayed is the lane of a group.
type relayed struct {
	relay *Relay
	group int
	from  int64     // sequence of the first message under way
	to    bus.Place // of the last one
	again bool      // which was published before
	lost  bool      // the partition is not the one that was published to
}

// partition implements lane.
func (l *relayed) partition() partition { return partition{l.relay.Source.Topic(), l.group} }

// open implements lane.
func (l *relayed) open(ctx context.Context) error {
	_, err := l.relay.place(ctx, l.group)
	return err
}

// at is how far the group was acknowledged, and about when.
func (l *relayed) at() (at bus.Place, last time.Time, known bool) {
	r := l.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	last, known = r.last[l.group]
	return r.places[l.group], last, known
}

// waiting implements lane.
func (l *relayed) waiting() bool {
	if l.lost {
		return false
	}
	at, last, known := l.at()
	r := l.relay
	return r.Source.Head(l.group).Seq > at.Seq || r.AgainAfter > 0 && at.Seq > 0 && (!known || r.Now().Sub(last) >= r.AgainAfter)
}

// load implements lane.
func (l *relayed) load(ctx context.Context) ([]kafka.Record, error) {
	at, _, known := l.at()
	r := l.relay
	if l.again = r.Source.Head(l.group).Seq <= at.Seq; l.again {
		if r.AgainAfter <= 0 { // another Step was faster
			return nil, nil
		}
		return l.loadAgain(ctx, at, known)
	}
	msgs, err := r.Source.Read(ctx, l.group, at, min(r.MessagesMax, relayRecordsMax))
	if err != nil || len(msgs) == 0 {
		return nil, err
	}
	records := r.Cluster.pack(msgs)
	l.from, l.to = msgs[0].Place.Seq, msgs[len(records)-1].Place
	return records, nil
}

// loadAgain gives a group's last message if it is old.
func (l *relayed) loadAgain(ctx context.Context, at bus.Place, known bool) ([]kafka.Record, error) {
	r := l.relay
	msgs, err := r.Source.Read(ctx, l.group, bus.Place{Epoch: at.Epoch, Seq: at.Seq - 1}, 1)
	if err != nil {
		return nil, err
	}
	if len(msgs) == 0 || msgs[0].Place != at { // the topic's end is not the log's: that is told elsewhere
		r.acknowledged(l.group, r.Now())
		return nil, nil
	}
	if when := time.UnixMilli(msgs[0].AtMillis); !known && r.Now().Sub(when) < r.AgainAfter {
		r.acknowledged(l.group, when)
		return nil, nil
	}
	l.from = at.Seq
	return r.Cluster.pack(msgs), nil
}

// appended implements lane. A partition that was replaced while it was published to gets
// nothing more: no sequence is there before its own offset.
func (l *relayed) appended(first int64, err error) {
	if err != nil {
		return
	}
	r := l.relay
	if l.lost = first < l.from-1; l.lost {
		err := replaced(l.partition(), first, l.from-1)
		r.refusals.Note(l.group, err)
		r.mu.Lock()
		delete(r.places, l.group)
		r.mu.Unlock()
		r.Log.Error("relay has stopped", "topic", string(r.Source.Topic()), "group", l.group, "error", err)
		return
	}
	if !l.again {
		r.mu.Lock()
		r.places[l.group] = l.to
		r.steps++
		r.mu.Unlock()
	}
	if r.AgainAfter > 0 {
		r.acknowledged(l.group, r.Now())
	}
}

// acknowledged takes note of about when a group's last record was appended.
func (r *Relay) acknowledged(group int, when time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[int]time.Time{}
	}
	r.last[group] = when
}

// Open reads how far each group was published. A topic that ends behind its log was
// written from another one, or from this one before it was restored from an older
// copy: what comes next would be taken for published already. It is refused, with
// fault.Conflict; see Rewind. The error is about all groups with which something is wrong.
func (r *Relay) Open(ctx context.Context) error {
	var errs []error
	for _, g := range bus.GroupsOf(r.Source, r.Groups) {
		_, err := r.place(ctx, g)
		errs = append(errs, err)
	}
	return fault.Wrap("relay "+string(r.Source.Topic()), errors.Join(errs...))
}

// Refused are the groups that were refused, and why.
func (r *Relay) Refused() map[int]error { return r.refusals.Refused() }

// place is how far a group was published: known, or read from the topic's end.
func (r *Relay) place(ctx context.Context, group int) (at bus.Place, err error) {
	defer func() { r.refusals.Note(group, err) }()
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
	begin, head := bus.BeginOf(r.Source, group), r.Source.Head(group)
	switch {
	case end.place != (bus.Place{}) && (end.place.Epoch != head.Epoch || end.place.Seq > head.Seq):
		return at, &fault.Error{Kind: fault.Conflict, Op: "relay", Code: "log_behind_topic", Fix: "stop everything, and run `tallystick rewind`",
			Err: fmt.Errorf("group %d of %s was published up to %d of epoch %d, and its log ends at %d of epoch %d: the log was replaced, or restored from an older copy",
				group, r.Source.Topic(), end.place.Seq, end.place.Epoch, head.Seq, head.Epoch)}
	case end.expired:
		// Whoever must read it has committed what the log does not have any more; so from
		// its beginning on there are repetitions, and no gap.
		end.place = begin
	case end.place.Seq < begin.Seq:
		return at, &fault.Error{Kind: fault.Conflict, Op: "relay", Code: "topic_lost", Field: string(r.Source.Topic()), Fix: "bring the topic back from another copy of the brokers' data",
			Err: fmt.Errorf("group %d: the brokers have it up to %d, and the log begins behind %d: what lies between is in neither", group, end.place.Seq, begin.Seq)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.places == nil {
		r.places = map[int]bus.Place{}
	}
	r.places[group] = end.place
	return end.place, nil
}

// RunRelays publishes until ctx ends, what goes to one broker together. Errors are
// logged, and tried again with backoff up to backoffMax: a broker that is gone comes
// back. Relays are of one Cluster.
func RunRelays(ctx context.Context, idle, backoffMax time.Duration, relays ...*Relay) error {
	if len(relays) == 0 {
		<-ctx.Done()
		return nil
	}
	var lanes []lane
	for _, r := range relays {
		lanes = append(lanes, r.lanes()...)
	}
	c := relays[0].Cluster
	s := newShipper(c, c.cfg.RelayGather, lanes)
	s.failed = func(l lane, times int, err error) time.Duration {
		backoff := min(10*time.Millisecond<<min(times-1, 20), backoffMax)
		at := l.partition()
		l.(*relayed).relay.Log.Error("relay will retry", "topic", string(at.topic), "group", at.group, "error", err, "backoff_millis", backoff.Milliseconds())
		return backoff
	}
	var wg sync.WaitGroup
	for _, r := range relays {
		wg.Go(func() {
			bus.Follow(ctx, r.Source, "relay", r.Log.With("topic", string(r.Source.Topic())), idle, backoffMax, func(context.Context) (bool, error) {
				s.stir()
				return false, nil
			})
		})
	}
	s.run(ctx)
	wg.Wait()
	return nil
}
