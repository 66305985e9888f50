package accounting

import (
	"fmt"

	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// Side is the side of an account on which its balance is normally found.
type Side string

// The sides.
const (
	Debit  Side = "debit"
	Credit Side = "credit"
)

// Class is an account's place in the balance sheet or the income statement.
type Class string

// The classes.
const (
	Asset     Class = "asset"
	Liability Class = "liability"
	Income    Class = "income"
	Expense   Class = "expense"
	Equity    Class = "equity"
)

// Kind says where an account's balance is kept.
type Kind string

// The kinds. A spread account has no guard and a shard in each group: its balance
// is the sum of them. A homed account is guarded: all its postings meet in one
// shard, in its home group, and its balance never falls below zero on its
// normal side.
const (
	Spread Kind = "spread"
	Homed  Kind = "homed"
)

// NameLenMax is the longest account name, in bytes.
const NameLenMax = 96

// Account is what a chart of accounts says of one account. Book and currency are
// not part of it: they come from the entry and the amount.
type Account struct {
	Name  string // base and subjects, as in "merchant_payable:m1"
	Class Class
	Side  Side
	Kind  Kind
}

// Key is what identifies an account.
type Key struct {
	Book     string
	Name     string
	Currency money.Currency
}

func (k Key) String() string { return k.Book + "/" + k.Name + "/" + string(k.Currency) }

// Validate refuses a name that cannot be an account's and words that do not exist.
func (a Account) Validate() error {
	if len(a.Name) == 0 || len(a.Name) > NameLenMax {
		return fmt.Errorf("account name %q has %d bytes, want 1 to %d", a.Name, len(a.Name), NameLenMax)
	}
	for i := range len(a.Name) {
		if a.Name[i] <= ' ' || a.Name[i] >= 0x7f {
			return fmt.Errorf("account name %q is not of visible ASCII", a.Name)
		}
	}
	switch a.Class {
	case Asset, Liability, Income, Expense, Equity:
	default:
		return fmt.Errorf("account %s: class %q does not exist", a.Name, string(a.Class))
	}
	if a.Side != Debit && a.Side != Credit {
		return fmt.Errorf("account %s: side %q is neither debit nor credit", a.Name, string(a.Side))
	}
	if a.Kind != Spread && a.Kind != Homed {
		return fmt.Errorf("account %s: kind %q is neither spread nor homed", a.Name, string(a.Kind))
	}
	return nil
}

// Normal turns a signed sum of postings (debits positive) into a balance that is
// positive on the account's normal side.
func (s Side) Normal(minor int64) int64 {
	if s == Credit {
		return -minor
	}
	return minor
}

// ShardGroup is the group in which a posting of an entry is kept: the entry's own
// for a spread account, the account's home for a homed one. The home is a pure
// function of the key.
func ShardGroup(kind Kind, k Key, entryGroup, groups int) int {
	if kind != Homed {
		return entryGroup
	}
	// FNV-1a, over length-prefixed parts.
	h := uint64(14695981039346656037)
	mix := func(s string) {
		h = (h ^ uint64(len(s))) * 1099511628211
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	mix(k.Book)
	mix(k.Name)
	mix(string(k.Currency))
	slot := int(h>>32) % ids.Slots
	return slot * groups / ids.Slots
}
