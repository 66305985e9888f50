package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/internal/ids"
)

// Topic names a stream of events.
type Topic string

// The topics. Each has one writing area; see ARCHITECTURE.md.
const (
	Intents   Topic = "intents"
	Callbacks Topic = "callbacks"
	Dispatch  Topic = "dispatch"
	Outcomes  Topic = "outcomes"
	Payments  Topic = "payments"
	Postings  Topic = "postings"
)

// Entering reports whether a topic is written from outside: its places are those of
// the intake. The others are areas' logs.
func (t Topic) Entering() bool { return t == Intents || t == Callbacks }

// EnvelopeVersion is what this build writes. It reads this one, the one before,
// whose messages are still in logs, and the next one, as processes of two releases
// run side by side while one replaces the other. So a version only ever adds
// fields: what cannot be said by adding is another topic. See AppendRecord.
const EnvelopeVersion = 1

// Event is what an area says happened.
type Event struct {
	ID       string      // evt_ and a UUIDv7; an intent's is its vch_ id
	Type     string      // such as "payment.changed"
	Version  int         // of the envelope and payload
	Context  ids.Context // its BizCode is the ordering key and decides the group
	AtMillis int64       // when it was emitted, Unix milliseconds; information, never order
	Payload  []byte      // JSON of the type's struct
	// Extra is what a newer version added to the envelope, byte for byte: nobody here
	// knows it, and whoever hands the event on, hands it on as well. Nil otherwise.
	Extra []byte
	// Value, if set, is what Payload was encoded from: a reader in the process that
	// wrote it is spared the decoding. It is never stored, and never changed once it
	// is handed on; Payload alone is the truth.
	Value any
}

// Place is a position in one group of a topic: everything up to Seq is behind it.
// The zero Place is before the first message. An epoch begins when the groups
// are cut anew; places of different epochs do not compare.
type Place struct {
	Epoch int64
	Seq   int64
}

// Message is an event at its place. Messages of an intake batch share a place.
type Message struct {
	Event
	Topic Topic
	Group int
	Place Place
	Part  int // among the messages of its place, from 0
}

// Source reads one topic.
type Source interface {
	// Topic is what it reads.
	Topic() Topic
	// Groups is the number of groups, numbered from 0.
	Groups() int
	// Head is the last place of a group that this process knows of. It may lag
	// behind the store and is exact after a Refresh.
	Head(group int) Place
	// Refresh asks the store for all heads. Those of groups of which it gives no
	// GroupError are exact, unless it gives another error.
	Refresh(ctx context.Context) error
	// Read gives messages of a group behind after, in order, at most max of them,
	// but always all the messages of one place. It may give fewer than there are,
	// but at least one when Head is ahead of
	// after: nothing where there must be something is a gap.
	Read(ctx context.Context, group int, after Place, max int) ([]Message, error)
	// Subscribe gives a channel that receives, without blocking the sender, after
	// heads have moved. Call cancel when done.
	Subscribe() (wake <-chan struct{}, cancel func())
}

// Begun is a Source whose beginning may be gone.
type Begun interface {
	// Begin is the last place of a group that was deleted, once everyone who must
	// read it had committed it; the zero Place while everything is there. As Head,
	// it is exact after a Refresh.
	Begin(group int) Place
}

// Forgetful is a Source that may have forgotten everything, for its age.
type Forgetful interface {
	// Forgot reports whether all messages of a group are gone, so that its end is not
	// known, after a Refresh. Then it goes on behind the given place: should more have
	// been there, whoever publishes the topic does so again.
	Forgot(group int, place Place) bool
}

// Rewindable is a Source of which a group may begin anew while it is read: all that was
// there was deleted, and its log is published again, and goes on from an earlier sequence
// than was read.
type Rewindable interface {
	// Rewound counts how often a group has begun anew since somebody asks. Places from before
	// mean nothing behind it: it is for who keeps none in a store, and starts over.
	Rewound(group int) int64
}

// RewoundOf is Rewound of a source that has it.
func RewoundOf(s Source, group int) int64 {
	if r, ok := s.(Rewindable); ok {
		return r.Rewound(group)
	}
	return 0
}

// BeginOf is Begin of a source that has one.
func BeginOf(s Source, group int) Place {
	if b, ok := s.(Begun); ok {
		return b.Begin(group)
	}
	return Place{}
}

// GroupsOf are some of a source's groups, or all of them if some is nil.
func GroupsOf(s Source, some []int) []int {
	if some != nil {
		return some
	}
	all := make([]int, s.Groups())
	for g := range all {
		all[g] = g
	}
	return all
}

// Intake takes what enters from outside: see the embedded and Kafka adapters.
type Intake interface {
	// Append queues one event for a topic and returns at once; the event's bytes
	// are copied. An error means that the record is certainly not kept:
	// fault.Unavailable (the backlog is at its bound, or the store has stopped) or
	// fault.TooLarge.
	Append(topic Topic, e *Event) (Ticket, error)
}

// Ticket is a record on its way into the intake. Safe for concurrent use.
type Ticket interface {
	// Done is closed when the record's fate is known.
	Done() <-chan struct{}
	// Err is the fate, once Done is closed: nil for committed and fsynced;
	// fault.Unavailable for certainly not kept; fault.Unknown when nobody can say.
	Err() error
	// Withdraw takes the record back, in one atomic step, if it was not yet handed
	// over to the store: after true it is certainly never kept.
	Withdraw() bool
}

// Move is a consumer's step in one group.
type Move struct {
	Group    int
	From, To Place
}

// Batch is what an area applies in one transaction.
type Batch struct {
	Topic    Topic
	Moves    []Move
	Messages []Message
	// Parked holds, by index, messages that must be put aside with a reason
	// instead of being applied.
	Parked map[int]string
	// Replays holds the ids of the parked rows that Messages were read from, one
	// for each and all of one key; what is applied is removed in the same
	// transaction. A replay has no moves.
	Replays []int64
}

// Live calls fn for each message that is to be applied.
func (b *Batch) Live(fn func(i int, m *Message) error) error {
	for i := range b.Messages {
		if _, parked := b.Parked[i]; parked {
			continue
		}
		if err := fn(i, &b.Messages[i]); err != nil {
			return err
		}
	}
	return nil
}

// PoisonError says that one message of a batch can never be applied. The
// consumer parks it with its key and goes on.
type PoisonError struct {
	Index int
	Err   error
}

func (e *PoisonError) Error() string { return fmt.Sprintf("message %d: %v", e.Index, e.Err) }

// Unwrap gives the cause.
func (e *PoisonError) Unwrap() error { return e.Err }

// ErrGap is wrapped when a group's next message is not the one expected: the
// group stops, and someone must look.
var ErrGap = errors.New("bus: gap in the sequence")
