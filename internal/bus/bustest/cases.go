package bustest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

func orderByKey(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	for i := range 7 {
		f.publish(Events(fmt.Sprint("a", i), 10+3*i, 5))
	}
	f.drain(f.consumer(13))
	f.allOnce()
	byID := map[string]*bus.Event{}
	for i := range f.published {
		byID[f.published[i].ID] = &f.published[i]
	}
	for _, m := range f.effects() {
		e := byID[m.ID]
		if e == nil {
			f.Fatalf("%s was never published", m.ID)
		}
		if m.Topic != f.Source.Topic() || m.Type != e.Type || m.Version != e.Version || m.Context != e.Context ||
			m.AtMillis != e.AtMillis || !bytes.Equal(m.Payload, e.Payload) {
			f.Errorf("published %+v, received %+v", *e, m)
		}
	}
}

// read gives all messages of all groups, by plain reads.
func (f *fixture) read(group int) []bus.Message {
	f.Helper()
	var all []bus.Message
	for at := (bus.Place{}); ; {
		msgs, err := f.Source.Read(f.Context(), group, at, 7)
		if err != nil {
			f.Fatalf("read: %v", err)
		}
		if len(msgs) == 0 {
			return all
		}
		all = append(all, msgs...)
		at = msgs[len(msgs)-1].Place
	}
}

func sequences(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	for i := range 5 {
		f.publish(Events(fmt.Sprint("s", i), 20, 9))
	}
	total, groupOf := 0, map[string]int{}
	for g := range f.Source.Groups() {
		at, part := bus.Place{}, 0
		for _, m := range f.read(g) {
			next := m.Place.Seq == at.Seq+1 && m.Part == 0
			same := m.Place == at && m.Part == part+1
			if !next && !same || m.Group != g || m.Place.Epoch < 1 {
				f.Errorf("group %d: after %v part %d comes group %d %v part %d", g, at, part, m.Group, m.Place, m.Part)
			}
			if other, known := groupOf[key(&m.Event)]; known && other != g {
				f.Errorf("key %s is in groups %d and %d", key(&m.Event), g, other)
			}
			groupOf[key(&m.Event)] = g
			at, part = m.Place, m.Part
			total++
		}
		if head := f.Source.Head(g); head != at {
			f.Errorf("group %d ends at %v, its head is %v", g, at, head)
		}
	}
	if total != len(f.published) {
		f.Errorf("%d messages in all groups, want %d", total, len(f.published))
	}
}

func concurrentWriters(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 15 {
				if err := f.Publish(f.Context(), Events(fmt.Sprintf("w%d_%03d", w, i), 6, 3)); err != nil {
					f.Errorf("publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	f.drain(f.consumer(50))
	last, seen := map[string]string{}, map[string]bool{}
	for _, m := range f.effects() {
		writer := key(&m.Event) + m.ID[:6]
		if m.ID <= last[writer] {
			f.Errorf("%s after %s", m.ID, last[writer])
		}
		last[writer] = m.ID
		seen[m.ID] = true
	}
	if len(seen) != 4*15*6 {
		f.Errorf("%d events, want %d", len(seen), 4*15*6)
	}
}

func failedTransaction(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	if f.PublishAndFail == nil {
		return
	}
	f.publish(Events("a", 5, 3))
	for range 3 {
		if err := f.PublishAndFail(f.Context(), Events("never", 5, 3)); err == nil {
			f.Errorf("a transaction that fails was reported as committed")
		}
	}
	f.publish(Events("b", 5, 3))
	c := f.consumer(100)
	f.drain(c)
	f.allOnce()
	if s := c.Stopped(); len(s) > 0 {
		f.Errorf("a rollback left a gap: groups %v stopped", s)
	}
}

func readBounds(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	for i := range 12 {
		f.publish(Events(fmt.Sprint("r", i), 3, 1))
	}
	group := -1
	for g := range f.Source.Groups() {
		if f.Source.Head(g).Seq > 0 {
			group = g
		}
	}
	if group < 0 {
		f.Fatalf("no group has a head after publishing")
	}
	all := f.read(group)
	for _, limit := range []int{1, 2, 4, 1000} {
		msgs, err := f.Source.Read(f.Context(), group, bus.Place{}, limit)
		if err != nil || len(msgs) == 0 {
			f.Fatalf("read at most %d: %d messages, %v", limit, len(msgs), err)
		}
		end := msgs[len(msgs)-1].Place
		whole, before := 0, 0
		for i := range all {
			if all[i].Place.Seq <= end.Seq {
				whole++
			}
			if all[i].Place.Seq < end.Seq {
				before++
			}
		}
		if len(msgs) != whole {
			f.Errorf("a read of at most %d gave %d messages: its last place has more", limit, len(msgs))
		}
		if before >= limit {
			f.Errorf("a read of at most %d gave %d messages before its last place", limit, before)
		}
	}
	msgs, err := f.Source.Read(f.Context(), group, f.Source.Head(group), 10)
	if err != nil || len(msgs) != 0 {
		f.Errorf("behind the head: %d messages, %v", len(msgs), err)
	}
}

func reopening(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	for i := range 10 {
		f.publish(Events(fmt.Sprint("a", i), 7, 5))
		if i == 4 {
			f.drain(f.consumer(20))
		}
		f.reopen(nil)
	}
	f.drain(f.consumer(20))
	f.reopen(nil)
	f.drain(f.consumer(20)) // starts from the stored places: nothing again
	f.allOnce()
}

func redelivery(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	f.publish(Events("a", 30, 5))
	for _, after := range []bool{false, true} { // the batch fails before, or is committed and the answer lost
		c := f.consumer(4)
		c.Apply = func(ctx context.Context, b *bus.Batch) error {
			if after {
				if err := f.Apply(ctx, b); err != nil {
					return err
				}
			}
			return errors.New("the test fails it")
		}
		if _, err := c.Step(f.Context()); err == nil {
			f.Errorf("a failed batch was reported as applied")
		}
		c.Apply = f.Apply
		for range 2 { // an answer that was lost fences the first try
			if err := drain(f.Context(), c); err != nil && !fault.Is(err, fault.Fenced) {
				f.Fatalf("consume: %v", err)
			}
		}
		f.publish(Events(fmt.Sprint("b", after), 10, 5))
	}
	f.drain(f.consumer(100))
	f.allOnce()
}

// crash is what the points panic with.
type crash struct{ point string }

func crashAnywhere(tb testing.TB, open Open) {
	for at := 1; ; at++ {
		f := newFixture(tb, open)
		f.publish(Events("a", 9, 4))
		passed := 0
		f.reopen(func(point string) {
			if passed++; passed == at {
				panic(crash{point})
			}
		})
		point := f.untilCrash(func() {
			c := f.consumer(4)
			f.drain(c)
			_ = f.Publish(f.Context(), Events("maybe", 5, 4))
			f.drain(c)
		})
		f.reopen(nil) // fails if the crash left a lock behind
		f.drain(f.consumer(4))
		maybe := 0
		for _, m := range f.effects() {
			if len(m.ID) > 9 && m.ID[4:9] == "maybe" {
				maybe++
			}
		}
		if maybe != 0 {
			f.published = append(f.published, Events("maybe", 5, 4)...) // all or none
		}
		f.allOnce()
		if point == "" {
			if at < 3 {
				f.Errorf("only %d points were passed: nothing was tested", at-1)
			}
			return
		}
	}
}

// untilCrash runs fn and gives the point at which it crashed, or nothing.
func (f *fixture) untilCrash(fn func()) (point string) {
	defer func() {
		if r := recover(); r != nil {
			c, ours := r.(crash)
			if !ours {
				panic(r)
			}
			point = c.point
		}
	}()
	fn()
	return ""
}

func fences(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	r := rand.New(rand.NewPCG(7, 11))
	consumers := []*bus.Consumer{f.consumer(3), f.consumer(5), f.consumer(100)}
	fenced := 0
	for i := range 40 {
		f.publish(Events(fmt.Sprintf("f%02d", i), 1+r.IntN(8), 5))
		for range r.IntN(6) {
			_, err := consumers[r.IntN(len(consumers))].Step(f.Context())
			switch {
			case fault.Is(err, fault.Fenced):
				fenced++
			case err != nil:
				f.Fatalf("consume: %v", err)
			}
		}
	}
	for range 2 {
		for _, c := range consumers {
			if err := drain(f.Context(), c); err != nil && !fault.Is(err, fault.Fenced) {
				f.Fatalf("consume: %v", err)
			}
		}
	}
	for i, c := range consumers { // one that was fenced has started again from the stored places
		if err := drain(f.Context(), c); err != nil {
			f.Errorf("consumer %d does not find back: %v", i, err)
		}
	}
	f.allOnce()
	if fenced == 0 {
		f.Errorf("no consumer was ever fenced: both moved the same place")
	}
}

func wakeUps(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	wake, cancel := f.Source.Subscribe()
	idle, cancelIdle := f.Source.Subscribe() // never reads: must hold up nobody
	for i := range 3 {
		f.publish(Events(fmt.Sprint("w", i), 2, 2))
		select {
		case <-wake:
		default:
			f.Errorf("no wake-up after a publish")
		}
	}
	select {
	case <-idle:
	default:
		f.Errorf("a wake-up was lost on one who did not wait for it")
	}
	cancel()
	cancelIdle()
	f.publish(Events("last", 2, 2))
	select {
	case <-wake:
		f.Errorf("a wake-up after cancel")
	default:
	}
}

func heads(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	for g := range f.Source.Groups() {
		if h := f.Source.Head(g); h.Seq != 0 {
			f.Errorf("an empty group has a head %v", h)
		}
	}
	f.publish(Events("a", 20, 9))
	before := make([]bus.Place, f.Source.Groups())
	for g := range before {
		before[g] = f.Source.Head(g)
	}
	f.reopen(nil)
	if err := f.Source.Refresh(f.Context()); err != nil {
		f.Fatalf("refresh: %v", err)
	}
	for g := range before {
		if h := f.Source.Head(g); h != before[g] {
			f.Errorf("group %d: head %v after reopening, %v before", g, h, before[g])
		}
	}
}

func full(tb testing.TB, open Open) {
	f := newFixture(tb, open)
	if !f.Bounded {
		return
	}
	refused := false
	for i := 0; i < 1_000 && !refused; i++ {
		events := Events(fmt.Sprintf("p%05d", i), 20, 7)
		switch err := f.Publish(f.Context(), events); {
		case fault.Is(err, fault.Unavailable):
			refused = true
		case err != nil:
			f.Fatalf("publish: %v", err)
		default:
			f.published = append(f.published, events...)
		}
	}
	if !refused {
		f.Fatalf("%d events are unread, and more are taken", len(f.published))
	}
	f.drain(f.consumer(100))
	f.publish(Events("after", 5, 7)) // recovered, as all is read
	f.drain(f.consumer(100))
	f.allOnce()
}
