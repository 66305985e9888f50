package api

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/cardguard"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

// Bounds of a payment request's fields, in bytes except for the subject.
const (
	orderIDMax         = 64
	subjectRunesMax    = 128
	returnURLMax       = 512
	metadataEntriesMax = 16
	metadataKeyMax     = 40
	metadataValueMax   = 256
	idempotencyKeyMax  = 255
)

// The context's elements where a request does not name them. They are not part
// of the canonical request.
const (
	defaultOrderType  = "general"
	defaultOrderScene = "online"
)

// validate holds the request against the rules of the API, then against what the
// merchant may do. Core holds it against the latter again.
func (r *Request) validate(m *merchant.Merchant, cfg *Config) error {
	switch {
	case !validOrderID(r.OrderID):
		return invalid("field_invalid", "order_id", "use 1 to 64 of A-Z a-z 0-9 . _ : -", nil)
	case r.Amount < 1:
		return invalid("field_invalid", "amount", "send at least 1 minor unit", nil)
	case money.Currency(r.Currency).Validate() != nil:
		return invalid("field_invalid", "currency", "send three upper-case letters of ISO 4217, such as CNY", nil)
	case !validText(r.Subject, subjectRunesMax, 4*subjectRunesMax) || r.Subject == "":
		return invalid("field_invalid", "subject", "send 1 to 128 characters without control characters", nil)
	case r.OrderType != "" && !validWord(r.OrderType, ids.OrderTypeLenMax):
		return invalid("field_invalid", "order_type", "use 1 to 16 of a-z 0-9 _", nil)
	case r.OrderScene != "" && !validWord(r.OrderScene, ids.OrderSceneLenMax):
		return invalid("field_invalid", "order_scene", "use 1 to 16 of a-z 0-9 _", nil)
	case r.Method != "" && r.Method != channels.MethodQRCode && r.Method != channels.MethodRedirect:
		return invalid("field_invalid", "method", "use qr_code or redirect", nil)
	case r.ReturnURL != "" && !validReturnURL(r.ReturnURL):
		return invalid("field_invalid", "return_url", "send an https URL of at most 512 characters", nil)
	}
	if lo, hi := int64(cfg.ExpiresMin.Seconds()), int64(cfg.ExpiresMax.Seconds()); r.ExpiresInSeconds != 0 && (r.ExpiresInSeconds < lo || r.ExpiresInSeconds > hi) {
		return invalid("field_invalid", "expires_in_seconds", "send "+strconv.FormatInt(lo, 10)+" to "+strconv.FormatInt(hi, 10), nil)
	}
	if err := r.validateMetadata(); err != nil {
		return err
	}
	if cardguard.Contains(r.Subject) {
		return invalid("card_number", "subject", "remove the card number", nil)
	}
	if !slices.Contains(m.Currencies, money.Currency(r.Currency)) {
		return invalid("currency_not_allowed", "currency", "use a currency that is enabled for the merchant", nil)
	}
	if r.Amount > m.AmountMinorMax {
		return invalid("amount_over_limit", "amount", "send at most "+strconv.FormatInt(m.AmountMinorMax, 10)+" minor units", nil)
	}
	return nil
}

func (r *Request) validateMetadata() error {
	// In order of the keys, so that the same body gives the same answer.
	for i := range r.Metadata {
		k, v := r.Metadata[i].key, r.Metadata[i].value
		switch {
		case !validMetadataKey(k):
			return invalid("field_invalid", "metadata", "name entries with 1 to 40 of A-Z a-z 0-9 . _ -", nil)
		case !validText(v, metadataValueMax, metadataValueMax):
			return invalid("field_invalid", "metadata."+k, "send at most 256 bytes without control characters", nil)
		case cardguard.Contains(k):
			return invalid("card_number", "metadata", "remove the card number from a name", nil)
		case cardguard.Contains(v):
			return invalid("card_number", "metadata."+k, "remove the card number", nil)
		}
	}
	return nil
}

// canonical appends the request's canonical text: the form and every field that
// the body names, no defaults.
func (r *Request) canonical(dst []byte) []byte {
	c := ids.NewCanonical(dst)
	optional := func(name, value string) {
		if value != "" {
			c.String(name, value)
		}
	}
	c.Int("amount", r.Amount)
	c.String("currency", r.Currency)
	if r.ExpiresInSeconds != 0 {
		c.Int("expires_in_seconds", r.ExpiresInSeconds)
	}
	c.String("form", string(traffic.Deposit))
	if len(r.Metadata) > 0 {
		c.Object("metadata")
		for i := range r.Metadata {
			c.String(r.Metadata[i].key, r.Metadata[i].value)
		}
		c.End()
	}
	optional("method", string(r.Method))
	c.String("order_id", r.OrderID)
	optional("order_scene", r.OrderScene)
	optional("order_type", r.OrderType)
	optional("return_url", r.ReturnURL)
	c.String("subject", r.Subject)
	return c.Bytes()
}

func validOrderID(s string) bool {
	return made(s, orderIDMax, func(b byte) bool { return alphanumeric(b) || b == '.' || b == '_' || b == ':' || b == '-' })
}

func validMetadataKey(s string) bool {
	return made(s, metadataKeyMax, func(b byte) bool { return alphanumeric(b) || b == '.' || b == '_' || b == '-' })
}

func validWord(s string, most int) bool {
	return made(s, most, func(b byte) bool { return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '_' })
}

func validIdempotencyKey(s []byte) bool {
	return made(s, idempotencyKeyMax, func(b byte) bool { return b >= 0x21 && b <= 0x7e })
}

// made reports whether s is 1 to most bytes that are all ok.
func made[T string | []byte](s T, most int, ok func(byte) bool) bool {
	if len(s) == 0 || len(s) > most {
		return false
	}
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func alphanumeric(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
}

// validText takes free text that is shown to people: no control characters, and
// not more than both bounds.
func validText(s string, runesMax, bytesMax int) bool {
	if len(s) > bytesMax {
		return false
	}
	if len(s) <= runesMax && made(s, runesMax, func(b byte) bool { return b >= ' ' && b < 0x7f }) {
		return true // as most is
	}
	if utf8.RuneCountInString(s) > runesMax {
		return false
	}
	for _, c := range s {
		if unicode.IsControl(c) || c == utf8.RuneError {
			return false
		}
	}
	return true
}

// validReturnURL takes https anywhere, and http on the payer's own machine for
// development. Credentials in a URL end up in logs, so there may be none.
func validReturnURL(s string) bool {
	if len(s) > returnURLMax {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Opaque != "" {
		return false
	}
	switch u.Scheme {
	case "https":
		return true
	case "http":
		addr, err := netip.ParseAddr(u.Hostname())
		return u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
	}
	return false
}
