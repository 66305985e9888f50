package voucher_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/ids"
)

// Vouchers are accepted and accepted again in any order: what was used last is
// held, within the bound, and says whether it was confirmed; news are for what is
// held alone.
func TestHeldVouchers(t *testing.T) {
	const orders, most = 400, 80 // of 256 bytes each
	rapid.Check(t, func(rt *rapid.T) {
		h := newHarness(t, func(c *voucher.Config) { c.WaitersMax, c.ViewBytesMax = 1, most*256 })
		h.core.down = true               // what is not held is not known
		var used []ids.Code              // the last used behind
		confirmed := map[ids.Code]bool{} // of these
		for range rapid.IntRange(1, 60).Draw(rt, "runs") {
			first, length := rapid.IntRange(0, orders-1).Draw(rt, "first"), rapid.IntRange(1, 50).Draw(rt, "length")
			confirm, byNumber := rapid.Bool().Draw(rt, "confirm"), rapid.Bool().Draw(rt, "by number")
			for n := first; n < first+length; n++ {
				c, y := h.order(fmt.Sprint("o", n%orders/2), fmt.Sprint("k", n%2)) // two of each order have one X
				hold := h.views.Hold(c, y)
				if i := slices.Index(used, y); i >= 0 {
					used = slices.Delete(used, i, i+1)
				}
				if used = append(used, y); len(used) > most {
					delete(confirmed, used[0])
					used = used[1:]
				}
				if confirm {
					if !byNumber {
						hold = 0
					}
					h.views.Confirm(y, hold)
					confirmed[y] = true
				}
			}
		}
		var metrics bytes.Buffer
		h.set.WritePrometheus(&metrics)
		if want := fmt.Sprintf("tallystick_voucher_view_entries %d\n", len(used)); !strings.Contains(metrics.String(), want) {
			rt.Fatalf("want %s, have %s", want, metrics.String())
		}
		// One of them is looked at, by a question or by news: both make it an entry, and
		// others go for it.
		n := rapid.IntRange(0, orders-1).Draw(rt, "looked at")
		c, y := h.order(fmt.Sprint("o", n/2), fmt.Sprint("k", n%2))
		held := slices.Contains(used, y)
		if rapid.Bool().Draw(rt, "news") {
			h.source.emit(c, payment(y, event.Created, 1))
			h.step()
			if v, ok := h.views.Peek(y); ok != held || ok && v.Version != 1 {
				rt.Fatalf("news of what is held (%v): %+v, %v", held, v, ok)
			}
			return
		}
		v, err := h.views.Await(t.Context(), h.ask(y, 0))
		if ok := err == nil && v.Status == voucher.Accepted && v.Context == c; ok != (held && confirmed[y]) {
			rt.Fatalf("held %v, confirmed %v: %+v, %v", held, confirmed[y], v, err)
		}
	})
}

// What is longer than the gateway makes it is followed all the same.
func TestHoldsAnyContext(t *testing.T) {
	h := newHarness(t, nil)
	c, y := h.order("o1", "k")
	c.OrderType = strings.Repeat("x", 200)
	h.views.Confirm(y, h.views.Hold(c, y))
	v := h.await(h.ask(y, 0))
	h.want(v, voucher.Accepted, 0)
	if v.Context != c {
		t.Errorf("have %+v, want %+v", v.Context, c)
	}
}
