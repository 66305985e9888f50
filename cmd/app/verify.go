package app

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/rules"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// Verification is what the stores say about themselves and about each other.
// Beside a running system the areas are at different places in their logs; the
// sums must be equal only when everything is drained.
type Verification struct {
	Core   core.Report
	Ledger accounting.Report
	Orders []OrdersLine
	Money  []MoneyLine
	Parked map[string]int // messages put aside, by area
	// Violations are all that must not be; none when everything is explained.
	Violations []string
}

// OrdersLine counts one merchant's payment orders in core, by what became of
// them. All terms are core's: what was promised is on the clients' side, and
// CheckVouchers compares it.
type OrdersLine struct {
	Merchant                                                          string
	Accepted                                                          int64 // distinct Y that core knows
	Rejected, Declined, Expired, Closed, Succeeded, InFlight, Aliases int64
}

// MoneyLine is the money equation of one merchant, channel account and currency,
// in minor units: what core settled and could not settle, against the ledger.
type MoneyLine struct {
	Merchant, Account string
	Currency          money.Currency
	Settled, Surplus  int64 // core
	Ledger            rules.Money
}

// Verify folds each area's log, compares it with the area's tables, and compares
// the areas with each other.
func (s *Stores) Verify(ctx context.Context) (v Verification, err error) {
	if v.Core, err = s.Core.Verify(ctx); err != nil {
		return v, err
	}
	if v.Ledger, err = s.Accounting.Verify(ctx); err != nil {
		return v, err
	}
	v.Violations = append(append(v.Violations, v.Core.Violations...), v.Ledger.Violations...)
	if err := v.orders(ctx, s.Core); err != nil {
		return v, err
	}
	if err := v.money(ctx, s); err != nil {
		return v, err
	}
	v.Parked = map[string]int{}
	for area, p := range s.Parked() {
		parked, err := p.List(ctx, "")
		if err != nil {
			return v, err
		}
		v.Parked[area] = len(parked)
		if len(parked) > 0 {
			v.Violations = append(v.Violations, fmt.Sprintf("%s has %d parked messages, the first because: %s", area, len(parked), parked[0].Reason))
		}
	}
	return v, nil
}

func (v *Verification) orders(ctx context.Context, s core.Store) error {
	counts, err := s.Counts(ctx)
	if err != nil {
		return err
	}
	for _, c := range counts {
		if len(v.Orders) == 0 || v.Orders[len(v.Orders)-1].Merchant != c.Merchant {
			v.Orders = append(v.Orders, OrdersLine{Merchant: c.Merchant})
		}
		l := &v.Orders[len(v.Orders)-1]
		l.Accepted += c.Orders
		switch {
		case c.Alias:
			l.Aliases += c.Orders
		case c.Status == event.Rejected:
			l.Rejected += c.Orders
		case c.Status == event.Declined:
			l.Declined += c.Orders
		case c.Status == event.Expired:
			l.Expired += c.Orders
		case c.Status == event.Closed:
			l.Closed += c.Orders
		case c.Status == event.Succeeded:
			l.Succeeded += c.Orders
		default:
			l.InFlight += c.Orders
		}
	}
	return nil
}

func (v *Verification) money(ctx context.Context, s *Stores) error {
	totals, err := s.Accounting.Totals(ctx)
	if err != nil {
		return err
	}
	ledger, err := rules.MoneyOf(totals)
	if err != nil {
		return err
	}
	received, err := s.Core.Received(ctx)
	if err != nil {
		return err
	}
	lines := map[string]*MoneyLine{}
	line := func(merchant, account string, c money.Currency) *MoneyLine {
		k := strings.Join([]string{merchant, account, string(c)}, "|")
		if lines[k] == nil {
			lines[k] = &MoneyLine{Merchant: merchant, Account: account, Currency: c}
		}
		return lines[k]
	}
	for _, r := range received {
		l := line(r.Merchant, r.Account, r.Currency)
		l.Settled, l.Surplus = r.Settled, r.Surplus
	}
	for _, m := range ledger {
		line(m.Merchant, m.ChannelAccount, m.Currency).Ledger = m
	}
	for _, l := range lines {
		v.Money = append(v.Money, *l)
		if l.Settled+l.Surplus != l.Ledger.Received || !l.Ledger.Balanced() {
			v.Violations = append(v.Violations, fmt.Sprintf("money of %s over %s in %s: core settled %d and %d surplus, the ledger received %d",
				l.Merchant, l.Account, l.Currency, l.Settled, l.Surplus, l.Ledger.Received))
		}
	}
	slices.SortFunc(v.Money, func(a, b MoneyLine) int {
		return cmp.Or(cmp.Compare(a.Merchant, b.Merchant), cmp.Compare(a.Account, b.Account), cmp.Compare(a.Currency, b.Currency))
	})
	return nil
}

// CheckVouchers looks for every voucher that a client was promised, and says what
// core makes of it. One that core does not know is a violation: a promise lost.
func (s *Stores) CheckVouchers(ctx context.Context, vouchers []string) (byStatus map[event.Status]int, violations []string, err error) {
	byStatus = map[event.Status]int{}
	q := core.Queries{Store: s.Core}
	for _, id := range vouchers {
		_, y, err := ids.ParseID(id)
		if err != nil {
			return nil, nil, fault.Wrap("voucher "+id, err)
		}
		p, _, ok, err := q.Payment(ctx, y)
		switch {
		case err != nil:
			return nil, nil, err
		case !ok:
			violations = append(violations, "voucher "+id+" was promised, and core does not know it")
		case !p.Status.Final() && p.NextAction == "":
			violations = append(violations, fmt.Sprintf("voucher %s is %s without a next action", id, p.Status))
		default:
			byStatus[p.Status]++
		}
	}
	return byStatus, violations, nil
}
