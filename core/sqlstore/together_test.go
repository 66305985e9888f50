package sqlstore_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/storetest"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// task is one Apply of a test.
type task struct {
	leaves bool // as soon as it waits
	batch  *bus.Batch
	want   core.Want
	decide func(*core.Work) error
}

// atOnce applies tasks while another batch is being applied, so that they all
// wait together, and gives the error of each and the number of commits for them.
func atOnce(t *testing.T, s store, tasks ...task) ([]error, uint64) {
	t.Helper()
	begun, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.Apply(t.Context(), &bus.Batch{}, core.Want{}, func(*core.Work) error {
			close(begun)
			<-release
			return nil
		})
	})
	<-begun
	errs := make([]error, len(tasks))
	waiting := 0
	wait := func() {
		for s.Waiting() != waiting {
			runtime.Gosched()
		}
	}
	for i, k := range tasks {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		waiting++
		wg.Go(func() { errs[i] = s.Apply(ctx, k.batch, k.want, k.decide) })
		wait()
		if k.leaves {
			cancel()
			waiting--
			wait()
		}
	}
	before := s.DB().Commits()
	close(release)
	wg.Wait()
	return errs, uint64(s.DB().Commits() - before - 1)
}

func moves(topic bus.Topic, group int, from, to int64) *bus.Batch {
	f := bus.Place{}
	if from > 0 {
		f = bus.Place{Epoch: 1, Seq: from}
	}
	return &bus.Batch{Topic: topic, Moves: []bus.Move{{Group: group, From: f, To: bus.Place{Epoch: 1, Seq: to}}}}
}

// adds opens a trade, told as the suite does.
func adds(order string) func(*core.Work) error {
	return func(w *core.Work) error {
		tr := storetest.Trade(order)
		w.Add(tr)
		w.Payments = append(w.Payments, storetest.Changed(tr.Payments[0], -1))
		return nil
	}
}

// pays changes the status of an order's payment, which must be known by then.
func pays(order string, to event.Status) (core.Want, func(*core.Work) error) {
	x := storetest.Trade(order).Context.BizCode
	return core.Want{Trades: []ids.Code{x}}, func(w *core.Work) error {
		for _, tr := range w.Trades() {
			if tr.Context.BizCode != x {
				continue
			}
			p := tr.Payments[0]
			p.Status, p.Version = to, p.Version+1
			if to.Final() {
				p.NextAction, p.NextAtMillis = "", 0
			}
			w.Payments = append(w.Payments, storetest.Changed(p, -1))
			return nil
		}
		return &bus.PoisonError{Err: fmt.Errorf("%s: %w", order, core.ErrNoPayment)}
	}
}

// Batches that wait together are one commit, each with its places; and what
// opens an order goes before what tells of it, whoever came first.
func TestTogetherIsOneCommit(t *testing.T) {
	s := open(t).(store)
	pendingWant, pending := pays("o1", event.Pending)
	declinedWant, declined := pays("o1", event.Declined)
	errs, commits := atOnce(t, s,
		task{batch: moves(bus.Callbacks, 0, 0, 4), want: declinedWant, decide: declined},
		task{batch: moves(bus.Outcomes, 3, 0, 7), want: pendingWant, decide: pending},
		task{batch: moves(bus.Intents, 0, 0, 1), decide: adds("o1")})
	if err := errors.Join(errs...); err != nil || commits != 1 {
		t.Fatalf("%d commits, %v", commits, err)
	}
	for topic, want := range map[bus.Topic]map[int]int64{bus.Intents: {0: 1}, bus.Outcomes: {3: 7}, bus.Callbacks: {0: 4}} {
		places, err := s.Places(t.Context(), topic)
		for g, seq := range want {
			if err != nil || places[g].Seq != seq {
				t.Errorf("%s: places %v, want %v (%v)", topic, places, want, err)
			}
		}
	}
	tr, err := s.Trade(t.Context(), storetest.Trade("o1").Context.BizCode)
	if err != nil || tr.Payments[0].Status != event.Declined || tr.Payments[0].Version != 3 {
		t.Errorf("%+v, %v", tr, err)
	}
	if r, err := s.Verify(t.Context()); err != nil || r.Violated != 0 || r.Events != 3 {
		t.Errorf("verify %+v %v", r, err)
	}
}

// Whatever is wrong with one batch is its own affair: the others are applied.
func TestTogetherEachHasItsOwnError(t *testing.T) {
	no := errors.New("no")
	missingWant, missing := pays("nowhere", event.Pending)
	for name, c := range map[string]struct {
		bad  task
		like func(error) bool
	}{
		"decides against it": {task{batch: &bus.Batch{}, decide: func(*core.Work) error { return no }}, func(err error) bool { return errors.Is(err, no) }},
		"poison": {task{batch: moves(bus.Callbacks, 0, 0, 1), want: missingWant, decide: missing},
			func(err error) bool { var p *bus.PoisonError; return errors.As(err, &p) }},
		"fenced":    {task{batch: moves(bus.Callbacks, 0, 5, 6), decide: adds("fenced")}, func(err error) bool { return fault.Is(err, fault.Fenced) }},
		"conflict":  {task{batch: &bus.Batch{}, decide: adds("before")}, func(err error) bool { return fault.Is(err, fault.Conflict) }},
		"has left":  {task{leaves: true, batch: &bus.Batch{}, decide: adds("left")}, func(err error) bool { return fault.Is(err, fault.Unavailable) }},
		"nothing":   {task{batch: &bus.Batch{}, decide: func(*core.Work) error { return nil }}, func(err error) bool { return err == nil }},
		"the first": {task{batch: moves(bus.Intents, 9, 1, 2), decide: adds("first")}, func(err error) bool { return fault.Is(err, fault.Fenced) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t).(store)
			storetest.Put(t, s, storetest.Trade("before"))
			good := []task{{batch: moves(bus.Intents, 0, 0, 1), decide: adds("a")}, {batch: moves(bus.Outcomes, 0, 0, 1), decide: adds("b")}}
			errs, _ := atOnce(t, s, good[0], c.bad, good[1])
			if errs[0] != nil || errs[2] != nil || !c.like(errs[1]) {
				t.Fatalf("errors %v", errs)
			}
			for _, order := range []string{"a", "b"} {
				if tr, err := s.Trade(t.Context(), storetest.Trade(order).Context.BizCode); err != nil || tr == nil {
					t.Errorf("%s: %v, %v", order, tr, err)
				}
			}
			if tr, _ := s.Trade(t.Context(), storetest.Trade("fenced").Context.BizCode); tr != nil {
				t.Error("a fenced batch kept a trade")
			}
			if r, err := s.Verify(t.Context()); err != nil || r.Violated != 0 {
				t.Errorf("verify %+v %v", r, err)
			}
		})
	}
}
