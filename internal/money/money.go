// Package money is amounts as integers of a currency's minor unit, with checked
// arithmetic: nothing here rounds silently, overflows or mixes currencies.
//
// How many minor units make a major one is a matter of display and of each PSP,
// and is not known here.
package money

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// Currency is an ISO 4217 alphabetic code, such as CNY.
type Currency string

// Validate refuses everything but three upper-case letters.
func (c Currency) Validate() error {
	if len(c) != 3 {
		return fmt.Errorf("currency %q is not a three-letter ISO 4217 code", string(c))
	}
	for i := range 3 {
		if c[i] < 'A' || c[i] > 'Z' {
			return fmt.Errorf("currency %q is not a three-letter ISO 4217 code in upper case", string(c))
		}
	}
	return nil
}

// Errors of arithmetic.
var (
	ErrOverflow = errors.New("money: amount overflows 64 bits")
	ErrCurrency = errors.New("money: amounts of different currencies")
	ErrRate     = errors.New("money: rate out of range 0 to 1,000,000 ppm, or amount negative")
)

// Amount is a number of minor units of one currency. The zero Amount has no
// currency and belongs to none: arithmetic with it is refused.
type Amount struct {
	Minor    int64    `json:"minor"`
	Currency Currency `json:"currency"`
}

// Of makes an amount.
func Of(minor int64, c Currency) Amount { return Amount{Minor: minor, Currency: c} }

func (a Amount) String() string { return fmt.Sprintf("%d %s", a.Minor, a.Currency) }

// Add gives a + b, or ErrCurrency or ErrOverflow.
func (a Amount) Add(b Amount) (Amount, error) {
	if err := a.sameCurrency(b); err != nil {
		return Amount{}, err
	}
	sum := a.Minor + b.Minor
	if (a.Minor > 0 && b.Minor > 0 && sum <= 0) || (a.Minor < 0 && b.Minor < 0 && sum >= 0) {
		return Amount{}, ErrOverflow
	}
	return Amount{sum, a.Currency}, nil
}

func (a Amount) sameCurrency(b Amount) error {
	if a.Currency != b.Currency || a.Currency == "" {
		return fmt.Errorf("%w: %q and %q", ErrCurrency, string(a.Currency), string(b.Currency))
	}
	return nil
}

// Neg gives -a, or ErrOverflow for the smallest integer.
func (a Amount) Neg() (Amount, error) {
	if a.Minor == math.MinInt64 {
		return Amount{}, ErrOverflow
	}
	return Amount{-a.Minor, a.Currency}, nil
}

// Sub gives a - b, or ErrCurrency or ErrOverflow.
func (a Amount) Sub(b Amount) (Amount, error) {
	if err := a.sameCurrency(b); err != nil {
		return Amount{}, err
	}
	diff := a.Minor - b.Minor
	if (a.Minor >= 0 && b.Minor < 0 && diff < 0) || (a.Minor < 0 && b.Minor > 0 && diff >= 0) {
		return Amount{}, ErrOverflow
	}
	return Amount{diff, a.Currency}, nil
}

// Rate is a proportion in parts per million: 6,000 is 0.6 %.
type Rate int64

// RateMax is one hundred per cent.
const RateMax Rate = 1_000_000

// Share gives rate × a, rounded half away from zero to a whole minor unit, as
// PSPs round fees. a must not be negative and rate must be 0 to RateMax, else
// ErrRate. What the rounding leaves is the caller's: share and rest are
// computed as a subtraction, never as two shares.
func (a Amount) Share(rate Rate) (Amount, error) {
	if a.Minor < 0 || rate < 0 || rate > RateMax {
		return Amount{}, ErrRate
	}
	hi, lo := bits.Mul64(uint64(a.Minor), uint64(rate))
	lo, carry := bits.Add64(lo, uint64(RateMax)/2, 0)
	q, _ := bits.Div64(hi+carry, lo, uint64(RateMax)) // hi < RateMax, as rate <= RateMax
	return Amount{int64(q), a.Currency}, nil          //nolint:gosec // q <= a.Minor
}
