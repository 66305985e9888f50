package accounting

import (
	"cmp"
	"context"
	"slices"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// Rules turn events into entries.
type Rules interface {
	// Draft is the entry that books an event; nil for an event that books nothing.
	// It is a pure function of the message. An error means that the event can never
	// be booked as it is: the message is parked.
	Draft(m *bus.Message) (*Draft, error)
}

// Batch is what a Store books in one transaction.
type Batch struct {
	// Source holds the places to move, and the messages to park and to replay.
	Source *bus.Batch
	// Entries are balanced and of distinct events, in the order of their events.
	Entries   []Entry
	NowMillis int64
}

// Store keeps the ledger. Safe for concurrent use.
type Store interface {
	// Post books a batch, all of it or nothing: the place of each group is moved
	// from exactly where the batch was read at, entries are checked one at a time
	// in order, those that pass are written with their postings and balances, those
	// that a guard stops are written as rejected, and each is told on topic postings.
	// There is one result per entry, in order. An event that was booked before gets
	// its first result and changes nothing.
	//
	// Errors: fault.Fenced when another poster has the group (drop what you hold and
	// read again; a store with leases checks its epoch in this transaction, too);
	// *bus.StopError when a group's invariant is violated; fault.Unavailable when
	// certainly nothing was written; fault.Unknown when nobody can say, and the
	// store must be opened anew.
	Post(ctx context.Context, b *Batch) ([]Result, error)

	// Balance sums an account's shards; fault.NotFound for an account that was
	// never posted to.
	Balance(ctx context.Context, k Key) (Balance, error)
	// Balances lists the accounts of a book whose names begin with prefix, by name
	// and currency, from behind after (the zero Key for the first page), at most
	// limit (1 to PageMax).
	Balances(ctx context.Context, book, prefix string, after Key, limit int) ([]Balance, error)
	// Statement lists an account's postings in journal order, from behind after (0
	// for the first page), at most limit (1 to PageMax). Where several processes post, what
	// one of them posts later may stand before what another has posted: pages are complete
	// for what was there when the first was read, and who wants more begins again.
	Statement(ctx context.Context, k Key, after int64, limit int) ([]StatementLine, error)
	// EntriesByBizCode gives the entries of a trade in journal order, the first PageMax.
	EntriesByBizCode(ctx context.Context, x ids.Code) ([]Booked, error)
	// EntryByEvent gives the entry that books an event; false if none does.
	EntryByEvent(ctx context.Context, eventID string) (Booked, bool, error)
	// TrialBalance sums all balances by book and currency.
	TrialBalance(ctx context.Context) ([]Trial, error)
	// Totals sums all postings by merchant, channel account, account base and
	// currency, reading the journal once. It holds one sum per row it gives.
	Totals(ctx context.Context) ([]Total, error)
	// Verify reads the whole ledger in one snapshot, with bounded memory, while
	// posting goes on, and reports every promise that does not hold.
	Verify(ctx context.Context) (Report, error)
}

// PageMax bounds every list that a Store gives.
const PageMax = 1000

// Balance is an account with what is on it: positive on its normal side.
type Balance struct {
	Key    Key
	Class  Class
	Side   Side
	Kind   Kind
	Amount money.Amount
}

// StatementLine is one posting of an account, with the entry that it belongs to.
type StatementLine struct {
	Cursor   int64 // journal order; the after of the next page
	EntryID  string
	EventID  string
	Rule     string
	Context  ids.Context
	AtMillis int64
	Amount   money.Amount // debit positive, credit negative
}

// Booked is an entry as it stands in the journal. A rejected one has its reason
// and no lines.
type Booked struct {
	Entry
	Reason string
}

// Trial is the trial balance of a book in one currency: the sums, both positive,
// of the accounts with a balance on the debit side and of those on the credit
// side. They are equal, always.
type Trial struct {
	Book     string
	Currency money.Currency
	Debits   int64
	Credits  int64
}

// Imbalance is debits minus credits: anything but 0 is an alarm.
func (t Trial) Imbalance() int64 { return t.Debits - t.Credits }

// Total is what was debited and credited, both positive, to the accounts of one
// base name ("psp_receivable" for "psp_receivable:cn-1") by entries of one
// merchant over one channel account.
type Total struct {
	Merchant       string
	ChannelAccount string
	Base           string
	Currency       money.Currency
	Debits         int64
	Credits        int64
}

// SumTotals puts totals in order and adds up those that are of the same.
func SumTotals(list []Total) []Total {
	key := func(t Total) Total { t.Debits, t.Credits = 0, 0; return t }
	slices.SortStableFunc(list, func(a, b Total) int {
		return cmp.Or(cmp.Compare(a.Merchant, b.Merchant), cmp.Compare(a.ChannelAccount, b.ChannelAccount), cmp.Compare(a.Base, b.Base),
			cmp.Compare(a.Currency, b.Currency))
	})
	var out []Total
	for _, t := range list {
		if n := len(out); n > 0 && key(out[n-1]) == key(t) {
			out[n-1].Debits, out[n-1].Credits = out[n-1].Debits+t.Debits, out[n-1].Credits+t.Credits
			continue
		}
		out = append(out, t)
	}
	return out
}

// Report is what Verify found.
type Report struct {
	Entries  int64 // posted
	Rejected int64
	Postings int64
	Accounts int64
	bus.Findings
}
