package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
	"sync"
	"time"
)

// The headers of a signed message.
const (
	HeaderAccount   = "Sandbox-Account"
	HeaderKey       = "Sandbox-Key"
	HeaderTimestamp = "Sandbox-Timestamp"
	HeaderNonce     = "Sandbox-Nonce"
	HeaderSignature = "Sandbox-Signature"
)

// Kind separates the three sorts of messages, so that none passes for another.
type Kind string

// The kinds. Each has its own subject: what is signed beside headers and body.
const (
	KindRequest  Kind = "request"  // subject: the path
	KindReply    Kind = "reply"    // subject: status and path, such as "200 /v1/pay"; nonce: the request's
	KindCallback Kind = "callback" // subject: empty
)

// Bounds of keys and of the clock.
const (
	SecretLenMin = 16
	SecretLenMax = 256
	KeysMax      = 2 // the key in use and the one that it is being replaced by
	// SkewSecondsMax is how far a request's or callback's timestamp may lie from
	// the reader's clock, in the past and in the future alike.
	SkewSecondsMax = 300

	nonceLenMin   = 8
	nonceLenMax   = 64
	accountLenMax = 64
)

// Seal is what the headers of a signed message hold.
type Seal struct {
	Account   string
	Key       string // id of the key
	Timestamp string // seconds since 1970, decimal
	Nonce     string
	Signature string // hexadecimal, lower case
}

// Ring holds an account's keys: the first signs, all verify. It is safe for
// concurrent use.
type Ring struct{ keys []*key }

type key struct {
	id   string
	macs sync.Pool
}

// mac is an HMAC with the buffers that it needs, so that signing allocates
// nothing but the result.
type mac struct {
	h   hash.Hash
	buf []byte
	sum [sha256.Size]byte
	txt [2 * sha256.Size]byte
}

// NewRing takes one or two secrets of SecretLenMin to SecretLenMax bytes.
func NewRing(secrets ...[]byte) (*Ring, error) {
	if len(secrets) == 0 || len(secrets) > KeysMax {
		return nil, fmt.Errorf("sandbox keys: want 1 to %d, have %d", KeysMax, len(secrets))
	}
	r := &Ring{}
	for i, s := range secrets {
		if len(s) < SecretLenMin || len(s) > SecretLenMax {
			return nil, fmt.Errorf("sandbox key %d: want %d to %d bytes, have %d", i+1, SecretLenMin, SecretLenMax, len(s))
		}
		s = append([]byte(nil), s...)
		k := &key{id: KeyID(s)}
		k.macs.New = func() any { return &mac{h: hmac.New(sha256.New, s), buf: make([]byte, 0, 384)} }
		r.keys = append(r.keys, k)
	}
	return r, nil
}

// KeyID names a secret without giving it away, so that both sides know which key
// is meant without agreeing on names.
func KeyID(secret []byte) string {
	sum := sha256.Sum256(append([]byte("sandbox key id\n"), secret...))
	return hex.EncodeToString(sum[:6])
}

// ValidAccount reports whether s can name an account: 1 to 64 letters, digits,
// dots, hyphens or underscores. So it needs no escaping in headers and paths.
func ValidAccount(s string) bool { return token(s, 1, accountLenMax) }

// ReplySubject is the subject of a reply's signature.
func ReplySubject(status int, path string) string { return strconv.Itoa(status) + " " + path }

// Sign seals a message with the first key.
func (r *Ring) Sign(kind Kind, subject, account, nonce string, now time.Time, body []byte) Seal {
	k := r.keys[0]
	s := Seal{Account: account, Key: k.id, Timestamp: strconv.FormatInt(now.Unix(), 10), Nonce: nonce}
	m := k.macs.Get().(*mac)
	s.Signature = string(m.sign(kind, subject, &s, body))
	k.macs.Put(m)
	return s
}

// Verify reports whether a message was sealed for the account with one of the
// keys. It does not look at the clock: see Fresh.
func (r *Ring) Verify(kind Kind, subject, account string, s Seal, body []byte) bool {
	if s.Account != account || !token(s.Nonce, nonceLenMin, nonceLenMax) || !digits(s.Timestamp) {
		return false
	}
	for _, k := range r.keys {
		if k.id != s.Key {
			continue
		}
		m := k.macs.Get().(*mac)
		ok := subtle.ConstantTimeCompare(m.sign(kind, subject, &s, body), []byte(s.Signature)) == 1
		k.macs.Put(m)
		return ok
	}
	return false
}

// Fresh reports whether the timestamp lies within SkewSecondsMax of now, before
// or after.
func (s Seal) Fresh(now time.Time) bool {
	t, err := strconv.ParseInt(s.Timestamp, 10, 64)
	if err != nil {
		return false
	}
	d := now.Unix() - t
	return d >= -SkewSecondsMax && d <= SkewSecondsMax
}

// sign gives the hexadecimal HMAC; it is m's until m is used again.
func (m *mac) sign(kind Kind, subject string, s *Seal, body []byte) []byte {
	b := append(m.buf[:0], "sandbox-1\n"...)
	for _, line := range [...]string{string(kind), subject, s.Account, s.Key, s.Timestamp, s.Nonce} {
		b = append(append(b, line...), '\n')
	}
	sum := sha256.Sum256(body)
	b = hex.AppendEncode(b, sum[:])
	m.buf = b
	m.h.Reset()
	m.h.Write(b)
	hex.Encode(m.txt[:], m.h.Sum(m.sum[:0]))
	return m.txt[:]
}

func token(s string, lenMin, lenMax int) bool {
	if len(s) < lenMin || len(s) > lenMax {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

func digits(s string) bool {
	if s == "" || len(s) > 12 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
