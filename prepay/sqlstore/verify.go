package sqlstore

import (
	"context"
	"fmt"
	"maps"
	"slices"

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
// at one moment. dispatch is core's log, nil where it is not at hand: then
// outcomes alone are folded. It may run beside everything else, and holds the group's calls.
func (s *Store) VerifyGroup(ctx context.Context, group int, dispatch *embedded.Log, r *prepay.Report) (prepay.Verified, error) {
	v := &verification{Verified: prepay.Verified{Calls: map[string]prepay.VerifiedCall{}, Unread: map[string]bool{}, Older: map[string]money.Amount{}},
		group: group, report: r, amounts: map[string]money.Amount{}, made: map[string]int64{}, gone: map[string]absent{}}
	err := s.db.Survey(ctx, func(tx *sqldb.Tx) error {
		err := v.read(tx, s.Outcomes().Groups())
		if err != nil {
			return err
		}
		if v.trimmed, err = embedded.CheckpointIn(tx, bus.Outcomes, group); err != nil {
			return err
		}
		src, err := s.log.In(tx, bus.Outcomes)
		if err == nil {
			err = v.outcomes(ctx, src)
		}
		return err
	})
	if err == nil && dispatch != nil {
		err = dispatch.Snapshot(ctx, bus.Dispatch, func(src bus.Source) error { return v.dispatches(ctx, src) })
	}
	v.missing()
	return v.Verified, fault.Wrap("prepay: verify", err)
}

type verification struct {
	prepay.Verified
	group   int
	report  *prepay.Report
	parked  map[string]bool
	amounts map[string]money.Amount // of the calls, by number
	made    map[string]int64        // when they were, Unix time
	trimmed embedded.Checkpoint     // of topic outcomes
	// Calls made by cleanedMillis may have been cleaned away. gone are numbers that
	// were told or asked about and have no call, with when they were first.
	cleanedMillis int64
	gone          map[string]absent
}

type absent struct {
	what     []string
	atMillis int64
}

// missing accuses what is gone and cannot have been cleaned away.
func (v *verification) missing() {
	for _, number := range slices.Sorted(maps.Keys(v.gone)) {
		a := v.gone[number]
		for _, what := range a.what {
			if a.atMillis > v.cleanedMillis {
				v.bad("%s, and there is no such call", what)
			}
		}
	}
}

// lacks notes that a number has no call. What was asked for comes before what was
// told of it, and says when the call was made.
func (v *verification) lacks(number, what string, atMillis int64) {
	a, known := v.gone[number]
	if !known || atMillis < a.atMillis {
		a.atMillis = atMillis
	}
	a.what = append(a.what, what)
	v.gone[number] = a
}

func (v *verification) bad(format string, args ...any) { v.report.Add(fmt.Sprintf(format, args...)) }

func (v *verification) read(tx *sqldb.Tx, groups int) error {
	cut, err := embedded.CutIn(tx, v.group)
	if err != nil {
		return err
	}
	v.Dispatch, v.Verified.Outcomes, v.parked = cut.Read[bus.Dispatch], cut.Told[bus.Outcomes], cut.Parked
	err = tx.Query(`SELECT before_millis FROM cleaned`, nil, func(scan sqldb.Scan) error { return scan(&v.cleanedMillis) })
	if err != nil {
		return err
	}
	where, args := ids.InGroup("out_trade_no", v.group, groups)
	return tx.Query(`SELECT out_trade_no, calls.account, progress.account, coalesce(status, ''), coalesce(standing, ''), coalesce(created_at_millis, 0), amount_minor, currency
		FROM calls LEFT JOIN progress USING (id) WHERE `+where, args, func(scan sqldb.Scan) error {
		var number string
		var c prepay.VerifiedCall
		var a money.Amount
		var lane []byte // NULL without a row
		var made int64
		err := scan(&number, &c.Account, &lane, &c.Status, &c.Standing, &made, &a.Minor, &a.Currency)
		v.made[number] = made
		if string(lane) != c.Account {
			v.bad("call %s is at account %s, its progress says %q", number, c.Account, lane)
		}
		v.Calls[number], v.amounts[number] = c, a
		v.report.Calls++
		return err
	})
}

// clocksDifferMillis is by how much the clocks of two processes may differ that have
// worked on one group.
const clocksDifferMillis = 60_000

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
			v.lacks(o.OutTradeNo, fmt.Sprintf("an outcome of %s at account %s was told", o.OutTradeNo, o.Account), m.AtMillis)
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
	v.OutcomesBegin = v.trimmed.Place
	for number, c := range v.Calls {
		want, heard := told[number]
		if !heard && v.trimmed.Place.Seq > 0 && v.made[number] <= v.trimmed.AtMillis+clocksDifferMillis {
			continue // what was told of it may be gone
		}
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
	head := src.Head(v.group)
	v.DispatchBegin = bus.BeginOf(src, v.group)
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
			v.lacks(d.OutTradeNo, fmt.Sprintf("pay of %s was dispatched and read", d.OutTradeNo), m.AtMillis)
		case c.Account != d.Account || v.amounts[d.OutTradeNo] != d.Amount:
			v.bad("call %s is of %s at account %s, it was dispatched with %s at %s", d.OutTradeNo, v.amounts[d.OutTradeNo], c.Account, d.Amount, d.Account)
		}
		return nil
	})
	for number := range v.Calls {
		switch {
		case asked[number]:
		case v.DispatchBegin.Seq > 0:
			v.Older[number] = v.amounts[number]
		default:
			v.bad("call %s is there, and its pay was never dispatched", number)
		}
	}
	return err
}
