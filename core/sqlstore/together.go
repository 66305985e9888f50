package sqlstore

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// together lets whoever waits for the database share one transaction: core reads
// three topics, and while one batch is committed, those of the others are
// gathered. A commit costs by the page, and the batches of a moment write to the
// same ones: counters, ends of logs, ends of tables.
type together struct {
	turn chan struct{} // held by whoever runs a transaction

	mu      sync.Mutex
	waiting []*job
}

// job is one Apply.
type job struct {
	batch  *bus.Batch
	want   core.Want
	decide func(*core.Work) error

	done bool // and err is what came of it; written and read by whoever has the turn
	err  error
}

func newTogether() *together { return &together{turn: make(chan struct{}, 1)} }

// run runs a job, and with it all that wait: by whoever gets the turn first.
func (g *together) run(ctx context.Context, j *job, all func([]*job)) error {
	g.mu.Lock()
	g.waiting = append(g.waiting, j)
	g.mu.Unlock()
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		if g.leave(j) {
			return fault.New(fault.Unavailable, "waiting to write", "%w", ctx.Err())
		}
		g.turn <- struct{}{} // another has taken it along, and tells what comes of it
	}
	defer func() { <-g.turn }()
	if j.done {
		return j.err
	}
	jobs := g.take()
	defer func() {
		for _, j := range jobs {
			if !j.done { // a panic: nobody knows how far it came
				j.done, j.err = true, fault.New(fault.Unknown, "write", "given up half-way")
			}
		}
	}()
	all(jobs)
	return j.err
}

// leave takes a job back that nobody has begun.
func (g *together) leave(j *job) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, j)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	return i >= 0
}

// take gives all that wait: what opens orders before what tells of them.
func (g *together) take() []*job {
	g.mu.Lock()
	defer g.mu.Unlock()
	jobs := g.waiting
	g.waiting = nil
	slices.SortStableFunc(jobs, func(a, b *job) int { return cmp.Compare(rank(a), rank(b)) })
	return jobs
}

// wanted is what all jobs want.
func wanted(jobs []*job) core.Want {
	if len(jobs) == 1 {
		return jobs[0].want
	}
	var w core.Want
	for _, j := range jobs {
		w.Trades = append(w.Trades, j.want.Trades...)
		w.Payments = append(w.Payments, j.want.Payments...)
		w.Keys = append(w.Keys, j.want.Keys...)
	}
	slices.Sort(w.Trades)
	slices.Sort(w.Payments)
	return core.Want{Trades: slices.Compact(w.Trades), Payments: slices.Compact(w.Payments), Keys: w.Keys}
}

func rank(j *job) int {
	switch j.batch.Topic {
	case bus.Intents:
		return 0
	case bus.Outcomes:
		return 1
	}
	return 2
}

// apply runs jobs in one transaction. If it fails, for whatever one of them
// brought, nothing was kept, and each is run on its own and gets its own error;
// but not when nobody knows whether it was kept.
func (s *Store) apply(ctx context.Context, jobs []*job) {
	if len(jobs) > 1 {
		ctx = context.WithoutCancel(ctx) // who leaves does not take the others along
		if err := s.transact(ctx, jobs); err == nil || fault.Is(err, fault.Unknown) {
			for _, j := range jobs {
				j.done, j.err = true, err
			}
			return
		}
	}
	for _, j := range jobs {
		j.err = s.transact(ctx, []*job{j})
		j.done = true
	}
}
