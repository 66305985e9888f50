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
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/prepay"
)

// Verification is what the stores say about themselves and about each other.
type Verification struct {
	Core       core.Report
	Prepay     prepay.Report
	Ledger     accounting.Report
	Dispatches int64 // messages of topic dispatch that were held against core's attempts
	Notices    int64 // messages of topic postings that were held against the journal
	Orders     []OrdersLine
	Money      []MoneyLine
	Parked     map[string]int // messages put aside, by area
	// Unread is what each reader has still to read: it is on its way, and accuses nobody.
	Unread []Unread
	// Trimmed is what the logs do not have any more: of orders that are older than it,
	// counts and sums are compared, and not each state.
	Trimmed []Trimmed
	// Moved says that the areas were at work meanwhile: sums over whole tables are of
	// another moment than the logs, and were not held against them.
	Moved bool
	// Missing are the roles whose stores are not in this folder: nothing is said of them.
	Missing []Role
	// Violations are all that must not be; none when everything is explained.
	Violations []string
}

// OrdersLine counts one merchant's payment orders: how many distinct Y topic
// payments tells of, and what became of those in core's tables. What was promised
// is on the clients' side, and CheckVouchers compares it.
type OrdersLine struct {
	Merchant                                                          string
	Accepted                                                          int64 // from the log
	Rejected, Declined, Expired, Closed, Succeeded, InFlight, Aliases int64 // from the tables
}

// known is the number of payment orders in the tables.
func (l *OrdersLine) known() int64 {
	return l.Rejected + l.Declined + l.Expired + l.Closed + l.Succeeded + l.InFlight + l.Aliases
}

// MoneyLine is the money equation of one merchant, channel account and currency,
// in minor units: core's tables, core's log as far as accounting has read it and
// beyond, and the ledger.
type MoneyLine struct {
	Merchant, Account string
	Currency          money.Currency
	Settled, Surplus  int64       // core's tables
	Told              MoneyTold   // core's log
	Ledger            rules.Money // the journal
}

// MoneyTold is what topic payments tells of money.
type MoneyTold struct {
	Settled, Surplus int64
	// Of these, Unread is what accounting has not read yet. Fees are of the rest.
	Unread, PSPFees, Fees int64
}

// Verify folds each area's log, compares it with the area's tables, and compares
// the areas with each other. Nothing may be at work on the stores: while
// something is, Moved says so, and whole sums are not compared. It holds one group
// at a time.
func (s *Stores) Verify(ctx context.Context) (v Verification, err error) {
	f := newFindings(&v)
	if s.Accounting != nil {
		if v.Ledger, err = s.Accounting.Verify(ctx); err != nil {
			return v, err
		}
	}
	for g := range s.groups() {
		if err := f.group(ctx, s, g); err != nil {
			return v, err
		}
	}
	for _, step := range []func(context.Context, *Stores) error{f.orders, f.money, f.unread, f.moved, f.parked} {
		if err := step(ctx, s); err != nil {
			return v, err
		}
	}
	f.checkSums(s)
	f.checkTrimmed(s)
	f.conclude(s)
	return v, nil
}

// groups is the installation's number of groups; 0 without any area's store.
func (s *Stores) groups() int {
	for _, src := range s.Sources() {
		return src.Groups()
	}
	return 0
}

// findings is a verification being made.
type findings struct {
	*Verification
	across   bus.Findings     // between areas
	accepted map[string]int64 // by merchant, from the log
	lines    map[string]*MoneyLine
	cuts     []groupCut
}

func newFindings(v *Verification) *findings {
	return &findings{Verification: v, accepted: map[string]int64{}, lines: map[string]*MoneyLine{}}
}

func (f *findings) bad(format string, args ...any) {
	f.across.Add(fmt.Sprintf(format, args...))
}

// conclude lists all violations, and how many were too many to describe.
func (f *findings) conclude(s *Stores) {
	for _, area := range []struct {
		role  Role
		here  bool
		found bus.Findings
	}{
		{RoleCore, s.Core != nil, f.Core.Findings},
		{RolePrepay, s.Prepay != nil, f.Prepay.Findings},
		{RoleAccounting, s.Accounting != nil, f.Ledger.Findings},
		{"the areas together", true, f.across},
	} {
		if !area.here {
			f.Missing = append(f.Missing, area.role)
		}
		f.Violations = append(f.Violations, area.found.Violations...)
		if more := area.found.More(); more > 0 {
			f.Violations = append(f.Violations, fmt.Sprintf("and %d more violations of %s", more, area.role))
		}
	}
}

func (f *findings) parked(ctx context.Context, s *Stores) error {
	f.Parked = map[string]int{}
	for area, p := range s.Parked() {
		parked, err := p.List(ctx, "")
		if err != nil {
			return err
		}
		f.Parked[area] = len(parked)
		parked = slices.DeleteFunc(parked, f.waits)
		if len(parked) > 0 {
			f.bad("%s has %d parked messages, the first because: %s", area, len(parked), parked[0].Reason)
		}
	}
	return nil
}

// waits says that a message was put aside for an order that is still on its way,
// or that its replay was asked for: so it may be in the middle of the work.
func (f *findings) waits(p embedded.Parked) bool {
	if p.Replay {
		return true
	}
	coming := slices.ContainsFunc(f.Unread, func(u Unread) bool { return u.Topic == bus.Intents && u.Count > 0 })
	return coming && strings.Contains(p.Reason, core.ErrNoPayment.Error())
}

// orders is the orders equation: the log's accepted, the tables' terms.
func (f *findings) orders(ctx context.Context, s *Stores) error {
	if s.Core == nil {
		return nil
	}
	counts, err := s.Core.Counts(ctx)
	if err != nil {
		return err
	}
	lines := map[string]*OrdersLine{}
	for m, n := range f.accepted {
		lines[m] = &OrdersLine{Merchant: m, Accepted: n}
	}
	for _, c := range counts {
		l := lines[c.Merchant]
		if l == nil {
			l = &OrdersLine{Merchant: c.Merchant}
			lines[c.Merchant] = l
		}
		*l.term(c) += c.Orders
	}
	for _, l := range lines {
		f.Orders = append(f.Orders, *l)
	}
	slices.SortFunc(f.Orders, func(a, b OrdersLine) int { return cmp.Compare(a.Merchant, b.Merchant) })
	return nil
}

// term is what a count belongs to.
func (l *OrdersLine) term(c core.Count) *int64 {
	switch {
	case c.Alias:
		return &l.Aliases
	case c.Status == event.Rejected:
		return &l.Rejected
	case c.Status == event.Declined:
		return &l.Declined
	case c.Status == event.Expired:
		return &l.Expired
	case c.Status == event.Closed:
		return &l.Closed
	case c.Status == event.Succeeded:
		return &l.Succeeded
	}
	return &l.InFlight
}

// line is a merchant's line of the money equation.
func (f *findings) line(merchant, account string, c money.Currency) *MoneyLine {
	k := strings.Join([]string{merchant, account, string(c)}, "|")
	if f.lines[k] == nil {
		f.lines[k] = &MoneyLine{Merchant: merchant, Account: account, Currency: c}
	}
	return f.lines[k]
}

// money is the money equation, line by line.
func (f *findings) money(ctx context.Context, s *Stores) error {
	if s.Core != nil {
		received, err := s.Core.Received(ctx)
		if err != nil {
			return err
		}
		for _, r := range received {
			l := f.line(r.Merchant, r.Account, r.Currency)
			l.Settled, l.Surplus = r.Settled, r.Surplus
		}
	}
	if s.Accounting != nil {
		totals, err := s.Accounting.Totals(ctx)
		if err != nil {
			return err
		}
		ledger, err := rules.MoneyOf(totals)
		if err != nil {
			f.bad("the ledger has no sums of money: %v", err)
		}
		for _, m := range ledger {
			f.line(m.Merchant, m.ChannelAccount, m.Currency).Ledger = m
		}
	}
	for _, l := range f.lines {
		f.Money = append(f.Money, *l)
	}
	slices.SortFunc(f.Money, func(a, b MoneyLine) int {
		return cmp.Or(cmp.Compare(a.Merchant, b.Merchant), cmp.Compare(a.Account, b.Account), cmp.Compare(a.Currency, b.Currency))
	})
	return nil
}

// checkSums holds the equations. What was summed over whole tables is of the
// logs' moment only if nothing moved meanwhile.
func (f *findings) checkSums(s *Stores) {
	for _, l := range f.Orders {
		if n := l.known(); n != l.Accepted && !f.Moved {
			f.bad("orders of %s: core's log tells of %d, its tables hold %d", l.Merchant, l.Accepted, n)
		}
	}
	for i := range f.Money {
		f.checkMoney(&f.Money[i], s)
	}
}

func (f *findings) checkMoney(l *MoneyLine, s *Stores) {
	of := fmt.Sprintf("money of %s over %s in %s", l.Merchant, l.Account, l.Currency)
	if !l.Ledger.Balanced() {
		f.bad("%s: the ledger received %d, which is not the merchant's %d, our fee of %d and %d in suspense", of, l.Ledger.Received, l.Ledger.Payable,
			l.Ledger.FeeIncome, l.Ledger.Suspense)
	}
	if f.Moved || s.Core == nil {
		return
	}
	if l.Settled != l.Told.Settled || l.Surplus != l.Told.Surplus {
		f.bad("%s: core's tables have %d settled and %d surplus, its log %d and %d", of, l.Settled, l.Surplus, l.Told.Settled, l.Told.Surplus)
	}
	if s.Accounting == nil {
		return
	}
	if l.Settled+l.Surplus != l.Ledger.Received+l.Told.Unread {
		f.bad("%s: core settled %d and %d surplus, the ledger received %d and has still to read of %d", of, l.Settled, l.Surplus, l.Ledger.Received, l.Told.Unread)
	}
	if l.Told.PSPFees != l.Ledger.PSPFees {
		f.bad("%s: core told of PSP fees of %d, the ledger has %d", of, l.Told.PSPFees, l.Ledger.PSPFees)
	}
	if l.Told.Fees != l.Ledger.FeeIncome {
		f.bad("%s: core told of our fees of %d, the ledger has %d", of, l.Told.Fees, l.Ledger.FeeIncome)
	}
}

// CheckVouchers looks for every voucher that a client was promised, and says what
// core makes of it. One that core does not know is a violation: a promise lost.
func (s *Stores) CheckVouchers(ctx context.Context, vouchers []string) (byStatus map[event.Status]int, violations []string, err error) {
	return checkVouchers(ctx, s.Core, vouchers)
}

// oneTrade is the part of core.Trades that finds one.
type oneTrade interface {
	Trade(ctx context.Context, code ids.Code) (*core.Trade, error)
}

func checkVouchers(ctx context.Context, trades oneTrade, vouchers []string) (byStatus map[event.Status]int, violations []string, err error) {
	byStatus = map[event.Status]int{}
	for _, id := range vouchers {
		_, y, err := ids.ParseID(id)
		if err != nil {
			return nil, nil, fault.Wrap("voucher "+id, err)
		}
		var p *core.Payment
		t, err := trades.Trade(ctx, y)
		if t != nil {
			p = t.Payment(y)
		}
		switch {
		case err != nil:
			return nil, nil, err
		case p == nil:
			violations = append(violations, "voucher "+id+" was promised, and core does not know it")
		case !p.Status.Final() && p.NextAction == "":
			violations = append(violations, fmt.Sprintf("voucher %s is %s without a next action", id, p.Status))
		default:
			byStatus[p.Status]++
		}
	}
	return byStatus, violations, nil
}
