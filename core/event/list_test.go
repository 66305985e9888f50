package event_test

import (
	"testing"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/ids"
)

// What several databases gave is one list: by time, then by Y, and once each, as a group
// that moves can be in two.
func TestInOrder(t *testing.T) {
	of := func(y string, at int64) event.Listed {
		return event.Listed{Payment: event.Payment{Y: ids.Code(y), AcceptedAtMillis: at}}
	}
	all := func() []event.Listed {
		return []event.Listed{of("b", 5), of("a", 5), of("z", 1), of("m", 7), of("c", 5), of("b", 5)}
	}
	for limit, want := range map[int]string{2: "mc", 4: "mcba", 5: "mcbaz", 9: "mcbaz"} {
		have := ""
		for _, l := range (event.Listing{Limit: limit}).InOrder(all()) {
			have += string(l.Payment.Y)
		}
		if have != want {
			t.Errorf("%d of them: %s, want %s", limit, have, want)
		}
	}
	older, newer := of("b", 5), of("b", 5)
	older.Payment.Version, newer.Payment.Version = 3, 4
	for _, both := range [][]event.Listed{{older, newer}, {newer, older}} {
		if list := (event.Listing{Limit: 3}).InOrder(both); len(list) != 1 || list[0].Payment.Version != 4 {
			t.Errorf("of two states: %+v", list)
		}
	}
	if list := (event.Listing{Limit: 3}).InOrder(nil); len(list) != 0 {
		t.Errorf("of nothing: %v", list)
	}
}
