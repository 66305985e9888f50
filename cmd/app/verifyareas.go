package app

import (
	"context"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/prepay"
)

// Unread is what a reader has still to read of a topic: batches of what enters
// from outside, messages of an area's log.
type Unread struct {
	Topic  bus.Topic
	Reader Role
	Count  int64
}

// groupCut is where the areas stood when a group of them was compared.
type groupCut struct {
	payments, dispatch, outcomes, postings   bus.Place // told
	readPayments, readDispatch, readOutcomes bus.Place
}

// group verifies one group of each area, and compares them. Readers come before
// those that they read, so that these have told all that those have read.
func (f *findings) group(ctx context.Context, s *Stores, g int) (err error) {
	var calls prepay.Verified
	var entries accounting.Verified
	var orders core.Verified
	if s.Prepay != nil {
		var dispatch bus.Source
		if s.Core != nil {
			dispatch = s.Core.Log().Stored(bus.Dispatch)
		}
		if calls, err = s.Prepay.VerifyGroup(ctx, g, dispatch, &f.Prepay); err != nil {
			return err
		}
	}
	if s.Accounting != nil {
		if entries, err = s.Accounting.VerifyGroup(ctx, g, &f.Ledger); err != nil {
			return err
		}
		f.Notices += entries.Notices
	}
	if s.Core != nil {
		if orders, err = s.Core.VerifyGroup(ctx, g, &f.Core); err != nil {
			return err
		}
		f.Dispatches += orders.Dispatches
		for m, n := range orders.Accepted {
			f.accepted[m] += n
		}
	}
	f.cuts = append(f.cuts, groupCut{payments: orders.Payments, dispatch: orders.Dispatch, outcomes: calls.Outcomes, postings: entries.Postings,
		readPayments: entries.Payments, readDispatch: calls.Dispatch, readOutcomes: orders.Outcomes})
	if s.Core != nil && s.Prepay != nil {
		f.compareCalls(g, &orders, &calls)
	}
	if s.Core != nil {
		f.compareEntries(g, s.Accounting != nil, &orders, &entries)
	}
	return nil
}

// compareCalls asks of each attempt that core waits for who works on it: a call
// that is due or sending; or something that is on its way, as places tell.
func (f *findings) compareCalls(g int, orders *core.Verified, calls *prepay.Verified) {
	for _, a := range orders.Open {
		c, there := calls.Calls[a.OutTradeNo]
		switch {
		case calls.Unread[a.OutTradeNo]: // prepay has still to hear of something
		case !there:
			// Beside a running system it may have been dispatched since; else prepay's own
			// verification has told of it, if anything was dispatched, and core's if not.
		case c.Status == prepay.Due || c.Status == prepay.Sending:
		case c.Status == prepay.Answered && c.ToldSeq > orders.Outcomes.Seq: // core has still to hear of it
		case orders.ParkedKeys[a.X]: // core heard of it, and put it aside: told of elsewhere
		case c.Standing == prepay.NeverSent && a.Status != event.Dispatched:
			// The PSP told of what our call said was never sent: the timer closes it.
		default:
			f.bad("attempt %s is %s in core, which has read all its outcomes, and its call is %s, %s: nobody asks after it", a.OutTradeNo, a.Status,
				c.Status, c.Standing)
		}
	}
}

// compareEntries asks for the entry of each event that money came, as far as
// accounting has read, and for the event of each entry. It also sums what core
// told, for the money equation.
func (f *findings) compareEntries(g int, ledger bool, orders *core.Verified, entries *accounting.Verified) {
	known := make(map[string]bool, len(orders.Money))
	for i := range orders.Money {
		e := &orders.Money[i]
		known[e.EventID] = true
		l := f.line(e.Merchant, e.Account, e.Paid.Currency)
		if e.Surplus {
			l.Told.Surplus += e.Paid.Minor
		} else {
			l.Told.Settled += e.Paid.Minor
		}
		booked, there := entries.Entries[e.EventID]
		if e.Seq > entries.Payments.Seq || entries.Parked[e.EventID] && !there {
			l.Told.Unread += e.Paid.Minor
			if there {
				f.bad("entry %s books event %s, which accounting has not read", booked.EntryID, e.EventID)
			}
			continue
		}
		l.Told.PSPFees += e.PSPFee
		l.Told.Fees += e.Fee
		switch {
		case !there:
			f.bad("event %s says that %s came over %s, accounting has read it, and no entry books it", e.EventID, e.Paid, e.Account)
		case booked.Reason != "":
			f.bad("event %s says that %s came over %s, and its entry %s was rejected: %s", e.EventID, e.Paid, e.Account, booked.EntryID, booked.Reason)
		case booked.Gross != e.Paid.Minor:
			f.bad("event %s says that %s came over %s, its entry %s books %d", e.EventID, e.Paid, e.Account, booked.EntryID, booked.Gross)
		}
	}
	for id, e := range entries.Entries {
		if !known[id] {
			f.bad("entry %s books event %s, and core told of no money in such an event", e.EntryID, id)
		}
	}
	if ledger && entries.Payments.Seq > orders.Payments.Seq {
		f.bad("accounting has read %d messages of topic payments, group %d, and core told %d", entries.Payments.Seq, g, orders.Payments.Seq)
	}
}

// unread says what is on its way.
func (f *findings) unread(ctx context.Context, s *Stores) error {
	count := func(t bus.Topic, r Role, n int64) {
		f.Unread = append(f.Unread, Unread{Topic: t, Reader: r, Count: max(0, n)})
	}
	if s.Intake != nil && s.Core != nil {
		for _, t := range entering() {
			read, err := s.Core.Places(ctx, t) // the reader first: it cannot be ahead then
			if err != nil {
				return err
			}
			head, err := embedded.IntakeHead(ctx, s.Intake, t)
			if err != nil {
				return err
			}
			if read[0].Seq > head.Seq {
				f.bad("core has read %d batches of topic %s, and there are %d", read[0].Seq, t, head.Seq)
			}
			count(t, RoleCore, head.Seq-read[0].Seq)
		}
	}
	var dispatch, outcomes, payments int64
	for g, c := range f.cuts {
		dispatch += c.dispatch.Seq - c.readDispatch.Seq
		outcomes += c.outcomes.Seq - c.readOutcomes.Seq
		payments += c.payments.Seq - c.readPayments.Seq
		if s.Core != nil && s.Prepay != nil && c.readOutcomes.Seq > c.outcomes.Seq {
			// While the areas work this may be of two moments: then Moved says so.
			f.readMore(ctx, s, g, c)
		}
	}
	if s.Core != nil && s.Prepay != nil {
		count(bus.Dispatch, RolePrepay, dispatch)
		count(bus.Outcomes, RoleCore, outcomes)
	}
	if s.Core != nil && s.Accounting != nil {
		count(bus.Payments, RoleAccounting, payments)
	}
	return nil
}

// readMore accuses core of having read more outcomes than there are, if that is
// still so: prepay was looked at first.
func (f *findings) readMore(ctx context.Context, s *Stores, g int, c groupCut) {
	src := s.Prepay.Log().Stored(bus.Outcomes)
	if err := src.Refresh(ctx); err == nil && src.Head(g).Seq < c.readOutcomes.Seq {
		f.bad("core has read %d messages of topic outcomes, group %d, and prepay told %d", c.readOutcomes.Seq, g, src.Head(g).Seq)
	}
}

// moved compares where the logs are now with where they were.
func (f *findings) moved(ctx context.Context, s *Stores) error {
	for _, src := range s.Sources() {
		if err := src.Refresh(ctx); err != nil {
			return err
		}
		for g, c := range f.cuts {
			was := map[bus.Topic]bus.Place{bus.Payments: c.payments, bus.Dispatch: c.dispatch, bus.Outcomes: c.outcomes, bus.Postings: c.postings}[src.Topic()]
			f.Moved = f.Moved || src.Head(g).Seq != was.Seq
		}
	}
	return nil
}
