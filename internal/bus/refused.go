package bus

import (
	"errors"
	"maps"
	"sync"

	"github.com/tallystick/tallystick/internal/fault"
)

// GroupError is about one group of a source, and no other.
type GroupError struct {
	Group int
	Err   error
}

func (e *GroupError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *GroupError) Unwrap() error { return e.Err }

// ofGroup makes an error, if there is one, that of a group.
func ofGroup(group int, err error) error {
	if err == nil {
		return nil
	}
	return &GroupError{Group: group, Err: err}
}

// ByGroup takes an error apart: what is about single groups, and what is left.
func ByGroup(err error) (groups map[int]error, rest error) {
	groups = map[int]error{}
	var left []error
	var walk func(error)
	walk = func(err error) {
		one, single := err.(*GroupError) //nolint:errorlint // each level is looked at by itself
		joined, several := err.(interface{ Unwrap() []error })
		switch {
		case err == nil:
		case single:
			groups[one.Group] = errors.Join(groups[one.Group], one.Err)
		case several:
			for _, e := range joined.Unwrap() {
				walk(e)
			}
		case errors.As(err, &one):
			walk(errors.Unwrap(err))
		default:
			left = append(left, err)
		}
	}
	walk(err)
	return groups, errors.Join(left...)
}

// refused reports whether a group must not be worked on as it is: its log is not the
// one that was read or published, or has what this build cannot read. Everything else is
// tried again.
func refused(err error) bool { return fault.Is(err, fault.Conflict) || errors.Is(err, ErrRecord) }

// Refusals are groups that were refused, and why. The zero value has none. Safe for
// concurrent use.
type Refusals struct {
	mu     sync.Mutex
	groups map[int]error
}

// Note takes note of how a group was found: refused, or well (nil). What will be tried
// again says nothing.
func (r *Refusals) Note(group int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		delete(r.groups, group)
	case refused(err):
		if r.groups == nil {
			r.groups = map[int]error{}
		}
		r.groups[group] = err
	}
}

// Refused are those that are refused now, and why.
func (r *Refusals) Refused() map[int]error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.groups)
}
