// Package judge holds three sides that know nothing of each other against each other,
// after a product was killed or troubled: the merchants' log of what they were promised,
// the stores, and what PSPs took.
package judge

import (
	"fmt"

	"github.com/tallystick/tallystick/cmd/app"
)

// Kind is what a violation breaks.
type Kind string

// The kinds.
const (
	Lost        Kind = "lost"         // a voucher was acknowledged, and core does not know it
	PaidTwice   Kind = "paid_twice"   // one order was, or may be, paid twice
	BookedTwice Kind = "booked_twice" // the ledger has more than the PSPs took
	NotBooked   Kind = "not_booked"   // the ledger has less than the PSPs took
	Other       Kind = "other"
)

// Violation is something that must not be.
type Violation struct {
	Kind Kind
	What string
}

// Order is the merchants' log of one order, which was asked for under one key with one
// body.
type Order struct {
	OrderID string
	// Vouchers are all that were promised: one, however often it was asked.
	Vouchers []string
	Acks     int
	Unsure   int    // no answer, or 504: it may be kept
	Refused  int    // 503 or 429: by that try, it certainly was not
	Wrong    string // an answer that a valid order must not get
}

// Accepted notes a 202.
func (o *Order) Accepted(voucher string) {
	o.Acks++
	if len(o.Vouchers) == 0 || o.Vouchers[len(o.Vouchers)-1] != voucher {
		o.Vouchers = append(o.Vouchers, voucher)
	}
}

// Verdict is what a comparison came to.
type Verdict struct {
	Orders       int // asked for, whatever the answer
	Acknowledged int // vouchers with a 202
	Final, Open  int // of these
	RetriedSame  int // orders that were asked for again after their 202, and got the same voucher
	Paid         int // numbers that the PSPs took money for
	PaidMinor    int64
	Books        app.Verification
	Violations   []Violation
}

// Add adds a violation.
func (v *Verdict) Add(k Kind, format string, args ...any) {
	v.Violations = append(v.Violations, Violation{k, fmt.Sprintf(format, args...)})
}

// Count counts the violations of a kind.
func (v *Verdict) Count(k Kind) (n int) {
	for _, violation := range v.Violations {
		if violation.Kind == k {
			n++
		}
	}
	return n
}
