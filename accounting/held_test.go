package accounting_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
)

func heldLine(shard, minor int64, kind accounting.Kind) accounting.HeldLine {
	return accounting.HeldLine{Shard: shard, Amount: money.Of(minor, "CNY"), Side: accounting.Credit, Kind: kind}
}

// TestHeldIsBounded: however many accounts there are, few are held, and those
// that are used stay.
func TestHeldIsBounded(t *testing.T) {
	h := accounting.NewHeld(100)
	h.Set(1, 5, 7)
	for shard := int64(2); shard < 10_000; shard++ {
		if !h.Has(1) {
			t.Fatalf("a shard that every batch uses was forgotten at %d", shard)
		}
		h.Set(shard, 0, 0)
		if reason := h.Try([]accounting.HeldLine{heldLine(1, 1, accounting.Spread), heldLine(shard, -1, accounting.Spread)}); reason != "" {
			t.Fatal(reason)
		}
		h.Commit()
		if h.Len() > 101 {
			t.Fatalf("%d balances are held, the bound is 100 and a batch", h.Len())
		}
	}
	h.Drop()
	if h.Has(1) || h.Len() != 0 {
		t.Error("dropped, and still held")
	}
}

func TestHeldNetsPerShard(t *testing.T) {
	h := accounting.NewHeld(10)
	h.Set(2, 100, 3)
	h.Set(1, 0, 0)
	for range 5 {
		h.Try([]accounting.HeldLine{heldLine(2, 7, accounting.Spread), heldLine(1, -7, accounting.Spread)})
	}
	want := []accounting.Change{{Shard: 1, Minor: -35, Net: -35, Version: 1}, {Shard: 2, Minor: 135, Net: 35, Version: 4}}
	got := h.Changes()
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("changes %+v, want %+v", got, want)
	}
	h.Commit()
	if len(h.Changes()) != 0 {
		t.Error("a committed change is pending")
	}
}

// TestHeldRejectsWhole: an entry that fails on its last line leaves nothing behind.
func TestHeldRejectsWhole(t *testing.T) {
	h := accounting.NewHeld(10)
	for shard := range int64(3) {
		h.Set(shard, 0, 0)
	}
	for name, lines := range map[string][]accounting.HeldLine{
		accounting.ReasonOverdraft: {heldLine(0, -5, accounting.Spread), heldLine(1, 5, accounting.Homed)},
		accounting.ReasonOverflow:  {heldLine(0, -5, accounting.Spread), heldLine(2, math.MaxInt64, accounting.Spread), heldLine(2, 1, accounting.Spread)},
	} {
		if got := h.Try(lines); got != name {
			t.Errorf("reason %q, want %q", got, name)
		}
		if c := h.Changes(); len(c) != 0 {
			t.Errorf("%s: rejected, and changed %+v", name, c)
		}
	}
}

// TestHeldTakesBack: what is overdrawn already may come up again.
func TestHeldTakesBack(t *testing.T) {
	h := accounting.NewHeld(10)
	h.Set(1, 5, 1) // a credit account with 5 too little, by whatever mishap
	for _, c := range []struct {
		minor int64
		want  string
	}{{1, accounting.ReasonOverdraft}, {-3, ""}, {1, accounting.ReasonOverdraft}, {-2, ""}, {-1, ""}, {1, ""}, {1, accounting.ReasonOverdraft}} {
		if got := h.Try([]accounting.HeldLine{heldLine(1, c.minor, accounting.Homed)}); got != c.want {
			t.Errorf("adding %d: reason %q, want %q", -c.minor, got, c.want)
		}
	}
}

// TestHeldNetOverflow: a batch cannot swing a balance further than its change can say.
func TestHeldNetOverflow(t *testing.T) {
	h := accounting.NewHeld(10)
	h.Set(1, -math.MaxInt64, 1)
	up := []accounting.HeldLine{heldLine(1, math.MaxInt64, accounting.Spread)}
	if first, second := h.Try(up), h.Try(up); first != "" || second != accounting.ReasonOverflow {
		t.Errorf("reasons %q and %q, want none and overflow", first, second)
	}
}

func TestCheckLines(t *testing.T) {
	account := func(name string) accounting.Account {
		return accounting.Account{Name: name, Class: accounting.Asset, Side: accounting.Debit, Kind: accounting.Spread}
	}
	line := func(name string, minor int64, c money.Currency) accounting.Line {
		return accounting.Line{Account: account(name), Amount: money.Of(minor, c)}
	}
	many := make([]accounting.Line, 0, accounting.LinesMax+2)
	for range accounting.LinesMax/2 + 1 {
		many = append(many, line("a", 1, "CNY"), line("b", -1, "CNY"))
	}
	nature := func(change func(*accounting.Account)) []accounting.Line {
		l := line("a", 1, "CNY")
		change(&l.Account)
		return []accounting.Line{l, line("b", -1, "CNY")}
	}
	for name, c := range map[string]struct {
		lines []accounting.Line
		ok    bool
	}{
		"balanced":                {[]accounting.Line{line("a", 1, "CNY"), line("b", -1, "CNY")}, true},
		"two currencies":          {[]accounting.Line{line("a", 1, "CNY"), line("a", 2, "USD"), line("b", -2, "USD"), line("b", -1, "CNY")}, true},
		"as many as allowed":      {many[:accounting.LinesMax], true},
		"too many":                {many, false},
		"none":                    {nil, false},
		"one":                     {[]accounting.Line{line("a", 1, "CNY")}, false},
		"unbalanced":              {[]accounting.Line{line("a", 2, "CNY"), line("b", -1, "CNY")}, false},
		"balanced across":         {[]accounting.Line{line("a", 1, "CNY"), line("b", -1, "USD")}, false},
		"unbalanced in one":       {[]accounting.Line{line("a", 1, "CNY"), line("b", -1, "CNY"), line("a", 1, "USD"), line("b", -2, "USD")}, false},
		"a line of zero":          {[]accounting.Line{line("a", 1, "CNY"), line("b", -1, "CNY"), line("c", 0, "CNY")}, false},
		"a sum that wraps around": {[]accounting.Line{line("a", math.MaxInt64, "CNY"), line("a", math.MaxInt64, "CNY"), line("a", 2, "CNY")}, false},
		"no currency":             {[]accounting.Line{line("a", 1, ""), line("b", -1, "")}, false},
		"no name":                 {nature(func(a *accounting.Account) { a.Name = "" }), false},
		"a name with a space":     {nature(func(a *accounting.Account) { a.Name = "a b" }), false},
		"a name too long":         {nature(func(a *accounting.Account) { a.Name = strings.Repeat("a", accounting.NameLenMax+1) }), false},
		"no class":                {nature(func(a *accounting.Account) { a.Class = "" }), false},
		"no side":                 {nature(func(a *accounting.Account) { a.Side = "left" }), false},
		"no kind":                 {nature(func(a *accounting.Account) { a.Kind = "" }), false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := accounting.CheckLines(c.lines); (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	for field, change := range map[string]func(*accounting.Config){
		"accounting.book":               func(c *accounting.Config) { c.Book = "" },
		"accounting.traffic":            func(c *accounting.Config) { c.Traffic = "neither" },
		"accounting.watch_every_millis": func(c *accounting.Config) { c.WatchEveryMillis = 0 },
	} {
		c := accounting.DefaultConfig()
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&c)
		var e *fault.Error
		if err := c.Validate(); !errors.As(err, &e) || e.Kind != fault.Invalid || e.Field != field || e.Fix == "" {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestHome: a homed account's group is a pure function of its key, within bounds.
func TestHome(t *testing.T) {
	seen := map[int]bool{}
	for i := range 200 {
		k := accounting.Key{Book: "main", Name: strings.Repeat("x", i+1), Currency: "CNY"}
		g := accounting.ShardGroup(accounting.Homed, k, 3, 16)
		if g != accounting.ShardGroup(accounting.Homed, k, 9, 16) || g < 0 || g >= 16 {
			t.Fatalf("%s lives in group %d", k, g)
		}
		seen[g] = true
	}
	if len(seen) != 16 {
		t.Errorf("200 accounts live in %d groups of 16", len(seen))
	}
	if g := accounting.ShardGroup(accounting.Spread, accounting.Key{}, 3, 16); g != 3 {
		t.Errorf("a spread account's shard is in group %d, not its entry's", g)
	}
}
