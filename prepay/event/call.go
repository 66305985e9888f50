package event

import (
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// Call is prepay's read model of the calls of one number, for operators.
type Call struct {
	Context    ids.Context  `json:"context"`
	OutTradeNo string       `json:"out_trade_no"`
	Y          ids.Code     `json:"y"`
	Account    string       `json:"account"`
	Amount     money.Amount `json:"amount"`
	Status     string       `json:"status"`   // due, sending, answered, stopped
	Standing   string       `json:"standing"` // never_sent, unknown, pending, paid, declined, closed
	Tries      int          `json:"tries"`

	LastResult channels.Result `json:"last_result,omitzero"`
	LastState  channels.State  `json:"last_state,omitzero"`
	LastCode   string          `json:"last_code,omitzero"`

	// NextAction is empty when there is nothing left to do. NextAtMillis is when,
	// Unix milliseconds; 0 when it does not hang on the clock.
	NextAction   string `json:"next_action,omitzero"`
	NextAtMillis int64  `json:"next_at_millis,omitzero"`

	CreatedAtMillis int64 `json:"created_at_millis"`
	AgeMillis       int64 `json:"age_millis"`
	SentAtMillis    int64 `json:"sent_at_millis,omitzero"`
	DeskAtMillis    int64 `json:"desk_at_millis,omitzero"` // since when it waits on the desk as well; 0 for not
}
