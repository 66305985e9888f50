package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

func TestABriefError(t *testing.T) {
	var errs []error
	for g := range 1024 {
		errs = append(errs, &bus.GroupError{Group: g, Err: fault.New(fault.Unavailable, "refresh", "group %d has no leader", g)})
	}
	groups := fault.Wrap("refresh", errors.Join(errs...))
	for _, test := range []struct {
		of   error
		want string
	}{
		{groups, "1024 groups, the first are [0 1 2 3 4 5 6 7]: refresh: unavailable: group 0 has no leader"},
		{errs[7], "group 7: refresh: unavailable: group 7 has no leader"},
		{errors.Join(errors.New("one"), errors.New("two"), errors.New("three")), "one\nand 2 more"},
		{fault.Wrap("relay", errors.Join(errors.New("one"), errors.New("two"))), "one\nand 1 more"},
		{errors.Join(errors.New("one"), errs[7]), "one\ngroup 7: refresh: unavailable: group 7 has no leader"},
	} {
		if got := bus.Brief(test.of).Error(); got != test.want {
			t.Errorf("%.80q is %q in brief, want %q", test.of, got, test.want)
		}
	}
	if err := bus.Brief(nil); err != nil {
		t.Errorf("nothing is %v in brief", err)
	}
	if !fault.Is(bus.Brief(groups), fault.Unavailable) {
		t.Error("the kind is lost")
	}
}

// A group that is refused is logged when that begins and ends, also while others are out
// of reach: those are logged each time, in one line of some hundred bytes.
func TestLooksAreLogged(t *testing.T) {
	s := &shelf{heads: make([]int64, 1024), ill: map[int]error{}}
	var log bytes.Buffer
	c := &bus.Consumer{Area: "test", Source: s, Places: placesOf{}, MessagesMax: 1, Log: slog.New(slog.NewTextHandler(&log, nil))}
	if err := c.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	look := func(n int) (refused, well, unread, longest int) {
		log.Reset()
		for range n {
			c.Look(t.Context())
		}
		for line := range strings.Lines(log.String()) {
			longest = max(longest, len(line))
		}
		return strings.Count(log.String(), "groups are refused:"), strings.Count(log.String(), "refused no more"), strings.Count(log.String(), "heads not read"), longest
	}
	for g := range 1000 {
		s.ill[g] = fault.New(fault.Unavailable, "refresh", "no leader")
	}
	if refused, well, unread, longest := look(3); refused+well != 0 || unread != 3 || longest > 400 {
		t.Errorf("out of reach: %d, %d and %d lines of at most %d bytes", refused, well, unread, longest)
	}
	s.ill[1001] = fault.New(fault.Conflict, "refresh", "it was replaced")
	if refused, well, unread, _ := look(3); refused != 1 || well != 0 || unread != 3 {
		t.Errorf("refused: %d, %d and %d lines", refused, well, unread)
	}
	s.dead = fmt.Errorf("no broker")
	if refused, well, unread, _ := look(3); refused != 0 || well != 0 || unread != 3 {
		t.Errorf("nobody knows: %d, %d and %d lines", refused, well, unread)
	}
	s.ill, s.dead = nil, nil
	if refused, well, unread, _ := look(3); refused != 0 || well != 1 || unread != 0 {
		t.Errorf("put right: %d, %d and %d lines", refused, well, unread)
	}
}

// Who follows a topic of which one group is refused says so once, and goes on.
func TestAFollowerOfARefusedGroup(t *testing.T) {
	s := &shelf{heads: make([]int64, 4), ill: map[int]error{2: fault.New(fault.Conflict, "refresh", "it was replaced")}}
	var log bytes.Buffer
	ctx, stop := context.WithCancel(t.Context())
	steps := 0
	bus.Follow(ctx, s, "test", slog.New(slog.NewTextHandler(&log, nil)), time.Millisecond, time.Millisecond, func(context.Context) (bool, error) {
		if steps++; steps == 5 {
			stop()
		}
		return false, nil
	})
	if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), "group 2: refresh") {
		t.Errorf("%d lines after %d looks: %s", lines, steps, log.String())
	}
}
