// Package ids makes and reads the identifiers of the system, and the context
// that travels with everything that belongs to a trade.
//
// A code is 27 characters of lower-case Crockford base32: the kind of traffic
// (r or s), 2 of slot, 20 of HMAC and 4 of tag. X, a trade's BizCode, is a pure
// function of (traffic, merchant, order id); Y, an intent's code in X's slot, of
// (traffic, merchant, order id, form, idempotency key, fingerprint). So any
// replica that holds the code secret answers a retry with the same voucher,
// whatever caches were lost.
package ids

import (
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/internal/traffic"
)

// Alphabet is Crockford's base32 in lower case: no i, l, o, u.
const Alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// Sizes of a code and of what is in it, in characters, and the number of slots.
const (
	CodeLen   = 27
	slotLen   = 2
	hmacLen   = 20
	tagLen    = 4
	taggedLen = CodeLen - tagLen
	Slots     = 1024
)

// AttemptsMax is how many attempts one intent may have: as many as one
// character of the alphabet can number.
const AttemptsMax = 32

// ErrCode is wrapped by every error about a malformed identifier.
var ErrCode = errors.New("malformed identifier")

var decodeTable = func() (t [256]int8) {
	for i := range t {
		t[i] = -1
	}
	for i := range len(Alphabet) {
		t[Alphabet[i]] = int8(i)
	}
	return t
}()

// Code is X or Y: see the package comment. Only Secret makes one.
type Code string

// ParseCode checks the form of a code; only Secret.Verify tells whether the tag is ours.
func ParseCode(s string) (Code, error) {
	if len(s) != CodeLen {
		return "", fmt.Errorf("%w: a code has %d characters, not %d", ErrCode, CodeLen, len(s))
	}
	if _, ok := traffic.KindOf(s[0]); !ok {
		return "", fmt.Errorf("%w: a code starts with r or s", ErrCode)
	}
	for i := 1; i < len(s); i++ {
		if decodeTable[s[i]] < 0 {
			return "", fmt.Errorf("%w: character %d is not lower-case Crockford base32", ErrCode, i+1)
		}
	}
	return Code(s), nil
}

// Traffic is the kind of traffic that the code itself names.
func (c Code) Traffic() traffic.Kind {
	if c == "" {
		return ""
	}
	k, _ := traffic.KindOf(c[0])
	return k
}

// Slot is 0 to Slots-1, fixed for ever for a trade and all that belongs to it.
// It is -1 for a code that is malformed.
func (c Code) Slot() int {
	if len(c) != CodeLen {
		return -1
	}
	hi, lo := decodeTable[c[1]], decodeTable[c[2]]
	if hi < 0 || lo < 0 {
		return -1
	}
	return int(hi)<<5 | int(lo)
}

// Group is the group of the code's slot when the slots are divided into groups
// (1 to Slots) of neighbours, so that a group's codes are a range of keys.
func (c Code) Group(groups int) int { return c.Slot() * groups / Slots }

// Prefix says what an identifier names.
type Prefix string

// The prefixes of identifiers that carry a code, and of those that carry a UUIDv7.
const (
	TradeID      Prefix = "trd_"
	VoucherID    Prefix = "vch_"
	PaymentID    Prefix = "pay_"
	WithdrawalID Prefix = "wdr_"
	RefundID     Prefix = "rfd_"
	TransferID   Prefix = "trf_"

	EventID        Prefix = "evt_"
	EntryID        Prefix = "ent_"
	DiscrepancyID  Prefix = "dsc_"
	NotificationID Prefix = "ntf_"
)

// With is the identifier of this prefix for the code.
func (p Prefix) With(c Code) string { return string(p) + string(c) }

// OrderPrefix is the prefix of a payment order's own identifier in this form.
func OrderPrefix(f traffic.Form) Prefix {
	switch f {
	case traffic.Withdrawal:
		return WithdrawalID
	case traffic.Refund:
		return RefundID
	case traffic.Transfer:
		return TransferID
	default:
		return PaymentID
	}
}

// ParseID takes an identifier with a code apart.
func ParseID(s string) (Prefix, Code, error) {
	if len(s) != 4+CodeLen {
		return "", "", fmt.Errorf("%w: an id is a prefix such as vch_ and %d characters", ErrCode, CodeLen)
	}
	switch p := Prefix(s[:4]); p {
	case TradeID, VoucherID, PaymentID, WithdrawalID, RefundID, TransferID:
		c, err := ParseCode(s[4:])
		return p, c, err
	default:
		return "", "", fmt.Errorf("%w: %q is no prefix of an id", ErrCode, s[:4])
	}
}

// OutTradeNo is the number under which a PSP knows one attempt (0 to
// AttemptsMax-1) of the intent y: 28 characters, which every PSP accepts.
// It panics on an attempt out of range: core never opens one.
func OutTradeNo(y Code, attempt int) string {
	return string(y) + Alphabet[attempt:attempt+1]
}

// ParseOutTradeNo is the inverse of OutTradeNo.
func ParseOutTradeNo(s string) (y Code, attempt int, err error) {
	if len(s) != CodeLen+1 || decodeTable[s[CodeLen]] < 0 {
		return "", 0, fmt.Errorf("%w: an out_trade_no is a code and one attempt character", ErrCode)
	}
	y, err = ParseCode(s[:CodeLen])
	return y, int(decodeTable[s[CodeLen]]), err
}
