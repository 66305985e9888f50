package channels

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tallystick/tallystick/internal/money"
)

// IDBytesMax bounds what a PSP calls a transaction or an event by. Longer ones than
// this no PSP has, and keys of a store have an end.
const IDBytesMax = 128

// Text is what a PSP said, made fit to be stored and told: some send text in other
// encodings, and a database refuses, with a whole batch, what is no UTF-8 and any NUL.
func Text(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s // as nearly all are
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// TextMax is Text of at most so many bytes, cut between two characters.
func TextMax(s string, bytesMax int) string {
	s = Text(s)
	if len(s) <= bytesMax {
		return s
	}
	for bytesMax > 0 && !utf8.RuneStart(s[bytesMax]) {
		bytesMax--
	}
	return s[:bytesMax]
}

// Identifier is Text of what names something at a PSP: at most IDBytesMax bytes, and
// never the same for two that differ.
func Identifier(s string) string {
	if t := Text(s); t == s && len(s) <= IDBytesMax {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	tail := "~" + hex.EncodeToString(sum[:16])
	return TextMax(s, IDBytesMax-len(tail)) + tail
}

// Storable is an outcome with its texts made fit; Raw keeps the bytes as they came.
func (o Outcome) Storable() Outcome {
	o.State, o.Code, o.Message = State(Text(string(o.State))), Text(o.Code), Text(o.Message)
	o.TransactionID, o.Paid.Currency = Identifier(o.TransactionID), money.Currency(Text(string(o.Paid.Currency)))
	o.Credential = Credential{Method: Method(Text(string(o.Credential.Method))), Value: Text(o.Credential.Value)}
	return o
}

// Storable is an event with its texts and time made fit: some times are none.
func (e CallbackEvent) Storable() CallbackEvent {
	e.EventID, e.TransactionID = Identifier(e.EventID), Identifier(e.TransactionID)
	e.OutTradeNo, e.State, e.Code, e.Attach = Text(e.OutTradeNo), State(Text(string(e.State))), Text(e.Code), Text(e.Attach)
	e.Paid.Currency = money.Currency(Text(string(e.Paid.Currency)))
	if e.OccurredAt = e.OccurredAt.UTC(); e.OccurredAt.Year() < 1 || e.OccurredAt.Year() > 9999 {
		e.OccurredAt = time.Time{} // RFC 3339 has four digits for a year
	}
	return e
}
