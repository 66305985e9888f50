// Package cardguard finds card numbers in free text, so that none ever enters
// this system: not in a subject, not in metadata, not in a log line.
//
// A card number is 13 to 19 digits, also full-width ones, alone or with one or two
// spaces, dashes or dots between them, that begin as an issuer's do, have a length
// which that issuer uses, and pass the Luhn check. Digits that are glued to more digits of the
// same word (a hash, a code, a longer number) are not one.
//
// It is for free text only: one in ten order ids made from a timestamp passes
// Luhn, so that identifiers are never checked and never masked.
package cardguard

import "strings"

// Lengths of a card number in digits.
const (
	digitsMin = 13
	digitsMax = 19
)

// Mask stands where a card number stood.
const Mask = "[card number]"

// Contains reports whether there is a card number in s. It allocates nothing.
func Contains(s string) bool {
	start, _ := find(s, 0)
	return start >= 0
}

// Redact gives s with Mask in the place of every card number. A text without
// one is given back as it is, without an allocation.
func Redact(s string) string {
	start, end := find(s, 0)
	if start < 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	from := 0
	for start >= 0 {
		b.WriteString(s[from:start])
		b.WriteString(Mask)
		from = end
		start, end = find(s, from)
	}
	b.WriteString(s[from:])
	return b.String()
}

// find gives the first card number at or after from, the longest that begins
// there; start is -1 without one. It takes at most 19 looks at each digit.
func find(s string, from int) (start, end int) {
	for i := from; i < len(s); i++ {
		_, n := digitAt(s, i)
		if n == 0 {
			continue
		}
		if end := match(s, i); end > 0 {
			return i, end
		}
		// A number begins where its digits begin: skip the rest of this block.
		for n > 0 {
			i += n
			_, n = digitAt(s, i)
		}
	}
	return -1, 0
}

// match gives the end of the longest card number that begins at i, which is the
// first digit of a block; 0 if there is none.
func match(s string, i int) (end int) {
	if gluedBefore(s, i) {
		return 0
	}
	var digits [digitsMax]byte
	d, width := digitAt(s, i)
	for n := 0; width > 0 && n < digitsMax; {
		digits[n] = d
		n++
		i += width
		if d, width = digitAt(s, i); width > 0 {
			continue // not the end of a block
		}
		if n >= digitsMin && issued(digits[:n]) && luhn(digits[:n]) && !gluedAfter(s, i) {
			end = i
		}
		i += separators(s, i)
		d, width = digitAt(s, i)
	}
	return end
}

// gluedBefore reports whether the word that s[i] is in has a digit before it:
// "card4111..." is a card number with a word before it, "9f4111..." is a hash.
func gluedBefore(s string, i int) bool {
	for i--; i >= 0 && isLetter(s[i]); i-- {
	}
	if i < 0 {
		return false
	}
	_, one := digitAt(s, i)
	_, three := digitAt(s, max(0, i-2))
	return one > 0 || three == len(fullWidthZero)
}

// gluedAfter is the same for what follows; s[i] is behind the last digit.
func gluedAfter(s string, i int) bool {
	for ; i < len(s) && isLetter(s[i]); i++ {
	}
	_, n := digitAt(s, i)
	return n > 0
}

// fullWidthZero is the digit as it is typed among Chinese characters; the others
// follow it in their last byte.
const fullWidthZero = "\uff10"

// digitAt gives the digit at s[i], and how many bytes it has; 0 if there is none.
func digitAt(s string, i int) (digit byte, n int) {
	if i >= len(s) {
		return 0, 0
	}
	if c := s[i]; '0' <= c && c <= '9' {
		return c - '0', 1
	}
	if len(s)-i >= len(fullWidthZero) && s[i] == fullWidthZero[0] && s[i+1] == fullWidthZero[1] {
		if d := s[i+2] - fullWidthZero[2]; d <= 9 {
			return d, len(fullWidthZero)
		}
	}
	return 0, 0
}

// separators gives the length of the one or two separators at s[i]; 0 if there is
// none. Longer gaps divide numbers.
func separators(s string, i int) (n int) {
	for range 2 {
		n += separator(s[i+n:])
	}
	return n
}

func separator(s string) int {
	switch {
	case s == "":
		return 0
	case s[0] == ' ' || s[0] == '-' || s[0] == '.':
		return 1
	case strings.HasPrefix(s, "\u00a0"): // the space that does not break
		return 2
	case strings.HasPrefix(s, "\u3000"): // the one of full width
		return 3
	}
	return 0
}

func isLetter(c byte) bool { c |= 0x20; return 'a' <= c && c <= 'z' }

// luhn is the check of ISO/IEC 7812-1.
func luhn(digits []byte) bool {
	sum := 0
	for i := range digits {
		d := int(digits[len(digits)-1-i])
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// issuer is a range of first digits and the lengths of its numbers.
type issuer struct {
	width     int // how many first digits low and high have
	low, high int
	lengths   lengths
}

// lengths is a set of numbers of digits.
type lengths uint32

func span(lowest, highest int) lengths { return 1<<(highest+1) - 1<<lowest }

// issued reports whether numbers of an issuer begin and are as long as this one.
func issued(digits []byte) bool {
	var first [7]int // the value of the first n digits
	for i := range 6 {
		first[i+1] = first[i]*10 + int(digits[i])
	}
	for i := range issuers {
		r := &issuers[i]
		if v := first[r.width]; r.low <= v && v <= r.high && r.lengths&(1<<len(digits)) != 0 {
			return true
		}
	}
	return false
}

var issuers = [...]issuer{
	{1, 4, 4, 1<<13 | 1<<16 | 1<<18 | 1<<19}, // Visa
	{2, 51, 55, 1 << 16},                     // Mastercard
	{4, 2221, 2720, 1 << 16},                 // Mastercard
	{2, 34, 34, 1 << 15},                     // American Express
	{2, 37, 37, 1 << 15},                     // American Express
	{4, 6011, 6011, span(16, 19)},            // Discover
	{3, 644, 649, span(16, 19)},              // Discover
	{2, 65, 65, span(16, 19)},                // Discover, RuPay
	{4, 3528, 3589, span(16, 19)},            // JCB
	{2, 62, 62, span(16, 19)},                // UnionPay
	{4, 8100, 8171, span(16, 19)},            // UnionPay
	{3, 300, 305, span(14, 19)},              // Diners Club
	{4, 3095, 3095, span(14, 19)},            // Diners Club
	{2, 36, 36, span(14, 19)},                // Diners Club
	{2, 38, 39, span(14, 19)},                // Diners Club
	{2, 50, 50, span(13, 19)},                // Maestro
	{2, 56, 58, span(13, 19)},                // Maestro
	{4, 6304, 6304, span(13, 19)},            // Maestro
	{3, 675, 676, span(13, 19)},              // Maestro
	{4, 2200, 2204, span(16, 19)},            // Mir
}
