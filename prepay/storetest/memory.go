package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/prepay"
)

// What follows is for stores that keep calls in memory, or write less than all.

// anyChange: whatever differs from what was picked is kept, of each call of a set.
func anyChange(t testing.TB, h Harness) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
	model := map[string]prepay.Call{}
	var numbers []string
	var in []prepay.Call
	for i := range 40 {
		c := makeCall(fmt.Sprint(i), edit(r))
		numbers, in, model[c.OutTradeNo] = append(numbers, c.OutTradeNo), append(in, c), c
	}
	must(t, change(h, prepay.Change{Insert: in}))
	for round := range 60 {
		some := slices.DeleteFunc(slices.Clone(numbers), func(string) bool { return r.IntN(3) == 0 })
		must(t, h.Store.Update(context.Background(), prepay.Pick{Numbers: some}, func(p prepay.Picked) (ch prepay.Change, err error) {
			for _, c := range p.Calls {
				want := model[c.OutTradeNo]
				if want.ID, want.Version = c.ID, c.Version; c != want {
					t.Fatalf("round %d: picked %+v\nwant %+v", round, c, want)
				}
				if r.IntN(4) > 0 {
					edit(r)(&c)
					ch.Update = append(ch.Update, c)
				}
				model[c.OutTradeNo] = c
			}
			return ch, nil
		}))
	}
	for number, want := range model {
		have, _ := find(t, h.Store, number)
		if want.ID, want.Version = have.ID, have.Version; have != want {
			t.Errorf("have %+v\nwant %+v", have, want)
		}
	}
}

// edit changes some of what may change.
func edit(r *rand.Rand) func(c *prepay.Call) {
	return func(c *prepay.Call) {
		n := r.IntN(1000) + 1
		if r.IntN(2) == 0 {
			c.NextAtMillis, c.Owner = 0, ""
			switch c.Status = []prepay.Status{prepay.Due, prepay.Sending, prepay.Answered, prepay.Stopped}[r.IntN(4)]; c.Status {
			case prepay.Due:
				c.NextAtMillis = int64(n)
			case prepay.Sending:
				c.Owner = fmt.Sprint("inc_", n)
			case prepay.Answered:
				c.Standing = prepay.Paid
			}
		}
		for i, f := range []func(){func() { c.NotifyURL += "n" }, func() { c.Op = event.OpQuery }, func() { c.Asks++ }, func() { c.Tries++ },
			func() { c.CloseWanted = !c.CloseWanted }, func() { c.StopWanted = !c.StopWanted }, func() { c.AskWanted = !c.AskWanted },
			func() { c.HasCredential = !c.HasCredential }, func() { c.LastResult = channels.Declined }, func() { c.LastState = channels.StateClosed },
			func() { c.LastCode = fmt.Sprint(n) }, func() { c.SentAtMillis += int64(n) }, func() { c.DeskAtMillis += int64(n) }} {
			if n>>(i%8)&3 == 0 && r.IntN(3) == 0 {
				f()
			}
		}
	}
}

// foreign: whatever a store keeps of its calls, what another one wrote counts.
func foreign(t testing.TB, h Harness) {
	other := h.Second()
	c := makeCall("a")
	must(t, change(h, prepay.Change{Insert: []prepay.Call{c}}))
	byNumber := prepay.Pick{Numbers: []string{c.OutTradeNo}}
	byTime := prepay.Pick{Due: []prepay.DueOf{{Account: "a", Limit: 5}}, NowMillis: 1000}
	for round, p := range []prepay.Pick{byNumber, byTime, byNumber} {
		for _, s := range []prepay.Store{h.Store, other, h.Store, h.Store, other, other} {
			if h.Leased {
				s = h.Second()
			}
			must(t, s.Update(context.Background(), p, func(picked prepay.Picked) (prepay.Change, error) {
				if len(picked.Calls) != 1 || picked.Calls[0].Tries != c.Tries {
					t.Fatalf("round %d: have %+v, want one call with %d tries", round, picked.Calls, c.Tries)
				}
				c.Tries++
				picked.Calls[0].Tries = c.Tries
				return prepay.Change{Update: picked.Calls}, nil
			}))
		}
	}
}

// takenForNew: a call that was thought to be new, and is not, is decided on as it is.
func takenForNew(t testing.TB, h Harness) {
	must(t, change(h, prepay.Change{Insert: []prepay.Call{makeCall("old"), makeCall("old too")}}))
	stores := []prepay.Store{h.Second(), h.Store} // the second keeps what it wrote, perhaps
	if h.Leased {
		stores[1] = h.Second()
	}
	for i, s := range stores {
		calls := []prepay.Call{makeCall(fmt.Sprint("new", i)), makeCall("old"), makeCall("old too"), makeCall(fmt.Sprint("newer", i))}
		numbers := []string{calls[0].OutTradeNo, calls[1].OutTradeNo, calls[2].OutTradeNo, calls[3].OutTradeNo}
		p := prepay.Pick{Numbers: numbers, New: []string{numbers[0], numbers[1], numbers[3]}}
		var updated, inserted int
		must(t, s.Update(context.Background(), p, func(picked prepay.Picked) (ch prepay.Change, err error) {
			known := map[string]bool{}
			for _, c := range picked.Calls {
				known[c.OutTradeNo] = true
				c.Tries++
				ch.Update = append(ch.Update, c)
			}
			for _, c := range calls {
				if !known[c.OutTradeNo] {
					ch.Insert = append(ch.Insert, c)
				}
			}
			updated, inserted = len(ch.Update), len(ch.Insert)
			return ch, nil
		}))
		if updated != 2 || inserted != 2 {
			t.Errorf("%d updated and %d inserted, want 2 and 2", updated, inserted)
		}
		for _, n := range numbers[1:3] {
			if c, _ := find(t, h.Store, n); c.Tries != i+1 {
				t.Errorf("%s has %d tries, want %d", n, c.Tries, i+1)
			}
		}
	}
	// Without that, a second row is a conflict as ever.
	c := makeCall("old")
	err := h.Store.Update(context.Background(), prepay.Pick{Numbers: []string{c.OutTradeNo}, New: []string{c.OutTradeNo}},
		func(prepay.Picked) (prepay.Change, error) { return prepay.Change{Insert: []prepay.Call{c}}, nil })
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("have %v, want conflict", err)
	}
}

// clean: only what is old, final and expired goes, whoever remembers it.
func clean(t testing.TB, h Harness) {
	made := func(created, expires int64) func(*prepay.Call) {
		return func(c *prepay.Call) { c.CreatedAtMillis, c.ExpiresAtMillis = created, expires }
	}
	as := func(s prepay.Status, standing prepay.Standing) func(*prepay.Call) {
		return func(c *prepay.Call) {
			if c.Status, c.Standing = s, standing; s != prepay.Due {
				c.NextAtMillis = 0
			}
		}
	}
	stay := map[string][]func(*prepay.Call){
		"due":        {made(10, 20), as(prepay.Due, prepay.Unknown)},
		"sending":    {made(10, 20), isSending},
		"not sent":   {made(10, 20), as(prepay.Answered, prepay.NeverSent)},
		"no expiry":  {made(10, 0), isPaid},
		"unexpired":  {made(10, 41), isPaid},
		"young":      {made(31, 20), isPaid},
		"young, too": {made(32, 20), as(prepay.Stopped, prepay.Pending)},
	}
	gone := map[string][]func(*prepay.Call){
		"paid":     {made(10, 20), isPaid},
		"stopped":  {made(10, 40), as(prepay.Stopped, prepay.Unknown)},
		"declined": {made(30, 30), as(prepay.Answered, prepay.Declined)},
	}
	var in []prepay.Call
	for _, name := range []string{"due", "paid", "sending", "not sent", "stopped", "no expiry", "unexpired", "declined", "young", "young, too"} {
		in = append(in, makeCall(name, append(stay[name], gone[name]...)...))
	}
	must(t, change(h, prepay.Change{Insert: in}))
	for round, want := range []int{len(gone), 0} {
		after, cleaned := int64(0), 0
		for steps := 0; ; steps++ {
			did, err := h.Store.Clean(context.Background(), prepay.Old{BeforeMillis: 30, NowMillis: 40, After: after, Limit: 3})
			must(t, err)
			if cleaned += did.Rows; !did.More {
				break
			}
			if did.Last <= after || steps > 10 {
				t.Fatalf("round %d: it looked at %d after %d", round, did.Last, after)
			}
			after = did.Last
		}
		if cleaned != want {
			t.Errorf("round %d: %d cleaned, want %d", round, cleaned, want)
		}
	}
	for name := range stay {
		if _, ok := find(t, h.Store, makeCall(name).OutTradeNo); !ok {
			t.Errorf("%s is gone", name)
		}
	}
	for name := range gone {
		c := makeCall(name)
		if _, ok := find(t, h.Store, c.OutTradeNo); ok {
			t.Errorf("%s is still there", name)
		}
		if n := len(pick(t, h, prepay.Pick{Numbers: []string{c.OutTradeNo}}).Calls); n != 0 {
			t.Errorf("%s is still remembered", name)
		}
	}
}
