package ids

import (
	"crypto/sha256"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Fingerprint is a SHA-256 over a canonical request: see Canonical.
type Fingerprint [sha256.Size]byte

// Canonical writes a request in its canonical text: one JSON object without
// white space, with the names in order, absent fields left out and no defaults
// filled in, strings as decoded and escaped only where JSON demands it, amounts
// in minor units. That is RFC 8785, but for integers, which are written in full
// to their 64 bits. So equal requests are equal bytes, and anyone can read them.
//
// The text is kept with the order: two bodies are compared by it, never by a
// code. Vectors in testdata/fingerprint.json hold it still.
//
// Fields are added in the order of their names, which are ASCII: another order
// panics, as it would give an order that was accepted another code.
type Canonical struct {
	dst   []byte
	last  string // name of the field before, in this object
	first bool   // the object has no field yet
	outer string // name of the object that is open inside; empty for none
}

// NewCanonical begins a text that is appended to dst.
func NewCanonical(dst []byte) Canonical { return Canonical{dst: append(dst, '{'), first: true} }

func (c *Canonical) name(name string) {
	if !c.first {
		if name <= c.last {
			panic("ids: canonical field " + name + " after " + c.last)
		}
		c.dst = append(c.dst, ',')
	}
	c.first, c.last = false, name
	c.quote(name)
	c.dst = append(c.dst, ':')
}

// quote cannot fail: what is not UTF-8 was refused long before it came here.
func (c *Canonical) quote(s string) { c.dst, _ = jsontext.AppendQuote(c.dst, s) }

// String adds a string field.
func (c *Canonical) String(name, value string) {
	c.name(name)
	c.quote(value)
}

// Int adds an integer field, such as an amount in minor units.
func (c *Canonical) Int(name string, v int64) {
	c.name(name)
	c.dst = strconv.AppendInt(c.dst, v, 10)
}

// Object adds a field that is an object itself: what is added next is added to
// it, until End. There is one such level.
func (c *Canonical) Object(name string) {
	if c.outer != "" {
		panic("ids: canonical object " + name + " in " + c.outer)
	}
	c.name(name)
	c.dst = append(c.dst, '{')
	c.first, c.outer = true, name
}

// End ends the object that Object began.
func (c *Canonical) End() {
	c.dst = append(c.dst, '}')
	c.first, c.last, c.outer = false, c.outer, ""
}

// Bytes ends the text and gives it, behind what it was appended to.
func (c *Canonical) Bytes() []byte { return append(c.dst, '}') }

// FingerprintOf hashes a canonical text.
func FingerprintOf(canonical []byte) Fingerprint { return sha256.Sum256(canonical) }
