// Package storetest is the suite that every store of prepay passes. It is proven
// by running it on stores that are broken on purpose: see its test.
package storetest

import (
	"context"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/prepay"
)

// Harness is a store under test with what is needed to look at it from outside.
type Harness struct {
	Store prepay.Store
	// Second opens the same data on connections of its own.
	Second func() prepay.Store
	// Outcomes gives all that is on the topic, by group and sequence.
	Outcomes func() []bus.Message
	// Places gives the stored places in topic dispatch.
	Places func() map[int]bus.Place
	// Statements counts SQL statements so far.
	Statements func() int64
	// RoundTrips counts how often the database was waited for; nil for one in this process.
	RoundTrips func() int64
	Groups     int
	// Leased says that the store leaves it to a lease that no other one writes: it
	// need not see what a second one wrote, and one opened after that must.
	Leased bool
}

// Open makes an empty store; it registers its own clean-up with t.
type Open func(t testing.TB) Harness

// Case is one promise of a store.
type Case struct {
	Name string
	Run  func(t testing.TB, h Harness)
}

// Run runs all cases, each on an empty store.
func Run(t *testing.T, open Open) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) { c.Run(t, open(t)) })
	}
}

// Cases are the promises.
func Cases() []Case {
	return []Case{
		{"every field is kept", everyField},
		{"any change is kept", anyChange},
		{"a number is unique", unique},
		{"a change is whole or nothing", whole},
		{"an error of the decision changes nothing", decisionError},
		{"a stale call is fenced", staleCall},
		{"a place is a fence", placeFence},
		{"of two that apply one batch, one does", race},
		{"what another store wrote is seen", foreign},
		{"a call taken for new is found", takenForNew},
		{"due calls come in order", dueOrder},
		{"due calls are limited per account", dueLimit},
		{"the next due time is told", nextDue},
		{"expired calls", expired},
		{"calls in sending", sending},
		{"old open calls", oldOpen},
		{"a change is seen by others once it is committed", committed},
		{"events are in order and without gaps", events},
		{"open calls are listed in pages", listOpen},
		{"what is old and final is cleaned", clean},
		{"figures", stats},
		{"statements do not grow with rows", statements},
		{"round trips do not grow with rows", roundTrips},
	}
}

// change runs one Update that ignores what is picked.
func change(h Harness, ch prepay.Change) error {
	return h.Store.Update(context.Background(), prepay.Pick{Numbers: []string{}}, func(prepay.Picked) (prepay.Change, error) {
		return ch, nil
	})
}

// pick gives what a Pick finds.
func pick(t testing.TB, h Harness, p prepay.Pick) (found prepay.Picked) {
	t.Helper()
	must(t, h.Store.Update(context.Background(), p, func(picked prepay.Picked) (prepay.Change, error) {
		found = picked
		return prepay.Change{}, nil
	}))
	return found
}

func find(t testing.TB, s prepay.Store, number string) (prepay.Call, bool) {
	t.Helper()
	c, ok, err := s.Find(context.Background(), number)
	must(t, err)
	return c, ok
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
