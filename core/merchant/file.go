package merchant

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/strictyaml"
)

// Bounds of a directory file, and of what is in it.
const (
	FileBytesMax = 16 << 20
	MerchantsMax = 10_000
	AccountsMax  = 1_000
)

// Load reads a snapshot from a YAML file. Unknown keys and values out of bounds
// are fault.Invalid, with the path of the key (merchants[2].fee_rate_ppm) and
// the fix.
func Load(path string) (*Snapshot, error) {
	text, err := read(path)
	if err != nil {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "directory", Code: "missing", Fix: "run `tallystick init`", Err: err}
	}
	return parse(path, text, strictyaml.Decode)
}

func read(path string) ([]byte, error) { return readAtMost(path, FileBytesMax) }

// readAtMost gives at most one byte more than a file may have.
func readAtMost(path string, bytesMax int64) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the operator's own file
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return io.ReadAll(io.LimitReader(f, bytesMax+1))
}

func parse(path string, text []byte, decode func(file string, text []byte, into any) error) (*Snapshot, error) {
	if len(text) > FileBytesMax {
		return nil, &fault.Error{Kind: fault.TooLarge, Op: path, Code: "too_large", Fix: fmt.Sprintf("keep it under %d bytes", FileBytesMax)}
	}
	s := &Snapshot{}
	if err := decode(path, text, s); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return s, fault.Wrap(path, s.Validate())
}

var (
	merchantID = regexp.MustCompile(`^[a-z0-9_-]{1,24}$`)
	accountID  = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	keyHash    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	keyName    = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)
)

// check collects the first thing that is wrong, with its path.
type check struct{ err error }

func (c *check) that(ok bool, path, fix string) {
	if !ok && c.err == nil {
		c.err = &fault.Error{Kind: fault.Invalid, Op: "directory", Field: path, Code: "bad_value", Fix: fix}
	}
}

// Validate names the first key that cannot be.
func (s *Snapshot) Validate() error {
	c := &check{}
	c.that(s.Version >= 1, "version", "start with 1, and raise it with every change")
	c.that(len(s.Merchants) <= MerchantsMax, "merchants", fmt.Sprintf("keep at most %d", MerchantsMax))
	c.that(len(s.Accounts) <= AccountsMax, "channel_accounts", fmt.Sprintf("keep at most %d", AccountsMax))
	seen := map[string]bool{}
	merchants := seen
	hashes := map[string]bool{}
	for i := range s.Merchants {
		s.Merchants[i].validate(c, fmt.Sprintf("merchants[%d]", i), seen, hashes)
	}
	seen = map[string]bool{}
	for i := range s.Accounts {
		s.Accounts[i].validate(c, fmt.Sprintf("channel_accounts[%d]", i), seen, merchants)
	}
	return c.err
}

func (m *Merchant) validate(c *check, at string, seen, hashes map[string]bool) {
	c.that(merchantID.MatchString(m.ID), at+".id", "use 1 to 24 of a-z, 0-9, - and _")
	c.that(!seen[m.ID], at+".id", "is there twice")
	seen[m.ID] = true
	c.that(utf8.RuneCountInString(m.Name) <= 100, at+".name", "keep it to 100 characters")
	c.that(len(m.KeyHashes) <= KeysMax, at+".key_hashes", "keep at most two: the one in use and its successor")
	for j, h := range m.KeyHashes {
		path := fmt.Sprintf("%s.key_hashes[%d]", at, j)
		c.that(keyHash.MatchString(h), path, "give the SHA-256 of the key: 64 lower-case hexadecimal digits")
		c.that(!hashes[h], path, "is in use already: a key belongs to one merchant")
		hashes[h] = true
	}
	validateCurrencies(c, at, m.Currencies)
	c.that(m.AmountMinorMax >= 1, at+".amount_minor_max", "set it to at least 1")
	c.that(m.FeeRate >= 0 && m.FeeRate <= money.RateMax, at+".fee_rate_ppm", "use 0 to 1000000 parts per million")
	c.that(m.RequestsPerSecond > 0 && m.RequestsPerSecond <= 1e6, at+".requests_per_second", "use more than 0, at most 1000000")
	c.that(m.Burst >= 1 && m.Burst <= 1e6, at+".burst", "use 1 to 1000000")
}

func (a *ChannelAccount) validate(c *check, at string, seen, merchants map[string]bool) {
	c.that(accountID.MatchString(a.ID), at+".id", "use 1 to 32 of a-z, 0-9 and -")
	c.that(!seen[a.ID], at+".id", "is there twice")
	seen[a.ID] = true
	c.that(a.Channel != "", at+".channel", "name the driver, such as sandbox")
	c.that(a.Traffic.Validate() == nil, at+".traffic", "use real or shadow")
	for j, m := range a.Merchants {
		c.that(merchants[m], fmt.Sprintf("%s.merchants[%d]", at, j), "name a merchant of this file")
	}
	validateCurrencies(c, at, a.Currencies)
	c.that(len(a.Methods) > 0, at+".methods", "name at least one of qr_code, redirect")
	for j, m := range a.Methods {
		c.that(m == channels.MethodQRCode || m == channels.MethodRedirect, fmt.Sprintf("%s.methods[%d]", at, j), "use qr_code or redirect")
		c.that(!slices.Contains(a.Methods[:j], m), fmt.Sprintf("%s.methods[%d]", at, j), "is there twice")
	}
	c.that(a.Weight >= 0 && a.Weight <= 1_000_000, at+".weight", "use 0 to 1000000")
	c.that(a.FeeRate >= 0 && a.FeeRate <= money.RateMax, at+".fee_rate_ppm", "use 0 to 1000000 parts per million")
	u, err := url.Parse(a.Endpoint)
	c.that(err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil, at+".endpoint",
		"give the PSP's base URL, such as https://api.psp.example, without a user or password")
	c.that(keyName.MatchString(a.KeyName), at+".key_name", "name the secret: secrets/psp-<key_name>.key")
	l := a.Limits
	c.that(l.CallsPerSecond > 0 && l.CallsPerSecond <= 1e6, at+".limits.calls_per_second", "use more than 0, at most 1000000")
	c.that(l.Burst >= 1 && l.Burst <= 1e6, at+".limits.burst", "use 1 to 1000000")
	c.that(l.ConcurrentMax >= 1 && l.ConcurrentMax <= 100_000, at+".limits.concurrent_max", "use 1 to 100000")
	c.that(l.DeadlineMillis >= 1 && l.DeadlineMillis <= 120_000, at+".limits.deadline_millis", "use 1 to 120000")
	c.that(l.BreakerFailures >= 1 && l.BreakerFailures <= 10_000, at+".limits.breaker_failures", "use 1 to 10000")
	c.that(l.BreakerOpenMillis >= 1 && l.BreakerOpenMillis <= 3_600_000, at+".limits.breaker_open_millis", "use 1 to 3600000")
}

func validateCurrencies(c *check, at string, currencies []money.Currency) {
	c.that(len(currencies) > 0, at+".currencies", "name at least one ISO 4217 code, such as CNY")
	for j, cur := range currencies {
		c.that(cur.Validate() == nil, fmt.Sprintf("%s.currencies[%d]", at, j), "use an ISO 4217 code in upper case, such as CNY")
		c.that(!slices.Contains(currencies[:j], cur), fmt.Sprintf("%s.currencies[%d]", at, j), "is there twice")
	}
}
