// Package traffic holds the two leaf words that every command, row and message
// carries beside its identifiers: whether it is real or shadow, and which of the
// four forms of moving money it belongs to.
package traffic

import "fmt"

// Kind says whether money is really meant to move.
type Kind string

// The kinds of traffic. A shadow request reaches shadow stores and simulators only.
const (
	Real   Kind = "real"
	Shadow Kind = "shadow"
)

// Letter is the first character of every code of this kind: r or s. It is 0 for
// a kind that does not exist.
func (k Kind) Letter() byte {
	switch k {
	case Real:
		return 'r'
	case Shadow:
		return 's'
	}
	return 0
}

// KindOf is the inverse of Letter; ok is false for any other letter.
func KindOf(letter byte) (k Kind, ok bool) {
	switch letter {
	case 'r':
		return Real, true
	case 's':
		return Shadow, true
	}
	return "", false
}

// Validate refuses anything but real and shadow.
func (k Kind) Validate() error {
	if k.Letter() == 0 {
		return fmt.Errorf("traffic %q is neither %q nor %q", string(k), string(Real), string(Shadow))
	}
	return nil
}

// Form is how a payment order moves money.
type Form string

// The four forms.
const (
	Deposit    Form = "deposit"
	Withdrawal Form = "withdrawal"
	Refund     Form = "refund"
	Transfer   Form = "transfer"
)

// Validate refuses a form that does not exist.
func (f Form) Validate() error {
	switch f {
	case Deposit, Withdrawal, Refund, Transfer:
		return nil
	}
	return fmt.Errorf("form %q is none of deposit, withdrawal, refund, transfer", string(f))
}

// MoneyOut reports whether money leaves us in this form.
func (f Form) MoneyOut() bool { return f != Deposit }
