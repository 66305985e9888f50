// Package event is what the other areas know of prepay: the outcomes of its calls.
package event

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/channels"
)

// TypeOutcome is the only type on topic outcomes, payload Outcome.
const TypeOutcome = "outcome.recorded"

// Outcome is what one call for an attempt came to. Op is the call: "pay",
// "query" or "close", as in core/event. Only outcomes that tell something new are
// published. Two codes are prepay's own and need no PSP: a NotSent with code
// "expired" was too late for its first call; a Done in state closed with code
// "closed_before_sending" was closed by core before any call was made.
type Outcome struct {
	OutTradeNo string           `json:"out_trade_no"`
	Account    string           `json:"account"`
	Op         string           `json:"op"`
	Try        int              `json:"try"` // of this number, from 1, over all operations; 0 when none was ever made
	Outcome    channels.Outcome `json:"outcome"`
	AtMillis   int64            `json:"at_millis"`
	// NextAtMillis is when prepay will ask again, Unix milliseconds; 0 for never.
	NextAtMillis int64 `json:"next_at_millis,omitzero"`
}

// Encode gives the payload: the same bytes for the same value. What is not UTF-8
// in a PSP's text is replaced.
func (o Outcome) Encode() []byte {
	b, err := json.Marshal(o, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		panic(fmt.Sprintf("prepay/event: %v", err)) // a bug: our own types always can be encoded
	}
	return b
}

// Decode reads a payload.
func Decode(payload []byte) (o Outcome, err error) {
	if err = json.Unmarshal(payload, &o); err != nil {
		err = fmt.Errorf("prepay/event: %w", err)
	}
	return o, err
}
