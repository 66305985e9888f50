package ids

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"hash"
	"strings"
	"sync"

	"github.com/tallystick/tallystick/internal/traffic"
)

// SecretLen is the length of the code secret in bytes.
const SecretLen = 32

var crockford = base32.NewEncoding(Alphabet).WithPadding(base32.NoPadding)

// Secret derives codes. It is an installation constant: another secret gives
// every order another code. It is safe for concurrent use.
type Secret struct {
	macs        sync.Pool
	fingerprint string
}

// mac is an HMAC with the buffers it needs, so that deriving a code allocates
// nothing but the code.
type mac struct {
	h   hash.Hash
	sum [sha256.Size]byte
	txt [64]byte
	str []byte
}

// NewSecret takes SecretLen bytes.
func NewSecret(key []byte) (*Secret, error) {
	if len(key) != SecretLen {
		return nil, fmt.Errorf("code secret: want %d bytes, have %d", SecretLen, len(key))
	}
	key = append([]byte(nil), key...)
	s := &Secret{}
	s.macs.New = func() any { return &mac{h: hmac.New(sha256.New, key), str: make([]byte, 0, 512)} }
	m := s.get("fingerprint")
	s.fingerprint = strings.ToLower(crockford.EncodeToString(m.done()[:15]))
	s.macs.Put(m)
	return s, nil
}

// Fingerprint identifies the secret without giving it away. Every store keeps
// it, and refuses to be opened with another.
func (s *Secret) Fingerprint() string { return s.fingerprint }

func (s *Secret) get(purpose string) *mac {
	m := s.macs.Get().(*mac)
	m.h.Reset()
	m.str = m.str[:0]
	m.add(purpose)
	return m
}

// add takes one length-prefixed input, so that no two lists of inputs meet.
func (m *mac) add(s string) {
	m.str = binary.AppendUvarint(m.str, uint64(len(s)))
	m.str = append(m.str, s...)
}

func (m *mac) done() []byte {
	m.h.Write(m.str)
	return m.h.Sum(m.sum[:0])
}

// Trade derives X for a merchant's order.
func (s *Secret) Trade(k traffic.Kind, merchant, order string) Code {
	var x [CodeLen]byte
	s.PutTrade(&x, k, merchant, order)
	return Code(x[:])
}

// PutTrade is Trade into memory of the caller's.
func (s *Secret) PutTrade(x *[CodeLen]byte, k traffic.Kind, merchant, order string) {
	m := s.get("trade")
	defer s.macs.Put(m)
	m.add(string(k))
	m.add(merchant)
	m.add(order)
	sum := m.done()
	// 10 bits of slot, then the next 100 bits: 22 characters in one go.
	crockford.Encode(m.txt[:24], sum[:15])
	x[0] = k.Letter()
	copy(x[1:taggedLen], m.txt[:])
	s.tag(m, merchant, x[:taggedLen], x[taggedLen:])
}

// Intent derives Y in x's slot. An absent idempotency key is the order id's
// business: the caller passes what stands for it.
func (s *Secret) Intent(x Code, merchant, order string, form traffic.Form, key string, fp Fingerprint) Code {
	var of, y [CodeLen]byte
	copy(of[:], x)
	s.PutIntent(&y, &of, merchant, order, form, key, &fp)
	return Code(y[:])
}

// PutIntent is Intent into memory of the caller's.
func (s *Secret) PutIntent(y, x *[CodeLen]byte, merchant, order string, form traffic.Form, key string, fp *Fingerprint) {
	m := s.get("intent")
	defer s.macs.Put(m)
	k, _ := traffic.KindOf(x[0])
	m.add(string(k))
	m.add(merchant)
	m.add(order)
	m.add(string(form))
	m.add(key)
	m.str = append(m.str, fp[:]...)
	sum := m.done()
	crockford.Encode(m.txt[:24], sum[:15])
	copy(y[:1+slotLen], x[:])
	copy(y[1+slotLen:taggedLen], m.txt[:])
	s.tag(m, merchant, y[:taggedLen], y[taggedLen:])
}

// tag writes the 20-bit MAC over merchant and the first characters of a code.
func (s *Secret) tag(m *mac, merchant string, tagged, dst []byte) {
	m.h.Reset()
	m.str = m.str[:0]
	m.add("tag")
	m.add(merchant)
	m.str = append(m.str, tagged...)
	sum := m.done()
	var txt [8]byte
	crockford.Encode(txt[:], sum[:5])
	copy(dst, txt[:tagLen])
}

// Verify tells, without any row, whether the code was derived here for this
// merchant. A forged code passes once in a million.
func (s *Secret) Verify(c Code, merchant string) bool {
	if len(c) != CodeLen {
		return false
	}
	m := s.macs.Get().(*mac)
	defer s.macs.Put(m)
	var want [tagLen]byte
	s.tag(m, merchant, []byte(c[:taggedLen]), want[:])
	return subtle.ConstantTimeCompare(want[:], []byte(c[taggedLen:])) == 1
}
