package prepay

import (
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/money"
	prepayevent "github.com/tallystick/tallystick/prepay/event"
)

// Report is what the verification of calls found.
type Report struct {
	Calls      int64 // compared
	Dispatches int64 // messages of topic dispatch that are applied
	Outcomes   int64 // messages of topic outcomes
	bus.Findings
}

// Verified is what the verification of one group found out for the comparison
// with core: all of it is of one moment.
type Verified struct {
	// Dispatch is the last message of core's that had been applied, or put aside;
	// Outcomes the last one told.
	Dispatch, Outcomes bus.Place
	Calls              map[string]VerifiedCall // by number
	// Unread are the numbers that core has dispatched something for behind Dispatch,
	// and those whose dispatch was put aside.
	Unread map[string]bool
	// Older are the calls whose dispatch is not in core's log any more: core says
	// whether it has such attempts. DispatchBegin and OutcomesBegin are up to where the
	// topics are gone.
	Older                        map[string]money.Amount
	DispatchBegin, OutcomesBegin bus.Place
}

// VerifiedCall is a call, and the outcome that was last told of it.
type VerifiedCall struct {
	Account  string
	Status   Status
	Standing Standing
	// ToldSeq is the last outcome's place in the group, 0 for none.
	ToldSeq int64
}

// StandingTold is what core knows of a number's standing once it has read an
// outcome: no standing changes without one.
func StandingTold(o *prepayevent.Outcome) Standing {
	switch o.Outcome.Result {
	case channels.NotSent:
		return NeverSent
	case channels.Declined:
		if o.Op == string(event.OpPay) {
			return Declined
		}
	case channels.Done:
		switch o.Outcome.State {
		case channels.StatePending:
			return Pending
		case channels.StatePaid:
			return Paid
		case channels.StateDeclined:
			return Declined
		case channels.StateClosed:
			return Closed
		}
	}
	return Unknown
}
