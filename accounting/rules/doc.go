// Package rules says how payments are booked: which account is debited and which
// is credited for each event of core. It is written to be read by an accountant,
// and testdata holds, for each case, the event and the postings that it makes.
//
// The chart of accounts, where {channel account} and {merchant} are ids:
//
//	psp_receivable:{channel account}  asset      a PSP has received it and owes it to us
//	psp_fees:{channel account}        expense    what the PSP keeps
//	merchant_payable:{merchant}       liability  what we owe to a merchant
//	fee_income                        income     what the merchant pays us
//	suspense:{channel account}        liability  money that nobody can explain yet
//
// All are spread: today nothing is paid out of them, so none needs a guard.
//
// A payment received, of gross amount A, PSP fee p and our fee f:
//
//	debit   psp_receivable    A - p
//	debit   psp_fees          p
//	credit  merchant_payable  A - f
//	credit  fee_income        f
//
// Surplus, money received that settles no order, is owed to whoever it turns out
// to belong to:
//
//	debit   psp_receivable    A - p
//	debit   psp_fees          p
//	credit  suspense          A
//
// A line of zero is left out.
package rules
