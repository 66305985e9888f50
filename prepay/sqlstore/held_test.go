package sqlstore

import (
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/prepay"
)

func TestHeldIsBounded(t *testing.T) {
	const most = 10
	h := newHeld(most)
	for i := range int64(1000) {
		c := prepay.Call{ID: i + 1, OutTradeNo: fmt.Sprint(i), Status: prepay.Due}
		h.put(&c)
		if n := len(h.young.ids) + len(h.old.ids); n > most {
			t.Fatalf("%d are held, want at most %d", n, most)
		}
		if i%3 == 0 {
			if have, ok := h.byID(c.ID); !ok || have != c {
				t.Fatalf("%+v %v, want %+v", have, ok, c)
			}
			if _, ok := h.byID(c.ID); ok {
				t.Fatal("taken twice")
			}
		}
		if len(h.young.ids) != len(h.young.numbers) || len(h.old.ids) != len(h.old.numbers) || len(h.spare) > most || len(h.taken) > 1000 {
			t.Fatal("ids and numbers differ, or too many are spare")
		}
	}
	have, rest := h.byNumber(nil, []string{"998", "997", "0"})
	if len(have) != 2 || have[0].ID != 999 || have[1].ID != 998 || len(rest) != 1 || rest[0] != "0" {
		t.Errorf("%+v, %v", have, rest)
	}
	stale := prepay.Call{ID: 997, OutTradeNo: "996", Status: prepay.Stopped}
	h.put(&stale)
	if _, ok := h.byID(997); ok {
		t.Error("a call is held as it was before it was stopped")
	}
	stopped := prepay.Call{ID: 2000, OutTradeNo: "2000", Status: prepay.Stopped}
	h.put(&stopped)
	if _, ok := h.byID(2000); ok {
		t.Error("a stopped call is held")
	}
}
