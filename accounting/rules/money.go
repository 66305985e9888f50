package rules

import (
	"cmp"
	"slices"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
)

// Money is what the ledger says of one merchant over one channel account in one
// currency, for the equations. Each term is summed from its own postings; none is
// a remainder of the others. All amounts are minor units.
type Money struct {
	Merchant       string
	ChannelAccount string
	Currency       money.Currency
	Received       int64 // debits of what PSPs owe us and of what they kept
	PSPFees        int64 // of that, what they kept
	Payable        int64 // owed to the merchant
	FeeIncome      int64 // ours
	Suspense       int64 // not explained yet
}

// Balanced reports whether the equation holds for this row.
func (m Money) Balanced() bool { return m.Received == m.Payable+m.FeeIncome+m.Suspense }

// MoneyOf reads a ledger's totals by these rules' accounts, sorted by merchant,
// channel account and currency. An account that the chart does not know is
// fault.Internal: the sums would be wrong.
func MoneyOf(totals []accounting.Total) ([]Money, error) {
	type key struct {
		merchant, channelAccount string
		currency                 money.Currency
	}
	sums := map[key]*Money{}
	for _, t := range totals {
		k := key{t.Merchant, t.ChannelAccount, t.Currency}
		m := sums[k]
		if m == nil {
			m = &Money{Merchant: t.Merchant, ChannelAccount: t.ChannelAccount, Currency: t.Currency}
			sums[k] = m
		}
		switch t.Base {
		case PSPReceivable:
			m.Received += t.Debits - t.Credits
		case PSPFees:
			m.Received += t.Debits - t.Credits
			m.PSPFees += t.Debits - t.Credits
		case MerchantPayable:
			m.Payable += t.Credits - t.Debits
		case FeeIncome:
			m.FeeIncome += t.Credits - t.Debits
		case Suspense:
			m.Suspense += t.Credits - t.Debits
		default:
			return nil, fault.New(fault.Internal, "accounting/rules", "account %q is not in the chart", t.Base)
		}
	}
	out := make([]Money, 0, len(sums))
	for _, m := range sums {
		out = append(out, *m)
	}
	slices.SortFunc(out, func(a, b Money) int {
		return cmp.Or(cmp.Compare(a.Merchant, b.Merchant), cmp.Compare(a.ChannelAccount, b.ChannelAccount), cmp.Compare(a.Currency, b.Currency))
	})
	return out, nil
}
