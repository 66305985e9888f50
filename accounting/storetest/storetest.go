// Package storetest is what every accounting.Store must pass.
package storetest

import (
	"context"
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

// Groups is the number of groups that the stores under test are opened with.
const Groups = 4

// Ledger is a store and the topic that it writes.
type Ledger interface {
	accounting.Store
	Source() bus.Source // of topic postings
}

// Open opens a ledger; a second call gives a second handle on the same data, as
// another process would have.
type Open func() (Ledger, error)

// Case is one promise. Check fails on the first store that does not keep it.
type Case struct {
	Name  string
	Check func(ctx context.Context, open Open) error
}

// Run checks every case on a ledger of its own. What fresh opens, it closes at
// the end of the test that it is given.
func Run(t *testing.T, fresh func(t *testing.T) Open) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			if err := c.Check(t.Context(), fresh(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Failing gives the names of the cases that a store fails: at least one, for a
// store that is broken.
func Failing(t *testing.T, fresh func(t *testing.T) Open) []string {
	var out []string
	for _, c := range Cases() {
		if err := c.Check(t.Context(), fresh(t)); err != nil {
			out = append(out, c.Name)
		}
	}
	return out
}

// Code is a code of real traffic in a group, different for each n up to 32^6.
func Code(group, n int) ids.Code {
	slot := group * ids.Slots / Groups
	c := []byte("r..000000000000000000000000")
	c[1], c[2] = ids.Alphabet[slot>>5], ids.Alphabet[slot&31]
	for i := len(c) - 1; n > 0; i-- {
		c[i] = ids.Alphabet[n&31]
		n >>= 5
	}
	return ids.Code(c)
}

// Context is a context whose BizCode is in a group.
func Context(group, n int) ids.Context {
	return ids.Context{BizCode: Code(group, n), Merchant: "m1", OrderType: "general", OrderScene: "online", Institution: "sandbox",
		TraceID: "0af7651916cd43dd8448eb211c80319c", Form: traffic.Deposit, Traffic: traffic.Real}
}

// Accounts of the suite: three spread ones and a guarded one.
var (
	cash   = accounting.Account{Name: "cash:a1", Class: accounting.Asset, Side: accounting.Debit, Kind: accounting.Spread}
	owed   = accounting.Account{Name: "owed:m1", Class: accounting.Liability, Side: accounting.Credit, Kind: accounting.Spread}
	income = accounting.Account{Name: "income", Class: accounting.Income, Side: accounting.Credit, Kind: accounting.Spread}
	wallet = accounting.Account{Name: "wallet:m1", Class: accounting.Liability, Side: accounting.Credit, Kind: accounting.Homed}
)

func line(a accounting.Account, minor int64) accounting.Line {
	return accounting.Line{Account: a, Amount: money.Of(minor, "CNY")}
}

func key(a accounting.Account) accounting.Key {
	return accounting.Key{Book: "main", Name: a.Name, Currency: "CNY"}
}

// desk makes batches as a consumer does: consecutive places in each group.
type desk struct {
	seq [Groups]int64
	n   int
}

// entry is one that nobody has booked yet.
func (d *desk) entry(group int, lines ...accounting.Line) accounting.Entry {
	d.n++
	return accounting.Entry{ID: fmt.Sprintf("ent_%08d", d.n), NoticeID: fmt.Sprintf("evt_n%08d", d.n), EventID: fmt.Sprintf("evt_%08d", d.n),
		Group: group, Book: "main", Rule: "test", ChannelAccount: "a1", Context: Context(group, d.n), AtMillis: int64(1000 + d.n), Lines: lines}
}

// batch moves the place of each entry's group by one per entry.
func (d *desk) batch(entries ...accounting.Entry) *accounting.Batch {
	b := &bus.Batch{Topic: bus.Payments}
	from := d.seq
	for i := range entries {
		e := &entries[i]
		d.seq[e.Group]++
		b.Messages = append(b.Messages, bus.Message{Event: bus.Event{ID: e.EventID, Type: "test", Version: 1, Context: e.Context},
			Topic: bus.Payments, Group: e.Group, Place: bus.Place{Epoch: 1, Seq: d.seq[e.Group]}})
	}
	for g := range Groups {
		if d.seq[g] == from[g] {
			continue
		}
		move := bus.Move{Group: g, To: bus.Place{Epoch: 1, Seq: d.seq[g]}}
		if from[g] > 0 {
			move.From = bus.Place{Epoch: 1, Seq: from[g]}
		}
		b.Moves = append(b.Moves, move)
	}
	return &accounting.Batch{Source: b, Entries: entries, NowMillis: 1}
}

// post books entries that must all go through.
func (d *desk) post(ctx context.Context, l Ledger, entries ...accounting.Entry) error {
	results, err := l.Post(ctx, d.batch(entries...))
	if err != nil {
		return err
	}
	if len(results) != len(entries) {
		return fmt.Errorf("%d results for %d entries", len(results), len(entries))
	}
	for i, r := range results {
		if r != (accounting.Result{EntryID: entries[i].ID}) {
			return fmt.Errorf("entry %d: result %+v, want posted as %s", i, r, entries[i].ID)
		}
	}
	return nil
}

// wantBalance compares one balance, positive on its normal side.
func wantBalance(ctx context.Context, l Ledger, a accounting.Account, minor int64) error {
	b, err := l.Balance(ctx, key(a))
	if err != nil {
		return fmt.Errorf("balance of %s: %w", a.Name, err)
	}
	want := accounting.Balance{Key: key(a), Class: a.Class, Side: a.Side, Kind: a.Kind, Amount: money.Of(minor, "CNY")}
	if b != want {
		return fmt.Errorf("balance %+v, want %+v", b, want)
	}
	return nil
}

// wantSound checks what must be true of every ledger, and the number of entries.
func wantSound(ctx context.Context, l Ledger, posted, rejected int64) error {
	r, err := l.Verify(ctx)
	if err != nil {
		return err
	}
	if r.Violated != 0 {
		return fmt.Errorf("verify: %q", r.Violations)
	}
	if r.Entries != posted || r.Rejected != rejected {
		return fmt.Errorf("%d entries and %d rejected, want %d and %d", r.Entries, r.Rejected, posted, rejected)
	}
	trials, err := l.TrialBalance(ctx)
	if err != nil {
		return err
	}
	for _, t := range trials {
		if t.Imbalance() != 0 {
			return fmt.Errorf("trial balance %+v", t)
		}
	}
	if err := l.Source().Refresh(ctx); err != nil {
		return err
	}
	var notices int64
	for g := range Groups {
		notices += l.Source().Head(g).Seq
	}
	if notices != posted+rejected {
		return fmt.Errorf("%d events on postings for %d entries", notices, posted+rejected)
	}
	return nil
}
