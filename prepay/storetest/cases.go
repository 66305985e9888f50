package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/prepay"
)

func everyField(t testing.TB, h Harness) {
	c := makeCall("full", func(c *prepay.Call) {
		c.Subject, c.ReturnURL, c.ExpiresAtMillis, c.HasCredential = "tea \"'; --", "https://x.example/?a=b", 99, true
	})
	must(t, change(h, prepay.Change{Insert: []prepay.Call{c}}))
	have, _ := find(t, h.Store, c.OutTradeNo)
	if have.ID == 0 || have.Version == 0 {
		t.Errorf("id %d, version %d: both are the store's to give", have.ID, have.Version)
	}
	c.ID, c.Version = have.ID, have.Version
	if have != c {
		t.Errorf("inserted: have %+v\nwant %+v", have, c)
	}
	c.NotifyURL, c.Status, c.Op, c.Standing, c.NextAtMillis, c.Asks, c.Tries = "https://n.example", prepay.Sending, event.OpClose, prepay.Pending, 0, 7, 8
	c.CloseWanted, c.StopWanted, c.AskWanted, c.HasCredential = true, true, true, false
	c.LastResult, c.LastState, c.LastCode, c.Owner = channels.Done, channels.StateNotFound, "code", "inc_2"
	c.SentAtMillis, c.DeskAtMillis = 11, 12
	must(t, change(h, prepay.Change{Update: []prepay.Call{c}}))
	have, _ = find(t, h.Store, c.OutTradeNo)
	if have.Version <= c.Version {
		t.Errorf("the version went from %d to %d", c.Version, have.Version)
	}
	c.Version = have.Version
	if have != c {
		t.Errorf("updated: have %+v\nwant %+v", have, c)
	}
}

func unique(t testing.TB, h Harness) {
	c := makeCall("one")
	must(t, change(h, prepay.Change{Insert: []prepay.Call{c}}))
	other := c
	other.Subject = "another"
	err := change(h, prepay.Change{Insert: []prepay.Call{makeCall("two"), other}})
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("a second row of a number: have %v, want conflict", err)
	}
	if _, ok := find(t, h.Store, makeCall("two").OutTradeNo); ok {
		t.Error("the rest of the refused change was kept")
	}
	if have, _ := find(t, h.Store, c.OutTradeNo); have.Subject != "" {
		t.Error("the first row was overwritten")
	}
}

func whole(t testing.TB, h Harness) {
	a, b := makeCall("a"), makeCall("b")
	must(t, change(h, prepay.Change{Insert: []prepay.Call{a}, Batch: batchAt(0, 3), Events: []bus.Event{outcomeOf(&a, 1)}}))
	if h.Places()[1].Seq != 3 || len(h.Outcomes()) != 1 {
		t.Fatalf("places %v, %d events: want 3 and 1", h.Places(), len(h.Outcomes()))
	}
	broken := outcomeOf(&b, 2)
	broken.Context.Merchant = "" // no event without its context: refused by the last statement
	if err := change(h, prepay.Change{Insert: []prepay.Call{b}, Batch: batchAt(3, 4), Events: []bus.Event{broken}}); err == nil {
		t.Fatal("an event without a merchant was taken")
	}
	if _, ok := find(t, h.Store, b.OutTradeNo); ok || h.Places()[1].Seq != 3 || len(h.Outcomes()) != 1 {
		t.Errorf("half a change was kept: row %v, places %v, %d events", ok, h.Places(), len(h.Outcomes()))
	}
}

func decisionError(t testing.TB, h Harness) {
	wrong := errors.New("wrong")
	c := makeCall("a")
	err := h.Store.Update(context.Background(), prepay.Pick{Numbers: []string{c.OutTradeNo}}, func(prepay.Picked) (prepay.Change, error) {
		return prepay.Change{Insert: []prepay.Call{c}}, wrong
	})
	if !errors.Is(err, wrong) {
		t.Errorf("have %v, want the decision's error", err)
	}
	if _, ok := find(t, h.Store, c.OutTradeNo); ok {
		t.Error("its change was kept")
	}
}

func staleCall(t testing.TB, h Harness) {
	must(t, change(h, prepay.Change{Insert: []prepay.Call{makeCall("a"), makeCall("b")}}))
	a, _ := find(t, h.Store, makeCall("a").OutTradeNo)
	b, _ := find(t, h.Store, makeCall("b").OutTradeNo)
	stale := a
	isSending(&a)
	must(t, change(h, prepay.Change{Update: []prepay.Call{a}}))
	stale.Tries, b.Tries = 5, 5
	err := change(h, prepay.Change{Update: []prepay.Call{b, stale}})
	if !fault.Is(err, fault.Fenced) {
		t.Errorf("have %v, want fenced", err)
	}
	a, _ = find(t, h.Store, a.OutTradeNo)
	b, _ = find(t, h.Store, b.OutTradeNo)
	if a.Tries != 0 || a.Status != prepay.Sending || b.Tries != 0 {
		t.Errorf("a stale change was kept: %+v, %+v", a, b)
	}
}

func placeFence(t testing.TB, h Harness) {
	must(t, change(h, prepay.Change{Batch: batchAt(0, 2)}))
	for _, b := range []*bus.Batch{batchAt(0, 2), batchAt(0, 3), batchAt(1, 3)} {
		c := makeCall("a")
		if err := change(h, prepay.Change{Insert: []prepay.Call{c}, Batch: b}); !fault.Is(err, fault.Fenced) {
			t.Errorf("%+v: have %v, want fenced", b.Moves, err)
		}
		if _, ok := find(t, h.Store, c.OutTradeNo); ok {
			t.Errorf("%+v: its change was kept", b.Moves)
		}
	}
	must(t, change(h, prepay.Change{Batch: batchAt(2, 3)}))
}

func race(t testing.TB, h Harness) {
	stores := []prepay.Store{h.Store, h.Second()}
	for round := range int64(20) {
		c := makeCall(fmt.Sprint("race", round))
		var errs [2]error
		var wg sync.WaitGroup
		for i, s := range stores {
			wg.Go(func() {
				errs[i] = s.Update(context.Background(), prepay.Pick{Numbers: []string{c.OutTradeNo}}, func(p prepay.Picked) (prepay.Change, error) {
					ch := prepay.Change{Batch: batchAt(round, round+1), Events: []bus.Event{outcomeOf(&c, int(round)+1)}}
					if len(p.Calls) == 0 {
						ch.Insert = []prepay.Call{c}
					}
					return ch, nil
				})
			})
		}
		wg.Wait()
		lost := errors.Join(errs[:]...) // a lease keeps the second one out before it can come to a conflict
		if (errs[0] == nil) == (errs[1] == nil) || !fault.Is(lost, fault.Fenced) && !(h.Leased && fault.Is(lost, fault.Conflict)) {
			t.Fatalf("round %d: %v and %v, want one fenced", round, errs[0], errs[1])
		}
	}
	if n := len(h.Outcomes()); n != 20 {
		t.Errorf("%d events of 20 batches", n)
	}
}

func dueOrder(t testing.TB, h Harness) {
	names := map[string]string{}
	var in []prepay.Call
	for i, next := range []int64{30, 10, 20, 10, 31} {
		c := makeCall(fmt.Sprint(i), at("a", next))
		names[c.OutTradeNo] = fmt.Sprint(i)
		in = append(in, c)
	}
	out := makeCall("out", isSending)
	over := makeCall("over", isPaid)
	must(t, change(h, prepay.Change{Insert: append(in, out, over)}))
	found := pick(t, h, prepay.Pick{Due: []prepay.DueOf{{Account: "a", Limit: 9}}, NowMillis: 30})
	if have := orders(found.Calls, names); !slices.Equal(have, []string{"1", "3", "2", "0"}) {
		t.Errorf("have %v, want those due at 30 by time and age: 1 3 2 0", have)
	}
}

func dueLimit(t testing.TB, h Harness) {
	var in []prepay.Call
	for i := range 9 {
		in = append(in, makeCall(fmt.Sprint(i), at([]string{"a", "b", "c"}[i%3], 10)))
	}
	must(t, change(h, prepay.Change{Insert: in}))
	found := pick(t, h, prepay.Pick{Due: []prepay.DueOf{{Account: "a", Limit: 2}, {Account: "c", Limit: 1}}, NowMillis: 10})
	var have []string
	for i := range found.Calls {
		have = append(have, found.Calls[i].Account)
	}
	if !slices.Equal(have, []string{"a", "a", "c"}) {
		t.Errorf("have %v, want a a c", have)
	}
}

func nextDue(t testing.TB, h Harness) {
	must(t, change(h, prepay.Change{Insert: []prepay.Call{makeCall("1", at("a", 10)), makeCall("2", at("a", 50)), makeCall("3", at("a", 40)),
		makeCall("4", at("b", 10))}}))
	found := pick(t, h, prepay.Pick{Due: []prepay.DueOf{{Account: "a", Limit: 5}, {Account: "b", Limit: 5}}, NowMillis: 10})
	if !slices.Equal(found.NextAtMillis, []int64{40, 0}) {
		t.Errorf("have %v, want 40 and none", found.NextAtMillis)
	}
}

func expired(t testing.TB, h Harness) {
	expires := func(millis int64) func(*prepay.Call) {
		return func(c *prepay.Call) { c.ExpiresAtMillis = millis }
	}
	later := func(c *prepay.Call) { c.NextAtMillis = 1000 }
	seen := func(c *prepay.Call) { c.Standing = prepay.Unknown }
	yes := []prepay.Call{makeCall("1", expires(20), later), makeCall("2", expires(10))}
	no := []prepay.Call{makeCall("3", expires(21)), makeCall("4"), makeCall("5", expires(10), seen), makeCall("6", expires(10), isSending)}
	must(t, change(h, prepay.Change{Insert: append(slices.Clone(yes), no...)}))
	found := pick(t, h, prepay.Pick{Expired: true, NowMillis: 20, Limit: 10})
	if len(found.Calls) != 2 || found.Calls[0].OutTradeNo != yes[1].OutTradeNo || found.Calls[1].OutTradeNo != yes[0].OutTradeNo {
		t.Errorf("have %+v, want the two that were never sent and expired by 20, the earlier first", found.Calls)
	}
	if n := len(pick(t, h, prepay.Pick{Expired: true, NowMillis: 20, Limit: 1}).Calls); n != 1 {
		t.Errorf("%d calls, limit 1", n)
	}
}

func sending(t testing.TB, h Harness) {
	must(t, change(h, prepay.Change{Insert: []prepay.Call{makeCall("1", isSending), makeCall("2"), makeCall("3", isPaid), makeCall("4", isSending)}}))
	found := pick(t, h, prepay.Pick{Sending: true, Limit: 10})
	if len(found.Calls) != 2 || found.Calls[0].OutTradeNo != makeCall("1").OutTradeNo {
		t.Errorf("have %+v, want the two in sending by age", found.Calls)
	}
	if n := len(pick(t, h, prepay.Pick{Sending: true, Limit: 1}).Calls); n != 1 {
		t.Errorf("%d calls, limit 1", n)
	}
}

func oldOpen(t testing.TB, h Harness) {
	made := func(millis int64) func(*prepay.Call) { return func(c *prepay.Call) { c.CreatedAtMillis = millis } }
	desk := func(c *prepay.Call) { c.DeskAtMillis = 1 }
	must(t, change(h, prepay.Change{Insert: []prepay.Call{makeCall("1", made(10)), makeCall("2", made(11), isSending), makeCall("3", made(12)),
		makeCall("4", made(10), isPaid), makeCall("5", made(10), desk)}}))
	found := pick(t, h, prepay.Pick{OldOpen: true, BeforeMillis: 11, Limit: 10})
	if len(found.Calls) != 2 || found.Calls[0].OutTradeNo != makeCall("1").OutTradeNo || found.Calls[1].OutTradeNo != makeCall("2").OutTradeNo {
		t.Errorf("have %+v, want the two open ones made by 11 that are not on the desk", found.Calls)
	}
}

func committed(t testing.TB, h Harness) {
	other := h.Second()
	c := makeCall("a")
	must(t, change(h, prepay.Change{Insert: []prepay.Call{c}}))
	must(t, h.Store.Update(context.Background(), prepay.Pick{Numbers: []string{c.OutTradeNo}}, func(p prepay.Picked) (prepay.Change, error) {
		if seen, _ := find(t, other, c.OutTradeNo); seen.Status != prepay.Due {
			t.Errorf("seen as %s before the commit", seen.Status)
		}
		isSending(&p.Calls[0])
		return prepay.Change{Update: p.Calls}, nil
	}))
	if seen, _ := find(t, other, c.OutTradeNo); seen.Status != prepay.Sending {
		t.Errorf("seen as %s after the commit", seen.Status)
	}
}

func events(t testing.TB, h Harness) {
	n := 0
	last := map[int]int64{}
	for range 5 {
		var evs []bus.Event
		for range 7 {
			n++
			c := makeCall(fmt.Sprint(n % 4))
			evs = append(evs, outcomeOf(&c, n))
		}
		must(t, change(h, prepay.Change{Events: evs}))
	}
	all := h.Outcomes()
	if len(all) != n {
		t.Errorf("%d events, want %d", len(all), n)
	}
	byKey := map[string]int64{}
	for _, m := range all {
		if m.Place.Seq != last[m.Group]+1 {
			t.Errorf("group %d goes from %d to %d", m.Group, last[m.Group], m.Place.Seq)
		}
		last[m.Group] = m.Place.Seq
		if m.AtMillis <= byKey[string(m.Context.BizCode)] {
			t.Errorf("event %s is before an earlier one of its trade", m.ID)
		}
		byKey[string(m.Context.BizCode)] = m.AtMillis
	}
}

func listOpen(t testing.TB, h Harness) {
	desk := func(c *prepay.Call) { c.DeskAtMillis = 1 }
	unknown := func(c *prepay.Call) { c.Standing, c.Op = prepay.Unknown, event.OpQuery }
	must(t, change(h, prepay.Change{Insert: []prepay.Call{makeCall("1", unknown), makeCall("2", isPaid), makeCall("3", at("b", 10)),
		makeCall("4", isSending, desk)}}))
	names := map[string]string{}
	for _, o := range []string{"1", "2", "3", "4"} {
		names[makeCall(o).OutTradeNo] = o
	}
	for _, c := range []struct {
		filter prepay.Filter
		want   []string
	}{
		{prepay.Filter{}, []string{"1", "3", "4"}},
		{prepay.Filter{Account: "a"}, []string{"1", "4"}},
		{prepay.Filter{Standing: prepay.Unknown}, []string{"1"}},
		{prepay.Filter{Desk: true}, []string{"4"}},
		{prepay.Filter{Desk: true, Account: "b"}, nil},
	} {
		var have []string
		for after := int64(0); ; {
			page, err := h.Store.ListOpen(context.Background(), c.filter, after, 1)
			must(t, err)
			if len(page) == 0 {
				break
			}
			have = append(have, orders(page, names)...)
			after = page[len(page)-1].ID
		}
		if !slices.Equal(have, c.want) {
			t.Errorf("%+v: have %v, want %v", c.filter, have, c.want)
		}
	}
}

func stats(t testing.TB, h Harness) {
	unknown := func(c *prepay.Call) { c.Standing, c.Op = prepay.Unknown, event.OpQuery }
	desk := func(c *prepay.Call) { c.DeskAtMillis = 1 }
	must(t, change(h, prepay.Change{Insert: []prepay.Call{makeCall("1", at("a", 7)), makeCall("2", at("a", 6), unknown, desk),
		makeCall("3", at("a", 11)), makeCall("4", isSending, unknown), makeCall("5", isPaid), makeCall("6", at("b", 99))}}))
	have, err := h.Store.Stats(context.Background(), 10)
	must(t, err)
	want := []prepay.AccountStats{{Account: "a", Due: 2, OldestDueMillis: 6, Waiting: 1, Unknown: 2, Desk: 1}, {Account: "b", Waiting: 1}}
	if !slices.Equal(have, want) {
		t.Errorf("have %+v\nwant %+v", have, want)
	}
}

func statements(t testing.TB, h Harness) {
	const n = 192
	var calls []prepay.Call
	var numbers []string
	var evs []bus.Event
	for i := range n {
		c := makeCall(fmt.Sprint(i))
		calls = append(calls, c)
		numbers = append(numbers, c.OutTradeNo)
		evs = append(evs, outcomeOf(&c, i+1))
	}
	// Three chunks of 64 for each of read, write and emit; begin, commit and place;
	// a counter for each group.
	limit := int64(3*3 + 4 + h.Groups)
	before := h.Statements()
	must(t, change(h, prepay.Change{Insert: calls, Batch: batchAt(0, 1), Events: evs}))
	if used := h.Statements() - before; used > limit {
		t.Errorf("%d statements insert %d calls, want at most %d", used, n, limit)
	}
	before = h.Statements()
	must(t, h.Store.Update(context.Background(), prepay.Pick{Numbers: numbers}, func(p prepay.Picked) (prepay.Change, error) {
		return prepay.Change{Update: p.Calls, Batch: batchAt(1, 2), Events: evs}, nil
	}))
	if used := h.Statements() - before; used > limit {
		t.Errorf("%d statements change %d calls, want at most %d", used, n, limit)
	}
}

// roundTrips: where each is waited for, a batch costs them by the table.
func roundTrips(t testing.TB, h Harness) {
	if h.RoundTrips == nil {
		return
	}
	place := int64(0)
	for _, n := range []int{1, 10, 60, 192} {
		var calls []prepay.Call
		var numbers []string
		var evs []bus.Event
		for i := range n {
			c := makeCall(fmt.Sprint(n, "/", i))
			calls, numbers, evs = append(calls, c), append(numbers, c.OutTradeNo), append(evs, outcomeOf(&c, i+1))
		}
		trips := func(what string, most int64, f func()) {
			before := h.RoundTrips()
			f()
			if used := h.RoundTrips() - before; used > most {
				t.Errorf("to %s %d calls takes %d round trips, want at most %d", what, n, used, most)
			}
		}
		trips("insert", 4, func() {
			must(t, change(h, prepay.Change{Insert: calls, Batch: batchAt(place, place+1), Events: evs}))
		})
		trips("change", 3, func() {
			must(t, h.Store.Update(context.Background(), prepay.Pick{Numbers: numbers}, func(p prepay.Picked) (prepay.Change, error) {
				return prepay.Change{Update: p.Calls, Batch: batchAt(place+1, place+2), Events: evs}, nil
			}))
		})
		place += 2
	}
}
