package storetest

import (
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// acceptedAt makes a trade whose payment orders were accepted at some times.
func acceptedAt(order string, millis ...int64) *core.Trade {
	tr := Trade(order)
	tr.Payments = nil
	for i, at := range millis {
		p := payment(tr, fmt.Sprint(order, i))
		p.AcceptedAtMillis = at
		tr.Payments = append(tr.Payments, p)
	}
	return tr
}

// times are when those of a list were accepted.
func times(list []event.Listed) (out []int64) {
	for i := range list {
		out = append(out, list[i].Payment.AcceptedAtMillis)
	}
	return out
}

func lists(t TB, s Store) {
	a, b, other, shadow := acceptedAt("a", 50, 21, 20, 30), acceptedAt("b", 30, 40, 30, 10), acceptedAt("c", 35), Trade("d")
	b.Payments[2].Status, b.Payments[2].NextAction, b.Payments[2].NextAtMillis = event.Rejected, "", 0
	b.Payments[2].Reason = "r"
	a.Payments[1].AliasOf, a.Payments[1].Status, a.Payments[1].NextAction, a.Payments[1].NextAtMillis = b.Payments[0].Y, event.Rejected, "", 0
	other.Context.Merchant, other.Payments[0].Context.Merchant = "m2", "m2"
	shadow.Context.Traffic, shadow.Context.BizCode = traffic.Shadow, secret.Trade(traffic.Shadow, "m1", "d")
	shadow.Payments = []*core.Payment{payment(shadow, "d")}
	Put(t, s, a, b, other, shadow)
	ask := func(l event.Listing) []event.Listed {
		list, err := s.List(t.Context(), l)
		must(t, err)
		return list
	}
	all := event.Listing{Merchant: "m1", Limit: 100}
	want := ask(all)
	if have := times(want); !slices.Equal(have, []int64{50, 40, 30, 30, 30, 20, 10}) {
		t.Fatalf("listed %v", have)
	}
	alone := b.Payments[0].Snapshot()
	alone.Attempts = alone.Attempts[:0]
	if p := b.Payments[0]; want[2].Payment.Y <= want[3].Payment.Y || want[3].Payment.Y <= want[4].Payment.Y ||
		!slices.ContainsFunc(want, func(l event.Listed) bool {
			return string(event.Encode(l.Payment)) == string(event.Encode(alone)) && l.Context == p.Context
		}) {
		t.Fatalf("listed %+v", want)
	}
	// Whatever the size of a page, they come once each, and in order, also when
	// others come meanwhile.
	now := int64(1_000)
	for size := 1; size <= 4; size++ {
		want := ask(all)
		page := event.Listing{Merchant: "m1", Limit: size}
		var have []ids.Code
		for list := ask(page); len(list) > 0; list = ask(page) {
			for i := range list {
				have = append(have, list[i].Payment.Y)
			}
			last := list[len(list)-1].Payment
			page.AfterMillis, page.AfterY = last.AcceptedAtMillis, last.Y
			now++
			Put(t, s, acceptedAt(fmt.Sprint("new", now), now))
		}
		if !slices.EqualFunc(have, want, func(y ids.Code, l event.Listed) bool { return y == l.Payment.Y }) {
			t.Fatalf("in pages of %d: %v", size, have)
		}
	}
	if have := times(ask(event.Listing{Merchant: "m1", FromMillis: 20, UntilMillis: 40, Limit: 100})); !slices.Equal(have, []int64{30, 30, 30, 20}) {
		t.Fatalf("within bounds: %v", have)
	}
	bounded := event.Listing{Merchant: "m1", UntilMillis: 40, Limit: 2, AfterMillis: want[1].Payment.AcceptedAtMillis, AfterY: want[1].Payment.Y}
	if have := times(ask(bounded)); !slices.Equal(have, []int64{30, 30}) {
		t.Fatalf("behind one that is out of bounds: %v", have)
	}
	bounded.UntilMillis = 30
	if have := times(ask(bounded)); !slices.Equal(have, []int64{20, 10}) {
		t.Fatalf("behind one that is far out of bounds: %v", have)
	}
	bounded.UntilMillis = 40
	bounded.AfterMillis, bounded.AfterY = want[2].Payment.AcceptedAtMillis, want[2].Payment.Y
	if have := ask(bounded); len(have) != 2 || have[0].Payment.Y != want[3].Payment.Y {
		t.Fatalf("behind one of three of a moment: %v", times(have))
	}
	if have := times(ask(event.Listing{Merchant: "m2", Limit: 100})); !slices.Equal(have, []int64{35}) {
		t.Fatalf("of another merchant: %v", have)
	}
	for _, limit := range []int{0, -1, event.ListMax + 1} {
		if _, err := s.List(t.Context(), event.Listing{Merchant: "m1", Limit: limit}); !fault.Is(err, fault.Invalid) {
			t.Fatalf("a limit of %d: %v", limit, err)
		}
	}
}
