// Package event is what the other areas know of accounting: entries booked or
// rejected, each naming the event that it books.
package event

import (
	"fmt"

	"github.com/go-json-experiment/json"

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

// Encode gives the payload: the same bytes for the same value.
func (e Entry) Encode() []byte {
	b, err := json.Marshal(e, json.Deterministic(true))
	if err != nil {
		panic(fmt.Sprintf("accounting/event: %v", err)) // a bug: our own types always can be encoded
	}
	return b
}

// Decode reads a payload.
func Decode(payload []byte) (e Entry, err error) {
	if err = json.Unmarshal(payload, &e); err != nil {
		err = fmt.Errorf("accounting/event: %w", err)
	}
	return e, err
}
