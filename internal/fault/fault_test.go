package fault_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/tallystick/tallystick/internal/fault"
)

func TestKindSurvivesWrapping(t *testing.T) {
	for k := fault.Internal; k <= fault.Poison; k++ {
		err := fault.Wrap("outer", fmt.Errorf("middle: %w", fault.New(k, "op", "cause: %w", io.EOF)))
		if fault.KindOf(err) != k || !fault.Is(err, k) || fault.Is(err, k+1) || !errors.Is(err, io.EOF) {
			t.Errorf("%s reads as %s", k, fault.KindOf(err))
		}
		if want := "outer: middle: op: " + k.String() + ": cause: EOF"; err.Error() != want {
			t.Errorf("have %q, want %q", err, want)
		}
	}
}

func TestOutermostKindCounts(t *testing.T) {
	inner := fault.New(fault.Conflict, "store", "duplicate")
	outer := &fault.Error{Kind: fault.Unknown, Op: "commit", Err: inner}
	if fault.KindOf(outer) != fault.Unknown {
		t.Errorf("kind %s", fault.KindOf(outer))
	}
	if joined := errors.Join(io.EOF, inner); fault.KindOf(joined) != fault.Conflict {
		t.Errorf("joined: %s", fault.KindOf(joined))
	}
}

func TestNoKind(t *testing.T) {
	if fault.KindOf(io.EOF) != fault.Internal || !fault.Is(io.EOF, fault.Internal) {
		t.Error("an error without a kind is internal")
	}
	if fault.Is(nil, fault.Internal) || fault.Wrap("op", nil) != nil {
		t.Error("no error is an error")
	}
	if fault.Kind(200).String() != "internal" {
		t.Error("a kind out of range has a name")
	}
}

func TestText(t *testing.T) {
	for want, err := range map[string]error{
		"limited": &fault.Error{Kind: fault.Limited},
		"intake: queue_full: 3 batches (retry after a moment)": &fault.Error{Kind: fault.Unavailable, Op: "intake", Code: "queue_full",
			Fix: "retry after a moment", Err: errors.New("3 batches")},
		"amount: amount_invalid (use minor units)": &fault.Error{Kind: fault.Invalid, Code: "amount_invalid", Field: "amount", Fix: "use minor units"},
	} {
		if err.Error() != want {
			t.Errorf("have %q, want %q", err, want)
		}
	}
}

func TestPoints(t *testing.T) {
	fault.Points(nil).At("nothing happens")
	var passed []string
	p := fault.Points(func(name string) { passed = append(passed, name) })
	p.At("a")
	p.At("b")
	if fmt.Sprint(passed) != "[a b]" {
		t.Errorf("passed %v", passed)
	}
}
