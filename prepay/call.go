package prepay

import (
	"context"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	prepayevent "github.com/tallystick/tallystick/prepay/event"
)

// Status is where a call is in its life.
type Status string

// The states of a call.
const (
	Due      Status = "due"      // Op is to be called at NextAtMillis
	Sending  Status = "sending"  // Op may be on its way, by process Owner
	Answered Status = "answered" // the fate is known, or core must say what comes after NotSent
	Stopped  Status = "stopped"  // core knows the fate and wants no more calls
)

// Standing is what is known of a number at its PSP.
type Standing string

// The standings. NeverSent is certain: no call of the number can have reached
// the PSP. While the first pay is in Sending, the standing is still NeverSent,
// and only the process that makes the call may build on it.
const (
	NeverSent Standing = "never_sent"
	Unknown   Standing = "unknown" // it may exist there
	Pending   Standing = "pending" // it exists and waits for the payer
	Paid      Standing = "paid"
	Declined  Standing = "declined"
	Closed    Standing = "closed"
)

// Final reports whether no answer can change the standing any more.
func (s Standing) Final() bool { return s == Paid || s == Declined || s == Closed }

// Call is everything about the calls of one number.
type Call struct {
	ID         int64 // given by the store, increasing
	Context    ids.Context
	OutTradeNo string
	Y          ids.Code
	Account    string // the channel account, for ever

	// The body of the pay call. It never changes, so that a repetition is the same
	// call. NotifyURL is fixed when the first call is drawn.
	Amount          money.Amount
	Method          channels.Method
	Subject         string
	ReturnURL       string
	NotifyURL       string
	ExpiresAtMillis int64 // given to the channel; 0 for never

	Status       Status
	Op           event.Op // the call that is due or sending: pay, query or close
	Standing     Standing
	NextAtMillis int64 // when Op is due
	Asks         int   // calls since the standing last changed; the backoff grows with it
	Tries        int   // calls of this number in all, over all operations
	// CloseWanted: core wants the number closed. StopWanted: no call after the
	// running one. AskWanted: the next call follows the running one at once.
	CloseWanted, StopWanted, AskWanted bool
	HasCredential                      bool // core was told one

	LastResult channels.Result
	LastState  channels.State
	LastCode   string // at most codeBytesMax
	Owner      string // the process that made, or is making, the last call

	CreatedAtMillis int64
	SentAtMillis    int64 // of the last call
	DeskAtMillis    int64 // when it was put on the operators' desk; 0 for not
	Version         int64 // the store's guard: grows by one with each change
}

// expired reports whether the PSP must refuse the payer by now.
func (c *Call) expired(nowMillis int64) bool {
	return c.ExpiresAtMillis > 0 && nowMillis >= c.ExpiresAtMillis
}

// unsendable reports whether a first pay must not leave any more.
func (c *Call) unsendable(nowMillis int64) bool {
	return c.Op == event.OpPay && c.Standing == NeverSent && c.expired(nowMillis)
}

// due makes op the next call.
func (c *Call) due(op event.Op, atMillis int64) {
	c.Status, c.Op, c.NextAtMillis, c.Owner = Due, op, atMillis, ""
}

func (c *Call) payRequest() channels.PayRequest {
	r := channels.PayRequest{OutTradeNo: c.OutTradeNo, Amount: c.Amount, Method: c.Method, Subject: c.Subject,
		ReturnURL: c.ReturnURL, NotifyURL: c.NotifyURL, Attach: c.Context.Attach()}
	if c.ExpiresAtMillis > 0 {
		r.ExpiresAt = time.UnixMilli(c.ExpiresAtMillis).UTC()
	}
	return r
}

// view is the call as operators see it.
func (c *Call) view(nowMillis int64) prepayevent.Call {
	v := prepayevent.Call{Context: c.Context, OutTradeNo: c.OutTradeNo, Y: c.Y, Account: c.Account, Amount: c.Amount,
		Status: string(c.Status), Standing: string(c.Standing), Tries: c.Tries, LastResult: c.LastResult,
		LastState: c.LastState, LastCode: c.LastCode, CreatedAtMillis: c.CreatedAtMillis,
		AgeMillis: nowMillis - c.CreatedAtMillis, SentAtMillis: c.SentAtMillis, DeskAtMillis: c.DeskAtMillis}
	switch c.Status {
	case Due:
		v.NextAction, v.NextAtMillis = string(c.Op), c.NextAtMillis
	case Sending:
		v.NextAction = "await the reply to " + string(c.Op)
	case Answered:
		if c.Standing == NeverSent {
			v.NextAction = "await core's decision"
		}
	}
	return v
}

// DueOf asks for due calls of one account.
type DueOf struct {
	Account string
	Limit   int
}

// Pick says which calls an Update is about. Exactly one of its ways is used.
type Pick struct {
	// Numbers: the calls with these numbers; they are distinct. New are those of
	// them that are likely not to exist yet: a store need not look for these, as long
	// as fn is called again, with all that there are, when one that it inserts does exist.
	Numbers, New []string
	// Due: for each account, calls with NextAtMillis <= NowMillis, ordered by
	// NextAtMillis and ID.
	Due []DueOf
	// Expired: due calls that were never sent and whose ExpiresAtMillis is not
	// later than NowMillis. Sending: calls in Sending. OldOpen: open calls that are
	// not on the desk and were made at or before BeforeMillis. All by ID, at most Limit.
	Expired, Sending, OldOpen bool
	NowMillis, BeforeMillis   int64
	Limit                     int
}

// Picked is what a Pick found.
type Picked struct {
	Calls []Call
	// NextAtMillis has, for each element of Pick.Due, the time of the account's next
	// call that is not due yet; 0 if there is none.
	NextAtMillis []int64
}

// Change is what an Update writes. Its calls are the store's from then on, which
// gives those that are inserted their ID, and all their Version.
type Change struct {
	Insert []Call
	Update []Call // as they were picked (ID, Version), changed
	Batch  *bus.Batch
	Events []bus.Event // for topic outcomes
}

func (c *Change) empty() bool {
	return len(c.Insert) == 0 && len(c.Update) == 0 && c.Batch == nil && len(c.Events) == 0
}

// Store keeps the calls. Safe for concurrent use; Updates happen one at a time.
type Store interface {
	// Update reads calls, lets fn decide, once or twice, and writes its last change: calls, the batch's
	// places and, last, the events, in one transaction that is durable when Update
	// returns nil. It fails with fault.Fenced when a call or a place is no longer
	// what it was read as, with fault.Conflict when a number exists already, and
	// with fn's error, and has then changed nothing. fault.Unknown: the
	// store must be opened anew.
	Update(ctx context.Context, p Pick, fn func(Picked) (Change, error)) error
	// Find gives the call of a number; ok is false if there is none.
	Find(ctx context.Context, outTradeNo string) (c Call, ok bool, err error)
	// ListOpen gives due and sending calls with an ID greater than after, by ID.
	ListOpen(ctx context.Context, f Filter, after int64, limit int) ([]Call, error)
	// Clean deletes calls that nobody asks for again: made at or before BeforeMillis,
	// expired at or before NowMillis, and stopped or final. It looks at calls with an
	// ID greater than After, by ID, at most Limit. What never expires stays: see the
	// package comment.
	Clean(ctx context.Context, o Old) (Cleaned, error)
	// Stats counts open calls by account, ordered by account.
	Stats(ctx context.Context, nowMillis int64) ([]AccountStats, error)
}

// Old says what Clean looks at.
type Old struct {
	BeforeMillis, NowMillis int64
	After                   int64
	Limit                   int
}

// Cleaned is what Clean did.
type Cleaned struct {
	Last int64 // the ID of the call that it looked at last; After if it looked at none
	Rows int   // that it deleted
	More bool  // whether calls made at or before BeforeMillis may follow
}

// Filter narrows a list of open calls; zero fields do not.
type Filter struct {
	Account  string
	Standing Standing
	Desk     bool // only those on the operators' desk
}

// AccountStats counts one account's open calls.
type AccountStats struct {
	Account         string
	Due             int64 // at NowMillis
	OldestDueMillis int64 // the earliest NextAtMillis of those; 0 if none
	Waiting         int64 // due later
	Unknown         int64
	Desk            int64
}
