package ids_test

import (
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/internal/ids"
)

// Each slot is in exactly the group that its codes are in, and its codes and
// numbers are in that group's ranges alone.
func TestSlotsOfGroups(t *testing.T) {
	for _, groups := range []int{1, 3, 16, 1000, ids.Slots} {
		for slot := range ids.Slots {
			for _, kind := range []string{"r", "s"} {
				c := ids.Code(fmt.Sprintf("%s%c%c%024d", kind, ids.Alphabet[slot>>5], ids.Alphabet[slot&31], 0))
				for _, g := range []int{c.Group(groups) - 1, c.Group(groups), c.Group(groups) + 1} {
					if g < 0 || g >= groups {
						continue
					}
					first, last := ids.SlotsOf(g, groups)
					_, args := ids.InGroup("y", g, groups)
					number, in := string(c)+"0", false
					for i := 0; i < len(args); i += 2 {
						in = in || args[i].(string) <= number && number <= args[i+1].(string)
					}
					if want := g == c.Group(groups); in != want || (first <= slot && slot <= last) != want {
						t.Fatalf("slot %d of %d groups: in group %d %t, slots %d to %d", slot, groups, g, in, first, last)
					}
				}
			}
		}
	}
}
