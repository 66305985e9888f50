package ids

import (
	"crypto/sha256"
	"encoding/binary"
	"sort"
)

// Fingerprint is a SHA-256 over a canonical request: see Canonical.
type Fingerprint [sha256.Size]byte

// Canonical is a request in its canonical bytes: fields by name, absent ones
// left out and no defaults filled in, amounts in minor units, strings as
// decoded. Each field is its name and its value, both length-prefixed, with one
// letter of type between them. Add fields in any order; Bytes sorts.
//
// The bytes are kept with the order: two bodies are compared by them, never by
// a code. Vectors in testdata/fingerprint.json hold them still.
type Canonical struct {
	fields []canonicalField
}

type canonicalField struct {
	name  string
	kind  byte
	value string
	num   int64
}

// String adds a string field.
func (c *Canonical) String(name, value string) {
	c.fields = append(c.fields, canonicalField{name: name, kind: 's', value: value})
}

// Int adds an integer field, such as an amount in minor units.
func (c *Canonical) Int(name string, v int64) {
	c.fields = append(c.fields, canonicalField{name: name, kind: 'i', num: v})
}

// Reset empties c and keeps its memory.
func (c *Canonical) Reset() { c.fields = c.fields[:0] }

// AppendTo appends the canonical bytes to dst.
func (c *Canonical) AppendTo(dst []byte) []byte {
	// Sorted by insertion: a request has a dozen fields and mostly comes in order.
	if !sort.SliceIsSorted(c.fields, func(i, j int) bool { return c.fields[i].name < c.fields[j].name }) {
		sort.SliceStable(c.fields, func(i, j int) bool { return c.fields[i].name < c.fields[j].name })
	}
	for i := range c.fields {
		f := &c.fields[i]
		dst = binary.AppendUvarint(dst, uint64(len(f.name)))
		dst = append(dst, f.name...)
		dst = append(dst, f.kind)
		if f.kind == 'i' {
			dst = binary.AppendVarint(dst, f.num)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(f.value)))
		dst = append(dst, f.value...)
	}
	return dst
}

// FingerprintOf hashes canonical bytes.
func FingerprintOf(canonical []byte) Fingerprint { return sha256.Sum256(canonical) }
