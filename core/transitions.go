package core

import (
	"fmt"

	"github.com/tallystick/tallystick/core/event"
)

// AttemptNotSent is the state of an attempt that certainly never reached its
// PSP. Attempts have no other state that payment orders do not have.
const AttemptNotSent event.Status = "not_sent"

// Transitions is the transition table of payment orders: from each state, the
// states that may follow. A state without successors is final; a success that
// comes after it is an exception, not a transition.
func Transitions() map[event.Status][]event.Status {
	return map[event.Status][]event.Status{
		event.Created:    {event.Dispatched, event.Succeeded, event.Closed, event.Expired, event.Rejected},
		event.Dispatched: {event.Pending, event.Unknown, event.Succeeded, event.Declined, event.Closed, event.Expired},
		event.Pending:    {event.Succeeded, event.Declined, event.Closed, event.Expired},
		event.Unknown:    {event.Pending, event.Succeeded, event.Declined, event.Closed, event.Expired},
		event.Succeeded:  {},
		event.Declined:   {},
		event.Closed:     {},
		event.Expired:    {},
		event.Rejected:   {},
	}
}

// AttemptTransitions is the transition table of attempts. A NotSent attempt may
// be sent again under its number: it never reached the PSP.
func AttemptTransitions() map[event.Status][]event.Status {
	return map[event.Status][]event.Status{
		event.Dispatched: {event.Pending, event.Unknown, event.Succeeded, event.Declined, event.Closed, AttemptNotSent},
		event.Pending:    {event.Succeeded, event.Declined, event.Closed},
		event.Unknown:    {event.Pending, event.Succeeded, event.Declined, event.Closed},
		AttemptNotSent:   {event.Dispatched, event.Succeeded, event.Closed},
		event.Succeeded:  {},
		event.Declined:   {},
		event.Closed:     {},
	}
}

// machine answers whether a transition is in a table.
type machine map[event.Status]map[event.Status]bool

func newMachine(table map[event.Status][]event.Status) machine {
	m := machine{}
	for from, tos := range table {
		m[from] = map[event.Status]bool{}
		for _, to := range tos {
			m[from][to] = true
		}
	}
	return m
}

// to checks a transition. One that is not in the table is a bug of ours: it is
// refused before anything is written.
func (m machine) to(from, to event.Status) error {
	if !m[from][to] {
		return fmt.Errorf("no transition from %s to %s", from, to)
	}
	return nil
}
