package rules

import "github.com/tallystick/tallystick/accounting"

// The base names of accounts; see the package comment.
const (
	PSPReceivable   = "psp_receivable"
	PSPFees         = "psp_fees"
	MerchantPayable = "merchant_payable"
	FeeIncome       = "fee_income"
	Suspense        = "suspense"
)

func pspReceivable(channelAccount string) accounting.Account {
	return spread(PSPReceivable+":"+channelAccount, accounting.Asset, accounting.Debit)
}

func pspFees(channelAccount string) accounting.Account {
	return spread(PSPFees+":"+channelAccount, accounting.Expense, accounting.Debit)
}

func merchantPayable(merchant string) accounting.Account {
	return spread(MerchantPayable+":"+merchant, accounting.Liability, accounting.Credit)
}

func feeIncome() accounting.Account {
	return spread(FeeIncome, accounting.Income, accounting.Credit)
}

func suspense(channelAccount string) accounting.Account {
	return spread(Suspense+":"+channelAccount, accounting.Liability, accounting.Credit)
}

func spread(name string, c accounting.Class, s accounting.Side) accounting.Account {
	return accounting.Account{Name: name, Class: c, Side: s, Kind: accounting.Spread}
}
