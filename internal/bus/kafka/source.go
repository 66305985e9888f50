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

	mu    sync.Mutex
	parts []part     // of all groups
	moved *bus.Wakes // a part has room, or was moved: whoever fetches looks again
}

// part is one group, and what was fetched of it and not read yet.
type part struct {
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
				err = s.refreshed(p.group, end)
			}
			if err != nil {
				errs[i] = &bus.GroupError{Group: p.group, Err: fault.Wrap(fmt.Sprintf("refresh %s, group %d", s.topic, p.group), err)}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// refreshed takes the end of a group.
func (s *Source) refreshed(group int, end endOf) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance(group, end.place)
	p := &s.parts[group]
	p.gone = 0
	if end.expired {
		p.gone = end.offset
	}
	if !p.known { // nobody has read yet: what comes from here on is news
		p.at, p.known, p.from = end.offset, true, end.place
		s.moved.Wake()
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
	if to.Epoch < p.head.Epoch || to.Epoch == p.head.Epoch && to.Seq <= p.head.Seq {
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
	*p = part{head: place, known: true, from: place, at: p.gone, gone: p.gone}
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
		got, next, err := s.cluster.fetch(ctx, s.topic, group, at, s.cluster.cfg.FetchWait)
		stored := s.store(group, at, got, next, nil)
		if err != nil && next == at {
			return nil, fault.Wrap("read "+string(s.topic), err)
		}
		if stored && next == at {
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
		*p = part{head: p.head, known: true, from: after, at: after.Seq} // no sequence is there before its own offset
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
	stored := s.store(k.group, k.at, k.out, k.next, k.err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts[k.group].fresh = stored && k.err == nil
}

// store takes what was fetched from an offset, unless the part was moved, or
// someone else was faster: false. failed is why it was not more.
func (s *Source) store(group int, at int64, got []bus.Message, next int64, failed error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.parts[group]
	if !p.known || p.at != at {
		return false
	}
	p.at, p.failed = next, failed
	for _, m := range got {
		if last := p.last(); m.Place.Epoch < last.Epoch || m.Place.Epoch == last.Epoch && m.Place.Seq <= last.Seq {
			continue // a relay's repetition
		}
		p.buffer = append(p.buffer, m)
		p.bytes += heldBytes(&m)
	}
	s.advance(group, p.last())
	return true
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
