package event

import (
	"cmp"
	"slices"

	"github.com/tallystick/tallystick/internal/ids"
)

// Listing asks for the payment orders of one merchant, of real traffic: those that were
// accepted last come first, and of one millisecond those with the higher Y. Aliases are left
// out: each payment is there once. That is no
// place in any database, so that a list goes on behind what was seen while others come
// and groups move. A payment order that core takes late, as its group stood still, is
// where it belongs: a list that has passed there does not show it.
type Listing struct {
	Merchant string `json:"merchant"`
	// AfterMillis and AfterY are of the payment order behind which the list goes on; an
	// empty AfterY is the beginning.
	AfterMillis int64    `json:"after_millis,omitzero"`
	AfterY      ids.Code `json:"after_y,omitzero"`
	// It was accepted at FromMillis or later, and before UntilMillis; 0 is no bound.
	FromMillis  int64 `json:"from_millis,omitzero"`
	UntilMillis int64 `json:"until_millis,omitzero"`
	// Limit is the most that are given; at most ListMax.
	Limit int `json:"limit"`
}

// ListMax bounds a Listing.
const ListMax = 101

// Listed is a payment order of a list, without its attempts, and its context.
type Listed struct {
	Payment Payment     `json:"payment"`
	Context ids.Context `json:"context"`
}

// InOrder puts what a list has of several databases in its order, once each as
// it was last, and cuts it at the limit.
func (l Listing) InOrder(all []Listed) []Listed {
	slices.SortFunc(all, func(a, b Listed) int {
		return cmp.Or(cmp.Compare(b.Payment.AcceptedAtMillis, a.Payment.AcceptedAtMillis), cmp.Compare(b.Payment.Y, a.Payment.Y),
			cmp.Compare(b.Payment.Version, a.Payment.Version))
	})
	all = slices.CompactFunc(all, func(a, b Listed) bool { return a.Payment.Y == b.Payment.Y })
	return all[:min(len(all), l.Limit)]
}
