// Package fault classifies errors by what the caller can do about them, and
// names the points at which a crash test may stop the process.
package fault

import (
	"errors"
	"fmt"
)

// Kind is what went wrong, from the point of view of whoever must react.
type Kind uint8

// The kinds. Every edge (HTTP, CLI, consumer) maps all of them.
const (
	Internal     Kind = iota // a bug or an unexpected failure; the zero value
	Invalid                  // the input breaks a rule: Field and Fix say which
	Unauthorized             // no or wrong credentials
	Forbidden                // known caller, not allowed
	NotFound                 // no such thing for this caller
	Conflict                 // contradicts what exists
	TooLarge                 // over a configured size bound
	Limited                  // over a configured rate; try again later
	Unavailable              // certainly not done; try again later
	Unknown                  // may or may not have been done: ask again with the same key
	Fenced                   // another process took over; drop what you hold
	Poison                   // this one message can never be applied
)

var kindNames = [...]string{"internal", "invalid", "unauthorized", "forbidden", "not_found", "conflict",
	"too_large", "limited", "unavailable", "unknown", "fenced", "poison"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "internal"
}

// Error is an error with its kind. Op names the operation that failed, Code is a
// stable machine-readable reason (such as "amount_invalid"), Field and Fix tell a
// caller what to change. All but Kind may be empty.
type Error struct {
	Kind  Kind
	Op    string
	Code  string
	Field string
	Fix   string
	Err   error
}

func (e *Error) Error() string {
	s := e.Kind.String()
	if e.Code != "" {
		s = e.Code
	}
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Op != "" {
		s = e.Op + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Fix != "" {
		s += " (" + e.Fix + ")"
	}
	return s
}

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of a kind with a formatted cause.
func New(kind Kind, op, format string, args ...any) error {
	return &Error{Kind: kind, Op: op, Err: fmt.Errorf(format, args...)}
}

// Wrap names the operation on the way up and keeps the kind; nil stays nil.
func Wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", op, err)
}

// KindOf is the kind of the outermost *Error in the chain, Internal without one.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// Points is called with the name of each point that the process passes and at
// which a crash would be most awkward (such as "core.before_commit"). It is nil
// in production. A crash test kills the process there; the simulation abandons
// the whole app by a panic that only it recovers.
type Points func(name string)

// At passes the point; a nil Points does nothing.
func (p Points) At(name string) {
	if p != nil {
		p(name)
	}
}
