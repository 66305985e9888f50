package obs

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/internal/cardguard"
)

// Redacted stands where a secret stood in a log line.
const Redacted = "[redacted]"

// NewLogger writes JSON lines to w, stamped by now. Card numbers in messages
// and free text are masked, and values under the name of a secret (such as
// authorization, token, credential, key) are left out; identifiers (trace_id,
// out_trade_no and everything that ends in _id) are kept as they are.
func NewLogger(w io.Writer, level slog.Leveler, now func() time.Time) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
			return slog.Time(slog.TimeKey, now().UTC())
		}
		return redact(groups, a)
	}}))
}

func redact(groups []string, a slog.Attr) slog.Attr {
	secret := isSecret(a.Key) || slices.ContainsFunc(groups, isSecret)
	switch a.Value.Kind() {
	case slog.KindString:
		if s := a.Value.String(); secret && s != "" {
			a.Value = slog.StringValue(Redacted)
		} else if !isIdentifier(a.Key) {
			a.Value = slog.StringValue(cardguard.Redact(s))
		}
	case slog.KindAny:
		if _, builtin := a.Value.Any().(slog.Level); builtin {
			return a
		}
		if secret {
			a.Value = slog.StringValue(Redacted)
		} else {
			a.Value = redactAny(a.Key, a.Value.Any())
		}
	}
	return a // numbers, times and durations hold no secret and no card number
}

// redactAny looks into what is logged as JSON, through the eyes of a reader.
func redactAny(key string, v any) slog.Value {
	switch v := v.(type) {
	case nil:
		return slog.AnyValue(nil)
	case error:
		return slog.StringValue(cardguard.Redact(v.Error()))
	case []byte:
		return slog.StringValue(cardguard.Redact(string(v)))
	case fmt.Stringer:
		return slog.AnyValue(redactTree(key, v.String()))
	}
	text, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return slog.StringValue(fmt.Sprintf("[%T: not logged]", v))
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return slog.StringValue(fmt.Sprintf("[%T: not logged]", v))
	}
	return slog.AnyValue(redactTree(key, tree))
}

func redactTree(key string, v any) any {
	switch v := v.(type) {
	case string:
		if isSecret(key) && v != "" {
			return Redacted
		}
		if isIdentifier(key) {
			return v
		}
		return cardguard.Redact(v)
	case []any:
		for i := range v {
			v[i] = redactTree(key, v[i])
		}
	case map[string]any:
		for k := range v {
			inner := k
			if isSecret(key) {
				inner = key // all that is under a secret is secret
			}
			v[k] = redactTree(inner, v[k])
		}
	}
	return v
}

// isSecret tells by its name whether a value is one: any word of the name is a
// secret's, and the last does not say that this is only about it (token_id).
func isSecret(key string) bool {
	words := split(key)
	if len(words) == 0 {
		return false
	}
	switch words[len(words)-1] {
	case "id", "name", "hash", "kid", "type", "kind", "code", "status", "count", "bytes", "millis", "seconds":
		return false
	case "key", "keys":
		// The idempotency key and the key of an ordered stream are identifiers.
		return !slices.Contains([]string{"idempotency_key", "biz_key", "order_key", "parked_key"}, strings.ToLower(key))
	}
	for _, w := range words {
		switch w {
		case "authorization", "token", "tokens", "credential", "credentials", "secret", "secrets", "password",
			"passphrase", "cookie", "apikey", "pan", "cvv", "cvc":
			return true
		}
	}
	return false
}

// isIdentifier tells by its name whether a value must never be masked.
func isIdentifier(key string) bool {
	switch key {
	case "id", "biz_code", "merchant", "order", "order_type", "order_scene", "institution", "form", "traffic", "event",
		"entry", "trade", "voucher", "payment", "refund", "transfer", "account", "idempotency_key", "key":
		return true
	}
	return strings.HasSuffix(key, "_id") || strings.HasSuffix(key, "_ids") || strings.HasSuffix(key, "_no") || strings.HasSuffix(key, "Id")
}

// split cuts a name into lower-case words: apiKey, api-key and API_KEY are alike.
func split(key string) []string {
	var b strings.Builder
	for i := range len(key) {
		c := key[i]
		if upper := 'A' <= c && c <= 'Z'; upper && i > 0 && 'a' <= key[i-1] && key[i-1] <= 'z' {
			b.WriteByte('_')
		}
		b.WriteByte(c)
	}
	return strings.FieldsFunc(strings.ToLower(b.String()), func(r rune) bool { return r == '_' || r == '-' || r == '.' || r == ' ' })
}
