package obs_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/internal/cardguard"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/obs"
)

const card = "4111 1111 1111 1111"

// passesLuhn is an identifier that a card guard would take for a card number.
const passesLuhn = "4111111111111111"

func clock() time.Time { return time.Date(2026, 11, 24, 8, 0, 0, 0, time.FixedZone("CST", 8*3600)) }

// line logs once and reads the line back.
func line(t *testing.T, msg string, args ...any) map[string]any {
	t.Helper()
	var buf bytes.Buffer
	obs.NewLogger(&buf, slog.LevelInfo, clock).Error(msg, args...)
	out := map[string]any{}
	if err := json.Unmarshal(buf.Bytes(), &out); err != nil {
		t.Fatalf("%q is no JSON: %v", buf.String(), err)
	}
	return out
}

func TestSecretsAreLeftOut(t *testing.T) {
	for _, key := range []string{"authorization", "Authorization", "token", "client_token", "clientToken", "TOKEN", "credential",
		"credentials", "key", "api_key", "api-key", "apiKey", "APIKey", "signing_key", "keys", "secret", "code_secret", "secret_value", "password",
		"Cookie", "set-cookie", "card.pan", "cvv"} {
		t.Run(key, func(t *testing.T) {
			for name, v := range map[string]any{"string": "s3cr3t", "bytes": []byte("s3cr3t"), "error": errors.New("s3cr3t"),
				"list": []string{"s3cr3t"}, "map": map[string]string{"a": "s3cr3t"}} {
				if got := line(t, "m", key, v)[key]; got != obs.Redacted {
					t.Errorf("%s as %s: %v", key, name, got)
				}
			}
			var buf bytes.Buffer
			obs.NewLogger(&buf, slog.LevelInfo, clock).Info("m", slog.Group(key, "a", "s3cr3t"), "in",
				map[string]any{"deep": []any{map[string]any{key: map[string]any{"x": "s3cr3t"}}}})
			if strings.Contains(buf.String(), "s3cr3t") {
				t.Errorf("a group or a nested map gave it away: %s", buf.String())
			}
		})
	}
}

func TestIdentifiersAreKept(t *testing.T) {
	for _, key := range []string{"biz_code", "merchant", "order_type", "order_scene", "institution", "trace_id", "form", "traffic",
		"event", "order_id", "order_ids", "out_trade_no", "psp_trade_no", "psp_event_id", "idempotency_key", "entry", "account", "voucher"} {
		if got := line(t, "m", key, passesLuhn)[key]; got != passesLuhn {
			t.Errorf("%s was masked: %v", key, got)
		}
		nested := line(t, "m", "body", map[string]string{key: passesLuhn})["body"].(map[string]any)
		if nested[key] != passesLuhn {
			t.Errorf("body.%s was masked: %v", key, nested[key])
		}
	}
	if got := line(t, "m", "order_id", named(passesLuhn))["order_id"]; got != "the "+passesLuhn {
		t.Errorf("an identifier with a String method was masked: %v", got)
	}
	for _, key := range []string{"token_id", "key_name", "token_hash", "secret_name", "tokens_count"} {
		if got := line(t, "m", key, "k1")[key]; got != "k1" {
			t.Errorf("%s is about a secret, not one, and was left out: %v", key, got)
		}
	}
}

type named string

func (n named) String() string { return "the " + string(n) }

func TestCardNumbersAreMasked(t *testing.T) {
	type order struct {
		OrderID string `json:"order_id"`
		Subject string `json:"subject"`
	}
	tests := map[string]struct {
		value any
		want  any
	}{
		"string":      {"pay " + card, "pay " + cardguard.Mask},
		"error":       {fault.New(fault.Invalid, "gateway", "subject %q", card), `gateway: invalid: subject "` + cardguard.Mask + `"`},
		"bytes":       {[]byte(card), cardguard.Mask},
		"stringer":    {named(card), "the " + cardguard.Mask},
		"list":        {[]string{"a", card}, []any{"a", cardguard.Mask}},
		"map":         {map[string]any{"n": 1.5, "s": card}, map[string]any{"n": 1.5, "s": cardguard.Mask}},
		"struct":      {order{passesLuhn, card}, map[string]any{"order_id": passesLuhn, "subject": cardguard.Mask}},
		"pointer":     {&order{passesLuhn, "socks"}, map[string]any{"order_id": passesLuhn, "subject": "socks"}},
		"number":      {42, 42.0},
		"nil":         {nil, nil},
		"unloggable":  {map[string]any{"f": func() {}}, "[map[string]interface {}: not logged]"},
		"nil error":   {error(nil), nil},
		"clean":       {"socks", "socks"},
		"duration":    {time.Second, 1e9},
		"empty":       {"", ""},
		"list of int": {[]int{1, 2}, []any{1.0, 2.0}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := json.Marshal(line(t, "m", "v", tt.value)["v"], json.Deterministic(true))
			if err != nil {
				t.Fatal(err)
			}
			want, err := json.Marshal(tt.want, json.Deterministic(true))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("logged %s, want %s", got, want)
			}
		})
	}
	if got := line(t, "refused "+card)["msg"]; got != "refused "+cardguard.Mask {
		t.Errorf("message: %v", got)
	}
	var buf bytes.Buffer
	obs.NewLogger(&buf, slog.LevelInfo, clock).With("note", card).WithGroup("g").Info("m", "note", card)
	if strings.Contains(buf.String(), "4111") {
		t.Errorf("With or WithGroup lets it through: %s", buf.String())
	}
}

func TestLineIsStampedByTheClockGivenIn(t *testing.T) {
	var buf bytes.Buffer
	log := obs.NewLogger(&buf, slog.LevelWarn, clock)
	log.Info("below the level")
	log.Warn("m", "count", 1)
	const want = `{"time":"2026-11-24T00:00:00Z","level":"WARN","msg":"m","count":1}` + "\n"
	if buf.String() != want {
		t.Errorf("have %s want %s", buf.String(), want)
	}
	if log.Enabled(context.Background(), slog.LevelInfo) {
		t.Error("the level is not kept")
	}
}

func TestName(t *testing.T) {
	for want, got := range map[string]string{
		`a_total`:                   obs.Name("a_total"),
		`a_total{x="1"}`:            obs.Name("a_total", "x", "1"),
		`a_total{x="1",y="q\"\\"}`:  obs.Name("a_total", "x", "1", "y", `q"\`),
		`a_total{a="",b="",c="\n"}`: obs.Name("a_total", "a", "", "b", "", "c", "\n"),
	} {
		if got != want {
			t.Errorf("have %s, want %s", got, want)
		}
		metrics.NewSet().NewCounter(got).Inc() // panics on a name that is malformed
	}
}

func TestOperator(t *testing.T) {
	set := metrics.NewSet()
	set.NewCounter(obs.Name("tallystick_test_total", "x", "1")).Add(7)
	obs.Latency(set, "tallystick_test_seconds").Update(0.0007)
	if first, second := obs.Latency(set, "tallystick_test_seconds"), obs.Latency(set, "tallystick_test_seconds"); first != second {
		t.Error("a second call gives another histogram")
	}
	h := obs.Operator(set)
	tests := map[string]struct {
		method, path string
		status       int
		holds        []string
	}{
		"metrics":      {"GET", "/metrics", 200, []string{`tallystick_test_total{x="1"} 7`, `tallystick_test_seconds_bucket{le="0.001"} 1`, `le="0.0005"} 0`, "go_goroutines"}},
		"post":         {"POST", "/metrics", 405, nil},
		"post profile": {"POST", "/debug/pprof/heap", 405, nil},
		"index":        {"GET", "/debug/pprof/", 200, []string{"goroutine"}},
		"profile":      {"GET", "/debug/pprof/goroutine?debug=1", 200, []string{"goroutine profile"}},
		"root":         {"GET", "/", 404, []string{"/metrics"}},
		"prefix":       {"GET", "/metrics/x", 404, nil},
		"debug":        {"GET", "/debug/vars", 404, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var ctx fasthttp.RequestCtx
			var req fasthttp.Request
			req.Header.SetMethod(tt.method)
			req.SetRequestURI(tt.path)
			ctx.Init(&req, nil, nil)
			h(&ctx)
			if ctx.Response.StatusCode() != tt.status {
				t.Fatalf("status %d, want %d", ctx.Response.StatusCode(), tt.status)
			}
			for _, s := range tt.holds {
				if !bytes.Contains(ctx.Response.Body(), []byte(s)) {
					t.Errorf("no %q in %s", s, ctx.Response.Body())
				}
			}
		})
	}
}
