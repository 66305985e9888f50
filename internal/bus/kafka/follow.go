package kafka

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
)

// Run is FetchAhead of this source alone.
func (s *Source) Run(ctx context.Context, backoffMax time.Duration) error {
	return FetchAhead(ctx, backoffMax, s)
}

// FetchAhead fetches ahead of the readers of some sources, each of another topic, until
// ctx ends: at most BufferBytesMax of each group and one answer. What one broker leads is
// fetched together, of all topics; groups with which something is wrong each for itself,
// so that they hold up no other. Errors are logged and tried again. Sources are of one
// Cluster.
func FetchAhead(ctx context.Context, backoffMax time.Duration, sources ...*Source) error {
	if len(sources) == 0 {
		<-ctx.Done()
		return nil
	}
	a := &ahead{cluster: sources[0].cluster, log: sources[0].log, sources: map[bus.Topic]*Source{}, backoffMax: backoffMax, moved: &bus.Wakes{}}
	for _, s := range sources {
		s.mu.Lock()
		s.moved = a.moved
		s.mu.Unlock()
		a.sources[s.topic] = s
		for _, g := range s.groups {
			a.all = append(a.all, partition{s.topic, g})
		}
	}
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		if well := a.once(ctx); well {
			backoff = 0
			continue
		}
		backoff = min(max(2*backoff, 10*time.Millisecond), backoffMax)
		bus.Sleep(ctx, backoff)
	}
	return nil
}

// ahead is what FetchAhead works on.
type ahead struct {
	cluster    *Cluster
	log        *slog.Logger
	sources    map[bus.Topic]*Source
	all        []partition
	backoffMax time.Duration
	moved      *bus.Wakes // of all sources
}

// once follows all partitions until something goes wrong with one of those that are
// fetched together, or until all with which something was wrong are well again: then it
// says so.
func (a *ahead) once(ctx context.Context) (well bool) {
	together, alone := a.byLeader(ctx)
	own, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	over := make(chan bool, len(together)+1)
	for _, parts := range together {
		wg.Go(func() {
			a.followMany(own, parts)
			over <- false
		})
	}
	var mu sync.Mutex
	ill := len(alone)
	for _, p := range alone {
		wg.Go(func() {
			a.followOne(own, p, sync.OnceFunc(func() {
				a.sources[p.topic].sicken(p.group, false)
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

// byLeader divides the partitions: those of each broker, and those to be followed alone,
// as they have no leader, or as something was wrong with them the last time.
func (a *ahead) byLeader(ctx context.Context) (together map[int][]partition, alone []partition) {
	leaders := a.cluster.leaders(ctx)
	together = map[int][]partition{}
	for _, p := range a.all {
		leader, has := leaders.of(p)
		if !has || a.sources[p.topic].isIll(p.group) {
			alone = append(alone, p)
			continue
		}
		together[leader] = append(together[leader], p)
	}
	return together, alone
}

// followMany fetches partitions together until something goes wrong.
func (a *ahead) followMany(ctx context.Context, parts []partition) {
	moved, cancel := a.moved.Subscribe()
	defer cancel()
	for turn := 0; ctx.Err() == nil; turn++ {
		wishes := a.wishes(parts, turn)
		if len(wishes) == 0 {
			select {
			case <-ctx.Done():
			case <-moved:
			}
			continue
		}
		caught, changed, err := a.poll(ctx, parts, wishes, moved)
		switch {
		case changed:
			continue
		case err != nil && ctx.Err() == nil:
			a.log.Error("fetch will be tried again, group by group", "partitions", len(parts), "error", err)
			for _, p := range parts {
				a.sources[p.topic].sicken(p.group, true)
			}
			return
		}
		some, well := false, true
		for i := range caught {
			k := &caught[i]
			s := a.sources[k.topic]
			s.storeAhead(k)
			some = some || len(k.out) > 0
			if k.err != nil {
				a.log.Error("fetch will be tried again", "topic", string(k.topic), "group", k.group, "error", k.err)
				s.sicken(k.group, true)
				well = false
			}
		}
		if !well {
			return
		}
		if some { // what comes within a moment comes with one answer
			bus.Sleep(ctx, a.cluster.cfg.FetchGather)
		}
	}
}

// followOne fetches one partition until ctx ends. well is called when it was fetched.
func (a *ahead) followOne(ctx context.Context, p partition, well func()) {
	moved, cancel := a.moved.Subscribe()
	defer cancel()
	s := a.sources[p.topic]
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		w, ok := s.next(p.group)
		if !ok {
			select {
			case <-ctx.Done():
			case <-moved:
			}
			continue
		}
		k := a.cluster.fetch(ctx, w)
		s.storeAhead(&k)
		if err := k.err; err != nil && ctx.Err() == nil {
			backoff = min(max(2*backoff, 10*time.Millisecond), a.backoffMax)
			a.log.Error("fetch will be tried again", "topic", string(p.topic), "group", p.group, "error", err, "backoff_millis", backoff.Milliseconds())
			bus.Sleep(ctx, backoff)
			continue
		}
		backoff = 0
		if k.err == nil {
			well()
		}
	}
}

// wishes are what is to be fetched of some partitions, each time beginning with another
// one: an answer has so many bytes, and the first ones must not take them all.
func (a *ahead) wishes(parts []partition, turn int) (out []wish) {
	for i := range parts {
		p := parts[(i+turn)%len(parts)]
		if w, ok := a.sources[p.topic].next(p.group); ok {
			out = append(out, w)
		}
	}
	return out
}

// poll fetches, unless meanwhile something else is wanted than what was asked for: then
// it gives up waiting for an answer, and changed is true.
func (a *ahead) poll(ctx context.Context, parts []partition, asked []wish, moved <-chan struct{}) (caught []catch, changed bool, err error) {
	own, cancel := context.WithCancel(ctx)
	at := make(map[partition]int64, len(asked))
	for _, w := range asked {
		at[w.partition] = w.at
	}
	watched := make(chan bool, 1)
	go func() {
		for {
			for _, w := range a.wishes(parts, 0) {
				if was, has := at[w.partition]; !has || was != w.at {
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
	caught, err = a.cluster.fetchMany(own, asked)
	cancel()
	if changed = <-watched; changed && err == nil {
		changed = false // the answer was faster; what does not fit any more is not stored
	}
	return caught, changed, err
}
