package sqlstore

import (
	"context"
	"fmt"

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

// folded is what the log says of one payment order.
type folded struct {
	version int64
	status  event.Status
	settled int
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
	// The tables first: whatever they say was told in a log that is read after them.
	rows := map[ids.Code]folded{}
	from, to := slotRange(group, s.log.Source(bus.Payments).Groups())
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT y, version, status FROM payment_orders WHERE substr(y, 2, 2) BETWEEN ? AND ?`, []any{from, to},
			func(scan sqldb.Scan) error {
				var y ids.Code
				var f folded
				err := scan(&y, &f.version, &f.status)
				rows[y] = f
				return err
			})
	})
	if err != nil {
		return err
	}
	log, err := s.fold(ctx, group, r)
	if err != nil {
		return err
	}
	for y, row := range rows {
		r.Payments++
		f, told := log[y]
		switch {
		case !told:
			r.Add(fmt.Sprintf("payment order %s is %s at version %d, and no event tells of it", y, row.status, row.version))
		case f.version < row.version || f.version == row.version && f.status != row.status:
			r.Add(fmt.Sprintf("payment order %s is %s at version %d, the log says %s at %d", y, row.status, row.version, f.status, f.version))
		case row.status == event.Succeeded && f.settled != 1:
			r.Add(fmt.Sprintf("payment order %s succeeded, and %d events settle it", y, f.settled))
		}
	}
	return nil
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
			f.version, f.status = c.Version, c.Status
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
