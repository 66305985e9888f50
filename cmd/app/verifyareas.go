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

// Trimmed is how many messages of a topic are gone: what they told is held against
// the tables as sums.
type Trimmed struct {
	Topic    bus.Topic
	Messages int64
}

// groupCut is where the areas stood when a group of them was compared.
type groupCut struct {
	payments, dispatch, outcomes, postings   bus.Place // told
	readPayments, readDispatch, readOutcomes bus.Place
	// What is gone of the topics, and what it came to.
	trimmed                                  core.Trimmed
	beganDispatch, beganOutcomes, beganPosts bus.Place
	older                                    olderEntries
}

// olderEntries are the entries of a group whose events core's log has no more.
type olderEntries struct{ entries, gross int64 }

// group verifies one group of each area, and compares them. Readers come before
// those that they read, so that these have told all that those have read.
func (f *findings) group(ctx context.Context, s *Stores, g int) (err error) {
	var calls prepay.Verified
	var entries accounting.Verified
	var orders core.Verified
	if s.Prepay != nil {
		var dispatch *embedded.Log
		if s.Core != nil {
			dispatch = s.Core.Log()
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
	cut := groupCut{payments: orders.Payments, dispatch: orders.Dispatch, outcomes: calls.Outcomes, postings: entries.Postings,
		readPayments: entries.Payments, readDispatch: calls.Dispatch, readOutcomes: orders.Outcomes,
		trimmed: orders.Trimmed, beganDispatch: calls.DispatchBegin, beganOutcomes: calls.OutcomesBegin, beganPosts: entries.Begin}
	if s.Core != nil && s.Prepay != nil {
		f.compareCalls(g, &orders, &calls)
	}
	if s.Core != nil {
		cut.older = f.compareEntries(g, s.Accounting != nil, &orders, &entries)
	}
	f.cuts = append(f.cuts, cut)
	return nil
}

// compareCalls asks of each attempt that core waits for who works on it: a call
// that is due or sending; or something that is on its way, as places tell.
func (f *findings) compareCalls(g int, orders *core.Verified, calls *prepay.Verified) {
	for number, amount := range calls.Older {
		c := calls.Calls[number]
		if a, there := orders.Older[number]; !there || a.Account != c.Account || a.Amount != amount {
			f.bad("call %s of %s at account %s is there, and its pay was never dispatched: no attempt of core's that is older than the log is like it", number, amount, c.Account)
		}
	}
	for _, a := range orders.Open {
		_, older := orders.Older[a.OutTradeNo]
		c, there := calls.Calls[a.OutTradeNo]
		switch {
		case calls.Unread[a.OutTradeNo]: // prepay has still to hear of something
		case !there && older && !orders.ParkedKeys[a.X]:
			f.bad("attempt %s is %s in core, it was dispatched longer ago than the log tells of, and there is no call", a.OutTradeNo, a.Status)
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
func (f *findings) compareEntries(g int, ledger bool, orders *core.Verified, entries *accounting.Verified) (older olderEntries) {
	for _, m := range orders.Trimmed.Money { // accounting had read it, or it would not be gone
		l := f.line(m.Merchant, m.Account, m.Currency)
		l.Told.Settled += m.Settled
		l.Told.Surplus += m.Surplus
		l.Told.PSPFees += m.PSPFees
		l.Told.Fees += m.Fees
	}
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
		switch {
		case known[id]:
		case orders.Trimmed.Payments.Seq > 0:
			older.entries++
			older.gross += e.Gross
		default:
			f.bad("entry %s books event %s, and core told of no money in such an event", e.EntryID, id)
		}
	}
	if ledger && entries.Payments.Seq > orders.Payments.Seq {
		f.bad("accounting has read %d messages of topic payments, group %d, and core told %d", entries.Payments.Seq, g, orders.Payments.Seq)
	}
	return older
}

// checkTrimmed asks whether everyone had read what is gone, and holds the entries
// that book it against what it came to.
func (f *findings) checkTrimmed(s *Stores) {
	count := func(t bus.Topic, of func(*groupCut) bus.Place) {
		n := int64(0)
		for i := range f.cuts {
			n += of(&f.cuts[i]).Seq
		}
		if n > 0 {
			f.Trimmed = append(f.Trimmed, Trimmed{t, n})
		}
	}
	count(bus.Dispatch, func(c *groupCut) bus.Place { return c.trimmed.Dispatch })
	count(bus.Outcomes, func(c *groupCut) bus.Place { return c.beganOutcomes })
	count(bus.Payments, func(c *groupCut) bus.Place { return c.trimmed.Payments })
	count(bus.Postings, func(c *groupCut) bus.Place { return c.beganPosts })
	if f.Moved || s.Core == nil {
		return
	}
	for g, c := range f.cuts {
		for _, r := range []struct {
			here        bool
			topic       bus.Topic
			reader      Role
			began, read bus.Place
		}{
			{s.Prepay != nil, bus.Dispatch, RolePrepay, c.trimmed.Dispatch, c.readDispatch},
			{s.Prepay != nil, bus.Outcomes, RoleCore, c.beganOutcomes, c.readOutcomes},
			{s.Accounting != nil, bus.Payments, RoleAccounting, c.trimmed.Payments, c.readPayments},
		} {
			if r.here && r.began.Seq > r.read.Seq {
				f.bad("topic %s, group %d, is gone up to %d, and %s has read %d", r.topic, g, r.began.Seq, r.reader, r.read.Seq)
			}
		}
		gross := int64(0)
		for _, m := range c.trimmed.Money {
			gross += m.Settled + m.Surplus
		}
		if s.Accounting != nil && (c.older != olderEntries{c.trimmed.MoneyEvents, gross}) {
			f.bad("group %d: core told of %d payments of %d minor units in messages that are gone, and %d entries of %d book such", g,
				c.trimmed.MoneyEvents, gross, c.older.entries, c.older.gross)
		}
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
