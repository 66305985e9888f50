package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// Source reads one topic for one consumer. Run, or FetchAhead, fetches ahead of it, from
// where it last read; without that it reads all the same, when it is asked.
type Source struct {
	bus.Wakes
	cluster *Cluster
	topic   bus.Topic
	log     *slog.Logger

	groups []int // that are read

	mu      sync.Mutex
	follows bool       // who reads keeps no places, and asks for Rewound
	parts   []part     // of all groups
	moved   *bus.Wakes // a part has room, or was moved: whoever fetches looks again
}

// part is one group, and what was fetched of it and not read yet.
type part struct {
	life   int64     // how often the group has begun anew; see Rewound
	first  int64     // the offset that the partition begins at, or untold
	asked  int64     // the offset of the last fetch
	newest bus.Place // of what was fetched
	head   bus.Place
	known  bool      // somebody has said from where to read
	gone   int64     // the end, when all before it has expired; else 0
	from   bus.Place // what is in the buffer comes behind it
	at     int64     // the offset to fetch next
	buffer []bus.Message
	bytes  int
	ill    bool  // something was wrong when it was fetched with others
	failed error // of the last fetch ahead: a reader need not wait for the next one
	fresh  bool  // fetched ahead since the last Refresh, without an error: the head is that of a moment ago
}

// heldBytes is about what a message takes in memory.
func heldBytes(m *bus.Message) int { return 256 + len(m.Payload) + len(m.Extra) }

// place makes a part be read from an offset on: what is at or before a place is let go.
func (p *part) place(head, from bus.Place, at int64) {
	*p = part{life: p.life, first: untold, asked: at, head: head, known: true, from: from, at: at}
}

// last is the place that the next message must be behind.
func (p *part) last() bus.Place {
	if n := len(p.buffer); n > 0 {
		return p.buffer[n-1].Place
	}
	return p.from
}

// NewSource makes a source of some groups of a topic; without any, of all.
func NewSource(c *Cluster, topic bus.Topic, log *slog.Logger, groups ...int) *Source {
	s := &Source{cluster: c, topic: topic, log: log, parts: make([]part, c.cfg.Groups), moved: &bus.Wakes{}}
	s.groups = bus.GroupsOf(s, groups)
	return s
}

// Topic implements bus.Source.
func (s *Source) Topic() bus.Topic { return s.topic }

// Groups implements bus.Source.
func (s *Source) Groups() int { return len(s.parts) }

// Head implements bus.Source.
func (s *Source) Head(group int) bus.Place {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[group].head
}

// Refresh asks the brokers for the ends of all groups but those that Run has fetched
// well since the last one. Its errors are of type bus.GroupError.
func (s *Source) Refresh(ctx context.Context) error {
	stale := s.stale()
	if len(stale) == 0 {
		return nil
	}
	all := make([]partition, len(stale))
	for i, g := range stale {
		all[i] = partition{s.topic, g}
	}
	lives := s.lives()
	spans, failed := s.cluster.spans(ctx, all...)
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() {
			end, err := endOf{}, failed[p]
			if err == nil {
				end, err = s.cluster.endIn(ctx, p, spans[p])
			}
			if err == nil {
				err = s.refreshed(p.group, lives[p.group], end)
			}
			if err != nil {
				errs[i] = &bus.GroupError{Group: p.group, Err: fault.Wrap(fmt.Sprintf("refresh %s, group %d", s.topic, p.group), err)}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// lives are those of all groups.
func (s *Source) lives() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]int64, len(s.parts))
	for g := range s.parts {
		out[g] = s.parts[g].life
	}
	return out
}

// refreshed takes the end of a group, for which it was asked in the life that is given.
func (s *Source) refreshed(group int, life int64, end endOf) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.parts[group]
	if p.life != life {
		return nil
	}
	s.begins(group, end.first)
	s.advance(group, end.place)
	if !p.known { // nobody has read yet: what comes from here on is news
		p.place(p.head, end.place, end.offset)
		p.first = end.first
		s.moved.Wake()
	}
	p.gone = 0
	if end.expired {
		p.gone = end.offset
	}
	if fault.Is(p.failed, fault.Conflict) {
		return p.failed // it ends before what was read of it
	}
	return nil
}

// stale are the groups that Run has not fetched well since the last call.
func (s *Source) stale() (out []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		p := &s.parts[g]
		if !p.fresh {
			out = append(out, g)
		}
		p.fresh = false
	}
	return out
}

// advance moves a head, never back, and wakes the readers; s.mu is held.
func (s *Source) advance(group int, to bus.Place) {
	p := &s.parts[group]
	if !behind(to, p.head) {
		return
	}
	p.head = to
	s.Wake()
}

// Forgot implements bus.Forgetful.
func (s *Source) Forgot(group int, place bus.Place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.parts[group]
	if p.gone == 0 {
		return false
	}
	gone := p.gone
	p.place(place, place, gone)
	p.gone = gone
	s.moved.Wake()
	return true
}

// Read implements bus.Source: from what was fetched ahead, else from the broker.
// What lies at or before after is let go.
func (s *Source) Read(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	for {
		msgs, at, more, failed := s.buffered(group, after, limit)
		if len(msgs) > 0 || !more {
			return msgs, nil
		}
		if failed != nil {
			return nil, fault.Wrap("read "+string(s.topic), failed)
		}
		k := s.cluster.fetch(ctx, wish{partition{s.topic, group}, at})
		err := k.err
		k.err = nil
		stored := s.store(&k)
		if err != nil && k.next == at {
			return nil, fault.Wrap("read "+string(s.topic), err)
		}
		if stored && k.next == at {
			return nil, nil // there must be something, and there is not: the reader takes it for a gap
		}
	}
}

// buffered gives what is at hand behind after, and else whether there is more, from
// which offset, and why it cannot be had.
func (s *Source) buffered(group int, after bus.Place, limit int) (msgs []bus.Message, at int64, more bool, failed error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.parts[group]
	full := !s.roomy(p)
	if !p.move(after) {
		p.place(p.head, after, after.Seq) // no sequence is there before its own offset
		full = true
	}
	if full && s.roomy(p) { // there is room, or another place to fetch from
		s.moved.Wake()
	}
	if n := min(limit, len(p.buffer)); n > 0 {
		return append([]bus.Message(nil), p.buffer[:n]...), 0, false, nil
	}
	return nil, p.at, p.head.Seq > after.Seq, p.failed
}

// move lets go of what is at or before a place; false if the buffer does not
// go on from there.
func (p *part) move(after bus.Place) bool {
	if !p.known {
		return false
	}
	if p.from.Seq == after.Seq {
		return true
	}
	for i := range p.buffer {
		p.bytes -= heldBytes(&p.buffer[i])
		if p.buffer[i].Place == after {
			p.from, p.buffer = after, append([]bus.Message(nil), p.buffer[i+1:]...)
			return true
		}
	}
	return false
}

// storeAhead is store for what was fetched ahead.
func (s *Source) storeAhead(k *catch) {
	stored := s.store(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts[k.group].fresh = stored && k.err == nil
}

// store takes what was fetched, unless the part was moved, or someone else was faster:
// false. The catch's error is why it was not more.
func (s *Source) store(k *catch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.parts[k.group]
	if !p.known || p.at != k.at {
		return false
	}
	s.begins(k.group, k.first)
	p.asked, p.at, p.failed = k.at, k.next, k.err
	if p.first == untold {
		p.first = k.first
	}
	for _, m := range k.out {
		if !behind(m.Place, p.newest) {
			s.cluster.repeats.add(s.topic) // it was published again
		} else {
			p.newest = m.Place
		}
		if !behind(m.Place, p.last()) {
			continue
		}
		p.buffer = append(p.buffer, m)
		p.bytes += heldBytes(&m)
	}
	s.advance(k.group, p.last())
	return true
}

// behind reports whether a place is further on than another one.
func behind(p, other bus.Place) bool {
	return p.Epoch > other.Epoch || p.Epoch == other.Epoch && p.Seq > other.Seq
}

// begins takes note of where a partition begins; s.mu is held. When all that was there
// at the last fetch is gone, what comes is read whatever its sequences are: it may be that
// of a log that was published anew, which goes on from an earlier one. Who keeps places of
// its own, and so does not ask for Rewound, stops at what is missing instead.
func (s *Source) begins(group int, first int64) {
	p := &s.parts[group]
	if s.topic.Entering() || !p.known || p.first == untold || first <= p.first {
		return // or a place is an offset, and never comes again
	}
	p.first = first
	if first < p.asked || !s.follows {
		return
	}
	s.log.Warn("all that was read of a group is gone at the brokers: it begins anew", "topic", string(s.topic), "group", group,
		"read_seq", p.head.Seq, "first_offset", first)
	p.place(bus.Place{}, bus.Place{}, max(p.at, first))
	p.first = first
	p.life++
	s.moved.Wake()
	s.Wake()
}

// Rewound implements bus.Rewindable.
func (s *Source) Rewound(group int) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.follows = true
	return s.parts[group].life
}

// Held is how many bytes were fetched and not read yet, of all groups.
func (s *Source) Held() (bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for g := range s.parts {
		bytes += int64(s.parts[g].bytes)
	}
	return bytes
}

// next is what is to be fetched of a group; false while there is no room for it.
func (s *Source) next(group int) (wish, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.parts[group]
	return wish{partition{s.topic, group}, p.at}, s.roomy(p)
}

// roomy says whether more of a part is to be fetched; s.mu is held.
func (s *Source) roomy(p *part) bool { return p.known && p.bytes < s.cluster.cfg.BufferBytesMax }

func (s *Source) isIll(group int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[group].ill
}

// sicken marks a group to be fetched alone, or as well again.
func (s *Source) sicken(group int, ill bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts[group].ill = ill
}
