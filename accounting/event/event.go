// Package event is what the other areas know of accounting: entries booked or
// rejected, each naming the event that it books.
package event

import (
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/internal/money"
)

// The types on topic postings.
const (
	TypePosted   = "entry.posted"
	TypeRejected = "entry.rejected"
)

// Entry tells what became of one journal entry.
type Entry struct {
	EntryID  string    `json:"entry_id"`
	EventID  string    `json:"event_id"` // the event that it books
	Rule     string    `json:"rule"`
	Postings []Posting `json:"postings"`
	Reason   string    `json:"reason,omitzero"` // of a rejection
}

// Posting is one line of an entry. Debits are positive, credits negative; the
// lines of an entry sum to zero per currency.
type Posting struct {
	Account string       `json:"account"`
	Amount  money.Amount `json:"amount"`
}

// Encode gives the payload: the same bytes for the same value. It is appended by
// hand, as reflection was measured to cost more than the posting's decisions; a
// test compares the two.
func (e Entry) Encode() []byte {
	b := make([]byte, 0, 192+96*len(e.Postings))
	b = appendText(append(b, `{"entry_id":`...), e.EntryID)
	b = appendText(append(b, `,"event_id":`...), e.EventID)
	b = appendText(append(b, `,"rule":`...), e.Rule)
	b = append(b, `,"postings":[`...)
	for i := range e.Postings {
		if i > 0 {
			b = append(b, ',')
		}
		p := &e.Postings[i]
		b = appendText(append(b, `{"account":`...), p.Account)
		b = strconv.AppendInt(append(b, `,"amount":{"minor":`...), p.Amount.Minor, 10)
		b = appendText(append(b, `,"currency":`...), string(p.Amount.Currency))
		b = append(b, '}', '}')
	}
	b = append(b, ']')
	if e.Reason != "" {
		b = appendText(append(b, `,"reason":`...), e.Reason)
	}
	return append(b, '}')
}

func appendText(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // what is not UTF-8 is replaced
	return dst
}

// Decode reads a payload.
func Decode(payload []byte) (e Entry, err error) {
	if err = json.Unmarshal(payload, &e); err != nil {
		err = fmt.Errorf("accounting/event: %w", err)
	}
	return e, err
}
