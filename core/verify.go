package core

import (
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// Verified is what the verification of one group found out for the comparison
// with other areas: all of it is of one moment.
type Verified struct {
	// Payments and Dispatch are the last messages told by then; Outcomes is the last
	// one of prepay's that had been applied, or put aside.
	Payments, Dispatch, Outcomes bus.Place
	// ParkedKeys are the BizCodes with something put aside.
	ParkedKeys map[ids.Code]bool
	Dispatches int64            // messages of topic dispatch
	Accepted   map[string]int64 // by merchant: the distinct Y that topic payments tells of
	Money      []MoneyEvent
	Open       []OpenAttempt
	// Trimmed is what was deleted of the two topics. Accepted has it; Money has not.
	Trimmed Trimmed
	// Older are, by number, the attempts whose dispatch was deleted.
	Older map[string]OlderAttempt
}

// Trimmed is what is left of deleted messages of a group.
type Trimmed struct {
	Payments, Dispatch bus.Place // up to where they are gone
	Money              []TrimmedMoney
	MoneyEvents        int64 // how many events said that money came
}

// TrimmedMoney is what deleted events told of money, in minor units. All of it was
// read by accounting.
type TrimmedMoney struct {
	Merchant, Account               string
	Currency                        money.Currency
	Settled, Surplus, PSPFees, Fees int64
}

// OlderAttempt is an attempt whose dispatch is not in the log any more.
type OlderAttempt struct {
	Account string
	Amount  money.Amount
}

// MoneyEvent is an event of topic payments that says that money came, and so is
// to be booked.
type MoneyEvent struct {
	EventID  string
	Seq      int64 // its place in the group
	Merchant string
	Account  string
	Paid     money.Amount
	PSPFee   int64
	Fee      int64 // ours; surplus has none
	Surplus  bool
}

// OpenAttempt is an attempt that is at a PSP, or about to be, of a payment order
// that is not final.
type OpenAttempt struct {
	X          ids.Code
	OutTradeNo string
	Account    string
	Status     event.Status
}
