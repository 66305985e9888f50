package kafka

import (
	"context"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
)

// lane is what appends to one partition, one request after the other. No two of its
// methods run at the same time.
type lane interface {
	partition() partition
	// open makes known what must be known before anything is appended. It is called
	// until it gives no error.
	open(ctx context.Context) error
	// waiting says whether load would give something.
	waiting() bool
	// load gives what is to be appended next. It asks no broker: all lanes wait
	// meanwhile.
	load(ctx context.Context) ([]kafka.Record, error)
	// appended tells what came of what load gave, if it gave something, and at which
	// offset it begins if there is no error.
	appended(first int64, err error)
}

// shipper appends what waits in lanes. What one broker leads goes with one request at
// a time: a request costs the brokers and us nearly the same for one partition and for
// many, and its answer waits for the slowest of them. A lane with which something went
// wrong is shipped alone until it is well again, so that it holds up the others once.
type shipper struct {
	cluster *Cluster
	// gather is the least time from one request to a broker to the next: what comes
	// meanwhile goes together.
	gather time.Duration
	// failed, unless nil, is told what went wrong with a lane, how often in a row, and
	// gives the pause before it is tried again.
	failed func(l lane, times int, err error) time.Duration
	lanes  []*laneState
	wake   chan struct{} // something may wait

	mu      sync.Mutex   // guards what follows, and the lanes' states
	sending map[int]bool // brokers that have a request, or for which one gathers
	later   bool         // stir comes by itself
}

type laneState struct {
	lane
	opened   bool
	busy     bool // is opened, shipped, or pauses
	failures int  // in a row; not 0: it goes alone
}

func newShipper(c *Cluster, gather time.Duration, lanes []lane) *shipper {
	s := &shipper{cluster: c, gather: gather, wake: make(chan struct{}, 1), sending: map[int]bool{}}
	for _, l := range lanes {
		s.lanes = append(s.lanes, &laneState{lane: l})
	}
	return s
}

// stir makes run look what waits.
func (s *shipper) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// stirIn makes run look within a time, and not again for who comes meanwhile.
func (s *shipper) stirIn(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.later {
		return
	}
	s.later = true
	time.AfterFunc(d, func() {
		s.mu.Lock()
		s.later = false
		s.mu.Unlock()
		s.stir()
	})
}

// run ships until ctx ends, and whatever is under way has ended.
func (s *shipper) run(ctx context.Context) {
	var under sync.WaitGroup
	defer under.Wait()
	for turn := 0; ctx.Err() == nil; turn++ {
		s.begin(ctx, turn, &under)
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
	}
}

// once opens what is not open, ships at most one request of each lane, and waits for
// all of it.
func (s *shipper) once(ctx context.Context) {
	var under sync.WaitGroup
	for range 2 {
		s.begin(ctx, 0, &under)
		under.Wait()
	}
}

// requestBatches is how many full batches a request has at most.
const requestBatches = 8

// begin opens lanes, and ships what waits in them, each time beginning with another
// one: a request has so many bytes, and the first ones must not take them all.
func (s *shipper) begin(ctx context.Context, turn int, under *sync.WaitGroup) {
	known := sync.OnceValue(func() leaders { return s.cluster.leaders(ctx) })
	requests, bytes := map[int][]cargo{}, map[int]int{}
	for i := range s.lanes {
		n := (i + turn) % len(s.lanes)
		l := s.lanes[n]
		opened, idle := s.state(l)
		switch {
		case !idle:
			continue
		case !opened:
			s.mark(l, true)
			under.Go(func() { s.settle(ctx, l, l.open(ctx), under) })
			continue
		case !l.waiting():
			continue
		}
		c := cargo{partition: l.partition(), lane: l}
		broker, has := known().of(c.partition)
		if !has || l.failures > 0 {
			broker = -1 - n // nobody goes with it
		}
		if s.isSending(broker) || bytes[broker] >= requestBatches*s.cluster.cfg.BatchBytesMax {
			continue
		}
		var err error
		if c.records, err = l.load(ctx); err == nil && len(c.records) == 0 {
			continue
		}
		s.mark(l, true)
		if err != nil {
			s.settle(ctx, l, err, under)
			continue
		}
		for j := range c.records {
			bytes[broker] += recordBytes(&c.records[j])
		}
		requests[broker] = append(requests[broker], c)
	}
	for broker, cargos := range requests {
		s.mu.Lock()
		s.sending[broker] = true
		s.mu.Unlock()
		under.Go(func() { s.ship(ctx, broker, cargos, under) })
	}
}

// ship sends one request, and frees the broker for the next one when it is time.
func (s *shipper) ship(ctx context.Context, broker int, cargos []cargo, under *sync.WaitGroup) {
	gathered := time.NewTimer(s.gather)
	defer gathered.Stop()
	s.cluster.produce(ctx, cargos)
	for i := range cargos {
		c := &cargos[i]
		c.lane.appended(c.first, c.err)
		s.settle(ctx, c.lane, c.err, under)
	}
	select {
	case <-ctx.Done():
	case <-gathered.C:
	}
	s.mu.Lock()
	delete(s.sending, broker)
	s.mu.Unlock()
	s.stir()
}

// settle frees a lane: after an error behind a pause.
func (s *shipper) settle(ctx context.Context, l *laneState, err error, under *sync.WaitGroup) {
	s.mu.Lock()
	l.failures++
	if err == nil {
		l.opened, l.failures = true, 0
	}
	times := l.failures
	s.mu.Unlock()
	pause := time.Duration(0)
	if err != nil && s.failed != nil && ctx.Err() == nil {
		pause = s.failed(l.lane, times, err)
	}
	free := func() {
		s.mark(l, false)
		s.stir()
	}
	if pause == 0 {
		free()
		return
	}
	under.Go(func() {
		bus.Sleep(ctx, pause)
		free()
	})
}

func (s *shipper) state(l *laneState) (opened, idle bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.opened, !l.busy
}

func (s *shipper) mark(l *laneState, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.busy = busy
}

func (s *shipper) isSending(broker int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sending[broker]
}
