package sqlstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Counts implements core.Store.
func (s *Store) Counts(ctx context.Context) ([]core.Count, error) {
	var out []core.Count
	err := s.db.Snapshot(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT merchant, status, alias_of <> '', count(*) FROM payment_orders GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`, nil,
			func(scan sqldb.Scan) error {
				var c core.Count
				err := scan(&c.Merchant, &c.Status, &c.Alias, &c.Orders)
				out = append(out, c)
				return err
			})
	})
	return out, fault.Wrap("core: counts", err)
}

// Received implements core.Store.
func (s *Store) Received(ctx context.Context) ([]core.Received, error) {
	var out []core.Received
	err := s.db.Snapshot(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT merchant, account, currency, sum(settled), sum(surplus) FROM (
			SELECT merchant, account, currency, paid_minor AS settled, 0 AS surplus FROM attempts WHERE status = 'succeeded'
			UNION ALL SELECT merchant, account, currency, 0, paid_minor FROM exceptions) AS money GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`, nil,
			func(scan sqldb.Scan) error {
				var r core.Received
				err := scan(&r.Merchant, &r.Account, &r.Currency, &r.Settled, &r.Surplus)
				out = append(out, r)
				return err
			})
	})
	return out, fault.Wrap("core: received", err)
}

// Open implements core.Store.
func (s *Store) Open(ctx context.Context) ([]core.Age, error) {
	var out []core.Age
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT status, count(*), min(accepted_at_millis) FROM payment_orders WHERE next_at_millis > 0 GROUP BY status ORDER BY status`,
			nil, func(scan sqldb.Scan) error {
				var a core.Age
				err := scan(&a.Status, &a.Orders, &a.OldestMillis)
				out = append(out, a)
				return err
			})
	})
	return out, fault.Wrap("core: open", err)
}

// verifyPage is how many log rows are read at a time.
const verifyPage = 2000

// folded is what the log, or the table, says of one payment order.
type folded struct {
	version int64
	status  event.Status
	amount  int64
	fee     int64
	paid    int64 // by the attempt that succeeded
	settled int   // events that settle it: the log's alone
}

// same reports whether both say the same, whoever settled it.
func (f folded) same(o folded) bool {
	f.settled, o.settled = 0, 0
	return f == o
}

// Verify implements core.Store. It holds one group's payment orders at a time.
func (s *Store) Verify(ctx context.Context) (core.Report, error) {
	var r core.Report
	for g := range s.log.Source(bus.Payments).Groups() {
		if err := s.verifyGroup(ctx, g, &r); err != nil {
			return r, fault.Wrap("core: verify", err)
		}
	}
	return r, nil
}

func (s *Store) verifyGroup(ctx context.Context, group int, r *core.Report) error {
	rows := map[ids.Code]folded{}
	from, to := slotRange(group, s.log.Source(bus.Payments).Groups())
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(selectFolded+`substr(p.y, 2, 2) BETWEEN ? AND ?`, []any{from, to}, func(scan sqldb.Scan) error { return scanFolded(scan, rows) })
	})
	if err != nil {
		return err
	}
	// The log is read after the tables: whatever they say was told in it by then.
	// What it tells beyond them is looked up once more.
	log, err := s.fold(ctx, group, r)
	if err != nil {
		return err
	}
	var ahead []ids.Code
	for y, f := range log {
		if row, there := rows[y]; !there || row.version < f.version {
			ahead = append(ahead, y)
		}
	}
	slices.Sort(ahead)
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return sqldb.QueryIn(tx, selectFolded+`p.y IN (?*)`, ahead, func(scan sqldb.Scan) error { return scanFolded(scan, rows) })
	})
	if err != nil {
		return err
	}
	compare(rows, log, ahead, r)
	return nil
}

const selectFolded = `SELECT p.y, p.version, p.status, p.amount_minor, p.fee_minor,
	(SELECT coalesce(sum(a.paid_minor), 0) FROM attempts a WHERE a.payment_id = p.id AND a.status = 'succeeded') FROM payment_orders p WHERE `

func scanFolded(scan sqldb.Scan, into map[ids.Code]folded) error {
	var y ids.Code
	var f folded
	err := scan(&y, &f.version, &f.status, &f.amount, &f.fee, &f.paid)
	into[y] = f
	return err
}

// compare takes an order that the log was ahead of, and whose row has moved on
// since, for one that is being worked on.
func compare(rows, log map[ids.Code]folded, ahead []ids.Code, r *core.Report) {
	for y, row := range rows {
		r.Payments++
		f, told := log[y]
		switch {
		case !told:
			r.Add(fmt.Sprintf("payment order %s is %s at version %d, and no event tells of it", y, row.status, row.version))
		case f.version < row.version && slices.Contains(ahead, y):
		case f.version != row.version:
			r.Add(fmt.Sprintf("payment order %s is at version %d, the log at %d", y, row.version, f.version))
		case !f.same(row):
			r.Add(fmt.Sprintf("payment order %s is %+v, the log says %+v", y, row, f))
		case row.status == event.Succeeded && f.settled != 1:
			r.Add(fmt.Sprintf("payment order %s succeeded, and %d events settle it", y, f.settled))
		}
	}
	for y := range log {
		if _, there := rows[y]; !there {
			r.Add(fmt.Sprintf("the log tells of payment order %s, which is gone", y))
		}
	}
}

// fold reads one group of topic payments and checks that versions have no holes
// and that nothing follows a final state.
func (s *Store) fold(ctx context.Context, group int, r *core.Report) (map[ids.Code]folded, error) {
	log := map[ids.Code]folded{}
	src := s.log.Stored(bus.Payments)
	for at := (bus.Place{}); ; {
		msgs, err := src.Read(ctx, group, at, verifyPage)
		if err != nil || len(msgs) == 0 {
			return log, err
		}
		for i := range msgs {
			at = msgs[i].Place
			r.Events++
			if msgs[i].Type != event.TypePaymentChanged {
				continue
			}
			var c event.PaymentChanged
			if err := event.Decode(msgs[i].Payload, &c); err != nil {
				r.Add(fmt.Sprintf("event %s: %v", msgs[i].ID, err))
				continue
			}
			f := log[c.Y]
			if c.Version != f.version+1 {
				r.Add(fmt.Sprintf("payment order %s: version %d follows %d", c.Y, c.Version, f.version))
			}
			if f.status.Final() {
				r.Add(fmt.Sprintf("payment order %s: %s follows %s, which is final", c.Y, c.Status, f.status))
			}
			f.version, f.status, f.amount, f.fee, f.paid = c.Version, c.Status, c.Amount.Minor, c.Fee.Minor, 0
			for _, a := range c.Attempts {
				if a.Status == event.Succeeded {
					f.paid += a.Paid.Minor
				}
			}
			if c.Settled >= 0 {
				f.settled++
			}
			log[c.Y] = f
		}
	}
}

// slotRange gives the first and the last two slot characters of a group's codes.
func slotRange(group, groups int) (from, to string) {
	first := (group*ids.Slots + groups - 1) / groups
	last := ((group+1)*ids.Slots+groups-1)/groups - 1
	text := func(slot int) string { return string([]byte{ids.Alphabet[slot>>5], ids.Alphabet[slot&31]}) }
	return text(first), text(last)
}
