package sqlstore

import (
	"context"
	"fmt"
	"hash/fnv"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// VerifyGroup folds one group of topic postings, and compares it with the entries
// as they were at one moment: each was told once, as it stands in the journal.
// Verify holds the journal against the balances. It may run beside everything
// else, and holds the group's entries without their postings.
func (s *Store) VerifyGroup(ctx context.Context, group int, r *accounting.Report) (accounting.Verified, error) {
	v := &toldVerifier{Verified: accounting.Verified{Entries: map[string]accounting.VerifiedEntry{}}, group: group, report: r, rows: map[string]entryRow{}}
	err := s.db.Survey(ctx, func(tx *sqldb.Tx) error {
		if err := v.read(tx, s.groups); err != nil {
			return err
		}
		src, err := s.log.In(tx, bus.Postings)
		if err != nil {
			return err
		}
		v.Begin = bus.BeginOf(src, group)
		return v.fold(ctx, src)
	})
	return v.Verified, fault.Wrap("accounting/sqlstore: verify postings", err)
}

type toldVerifier struct {
	accounting.Verified
	group  int
	report *accounting.Report
	rows   map[string]entryRow // by entry id
}

// entryRow is an entry, with its postings as a hash.
type entryRow struct {
	event, rule, reason string
	postings            uint64
	told                int
}

func (v *toldVerifier) bad(format string, args ...any) { v.report.Add(fmt.Sprintf(format, args...)) }

// posting chains one line to the hash of those before it.
func posting(hash uint64, account string, minor int64, currency string) uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %q %d %q", hash, account, minor, currency) // never fails
	return h.Sum64()
}

func (v *toldVerifier) read(tx *sqldb.Tx, groups int) error {
	cut, err := embedded.CutIn(tx, v.group)
	if err != nil {
		return err
	}
	v.Payments, v.Postings, v.Parked = cut.Read[bus.Payments], cut.Told[bus.Postings], cut.Parked
	where, args := ids.InGroup("e.biz_code", v.group, groups)
	// The plus keeps SQLite from reading all entries in their order, once per group.
	return tx.Query(`SELECT e.entry_id, e.event_id, e.rule, e.reason, e.grp, COALESCE(a.name, ''), COALESCE(p.minor, 0), COALESCE(a.currency, '')
		FROM entries e LEFT JOIN postings p ON p.id >= e.id << 8 AND p.id < (e.id + 1) << 8 LEFT JOIN accounts a ON a.id = p.account_id
		WHERE `+where+` ORDER BY +e.id, p.id`, args, func(scan sqldb.Scan) error {
		var id, account, currency string
		var e entryRow
		var group int
		var minor int64
		if err := scan(&id, &e.event, &e.rule, &e.reason, &group, &account, &minor, &currency); err != nil {
			return err
		}
		if known, again := v.rows[id]; again && known.event == e.event {
			e = known
		} else if again {
			v.bad("entries of events %s and %s have one id, %s", known.event, e.event, id)
		} else if group != v.group {
			v.bad("entry %s is in group %d, its BizCode in %d", id, group, v.group)
		}
		if minor != 0 {
			e.postings = posting(e.postings, account, minor, currency)
		}
		v.rows[id] = e
		booked := v.Entries[e.event]
		booked.EntryID, booked.Reason = id, e.reason
		booked.Gross += max(minor, 0)
		v.Entries[e.event] = booked
		return nil
	})
}

func (v *toldVerifier) fold(ctx context.Context, src bus.Source) error {
	hole, err := bus.Fold(ctx, src, v.group, v.Postings, func(m *bus.Message) error {
		v.Notices++
		n, err := event.Decode(m.Payload)
		if err != nil || m.Type != event.TypePosted && m.Type != event.TypeRejected {
			v.bad("event %s of type %s: %v", m.ID, m.Type, err)
			return nil
		}
		e, there := v.rows[n.EntryID]
		if !there {
			v.bad("entry %s of event %s was told, and is not in the journal", n.EntryID, n.EventID)
			return nil
		}
		e.told++
		v.rows[n.EntryID] = e
		postings := uint64(0)
		if m.Type == event.TypePosted {
			for _, p := range n.Postings {
				postings = posting(postings, p.Account, p.Amount.Minor, string(p.Amount.Currency))
			}
		}
		switch {
		case n.EventID != e.event:
			v.bad("entry %s books event %s, and was told as that of %s", n.EntryID, e.event, n.EventID)
		case n.Reason != e.reason || (m.Type == event.TypeRejected) != (e.reason != "") || n.Rule != e.rule:
			v.bad("entry %s is by rule %s, rejected %q, and was told as %s by rule %s, rejected %q", n.EntryID, e.rule, e.reason, m.Type, n.Rule, n.Reason)
		case postings != e.postings:
			v.bad("entry %s has other postings than were told", n.EntryID)
		}
		return nil
	})
	if hole != "" {
		v.report.Add(hole)
	}
	// Each message tells of one entry: so many may have been told in what is gone.
	untold := int64(0)
	for id, e := range v.rows {
		if e.told == 0 && v.Begin.Seq > 0 {
			untold++
		} else if e.told != 1 {
			v.bad("entry %s of event %s was told %d times", id, e.event, e.told)
		}
	}
	if err == nil && untold != v.Begin.Seq {
		v.bad("group %d: %d entries are not told of in topic postings, and %d messages of it were trimmed", v.group, untold, v.Begin.Seq)
	}
	return err
}
