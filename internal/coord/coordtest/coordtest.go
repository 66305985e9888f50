package coordtest

import (
	"testing"

	"github.com/tallystick/tallystick/internal/coord"
)

// Replica is one replica of an adapter.
type Replica interface {
	coord.Limits
	coord.Hints
	coord.Wakes
}

// Role is that of all replicas of the suite.
const Role = "test"

// Adapter is what the suite runs on. Everything runs until the test ends.
type Adapter struct {
	// Open makes n replicas, once for each case, which hear of each other and of
	// nobody else. hear, one for each, are given to Hear before anything runs; nil
	// for none. It returns when they are connected and know how many they are.
	Open func(tb testing.TB, n int, hear []func(coord.Hint)) []Replica
	// MoreMax is by how many tokens n replicas together may go above a burst, at once.
	MoreMax func(n, burst int) int
}

// Case is one thing that an adapter must do.
type Case struct {
	Name string
	Run  func(tb testing.TB, a Adapter)
}

// Cases are all of them.
func Cases() []Case {
	return []Case{
		{"limits: replicas together get the burst, and little more", together},
		{"limits: a busy replica gets what the others leave", busy},
		{"limits: asking for a bucket again does not fill it", sameName},
		{"limits: names and roles are apart", apart},
		{"limits: a token that is reserved and given back is there again", giveBack},
		{"limits: a changed rate is in force at once", changedRate},
		{"limits: time brings tokens", refill},
		{"hints: all others hear, exactly what was told", hints},
		{"wakes: everywhere, and of that name alone", wakes},
		{"wakes: many become one, and nobody is waited for", coalesce},
		{"wakes: not after the end of a subscription", cancelled},
	}
}

// Run runs every case.
func Run(t *testing.T, a Adapter) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) { c.Run(t, a) })
	}
}
