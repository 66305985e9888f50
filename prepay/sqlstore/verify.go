package sqlstore

import (
	"context"
	"fmt"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
	prepayevent "github.com/tallystick/tallystick/prepay/event"
)

// VerifyGroup folds one group of core's topic dispatch, as far as prepay has
// applied it, and of topic outcomes, and compares them with the calls as they were
// at one moment. dispatch is nil where core's log is not at hand: then outcomes
// alone are folded. It may run beside everything else, and holds the group's calls.
func (s *Store) VerifyGroup(ctx context.Context, group int, dispatch bus.Source, r *prepay.Report) (prepay.Verified, error) {
	v := &verification{Verified: prepay.Verified{Calls: map[string]prepay.VerifiedCall{}, Unread: map[string]bool{}},
		group: group, report: r, amounts: map[string]money.Amount{}}
	err := s.db.Snapshot(ctx, func(tx *sqldb.Tx) error { return v.read(tx, s.Outcomes().Groups()) })
	if err == nil {
		err = v.outcomes(ctx, s.log.Stored(bus.Outcomes))
	}
	if err == nil && dispatch != nil {
		err = v.dispatches(ctx, dispatch)
	}
	return v.Verified, fault.Wrap("prepay: verify", err)
}

type verification struct {
	prepay.Verified
	group   int
	report  *prepay.Report
	parked  map[string]bool
	amounts map[string]money.Amount // of the calls, by number
}

func (v *verification) bad(format string, args ...any) { v.report.Add(fmt.Sprintf(format, args...)) }

func (v *verification) read(tx *sqldb.Tx, groups int) error {
	cut, err := embedded.CutIn(tx, v.group)
	if err != nil {
		return err
	}
	v.Dispatch, v.Verified.Outcomes, v.parked = cut.Read[bus.Dispatch], cut.Told[bus.Outcomes], cut.Parked
	where, args := ids.InGroup("out_trade_no", v.group, groups)
	return tx.Query(`SELECT out_trade_no, account, status, standing, amount_minor, currency FROM calls WHERE `+where, args, func(scan sqldb.Scan) error {
		var number string
		var c prepay.VerifiedCall
		var a money.Amount
		err := scan(&number, &c.Account, &c.Status, &c.Standing, &a.Minor, &a.Currency)
		v.Calls[number], v.amounts[number] = c, a
		v.report.Calls++
		return err
	})
}

// outcomes holds each call's standing against the outcome that was last told.
func (v *verification) outcomes(ctx context.Context, src bus.Source) error {
	told := map[string]prepay.Standing{}
	hole, err := bus.Fold(ctx, src, v.group, v.Verified.Outcomes, func(m *bus.Message) error {
		v.report.Outcomes++
		o, err := prepayevent.Decode(m.Payload)
		if err != nil || m.Type != prepayevent.TypeOutcome {
			v.bad("event %s of type %s: %v", m.ID, m.Type, err)
			return nil
		}
		c, there := v.Calls[o.OutTradeNo]
		if !there {
			v.bad("an outcome of %s at account %s was told, and there is no such call", o.OutTradeNo, o.Account)
			return nil
		}
		if c.Account != o.Account {
			v.bad("an outcome of %s at account %s was told, the call is at %s", o.OutTradeNo, o.Account, c.Account)
		}
		c.ToldSeq = m.Place.Seq
		v.Calls[o.OutTradeNo] = c
		told[o.OutTradeNo] = prepay.StandingTold(&o)
		return nil
	})
	if hole != "" {
		v.report.Add(hole)
	}
	for number, c := range v.Calls {
		want, heard := told[number]
		if !heard {
			want = prepay.NeverSent
		}
		switch {
		case c.Standing != want:
			v.bad("call %s is %s, its outcomes say %s", number, c.Standing, want)
		case c.Status == prepay.Answered && !heard:
			v.bad("call %s is answered, and no outcome was told", number)
		case c.Standing.Final() && c.Status != prepay.Answered:
			v.bad("call %s is %s, though its standing is %s for ever", number, c.Status, c.Standing)
		}
	}
	return err
}

// dispatches holds each call against what core asked for. What lies behind
// prepay's place is on its way, and excuses what is not there yet.
func (v *verification) dispatches(ctx context.Context, src bus.Source) error {
	if err := src.Refresh(ctx); err != nil {
		return err
	}
	head := src.Head(v.group)
	if head.Seq < v.Dispatch.Seq {
		v.bad("prepay has read %d messages of topic dispatch, group %d, and core told %d", v.Dispatch.Seq, v.group, head.Seq)
	}
	asked := map[string]bool{}
	_, err := bus.Fold(ctx, src, v.group, head, func(m *bus.Message) error {
		var d event.Dispatch
		if err := event.Decode(m.Payload, &d); err != nil {
			return nil //nolint:nilerr // core's own verification tells of it, and of holes
		}
		if m.Place.Seq > v.Dispatch.Seq || v.parked[m.ID] {
			v.Unread[d.OutTradeNo] = true
			return nil
		}
		v.report.Dispatches++
		if d.Op != event.OpPay {
			return nil
		}
		asked[d.OutTradeNo] = true
		switch c, there := v.Calls[d.OutTradeNo]; {
		case !there:
			v.bad("pay of %s was dispatched and read, and there is no such call", d.OutTradeNo)
		case c.Account != d.Account || v.amounts[d.OutTradeNo] != d.Amount:
			v.bad("call %s is of %s at account %s, it was dispatched with %s at %s", d.OutTradeNo, v.amounts[d.OutTradeNo], c.Account, d.Amount, d.Account)
		}
		return nil
	})
	for number := range v.Calls {
		if !asked[number] {
			v.bad("call %s is there, and its pay was never dispatched", number)
		}
	}
	return err
}
