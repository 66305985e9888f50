// Package channeltest is what every driver must do, run against its PSP's
// simulator. Run is for a driver's tests; Cases is for proving the suite itself on
// drivers that are broken on purpose.
package channeltest

import (
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/internal/money"
)

// Fault is what a request may meet.
type Fault string

// The faults.
const (
	LostReply   Fault = "lost_reply"   // done, but the answer is lost
	Hang        Fault = "hang"         // never answered
	ServerError Fault = "server_error" // 5xx, not done
	Decline     Fault = "decline"      // payments only
	Early       Fault = "early"        // payments only: paid and called back before the answer
	Refuse      Fault = "refuse"       // no connection
)

// PSP is the other side: a simulator that the suite can steer.
type PSP interface {
	// With makes the call, whose requests all meet the fault. False if the
	// simulator has no such fault: then it hasn't called.
	With(f Fault, call func()) bool
	// Pays is a payer who pays an amount; false if the payment can't be paid.
	Pays(outTradeNo string, amount money.Amount) bool
	// Taken is what payers have paid under a number, and how many payments of that
	// number there are. Without payers it is the zero Amount.
	Taken(outTradeNo string) (taken money.Amount, payments int)
	// Callback waits, with a bound of its own, for a callback about the number that
	// has not been given yet.
	Callback(outTradeNo string) (channels.CallbackRequest, bool)
}

// Harness is a driver with its PSP, fresh for each case.
type Harness struct {
	Channel   *channels.Channel
	PSP       PSP
	Now       func() time.Time
	NotifyURL string
	Currency  money.Currency
	// Window is how far a callback's time may be off; 0 if the PSP signs no time.
	Window time.Duration
	// HangMax is how long a call waits for an answer that never comes.
	HangMax time.Duration
}

// T is the part of *testing.T that cases use.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Case is one thing that a driver must do.
type Case struct {
	Name string
	Run  func(T, Harness)
}

// Run runs all cases as subtests, each with a harness of its own.
func Run(t *testing.T, fresh func(*testing.T) Harness) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) { c.Run(t, fresh(t)) })
	}
}

// Cases is the list.
func Cases() []Case {
	return []Case{
		{"a prepay is pending and can be paid", pendingThenPaid},
		{"the same prepay twice is one payment", duplicatePrepay},
		{"another body under the same number is refused", otherBody},
		{"a declined payment is Declined", declined},
		{"a lost reply is Unknown, and a query finds the payment", lostReply},
		{"a hang is Unknown at the deadline", hang},
		{"5xx is Unknown", serverError},
		{"a refused connection is NotSent", refused},
		{"a context that is over is NotSent", contextOver},
		{"a query or close without an answer is Unknown", unanswered},
		{"a tampered callback is refused", tampered},
		{"a callback without signature is refused", unsigned},
		{"an old and a future callback are refused", outOfWindow},
		{"an early callback is true", early},
		{"a wrong amount is reported as it is", wrongAmount},
		{"amounts come back as they went", amounts},
		{"a closed payment cannot be paid", closeThenPay},
		{"a paid payment cannot be closed", payThenClose},
		{"an expired payment is declined", expired},
		{"an unknown number is not found", notFound},
		{"attach comes back", attach},
		{"a callback keeps its event id", eventID},
		{"yes and no are different words", acks},
	}
}
