package coord

import (
	"time"

	"github.com/tallystick/tallystick/internal/ids"
)

// Rate is what a bucket gives: PerSecond tokens a second, at least some, and at
// most Burst at once, at least 1.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Limits are token buckets that the replicas of a role share.
type Limits interface {
	// Bucket gives the bucket of a name that the replicas of a role share. It waits
	// for nobody. Whoever asks again for the same role and name has the same bucket,
	// at the rate that it has by then. Names must come from a bounded set: a bucket
	// stays until the process ends.
	Bucket(role, name string, r Rate) Bucket
}

// Bucket is one shared limit. Safe for concurrent use. No method waits, whatever
// the adapter's state: the accept path asks at every request.
//
// While replicas can hear of each other, all of them together get what Rate says,
// over any longer time; each adapter states by how much more they may get at
// once. While they cannot, each gets its part: Rate ÷ replicas.
type Bucket interface {
	// Take takes one token; false if there is none now.
	Take(now time.Time) bool
	// Reserve takes one token that may be used after wait: 0 for now. cancel gives
	// back a token that is not used; it is called at most once.
	Reserve(now time.Time) (wait time.Duration, cancel func(now time.Time))
	// SetRate changes the rate, at once.
	SetRate(r Rate, now time.Time)
}

// Hint says that core has opened the payment of a natural key (trade, form and
// idempotency key): Y is the first accepted under it, and another body under it is a
// conflict, for ever. A hint proves itself: whoever holds a request with the same
// key derives Y from that key and Fingerprint, and believes the hint only then. A
// key may hash like another one, then it does not prove itself.
type Hint struct {
	Key         uint64 // a hash of the natural key, the same in every replica
	Y           ids.Code
	Fingerprint ids.Fingerprint // of the body that Y belongs to
}

// Hints spread what one replica knows for certain. A hint is never a decision: it
// answers a conflict early that core would find anyway.
type Hints interface {
	// Tell hands a hint to all other replicas. It waits for nobody: a hint that finds
	// the queue full, or no way to the others, is dropped and counted.
	Tell(h Hint)
	// Hear names who gets the hints of others; once, before anything runs. hear is
	// called by one goroutine at a time, and must not wait.
	Hear(hear func(Hint))
}

// NameLenMax bounds the name of a wake-up. Names are of printable ASCII.
const NameLenMax = 64

// Wakes wake others that wait for the same thing. A wake-up has no content, and
// many may become one; it comes at most once for each Notify, and may be lost: who
// waits looks by himself too, once in a while. After a time of deafness a replica
// wakes all its own.
type Wakes interface {
	// Notify wakes whoever subscribed to the name, in this replica and all others. It
	// waits for nobody. A name that is empty, longer than NameLenMax or not of
	// printable ASCII panics: names are constants and ids of ours.
	Notify(name string)
	// Subscribe gives a channel of one place; cancel ends it.
	Subscribe(name string) (wake <-chan struct{}, cancel func())
}
