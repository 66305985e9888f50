package ids_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
}

func secretOf(t testing.TB, key []byte) *ids.Secret {
	t.Helper()
	s, err := ids.NewSecret(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCodeVectors holds codes still, for ever: another code for an order would
// be another payment. The vectors were made by another program.
func TestCodeVectors(t *testing.T) {
	var v struct {
		Secret            string `json:"secret"`
		SecretFingerprint string `json:"secret_fingerprint"`
		Codes             []struct {
			Traffic     traffic.Kind `json:"traffic"`
			Merchant    string       `json:"merchant"`
			Order       string       `json:"order"`
			Form        traffic.Form `json:"form"`
			Key         string       `json:"key"`
			Fingerprint string       `json:"fingerprint"`
			X           ids.Code     `json:"x"`
			Y           ids.Code     `json:"y"`
			Slot        int          `json:"slot"`
		} `json:"codes"`
	}
	readJSON(t, "testdata/codes.json", &v)
	key, err := hex.DecodeString(v.Secret)
	if err != nil {
		t.Fatal(err)
	}
	s := secretOf(t, key)
	if s.Fingerprint() != v.SecretFingerprint {
		t.Errorf("the secret's fingerprint is %s, want %s", s.Fingerprint(), v.SecretFingerprint)
	}
	if len(v.Codes) < 10 {
		t.Fatalf("%d vectors", len(v.Codes))
	}
	for _, c := range v.Codes {
		var fp ids.Fingerprint
		if _, err := hex.Decode(fp[:], []byte(c.Fingerprint)); err != nil {
			t.Fatal(err)
		}
		x := s.Trade(c.Traffic, c.Merchant, c.Order)
		if y := s.Intent(x, c.Merchant, c.Order, c.Form, c.Key, fp); x != c.X || y != c.Y || x.Slot() != c.Slot || y.Slot() != c.Slot {
			t.Errorf("%s %s %s: %s and %s in slot %d, want %s and %s in %d", c.Traffic, c.Merchant, c.Order, x, y, x.Slot(), c.X, c.Y, c.Slot)
		}
	}
}

// The vectors were made by another implementation: Python's json.dumps with
// sort_keys, ensure_ascii=False and no white space, and hashlib's SHA-256.
func TestFingerprintVectors(t *testing.T) {
	var vectors []struct {
		Name        string                    `json:"name"`
		Fields      map[string]jsontext.Value `json:"fields"`
		Canonical   string                    `json:"canonical"`
		Fingerprint string                    `json:"fingerprint"`
	}
	readJSON(t, "testdata/fingerprint.json", &vectors)
	for _, v := range vectors {
		b := canonicalOf(t, v.Fields)
		fp := ids.FingerprintOf(b)
		if string(b) != v.Canonical || hex.EncodeToString(fp[:]) != v.Fingerprint {
			t.Errorf("%s: %s with fingerprint %x, want %s with %s", v.Name, b, fp, v.Canonical, v.Fingerprint)
		}
		if again := ids.NewCanonical([]byte("before")); !strings.HasPrefix(string(again.Bytes()), "before{") {
			t.Error("not appended")
		}
	}
}

// canonicalOf writes fields in the order of their names.
func canonicalOf(t *testing.T, fields map[string]jsontext.Value) []byte {
	t.Helper()
	c := ids.NewCanonical(nil)
	var add func(map[string]jsontext.Value)
	add = func(fields map[string]jsontext.Value) {
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			var text string
			var number int64
			var object map[string]jsontext.Value
			switch raw := fields[name]; raw.Kind() {
			case '"':
				if err := json.Unmarshal(raw, &text); err != nil {
					t.Fatal(err)
				}
				c.String(name, text)
			case '0':
				if err := json.Unmarshal(raw, &number); err != nil {
					t.Fatal(err)
				}
				c.Int(name, number)
			default:
				if err := json.Unmarshal(raw, &object); err != nil {
					t.Fatal(err)
				}
				c.Object(name)
				add(object)
				c.End()
			}
		}
	}
	add(fields)
	return c.Bytes()
}

// What is out of order would be other bytes for the same request.
func TestCanonicalKeepsOrder(t *testing.T) {
	for name, add := range map[string]func(c *ids.Canonical){
		"out of order":      func(c *ids.Canonical) { c.Int("b", 1); c.Int("a", 1) },
		"twice":             func(c *ids.Canonical) { c.Int("a", 1); c.String("a", "1") },
		"behind an object":  func(c *ids.Canonical) { c.Object("b"); c.Int("z", 1); c.End(); c.Int("a", 1) },
		"inside an object":  func(c *ids.Canonical) { c.Object("a"); c.Int("b", 1); c.Int("a", 1) },
		"object in another": func(c *ids.Canonical) { c.Object("a"); c.Object("b") },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("taken")
				}
			}()
			c := ids.NewCanonical(nil)
			add(&c)
		})
	}
}

// TestCanonicalTellsApart: another field, value or type is another request, and
// the text says what was asked.
func TestCanonicalTellsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func() (map[string]any, []byte) {
			fields := map[string]any{}
			for range rapid.IntRange(0, 4).Draw(t, "fields") {
				name := rapid.StringMatching(`[ab\x00"]{1,2}`).Draw(t, "name")
				if rapid.Bool().Draw(t, "is number") {
					fields[name] = rapid.Int64Range(-2, 2).Draw(t, "number")
				} else {
					fields[name] = rapid.StringMatching(`[ab\x00"\\,:{}1]{0,4}`).Draw(t, "text")
				}
			}
			c := ids.NewCanonical(nil)
			for _, name := range slices.Sorted(maps.Keys(fields)) {
				switch v := fields[name].(type) {
				case int64:
					c.Int(name, v)
				case string:
					c.String(name, v)
				}
			}
			return fields, c.Bytes()
		}
		f1, b1 := draw()
		f2, b2 := draw()
		if maps.Equal(f1, f2) != bytes.Equal(b1, b2) {
			t.Fatalf("%v and %v are %s and %s", f1, f2, b1, b2)
		}
		var read map[string]any
		if err := json.Unmarshal(b1, &read); err != nil || len(read) != len(f1) {
			t.Fatalf("%s reads as %v, %v", b1, read, err)
		}
	})
}

var (
	kinds  = rapid.SampledFrom([]traffic.Kind{traffic.Real, traffic.Shadow})
	forms  = rapid.SampledFrom([]traffic.Form{traffic.Deposit, traffic.Withdrawal, traffic.Refund, traffic.Transfer})
	shorts = rapid.StringMatching(`[ab1]{0,3}`)
)

func TestCodesArePure(t *testing.T) {
	s, again := secretOf(t, make([]byte, 32)), secretOf(t, make([]byte, 32))
	other := secretOf(t, append(make([]byte, 31), 1))
	type inputs struct {
		kind                 traffic.Kind
		merchant, order, key string
		form                 traffic.Form
		fp                   ids.Fingerprint
	}
	xs, ys := map[ids.Code]inputs{}, map[ids.Code]inputs{}
	rapid.Check(t, func(t *rapid.T) {
		in := inputs{kind: kinds.Draw(t, "kind"), merchant: shorts.Draw(t, "merchant"), order: shorts.Draw(t, "order"),
			key: shorts.Draw(t, "key"), form: forms.Draw(t, "form"), fp: ids.Fingerprint{rapid.Byte().Draw(t, "fp")}}
		x := s.Trade(in.kind, in.merchant, in.order)
		y := s.Intent(x, in.merchant, in.order, in.form, in.key, in.fp)
		if x != again.Trade(in.kind, in.merchant, in.order) || y != again.Intent(x, in.merchant, in.order, in.form, in.key, in.fp) {
			t.Fatal("two holders of one secret derive different codes")
		}
		if other.Trade(in.kind, in.merchant, in.order) == x || other.Verify(x, in.merchant) {
			t.Fatal("another secret derives or verifies the same code")
		}
		for _, c := range []ids.Code{x, y} {
			if p, err := ids.ParseCode(string(c)); err != nil || p != c || c.Traffic() != in.kind {
				t.Fatalf("%s does not read back: %v", c, err)
			}
			if !s.Verify(c, in.merchant) || s.Verify(c, in.merchant+"x") {
				t.Fatalf("the tag of %s belongs to no one, or to anyone", c)
			}
			if c.Slot() != x.Slot() || c.Slot() < 0 || c.Slot() >= ids.Slots {
				t.Fatalf("%s is in slot %d, its trade in %d", c, c.Slot(), x.Slot())
			}
		}
		// No two lists of inputs meet, wherever one ends and the next begins.
		trade := in
		trade.key, trade.form, trade.fp = "", "", ids.Fingerprint{}
		if have, known := xs[x]; known && have != trade {
			t.Fatalf("%+v and %+v have one code", have, trade)
		}
		if have, known := ys[y]; known && have != in {
			t.Fatalf("%+v and %+v have one code", have, in)
		}
		if _, both := xs[y]; both {
			t.Fatalf("%s is a trade's and an intent's", y)
		}
		xs[x], ys[y] = trade, in
	})
}

// TestATagOfAnotherIsRefused: one character changed, anywhere, is not ours.
func TestATagOfAnotherIsRefused(t *testing.T) {
	s := secretOf(t, make([]byte, 32))
	c := s.Trade(traffic.Real, "m", "o")
	passed := 0
	for i := range len(c) {
		for _, r := range ids.Alphabet {
			b := []byte(c)
			if b[i] == byte(r) {
				continue
			}
			b[i] = byte(r)
			if s.Verify(ids.Code(b), "m") {
				passed++
			}
		}
	}
	if passed > 0 { // of 837, at one in a million each
		t.Errorf("%d forged codes are taken for ours", passed)
	}
	for _, c := range []ids.Code{"", "r", c + "0", c[1:]} {
		if s.Verify(c, "m") {
			t.Errorf("%q verifies", c)
		}
	}
}

func TestGroupsAreRangesOfSlots(t *testing.T) {
	s := secretOf(t, make([]byte, 32))
	for _, groups := range []int{1, 3, 16, 1000, ids.Slots} {
		last, seen := 0, map[int]int{}
		for slot := range ids.Slots {
			c := "r" + string(ids.Alphabet[slot>>5]) + string(ids.Alphabet[slot&31]) + strings.Repeat("0", 24)
			code, err := ids.ParseCode(c)
			if err != nil || code.Slot() != slot {
				t.Fatalf("%s: slot %d, want %d; %v", c, code.Slot(), slot, err)
			}
			g := code.Group(groups)
			if g < last || g > last+1 || g >= groups {
				t.Fatalf("slot %d of %d groups is in %d, the one before in %d", slot, groups, g, last)
			}
			last = g
			seen[g]++
		}
		if len(seen) != groups {
			t.Errorf("%d groups of %d have slots", len(seen), groups)
		}
	}
	counts := make([]int, 16)
	for i := range 16_000 {
		counts[s.Trade(traffic.Real, "m", time.Duration(i).String()).Group(16)]++
	}
	for g, n := range counts {
		if n < 850 || n > 1150 {
			t.Errorf("group %d holds %d of 16,000 codes", g, n)
		}
	}
}

func TestMalformedCodes(t *testing.T) {
	good := string(secretOf(t, make([]byte, 32)).Trade(traffic.Real, "m", "o"))
	bad := []string{"", "r", good[:26], good + "0", "x" + good[1:], strings.ToUpper(good), good[:26] + "i", good[:26] + "l", good[:26] + "o",
		good[:26] + "u", good[:26] + " ", good[:25] + "é", "R" + good[1:], good[:13] + "\x00" + good[14:]}
	for _, c := range bad {
		if got, err := ids.ParseCode(c); !errors.Is(err, ids.ErrCode) {
			t.Errorf("ParseCode(%q) = %q, %v", c, got, err)
		}
		if len(c) != ids.CodeLen && ids.Code(c).Slot() != -1 {
			t.Errorf("%q has a slot", c)
		}
	}
	for _, id := range append(bad, good, "vch_", "vch_"+good[1:], "evt_"+good, "xxx_"+good, "vch-"+good, "vch_"+good+"0", "trd_"+bad[4]) {
		if p, c, err := ids.ParseID(id); !errors.Is(err, ids.ErrCode) {
			t.Errorf("ParseID(%q) = %s, %s, %v", id, p, c, err)
		}
	}
	for _, p := range []ids.Prefix{ids.TradeID, ids.VoucherID, ids.PaymentID, ids.WithdrawalID, ids.RefundID, ids.TransferID} {
		if got, c, err := ids.ParseID(p.With(ids.Code(good))); got != p || string(c) != good || err != nil {
			t.Errorf("%s does not read back: %s %s %v", p, got, c, err)
		}
	}
}

func TestOutTradeNo(t *testing.T) {
	y := secretOf(t, make([]byte, 32)).Trade(traffic.Real, "m", "o")
	seen := map[string]bool{}
	for attempt := range ids.AttemptsMax {
		no := ids.OutTradeNo(y, attempt)
		got, n, err := ids.ParseOutTradeNo(no)
		if len(no) != 28 || got != y || n != attempt || err != nil || seen[no] {
			t.Errorf("attempt %d: %s reads as %s, %d, %v", attempt, no, got, n, err)
		}
		seen[no] = true
	}
	for _, no := range []string{"", string(y), string(y) + "00", string(y) + "u", "x" + string(y[1:]) + "0", string(y[:26]) + "i0"} {
		if c, n, err := ids.ParseOutTradeNo(no); !errors.Is(err, ids.ErrCode) {
			t.Errorf("%q reads as %s, %d, %v", no, c, n, err)
		}
	}
	for _, attempt := range []int{-1, ids.AttemptsMax} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("attempt %d has a number", attempt)
				}
			}()
			t.Errorf("attempt %d is %s", attempt, ids.OutTradeNo(y, attempt))
		}()
	}
}

func context(t testing.TB) ids.Context {
	return ids.Context{BizCode: secretOf(t, make([]byte, 32)).Trade(traffic.Real, "m", "o"), Merchant: "m", OrderType: "general",
		OrderScene: "online", Institution: "sandbox", TraceID: strings.Repeat("0f", 16), Form: traffic.Deposit, Traffic: traffic.Real}
}

func TestAttach(t *testing.T) {
	s := secretOf(t, make([]byte, 32))
	rapid.Check(t, func(t *rapid.T) {
		k := kinds.Draw(t, "kind")
		text := func(name string, most int) string {
			return rapid.StringMatching(fmt.Sprintf(`[a-z0-9_-]{1,%d}`, most)).Draw(t, name)
		}
		c := ids.Context{Merchant: text("merchant", ids.MerchantLenMax), OrderType: text("type", ids.OrderTypeLenMax),
			OrderScene: text("scene", ids.OrderSceneLenMax), Institution: "sandbox", TraceID: rapid.StringMatching(`[0-9a-f]{32}`).Draw(t, "trace"),
			Form: traffic.Deposit, Traffic: k}
		c.BizCode = s.Trade(k, c.Merchant, "o")
		a := c.Attach()
		if len(a) > 128 {
			t.Fatalf("%d bytes: %s", len(a), a)
		}
		if back, err := ids.ParseAttach(a, "sandbox"); err != nil || back != c {
			t.Fatalf("%+v reads back as %+v, %v", c, back, err)
		}
	})
	c := context(t)
	a := c.Attach()
	for _, bad := range []string{"", "|", a + "|", a[1:], strings.Replace(a, "|m|", "||", 1), strings.ReplaceAll(a, "|", ";"), strings.TrimSuffix(a, c.TraceID)} {
		if back, err := ids.ParseAttach(bad, "sandbox"); err == nil {
			t.Errorf("%q reads as %+v", bad, back)
		}
	}
}

func TestContext(t *testing.T) {
	good := context(t)
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	if n := testing.AllocsPerRun(100, func() { _ = good.Validate() }); n != 0 {
		t.Errorf("a valid context costs %v allocations", n)
	}
	unrouted := good
	unrouted.Institution = ""
	if err := unrouted.Validate(); err != nil {
		t.Errorf("before routing there is no institution: %v", err)
	}
	for name, change := range map[string]func(*ids.Context){
		"biz_code": func(c *ids.Context) { c.BizCode = "" }, "merchant": func(c *ids.Context) { c.Merchant = "" },
		"order_type": func(c *ids.Context) { c.OrderType = "" }, "order_scene": func(c *ids.Context) { c.OrderScene = "" },
		"trace_id": func(c *ids.Context) { c.TraceID = "" }, "form": func(c *ids.Context) { c.Form = "gift" },
		"traffic": func(c *ids.Context) { c.Traffic = "test" }, "is not of shadow traffic": func(c *ids.Context) { c.Traffic = traffic.Shadow }} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Columns, values, targets and log attributes are the same things in one order.
	values, attrs := good.AppendValues(nil), good.LogAttrs()
	if len(values) != len(ids.Columns) || len(good.Targets()) != len(ids.Columns) || len(attrs) != 2*len(ids.Columns) {
		t.Fatalf("%d columns, %d values, %d targets, %d attributes", len(ids.Columns), len(values), len(good.Targets()), len(attrs))
	}
	for i, name := range ids.Columns {
		if attrs[2*i] != name || attrs[2*i+1] != values[i] {
			t.Errorf("column %s is logged as %v=%v, and stored as %v", name, attrs[2*i], attrs[2*i+1], values[i])
		}
	}
	b, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for i, name := range ids.Columns {
		if m[name] != values[i] {
			t.Errorf("%s is %v in JSON, and %v in its column", name, m[name], values[i])
		}
	}
}

func TestSource(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	s := ids.NewSource(func() time.Time { return now }, bytes.NewReader(make([]byte, 8*3)))
	first := s.New(ids.EventID)
	if first != "evt_018bcfe5-6800-7000-8000-000000000000" {
		t.Errorf("the first id is %s", first)
	}
	now = now.Add(-time.Hour) // a clock that is set back
	second := s.New(ids.EventID)
	now = now.Add(2 * time.Hour)
	if third := s.New(ids.EventID); second <= first || third <= second {
		t.Errorf("%s, %s, %s do not grow", first, second, third)
	}
	defer func() {
		if recover() == nil {
			t.Error("an id was made without randomness")
		}
	}()
	s.New(ids.EventID)
}

func TestSourceUnderConcurrency(t *testing.T) {
	s := ids.NewSource(func() time.Time { return time.UnixMilli(1) }, rand.Reader) // a clock that stands still
	var mu sync.Mutex
	var wg sync.WaitGroup
	all := map[string]bool{}
	for range 8 {
		wg.Go(func() {
			last := ""
			for range 2_000 {
				id := s.New(ids.EntryID)
				if id <= last || len(id) != 40 || id[18] != '7' || !strings.ContainsRune("89ab", rune(id[23])) {
					t.Errorf("%s after %s", id, last)
				}
				last = id
				mu.Lock()
				all[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(all) != 16_000 {
		t.Errorf("%d different ids of 16,000", len(all))
	}
}

func TestSecretLength(t *testing.T) {
	for _, n := range []int{0, 31, 33} {
		if _, err := ids.NewSecret(make([]byte, n)); err == nil {
			t.Errorf("a secret of %d bytes is taken", n)
		}
	}
	key := make([]byte, 32)
	s := secretOf(t, key)
	x := s.Trade(traffic.Real, "m", "o")
	key[0] = 1 // the caller's memory
	for range 3 {
		runtime.GC() // what is kept for reuse is made anew
	}
	if s.Trade(traffic.Real, "m", "o2"); s.Trade(traffic.Real, "m", "o") != x {
		t.Error("the secret shares its caller's memory")
	}
}

func BenchmarkIntent(b *testing.B) {
	s := secretOf(b, make([]byte, 32))
	b.ReportAllocs()
	for b.Loop() {
		x := s.Trade(traffic.Real, "merchant", "order-123456")
		s.Intent(x, "merchant", "order-123456", traffic.Deposit, "order-123456", ids.Fingerprint{})
	}
}
