package sqlstore

import (
	"context"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Counts implements core.Store.
func (s *Store) Counts(ctx context.Context) ([]core.Count, error) {
	var out []core.Count
	err := s.db.Survey(ctx, func(tx *sqldb.Tx) error {
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
	err := s.db.Survey(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT merchant, account, currency, CAST(sum(settled) AS BIGINT), CAST(sum(surplus) AS BIGINT) FROM (
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
		return tx.Query(`SELECT status, count(*), min(accepted_at_millis) FROM payment_orders WHERE next_at_millis > 0`+s.mine+` GROUP BY status ORDER BY status`,
			s.mineArgs, func(scan sqldb.Scan) error {
				var a core.Age
				err := scan(&a.Status, &a.Orders, &a.OldestMillis)
				out = append(out, a)
				return err
			})
	})
	return out, fault.Wrap("core: open", err)
}

// Verify implements core.Store. It holds one group at a time.
func (s *Store) Verify(ctx context.Context) (core.Report, error) {
	var r core.Report
	for g := range s.log.Source(bus.Payments).Groups() {
		if _, err := s.verify(ctx, g, &r, false); err != nil {
			return r, err
		}
	}
	return r, nil
}

// VerifyGroup folds one group of both of core's topics and compares them with the
// tables as they were at one moment. It may run beside everything else.
func (s *Store) VerifyGroup(ctx context.Context, group int, r *core.Report) (core.Verified, error) {
	v, err := s.verify(ctx, group, r, true)
	if err != nil {
		return core.Verified{}, err
	}
	return v.found, nil
}

// verification is one group being verified.
type verification struct {
	group int
	rows  book // what the tables say
	log   book // what topic payments says
	found core.Verified
	// trades are the rows of trade_orders.
	trades map[code]tradeRow
	// payments and dispatch are what was trimmed of the topics; older are the payment
	// orders of which the log has the later changes alone, introduced when each attempt
	// was told of first, where the log still has that.
	payments, dispatch embedded.Checkpoint
	older              map[code]bool
	introduced         map[string]int64
}

func (s *Store) verify(ctx context.Context, group int, r *core.Report, dispatches bool) (*verification, error) {
	v := &verification{group: group, rows: newBook(), log: newBook(), trades: map[code]tradeRow{}, older: map[code]bool{}, introduced: map[string]int64{}}
	v.found.Accepted, v.found.Older = map[string]int64{}, map[string]core.OlderAttempt{}
	// The snapshot has the tables, the place up to which the log told of them, and the
	// one up to which it was trimmed: nothing is compared that is not of the same moment.
	err := s.db.Survey(ctx, func(tx *sqldb.Tx) error {
		if err := v.read(tx, s.groups(), r); err != nil {
			return err
		}
		if err := v.readTrimmed(tx); err != nil {
			return err
		}
		src, err := s.log.In(tx, bus.Payments)
		if err == nil {
			err = v.fold(ctx, src, r)
		}
		if err != nil || !dispatches {
			return err
		}
		if src, err = s.log.In(tx, bus.Dispatch); err == nil {
			err = v.verifyDispatches(ctx, src, r)
		}
		return err
	})
	if err != nil {
		return nil, fault.Wrap("core: verify", err)
	}
	v.compareOrders(r)
	v.compareAttempts(r)
	v.compareExceptions(r)
	v.compareTrades(r)
	return v, nil
}

func (s *Store) groups() int { return s.log.Source(bus.Payments).Groups() }
