package bus

import (
	"fmt"
	"slices"
)

// StopError says that an invariant of one group is violated: nothing of the
// batch was applied, and nothing more of that group may be until someone has
// looked. The consumer stops the group, raises an alarm, and goes on with the
// others.
type StopError struct {
	Group int
	Err   error
}

func (e *StopError) Error() string { return fmt.Sprintf("group %d must stop: %v", e.Group, e.Err) }

// Unwrap gives the cause.
func (e *StopError) Unwrap() error { return e.Err }

// without takes a group's messages and its move out of the batch; false when the
// batch moves no place of that group (a replay).
func (b *Batch) without(group int) bool {
	at := slices.IndexFunc(b.Moves, func(m Move) bool { return m.Group == group })
	if at < 0 {
		return false
	}
	b.Moves = slices.Delete(b.Moves, at, at+1)
	kept, parked := b.Messages[:0], map[int]string{}
	for i := range b.Messages {
		if b.Messages[i].Group == group {
			continue
		}
		if reason, ok := b.Parked[i]; ok {
			parked[len(kept)] = reason
		}
		kept = append(kept, b.Messages[i])
	}
	b.Messages, b.Parked = kept, parked
	return true
}

// cut takes the messages from index n on out of the batch.
func (b *Batch) cut(n int) {
	for i := n; i < len(b.Messages); i++ {
		delete(b.Parked, i)
	}
	b.Messages = b.Messages[:n]
}
