package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// TokenPrefix begins every client token, so that it is told from an API key.
const TokenPrefix = "vtk_"

// TokenKeyLen is the least length of a token key in bytes.
const TokenKeyLen = 32

// KeyIDLenMax bounds a key id.
const KeyIDLenMax = 16

var tokenText = base64.RawURLEncoding

// TokenRing signs and checks client tokens: who holds one may read the one
// voucher that it names, until it expires. Keys rotate by id: add the new one,
// make it current, drop the old one when its tokens have expired. Safe for
// concurrent use.
type TokenRing struct {
	current string
	keys    map[string]*sync.Pool // of *tokenMAC
}

// tokenMAC is an HMAC with room for its sum, so that signing allocates nothing.
type tokenMAC struct {
	h   hash.Hash
	sum [sha256.Size]byte
}

// NewTokenRing takes the keys by id (1 to 16 of [a-z0-9]) and the id of the one
// that signs.
func NewTokenRing(current string, keys map[string][]byte) (*TokenRing, error) {
	r := &TokenRing{current: current, keys: map[string]*sync.Pool{}}
	for kid, key := range keys {
		if kid == "" || len(kid) > KeyIDLenMax || strings.Trim(kid, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			return nil, &fault.Error{Kind: fault.Invalid, Op: "token ring", Field: "token_keys." + kid, Code: "key_id", Fix: "name keys with 1 to 16 of a-z and 0-9"}
		}
		if len(key) < TokenKeyLen {
			return nil, &fault.Error{Kind: fault.Invalid, Op: "token ring", Field: "token_keys." + kid, Code: "key_short", Fix: fmt.Sprintf("use at least %d random bytes", TokenKeyLen)}
		}
		key := append([]byte(nil), key...)
		r.keys[kid] = &sync.Pool{New: func() any { return &tokenMAC{h: hmac.New(sha256.New, key)} }}
	}
	if r.keys[current] == nil {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "token ring", Field: "token_keys", Code: "no_current", Fix: "name one of the keys as the current one"}
	}
	return r, nil
}

// Claims are what a token says: whose voucher may be read, until when.
type Claims struct {
	Y               ids.Code
	Merchant        string
	ExpiresAtMillis int64
}

// Append appends a token: prefix, key id, dot, claims, dot, HMAC-SHA256 over all
// of that.
func (r *TokenRing) Append(dst []byte, c Claims) []byte {
	start := len(dst)
	dst = append(dst, TokenPrefix...)
	dst = append(dst, r.current...)
	dst = append(dst, '.')
	var claims [8 + ids.CodeLen + ids.MerchantLenMax]byte
	binary.BigEndian.PutUint64(claims[:8], uint64(c.ExpiresAtMillis)) //nolint:gosec // after 1970
	n := 8 + copy(claims[8:], c.Y)
	n += copy(claims[n:], c.Merchant)
	dst = tokenText.AppendEncode(dst, claims[:n])
	sum := r.sum(r.current, dst[start:])
	dst = append(dst, '.')
	return tokenText.AppendEncode(dst, sum[:])
}

func (r *TokenRing) sum(kid string, signed []byte) [sha256.Size]byte {
	pool := r.keys[kid]
	m := pool.Get().(*tokenMAC)
	defer pool.Put(m)
	m.h.Reset()
	m.h.Write(signed)
	m.h.Sum(m.sum[:0])
	return m.sum
}

// Verify gives the claims of a token: fault.Unauthorized with code token_invalid
// or token_expired otherwise.
func (r *TokenRing) Verify(token []byte, now time.Time) (Claims, error) {
	bad := &fault.Error{Kind: fault.Unauthorized, Op: "token", Code: "token_invalid"}
	text := string(token)
	rest, ok := strings.CutPrefix(text, TokenPrefix)
	kid, rest, ok2 := strings.Cut(rest, ".")
	claims64, sum64, ok3 := strings.Cut(rest, ".")
	if !ok || !ok2 || !ok3 || r.keys[kid] == nil {
		return Claims{}, bad
	}
	// Strict: one token has one spelling.
	claims, err := tokenText.Strict().DecodeString(claims64)
	if err != nil || len(claims) <= 8+ids.CodeLen || len(claims) > 8+ids.CodeLen+ids.MerchantLenMax || strings.ContainsAny(rest, "\r\n") {
		return Claims{}, bad
	}
	have, err := tokenText.Strict().DecodeString(sum64)
	want := r.sum(kid, token[:len(text)-len(sum64)-1])
	if err != nil || subtle.ConstantTimeCompare(have, want[:]) != 1 {
		return Claims{}, bad
	}
	y, err := ids.ParseCode(string(claims[8 : 8+ids.CodeLen]))
	if err != nil {
		return Claims{}, bad
	}
	c := Claims{Y: y, Merchant: string(claims[8+ids.CodeLen:]), ExpiresAtMillis: int64(binary.BigEndian.Uint64(claims[:8]))} //nolint:gosec // signed by us
	if now.UnixMilli() >= c.ExpiresAtMillis {
		return Claims{}, &fault.Error{Kind: fault.Unauthorized, Op: "token", Code: "token_expired"}
	}
	return c, nil
}
