// Package merchant is the directory that every role keeps: merchants, their
// policies and keys, and channel accounts. It is state, not events: the highest
// version wins. It never carries a secret: API keys are hashes, and a PSP's keys
// are named, and read by the one role that needs them.
package merchant

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

// KeysMax is how many API keys of a merchant may be active at once: the one in
// use and the one it is being replaced by.
const KeysMax = 2

// Merchant is who sells, and what they may do.
type Merchant struct {
	ID         string           `yaml:"id"` // at most 24 characters
	Name       string           `yaml:"name"`
	Enabled    bool             `yaml:"enabled"`
	KeyHashes  []string         `yaml:"key_hashes"` // SHA-256 of the API keys, hexadecimal
	Currencies []money.Currency `yaml:"currencies"`
	// AmountMinorMax bounds one payment, in minor units of its currency.
	AmountMinorMax int64 `yaml:"amount_minor_max"`
	// FeeRate is what the merchant pays us, in parts per million.
	FeeRate money.Rate `yaml:"fee_rate_ppm"`
	// RequestsPerSecond and Burst limit payment requests at each gateway.
	RequestsPerSecond float64 `yaml:"requests_per_second"`
	Burst             int     `yaml:"burst"`
}

// ChannelAccount is a merchant's (or our own) configured credentials for a PSP.
type ChannelAccount struct {
	ID         string            `yaml:"id"`
	Channel    string            `yaml:"channel"` // the driver: "sandbox"
	Enabled    bool              `yaml:"enabled"`
	Traffic    traffic.Kind      `yaml:"traffic"`
	Merchants  []string          `yaml:"merchants"` // who may use it; empty for all
	Currencies []money.Currency  `yaml:"currencies"`
	Methods    []channels.Method `yaml:"methods"`
	// Weight is this account's share of new payments among those that fit; 0 takes
	// part only when the others cannot.
	Weight int `yaml:"weight"`
	// FeeRate is what the PSP keeps, in parts per million.
	FeeRate money.Rate `yaml:"fee_rate_ppm"`
	// Endpoint is the PSP's base URL. KeyName names the secret to sign with, and to
	// verify callbacks with.
	Endpoint string `yaml:"endpoint"`
	KeyName  string `yaml:"key_name"`

	Limits AccountLimits `yaml:"limits"`
}

// AccountLimits are the bounds on calls of one channel account.
type AccountLimits struct {
	CallsPerSecond    float64 `yaml:"calls_per_second"`
	Burst             int     `yaml:"burst"`
	ConcurrentMax     int     `yaml:"concurrent_max"`  // bulkhead
	DeadlineMillis    int64   `yaml:"deadline_millis"` // of one call
	BreakerFailures   int     `yaml:"breaker_failures"`
	BreakerOpenMillis int64   `yaml:"breaker_open_millis"`
}

// Deadline is the time that one call may take.
func (l AccountLimits) Deadline() time.Duration {
	return time.Duration(l.DeadlineMillis) * time.Millisecond
}

// Fits reports whether the account may take a payment like this.
func (a *ChannelAccount) Fits(merchant string, k traffic.Kind, c money.Currency, m channels.Method) bool {
	return a.Enabled && a.Traffic == k && slices.Contains(a.Currencies, c) && slices.Contains(a.Methods, m) &&
		(len(a.Merchants) == 0 || slices.Contains(a.Merchants, merchant))
}

// Snapshot is one version of the directory. It is never changed.
type Snapshot struct {
	Version   int64            `yaml:"version"`
	Merchants []Merchant       `yaml:"merchants"`
	Accounts  []ChannelAccount `yaml:"channel_accounts"`

	byKey    map[string]*Merchant
	byID     map[string]*Merchant
	accounts map[string]*ChannelAccount
}

// index fills the lookups; every way to make a Snapshot ends here.
func (s *Snapshot) index() {
	s.byKey, s.byID, s.accounts = map[string]*Merchant{}, map[string]*Merchant{}, map[string]*ChannelAccount{}
	for i := range s.Merchants {
		m := &s.Merchants[i]
		s.byID[m.ID] = m
		for _, h := range m.KeyHashes {
			s.byKey[h] = m
		}
	}
	for i := range s.Accounts {
		s.accounts[s.Accounts[i].ID] = &s.Accounts[i]
	}
}

// Merchant finds a merchant by id; nil if there is none.
func (s *Snapshot) Merchant(id string) *Merchant { return s.byID[id] }

// Account finds a channel account by id; nil if there is none.
func (s *Snapshot) Account(id string) *ChannelAccount { return s.accounts[id] }

// Authenticate finds the merchant that an API key belongs to; nil if none. The
// key is hashed first, so that the lookup's time tells nothing of the key, and
// the found hash is compared in constant time.
func (s *Snapshot) Authenticate(key []byte) *Merchant {
	sum := sha256.Sum256(key)
	var h [2 * sha256.Size]byte
	hex.Encode(h[:], sum[:])
	m := s.byKey[string(h[:])]
	if m == nil {
		return nil
	}
	for _, want := range m.KeyHashes {
		if subtle.ConstantTimeCompare(h[:], []byte(want)) == 1 {
			return m
		}
	}
	return nil
}

// HashKey is the form in which an API key is kept.
func HashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// Directory is the current snapshot, replaced as a whole. Safe for concurrent use.
type Directory struct{ current atomic.Pointer[Snapshot] }

// NewDirectory starts with a snapshot; with nil it is one of version 0 in which there
// is nobody, until the first one comes.
func NewDirectory(s *Snapshot) *Directory {
	d := &Directory{}
	d.current.Store(&Snapshot{})
	if s != nil {
		d.Replace(s)
	}
	return d
}

// Current is the snapshot in force. Callers use one for the whole of a request.
func (d *Directory) Current() *Snapshot { return d.current.Load() }

// Replace puts a newer snapshot in force; an older or equal version is ignored,
// and false returned.
func (d *Directory) Replace(s *Snapshot) bool {
	s.index()
	for {
		have := d.current.Load()
		if s.Version <= have.Version {
			return false
		}
		if d.current.CompareAndSwap(have, s) {
			return true
		}
	}
}

// Takes reports whether the merchant may be paid in a currency.
func (m *Merchant) Takes(c money.Currency) bool { return slices.Contains(m.Currencies, c) }
