package accounting

import (
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/accounting/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// LinesMax is how many lines an entry may have. Stores number them in one byte.
const LinesMax = 64

// Line is one debit (positive) or credit (negative) of an account.
type Line struct {
	Account Account
	Amount  money.Amount
}

// Draft is what a rule makes of an event: an entry that is not yet booked.
type Draft struct {
	Rule           string // its name, such as "payment.received"
	ChannelAccount string // the account that the money moved through; may be empty
	Lines          []Line
}

// Entry is a set of lines that balances, bound to the event that it books.
type Entry struct {
	ID             string // ent_ and a UUIDv7
	NoticeID       string // evt_ and a UUIDv7: of the event that tells of this entry
	EventID        string
	Group          int // of the BizCode
	Book           string
	Rule           string
	ChannelAccount string
	Context        ids.Context
	AtMillis       int64 // when it was booked, Unix milliseconds
	Lines          []Line
}

// Result is what became of an entry. Repeated says that the event had been
// booked before: EntryID and Reason are the first one's, and nothing was booked.
type Result struct {
	EntryID  string
	Reason   string // of a rejection; empty when posted
	Repeated bool
}

// The reasons of rejections.
const (
	ReasonOverdraft = "overdraft" // a homed account would fall below zero
	ReasonOverflow  = "overflow"  // a balance would leave 64 bits
)

// ErrUnbalanced is wrapped by CheckLines.
var ErrUnbalanced = errors.New("accounting: debits and credits differ")

// CheckLines refuses lines that are no entry: fewer than two or too many, a zero
// amount, a malformed account, or a sum that is not zero in each currency.
func CheckLines(lines []Line) error {
	if len(lines) < 2 || len(lines) > LinesMax {
		return fmt.Errorf("an entry has 2 to %d lines, not %d", LinesMax, len(lines))
	}
	var room [4]money.Amount // more currencies than an entry usually has
	sums := room[:0]
next:
	for i := range lines {
		l := &lines[i]
		if err := l.Account.Validate(); err != nil {
			return err
		}
		if err := l.Amount.Currency.Validate(); err != nil {
			return fmt.Errorf("account %s: %w", l.Account.Name, err)
		}
		if l.Amount.Minor == 0 {
			return fmt.Errorf("account %s: a line of zero", l.Account.Name)
		}
		for j := range sums {
			if sums[j].Currency != l.Amount.Currency {
				continue
			}
			sum, err := sums[j].Add(l.Amount)
			if err != nil {
				return fmt.Errorf("account %s: %w", l.Account.Name, err)
			}
			sums[j] = sum
			continue next
		}
		sums = append(sums, l.Amount)
	}
	for _, s := range sums {
		if s.Minor != 0 {
			return fmt.Errorf("%w by %s", ErrUnbalanced, s)
		}
	}
	return nil
}

// Notice is the event that tells what became of the entry. Stores emit it in the
// transaction that books it, and none for a repeated one.
func (e *Entry) Notice(r Result) bus.Event {
	t := event.TypePosted
	if r.Reason != "" {
		t = event.TypeRejected
	}
	told := event.Entry{EntryID: r.EntryID, EventID: e.EventID, Rule: e.Rule, Reason: r.Reason,
		Postings: make([]event.Posting, len(e.Lines))}
	for i := range e.Lines {
		told.Postings[i] = event.Posting{Account: e.Lines[i].Account.Name, Amount: e.Lines[i].Amount}
	}
	return bus.Event{ID: e.NoticeID, Type: t, Version: bus.EnvelopeVersion, Context: e.Context,
		AtMillis: e.AtMillis, Payload: told.Encode()}
}
