package kafka

import (
	"context"
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
)

// Run fetches ahead of the reader until ctx ends, at most BufferBytesMax of each
// group and one answer. Groups that one broker leads are fetched together; those
// with which something is wrong each for itself, so that they hold up no other.
// Errors are logged and tried again.
func (s *Source) Run(ctx context.Context, backoffMax time.Duration) error {
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		if well := s.runOnce(ctx, backoffMax); well {
			backoff = 0
			continue
		}
		backoff = min(max(2*backoff, 10*time.Millisecond), backoffMax)
		bus.Sleep(ctx, backoff)
	}
	return nil
}

// runOnce follows all groups until something goes wrong with one of those that are
// fetched together, or until all with which something was wrong are well again: then
// it says so.
func (s *Source) runOnce(ctx context.Context, backoffMax time.Duration) (well bool) {
	together, alone := s.byLeader(ctx)
	own, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	over := make(chan bool, len(together)+1)
	for _, groups := range together {
		wg.Go(func() {
			s.followMany(own, groups)
			over <- false
		})
	}
	var mu sync.Mutex
	ill := len(alone)
	for _, g := range alone {
		wg.Go(func() {
			s.follow(own, g, backoffMax, sync.OnceFunc(func() {
				s.recover(g)
				mu.Lock()
				defer mu.Unlock()
				if ill--; ill == 0 {
					over <- true
				}
			}))
		})
	}
	select {
	case <-ctx.Done():
	case well = <-over:
	}
	return well
}

// byLeader divides the groups: those of each broker, and those to be followed alone,
// as they have no leader, or as something was wrong with them the last time.
func (s *Source) byLeader(ctx context.Context) (together map[int][]int, alone []int) {
	leaders := s.cluster.leaders(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	together = map[int][]int{}
	for _, g := range s.groups {
		leader, has := leaders.of(partition{s.topic, g})
		if !has || s.parts[g].ill {
			alone = append(alone, g)
			continue
		}
		together[leader] = append(together[leader], g)
	}
	return together, alone
}

// followMany fetches groups together until something goes wrong.
func (s *Source) followMany(ctx context.Context, groups []int) {
	for turn := 0; ctx.Err() == nil; turn++ {
		wishes, moved := s.wishes(groups, turn)
		if len(wishes) == 0 {
			select {
			case <-ctx.Done():
			case <-moved:
			}
			continue
		}
		caught, changed, err := s.poll(ctx, groups, wishes)
		switch {
		case changed:
			continue
		case err != nil && ctx.Err() == nil:
			s.log.Error("fetch will be tried again, group by group", "topic", string(s.topic), "groups", groups, "error", err)
			s.sicken(groups...)
			return
		}
		some, well := false, true
		for i := range caught {
			k := &caught[i]
			s.storeAhead(k)
			some = some || len(k.out) > 0
			if k.err != nil {
				s.log.Error("fetch will be tried again", "topic", string(s.topic), "group", k.group, "error", k.err)
				s.sicken(k.group)
				well = false
			}
		}
		if !well {
			return
		}
		if some { // what comes within a moment comes with one answer
			bus.Sleep(ctx, s.cluster.cfg.FetchGather)
		}
	}
}

// sicken marks groups to be followed alone for a while.
func (s *Source) sicken(groups ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range groups {
		s.parts[g].ill = true
	}
}

// recover marks a group as one that can be fetched with others again.
func (s *Source) recover(group int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts[group].ill = false
}

// wishes are what is to be fetched of some groups, each time beginning with another
// one: an answer has so many bytes, and the first ones must not take them all.
func (s *Source) wishes(groups []int, turn int) (out []wish, moved <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range groups {
		g := groups[(i+turn)%len(groups)]
		if p := &s.parts[g]; p.known && p.bytes < s.cluster.cfg.BufferBytesMax {
			out = append(out, wish{g, p.at})
		}
	}
	return out, s.moved
}

// poll fetches, unless meanwhile something else is wanted than what was asked for:
// then it gives up waiting for an answer, and changed is true.
func (s *Source) poll(ctx context.Context, groups []int, asked []wish) (caught []catch, changed bool, err error) {
	own, cancel := context.WithCancel(ctx)
	at := make(map[int]int64, len(asked))
	for _, w := range asked {
		at[w.group] = w.at
	}
	watched := make(chan bool, 1)
	go func() {
		for {
			now, moved := s.wishes(groups, 0)
			for _, w := range now {
				if was, has := at[w.group]; !has || was != w.at {
					cancel()
					watched <- true
					return
				}
			}
			select {
			case <-own.Done():
				watched <- false
				return
			case <-moved:
			}
		}
	}()
	caught, err = s.cluster.fetchMany(own, s.topic, asked)
	cancel()
	if changed = <-watched; changed && err == nil {
		changed = false // the answer was faster; what does not fit any more is not stored
	}
	return caught, changed, err
}
