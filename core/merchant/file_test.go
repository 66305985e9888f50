package merchant_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/traffic"
)

const hashA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

const good = `version: 3
merchants:
  - id: shop
    name: A Shop
    enabled: true
    key_hashes: [` + hashA + `]
    currencies: [CNY, USD]
    amount_minor_max: 5000
    fee_rate_ppm: 6000
    requests_per_second: 1.5
    burst: 4
  - id: shop_2
    currencies: [CNY]
    amount_minor_max: 1
    requests_per_second: 1
    burst: 1
channel_accounts:
  - id: sandbox-a
    channel: sandbox
    enabled: true
    traffic: real
    merchants: [shop]
    currencies: [CNY]
    methods: [qr_code]
    weight: 60
    fee_rate_ppm: 3800
    endpoint: http://127.0.0.1:9090
    key_name: sandbox-a
    limits: {calls_per_second: 20, burst: 5, concurrent_max: 12, deadline_millis: 4000, breaker_failures: 2, breaker_open_millis: 200}
`

func write(t *testing.T, path, text string) string {
	t.Helper()
	if path == "" {
		path = filepath.Join(t.TempDir(), "directory.yaml")
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	s, err := merchant.Load(write(t, "", good))
	if err != nil {
		t.Fatal(err)
	}
	d := merchant.NewDirectory(s)
	m := d.Current().Merchant("shop")
	if m == nil || !m.Enabled || m.FeeRate != 6000 || m.RequestsPerSecond != 1.5 || !m.Takes("USD") || m.Takes("EUR") {
		t.Errorf("merchant: %+v", m)
	}
	a := d.Current().Account("sandbox-a")
	if a == nil || a.Limits.Deadline().Milliseconds() != 4000 || a.Limits.BreakerOpenMillis != 200 {
		t.Fatalf("account: %+v", a)
	}
	if !a.Fits("shop", traffic.Real, "CNY", "qr_code") || a.Fits("shop_2", traffic.Real, "CNY", "qr_code") ||
		a.Fits("shop", traffic.Shadow, "CNY", "qr_code") || a.Fits("shop", traffic.Real, "USD", "qr_code") {
		t.Error("the account fits what it must not, or the other way round")
	}
}

func TestAuthenticate(t *testing.T) {
	text := strings.Replace(good, hashA, merchant.HashKey("k1")+", "+merchant.HashKey("k2"), 1)
	s, err := merchant.Load(write(t, "", text))
	if err != nil {
		t.Fatal(err)
	}
	d := merchant.NewDirectory(s)
	for key, want := range map[string]string{"k1": "shop", "k2": "shop", "k3": "", "": "", merchant.HashKey("k1"): ""} {
		got := ""
		if m := d.Current().Authenticate([]byte(key)); m != nil {
			got = m.ID
		}
		if got != want {
			t.Errorf("key %q is of %q, want %q", key, got, want)
		}
	}
}

func TestBadFilesNameTheKeyAndTheFix(t *testing.T) {
	tests := map[string]struct{ old, new, field string }{
		"version":               {"version: 3", "version: 0", "version"},
		"id empty":              {"id: shop\n", "id: ''\n", "merchants[0].id"},
		"id upper case":         {"id: shop\n", "id: Shop\n", "merchants[0].id"},
		"id too long":           {"id: shop\n", "id: " + strings.Repeat("s", 25) + "\n", "merchants[0].id"},
		"id twice":              {"id: shop_2", "id: shop", "merchants[1].id"},
		"name":                  {"A Shop", strings.Repeat("é", 101), "merchants[0].name"},
		"hash short":            {hashA, hashA[1:], "merchants[0].key_hashes[0]"},
		"hash upper case":       {hashA, strings.ToUpper(hashA), "merchants[0].key_hashes[0]"},
		"key itself":            {hashA, "sk_live_1", "merchants[0].key_hashes[0]"},
		"hash twice":            {hashA, hashA + ", " + hashA, "merchants[0].key_hashes[1]"},
		"three hashes":          {hashA, hashA + ", " + strings.Repeat("b", 64) + ", " + strings.Repeat("c", 64), "merchants[0].key_hashes"},
		"hash of another":       {"id: shop_2", "id: shop_2\n    key_hashes: [" + hashA + "]", "merchants[1].key_hashes[0]"},
		"no currency":           {"currencies: [CNY, USD]", "currencies: []", "merchants[0].currencies"},
		"currency":              {"currencies: [CNY, USD]", "currencies: [CNY, usd]", "merchants[0].currencies[1]"},
		"currency twice":        {"currencies: [CNY, USD]", "currencies: [CNY, CNY]", "merchants[0].currencies[1]"},
		"amount":                {"amount_minor_max: 5000", "amount_minor_max: 0", "merchants[0].amount_minor_max"},
		"fee negative":          {"fee_rate_ppm: 6000", "fee_rate_ppm: -1", "merchants[0].fee_rate_ppm"},
		"fee above all":         {"fee_rate_ppm: 6000", "fee_rate_ppm: 1000001", "merchants[0].fee_rate_ppm"},
		"rate":                  {"requests_per_second: 1.5", "requests_per_second: 0", "merchants[0].requests_per_second"},
		"rate not a number":     {"requests_per_second: 1.5", "requests_per_second: .nan", "merchants[0].requests_per_second"},
		"rate infinite":         {"requests_per_second: 1.5", "requests_per_second: .inf", "merchants[0].requests_per_second"},
		"burst":                 {"burst: 4", "burst: 0", "merchants[0].burst"},
		"account id":            {"id: sandbox-a", "id: sandbox_a", "channel_accounts[0].id"},
		"account id too long":   {"id: sandbox-a", "id: " + strings.Repeat("s", 33), "channel_accounts[0].id"},
		"channel":               {"channel: sandbox", "channel: ''", "channel_accounts[0].channel"},
		"traffic":               {"traffic: real", "traffic: test", "channel_accounts[0].traffic"},
		"merchant unknown":      {"merchants: [shop]", "merchants: [shop, nobody]", "channel_accounts[0].merchants[1]"},
		"account currency":      {"currencies: [CNY]\n    methods", "currencies: [C]\n    methods", "channel_accounts[0].currencies[0]"},
		"no method":             {"methods: [qr_code]", "methods: []", "channel_accounts[0].methods"},
		"method":                {"methods: [qr_code]", "methods: [cheque]", "channel_accounts[0].methods[0]"},
		"method twice":          {"methods: [qr_code]", "methods: [qr_code, qr_code]", "channel_accounts[0].methods[1]"},
		"weight":                {"weight: 60", "weight: -1", "channel_accounts[0].weight"},
		"account fee":           {"fee_rate_ppm: 3800", "fee_rate_ppm: 2000000", "channel_accounts[0].fee_rate_ppm"},
		"endpoint":              {"http://127.0.0.1:9090", "127.0.0.1:9090", "channel_accounts[0].endpoint"},
		"endpoint with a user":  {"http://127.0.0.1:9090", "http://u:p@127.0.0.1:9090", "channel_accounts[0].endpoint"},
		"endpoint scheme":       {"http://127.0.0.1:9090", "file:///etc/passwd", "channel_accounts[0].endpoint"},
		"key name with a path":  {"key_name: sandbox-a", "key_name: ../x", "channel_accounts[0].key_name"},
		"calls":                 {"calls_per_second: 20", "calls_per_second: 0", "channel_accounts[0].limits.calls_per_second"},
		"account burst":         {"burst: 5", "burst: 0", "channel_accounts[0].limits.burst"},
		"bulkhead":              {"concurrent_max: 12", "concurrent_max: 0", "channel_accounts[0].limits.concurrent_max"},
		"deadline":              {"deadline_millis: 4000", "deadline_millis: 0", "channel_accounts[0].limits.deadline_millis"},
		"breaker failures":      {"breaker_failures: 2", "breaker_failures: 0", "channel_accounts[0].limits.breaker_failures"},
		"breaker open":          {"breaker_open_millis: 200", "breaker_open_millis: 0", "channel_accounts[0].limits.breaker_open_millis"},
		"unknown key":           {"weight: 60", "wieght: 60", ""},
		"unknown key at top":    {"version: 3", "version: 3\nsecrets: []", ""},
		"key twice":             {"weight: 60", "weight: 60\n    weight: 61", ""},
		"wrong type":            {"burst: 4", "burst: many", ""},
		"not a whole number":    {"amount_minor_max: 5000", "amount_minor_max: 50.5", "merchants[0].amount_minor_max"},
		"over 64 bits":          {"amount_minor_max: 5000", "amount_minor_max: 9223372036854775808", ""},
		"no YAML":               {"version: 3", "version: [", ""},
		"account id is missing": {"id: sandbox-a\n    channel", "channel", "channel_accounts[0].id"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(good, tt.old, tt.new, 1)
			if text == good {
				t.Fatalf("%q is not in the good file", tt.old)
			}
			_, err := merchant.Load(write(t, "", text))
			var e *fault.Error
			if !errors.As(err, &e) || e.Kind != fault.Invalid {
				t.Fatalf("not refused as invalid: %v", err)
			}
			if e.Field != tt.field || e.Fix == "" {
				t.Errorf("field %q and fix %q, want field %q and some fix", e.Field, e.Fix, tt.field)
			}
		})
	}
	for name, text := range map[string]string{"empty": "", "comment": "# nothing\n", "two documents": good + "---\n" + good} {
		if _, err := merchant.Load(write(t, "", text)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := merchant.Load(filepath.Join(t.TempDir(), "none")); !fault.Is(err, fault.Invalid) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := merchant.Load(write(t, "", "version: 1\n#"+strings.Repeat("x", merchant.FileBytesMax))); !fault.Is(err, fault.TooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func TestWatcher(t *testing.T) {
	path := write(t, "", good)
	s, err := merchant.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	d := merchant.NewDirectory(s)
	var logged bytes.Buffer
	w := merchant.NewWatcher(path, d, slog.New(slog.NewTextHandler(&logged, nil)))
	step := func(name string, wantWorked, wantErr bool, wantVersion int64) {
		t.Helper()
		worked, err := w.Step(t.Context())
		if worked != wantWorked || (err != nil) != wantErr || d.Current().Version != wantVersion {
			t.Errorf("%s: worked %v, %v, version %d", name, worked, err, d.Current().Version)
		}
	}
	step("nothing changed", false, false, 3)
	step("nothing changed", false, false, 3)
	v4 := strings.Replace(good, "version: 3", "version: 4", 1)
	v4 = strings.Replace(v4, "    key_hashes: ["+hashA+"]\n", "", 1)
	write(t, path, v4)
	step("a newer version", true, false, 4)
	if h := d.Current().Merchant("shop").KeyHashes; len(h) != 0 {
		t.Errorf("a revoked key is still in force: %v", h)
	}
	write(t, path, strings.Replace(v4, "weight: 60", "weight: 61", 1))
	step("changed, version not raised", false, true, 4)
	step("an error is told once", false, false, 4)
	write(t, path, strings.Replace(strings.Replace(v4, "version: 4", "version: 5", 1), "burst: 4", "burst: 0", 1))
	step("a bad file", false, true, 4)
	step("a bad file is told once", false, false, 4)
	write(t, path, good)
	step("an older version", false, true, 4)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	step("no file", false, true, 4)
	step("no file is told once", false, false, 4)
	write(t, path, strings.Replace(v4, "version: 4", "version: 5", 1))
	step("back again", true, false, 5)
	if w.Refused() != 4 {
		t.Errorf("%d files counted as refused, want 4", w.Refused())
	}
}

// It looks by itself.
func TestWatcherRuns(t *testing.T) {
	path := write(t, "", good)
	s, err := merchant.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	d := merchant.NewDirectory(s)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- merchant.NewWatcher(path, d, slog.New(slog.DiscardHandler)).Run(ctx, time.Millisecond)
	}()
	write(t, path, strings.Replace(good, "version: 3", "version: 4", 1))
	for n := 0; d.Current().Version != 4; n++ {
		if n > 10_000 {
			t.Fatalf("version %d is in force", d.Current().Version)
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestReplaceTakesTheHighestVersion(t *testing.T) {
	d := merchant.NewDirectory(&merchant.Snapshot{Version: 2})
	for _, tt := range []struct {
		version int64
		want    bool
		current int64
	}{{1, false, 2}, {2, false, 2}, {4, true, 4}, {3, false, 4}} {
		if got := d.Replace(&merchant.Snapshot{Version: tt.version}); got != tt.want || d.Current().Version != tt.current {
			t.Errorf("Replace(%d) = %v, in force %d", tt.version, got, d.Current().Version)
		}
	}
}
