package accept

import (
	"context"
	"fmt"

	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// check holds a server's stores against what the client was answered: every 202
// is there with its fields, and nothing that was refused is.
type check struct {
	fates      []fate
	found      []bool
	records    int // intents in the log
	inCore     int // of the 202s, those that had left the log for core
	violations []string
}

// checkFolder reads the stores of a folder that nobody serves any more.
func checkFolder(ctx context.Context, f rig.Folder, fates []fate) (*check, error) {
	s, err := f.Stores(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close() //nolint:errcheck // nothing was written
	c := &check{fates: fates, found: make([]bool, len(fates))}
	if err := c.log(ctx, s); err != nil {
		return nil, err
	}
	return c, c.core(ctx, s)
}

// log reads all that is still in the intake.
func (c *check) log(ctx context.Context, s *app.Stores) error {
	return s.Intake.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT body FROM intake_intents ORDER BY seq`, nil, func(scan sqldb.Scan) error {
			var body []byte
			if err := scan(&body); err != nil {
				return err
			}
			events, err := bus.ParseRecords(body)
			if err != nil {
				return err
			}
			for i := range events {
				if err := c.intent(&events[i]); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// intent looks at one that was kept.
func (c *check) intent(e *bus.Event) error {
	var in event.Intent
	if err := event.Decode(e.Payload, &in); err != nil {
		return err
	}
	c.records++
	if e.ID != ids.VoucherID.With(in.Y) {
		c.wrong("intent %s names %s in its envelope", in.Y, e.ID)
	}
	c.see(in.OrderID, in.IdempotencyKey, in.Y, in.Amount)
	return nil
}

// core looks for the rest among the payment orders: read, opened and trimmed.
func (c *check) core(ctx context.Context, s *app.Stores) error {
	q := core.Queries{Store: s.Core}
	for n := range c.fates {
		if c.found[n] || c.fates[n].status != 202 {
			continue
		}
		p, _, ok, err := q.Payment(ctx, ids.Code(c.fates[n].voucher[:]))
		switch {
		case err != nil:
			return err
		case ok:
			c.inCore++
			c.see(p.OrderID, p.IdempotencyKey, p.Y, p.Amount)
		}
		if !c.found[n] {
			c.wrong("the payment of order %s was accepted, and is neither in the log nor in core", orderIDOf(n))
		}
	}
	return nil
}

func (c *check) see(orderID, key string, y ids.Code, amount money.Amount) {
	n, ok := orderOf(orderID)
	if !ok || n >= len(c.fates) {
		c.wrong("order %q was never sent", orderID)
		return
	}
	f := &c.fates[n]
	switch {
	case key != keyOf(n) || amount != money.Of(amountOf(n), "CNY"):
		c.wrong("order %s was kept with key %q and amount %v", orderID, key, amount)
	case f.status == 429 || f.status == 503:
		c.wrong("order %s was refused with %d, and kept", orderID, f.status)
	case f.status == 202 && ids.Code(f.voucher[:]) != y:
		c.wrong("order %s was promised voucher %s, and kept as %s", orderID, f.voucher, y)
	default:
		c.found[n] = true
	}
}

func (c *check) wrong(format string, args ...any) {
	c.violations = append(c.violations, fmt.Sprintf(format, args...))
}
