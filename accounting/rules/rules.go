package rules

import (
	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

// The names of rules, as they stand in the journal.
const (
	RuleReceived = "payment.received"
	RuleSurplus  = "payment.surplus"
)

// Payments are the rules for topic payments.
type Payments struct{}

// Draft books a payment at the change that settles it, and surplus; other changes
// of a payment book nothing. What is of an unknown type, or contradicts itself,
// is refused with fault.Poison: it might have to be booked, and nobody knows how.
func (Payments) Draft(m *bus.Message) (*accounting.Draft, error) {
	switch m.Type {
	case event.TypePaymentChanged:
		return changed(m)
	case event.TypeSurplus:
		return surplus(m)
	}
	return nil, poison("no rule knows events of type %q", m.Type)
}

func changed(m *bus.Message) (*accounting.Draft, error) {
	told, err := event.ReadPaymentChanged(m.Payload, m.Value)
	if err != nil {
		return nil, poison("%w", err)
	}
	if told.Settled < 0 {
		return nil, nil //nolint:nilnil // this change moves no money
	}
	p := *told // a copy: others may read what was told
	a, err := settledAttempt(m, &p)
	if err != nil {
		return nil, err
	}
	return received(m.Context.Merchant, a.Account, a.Paid, a.PSPFee, p.Fee)
}

// received books a payment: the PSP owes us the gross amount less its fee, and we
// owe it to the merchant less ours.
func received(merchant, channelAccount string, gross, pspFee, ourFee money.Amount) (*accounting.Draft, error) {
	net, err := gross.Sub(pspFee)
	if err != nil {
		return nil, poison("gross less PSP fee: %w", err)
	}
	payable, err := gross.Sub(ourFee)
	if err != nil {
		return nil, poison("gross less our fee: %w", err)
	}
	return &accounting.Draft{Rule: RuleReceived, ChannelAccount: channelAccount, Lines: entry(
		debit(pspReceivable(channelAccount), net),
		debit(pspFees(channelAccount), pspFee),
		credit(merchantPayable(merchant), payable),
		credit(feeIncome(), ourFee),
	)}, nil
}

func surplus(m *bus.Message) (*accounting.Draft, error) {
	var s event.Surplus
	if err := event.Decode(m.Payload, &s); err != nil {
		return nil, poison("%w", err)
	}
	if err := checkPaid(s.Account, s.Paid); err != nil {
		return nil, err
	}
	fee, err := inCurrency(s.PSPFee, s.Paid)
	if err != nil || fee.Minor < 0 || fee.Minor > s.Paid.Minor {
		return nil, poison("PSP fee %s is no part of the %s paid", s.PSPFee, s.Paid)
	}
	net, err := s.Paid.Sub(fee)
	if err != nil {
		return nil, poison("paid less PSP fee: %w", err)
	}
	return &accounting.Draft{Rule: RuleSurplus, ChannelAccount: s.Account, Lines: entry(
		debit(pspReceivable(s.Account), net),
		debit(pspFees(s.Account), fee),
		credit(suspense(s.Account), s.Paid),
	)}, nil
}

// settledAttempt finds the attempt that was paid, with all amounts in the
// payment's currency, and refuses an event that contradicts itself: every
// figure that is booked can be computed again from the others.
func settledAttempt(m *bus.Message, p *event.PaymentChanged) (event.Attempt, error) {
	if m.Context.Form != traffic.Deposit {
		return event.Attempt{}, poison("no rule books a %s", m.Context.Form)
	}
	if p.Settled >= len(p.Attempts) {
		return event.Attempt{}, poison("attempt %d settled it, but there are %d", p.Settled, len(p.Attempts))
	}
	a := p.Attempts[p.Settled]
	if p.Status != event.Succeeded || a.Status != event.Succeeded {
		return a, poison("settled, but the payment is %s and its attempt %s", p.Status, a.Status)
	}
	if err := checkPaid(a.Account, a.Paid); err != nil {
		return a, err
	}
	if a.Paid != p.Amount {
		return a, poison("%s was paid for an order of %s: that is surplus", a.Paid, p.Amount)
	}
	var err error
	if a.PSPFee, err = checkFee("PSP fee", a.PSPFee, a.Paid, a.PSPFeeRate); err != nil {
		return a, err
	}
	p.Fee, err = checkFee("our fee", p.Fee, a.Paid, p.FeeRate)
	return a, err
}

func checkPaid(channelAccount string, paid money.Amount) error {
	if channelAccount == "" {
		return poison("no channel account")
	}
	if paid.Minor <= 0 || paid.Currency.Validate() != nil {
		return poison("%s cannot have been paid", paid)
	}
	return nil
}

// checkFee refuses a fee that is not its rate's share of what was paid.
func checkFee(what string, fee, paid money.Amount, rate money.Rate) (money.Amount, error) {
	fee, err := inCurrency(fee, paid)
	if err != nil {
		return fee, poison("%s: %w", what, err)
	}
	want, err := paid.Share(rate)
	if err != nil {
		return fee, poison("%s at %d ppm: %w", what, rate, err)
	}
	if fee != want {
		return fee, poison("%s is %s, but %d ppm of %s are %s", what, fee, rate, paid, want)
	}
	return fee, nil
}

// inCurrency gives a fee that was left out (no fee at all) the payment's currency.
func inCurrency(fee, paid money.Amount) (money.Amount, error) {
	if fee == (money.Amount{}) {
		return money.Of(0, paid.Currency), nil
	}
	if fee.Currency != paid.Currency {
		return fee, money.ErrCurrency
	}
	return fee, nil
}

func debit(a accounting.Account, amount money.Amount) accounting.Line {
	return accounting.Line{Account: a, Amount: amount}
}

// credit is a debit of less than nothing. Amounts here are never negative, so
// that the sign can always be changed.
func credit(a accounting.Account, amount money.Amount) accounting.Line {
	return accounting.Line{Account: a, Amount: money.Of(-amount.Minor, amount.Currency)}
}

// entry leaves out lines of zero.
func entry(lines ...accounting.Line) []accounting.Line {
	kept := lines[:0]
	for _, l := range lines {
		if l.Amount.Minor != 0 {
			kept = append(kept, l)
		}
	}
	return kept
}

func poison(format string, args ...any) error {
	return fault.New(fault.Poison, "accounting/rules", format, args...)
}
