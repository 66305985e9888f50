package api_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/ids"
)

// paid accepts the good body and gives its answer and its intent.
func (h *harness) accepted() (answer, ids.Context, event.Intent) {
	h.t.Helper()
	a := h.pay(goodBody, "")
	if a.status != 202 {
		h.t.Fatalf("%d %s", a.status, a.body)
	}
	e := h.intake.events[len(h.intake.events)-1]
	var i event.Intent
	if err := event.Decode(e.Payload, &i); err != nil {
		h.t.Fatal(err)
	}
	return a, e.Context, i
}

// paymentOf is what core makes of an intent.
func paymentOf(i event.Intent, status event.Status, version int64) event.Payment {
	p := event.Payment{Y: i.Y, OrderID: i.OrderID, IdempotencyKey: i.IdempotencyKey, Status: status, Version: version, Amount: i.Amount,
		Method: i.Method, Subject: i.Subject, AcceptedAtMillis: i.AcceptedAtMillis, ExpiresAtMillis: i.ExpiresAtMillis, NextAction: "query",
		NextAtMillis: 1, Attempts: []event.Attempt{{OutTradeNo: ids.OutTradeNo(i.Y, 0), Channel: "sandbox", Account: "a1", Status: status}}}
	if status == event.Pending {
		p.Credential = channels.Credential{Method: i.Method, Value: "https://qr.example/1"}
	}
	return p
}

func TestVoucherByKeyAndByToken(t *testing.T) {
	h := newHarness(t, nil).listen()
	a, x, i := h.accepted()
	v := a.get("voucher")
	if r := h.get("/v1/vouchers/"+v, apiKey); r.status != 200 || r.get("status") != "accepted" {
		t.Fatalf("before core knows: %d %s", r.status, r.body)
	}
	h = newHarness(t, nil).listen() // another replica, that holds nothing
	if r := h.get("/v1/vouchers/"+v, apiKey); r.get("status") != "unconfirmed" {
		t.Errorf("an id alone: %d %s", r.status, r.body)
	}
	if r := h.get("/v1/vouchers/"+v, a.get("token")); r.get("status") != "accepted" {
		t.Errorf("a token: %d %s", r.status, r.body)
	}
	h.core.knows(x, paymentOf(i, event.Pending, 3))
	for name, path := range map[string]string{"voucher": "/v1/vouchers/" + v, "payment": "/v1/vouchers/" + a.get("payment")} {
		own := h.get(path, apiKey)
		if own.get("status") != "ready" || own.get("order_id") != "order-1" || own.get("next_action") != "query" || !strings.Contains(string(own.body), "qr.example") {
			t.Errorf("by %s id, for the merchant: %d %s", name, own.status, own.body)
		}
		client := h.get(path, a.get("token"))
		if client.get("status") != "ready" || client.get("trade") == "" || !strings.Contains(string(client.body), "qr.example") {
			t.Errorf("by %s id, for the client: %d %s", name, client.status, client.body)
		}
		for _, private := range []string{"order_id", "idempotency_key", "reason", "next_action", "alias_of"} {
			if client.get(private) != "" {
				t.Errorf("the client sees %s: %s", private, client.body)
			}
		}
		if q := h.get(path+"?token="+a.get("token"), ""); string(q.body) != string(client.body) {
			t.Errorf("token in the query: %d %s", q.status, q.body)
		}
	}
}

func TestWhoMayReadAVoucher(t *testing.T) {
	h := newHarness(t, nil).listen()
	a, x, i := h.accepted()
	h.core.knows(x, paymentOf(i, event.Pending, 3))
	v, token := a.get("voucher"), a.get("token")
	other := h.pay(strings.Replace(goodBody, "order-1", "order-2", 1), "")
	stranger, err := api.NewTokenRing("k2", map[string][]byte{"k2": []byte(strings.Repeat("x", 32))})
	if err != nil {
		t.Fatal(err)
	}
	claims := api.Claims{Y: i.Y, Merchant: "m1", ExpiresAtMillis: time.Now().Add(time.Hour).UnixMilli()}
	forged := string(stranger.Append(nil, claims))
	claims.ExpiresAtMillis = time.Now().Add(-time.Second).UnixMilli()
	expired := string(h.tokens.Append(nil, claims))
	flipped := "vtk_k2." + strings.Replace(token[7:], token[20:21], string(token[20]^1), 1)
	tampered := v[:len(v)-1] + map[bool]string{true: "0", false: "1"}[v[len(v)-1] != '0']
	for _, c := range []struct {
		name, path, key string
		status          int
		code            string
	}{
		{"no key", "/v1/vouchers/" + v, "", 401, "unauthorized"},
		{"wrong key", "/v1/vouchers/" + v, "nope", 401, "unauthorized"},
		{"another merchant", "/v1/vouchers/" + v, otherKey, 404, "not_found"},
		{"a damaged id", "/v1/vouchers/" + tampered, apiKey, 404, "not_found"},
		{"a malformed id", "/v1/vouchers/vch_x", apiKey, 400, "id_invalid"},
		{"a trade's id", "/v1/vouchers/" + a.get("trade"), apiKey, 400, "id_invalid"},
		{"token of another voucher", "/v1/vouchers/" + v, other.get("token"), 403, "token_scope"},
		{"forged token", "/v1/vouchers/" + v, forged, 401, "token_invalid"},
		{"flipped token", "/v1/vouchers/" + v, flipped, 401, "token_invalid"},
		{"cut token", "/v1/vouchers/" + v, token[:len(token)-1], 401, "token_invalid"},
		{"token of an unknown key", "/v1/vouchers/" + v, strings.Replace(token, "vtk_k2", "vtk_k9", 1), 401, "token_invalid"},
		{"token under another key's id", "/v1/vouchers/" + v, strings.Replace(token, "vtk_k2", "vtk_k1", 1), 401, "token_invalid"},
		{"expired token", "/v1/vouchers/" + v, expired, 401, "token_expired"},
		{"API key in the URL", "/v1/vouchers/" + v + "?token=" + apiKey, "", 401, "token_invalid"},
		{"a trade by token", "/v1/trades/" + v, token, 401, "unauthorized"},
		{"a trade by another merchant", "/v1/trades/" + a.get("trade"), otherKey, 404, "not_found"},
		{"a trade by a malformed id", "/v1/trades/a%20b", apiKey, 400, "id_invalid"},
		{"a trade with a query", "/v1/trades/order-1?x=1", apiKey, 400, "query_invalid"},
		{"wait too long", "/v1/vouchers/" + v + "?wait=61", apiKey, 400, "query_invalid"},
		{"wait negative", "/v1/vouchers/" + v + "?wait=-1", apiKey, 400, "query_invalid"},
		{"wait with a unit", "/v1/vouchers/" + v + "?wait=5s", apiKey, 400, "query_invalid"},
		{"since a word", "/v1/vouchers/" + v + "?since=last", apiKey, 400, "query_invalid"},
		{"since beyond 64 bits", "/v1/vouchers/" + v + "?since=9223372036854775808", apiKey, 400, "query_invalid"},
		{"since a version that is not", "/v1/vouchers/" + v + "?since=99", apiKey, 400, "query_invalid"},
		{"since misspelled", "/v1/vouchers/" + v + "?sinc=1", apiKey, 400, "query_invalid"},
		{"since twice", "/v1/vouchers/" + v + "?since=1&since=2", apiKey, 400, "query_invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := h.get(c.path, c.key)
			if r.status != c.status || r.get("code") != c.code {
				t.Errorf("%d %s, want %d %s", r.status, r.body, c.status, c.code)
			}
			if (r.header["Www-Authenticate"] != "") != (c.status == 401) {
				t.Errorf("WWW-Authenticate: %q", r.header["Www-Authenticate"])
			}
		})
	}
	if r := h.get("/v1/vouchers/"+v, offKey); r.status != 404 {
		t.Errorf("a disabled merchant reads another's: %d", r.status)
	}
}

func TestTokenKeysRotate(t *testing.T) {
	keys := map[string][]byte{"k1": []byte(strings.Repeat("1", 32)), "k2": []byte(strings.Repeat("2", 32))}
	before, err := api.NewTokenRing("k1", keys)
	if err != nil {
		t.Fatal(err)
	}
	after, err := api.NewTokenRing("k2", keys)
	if err != nil {
		t.Fatal(err)
	}
	h := newHarness(t, nil)
	a, err := h.begin(goodBody, "")
	if err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(1_800_000_000_000)
	want := api.Claims{Y: a.Y, Merchant: "m1", ExpiresAtMillis: now.UnixMilli() + 1}
	for name, token := range map[string][]byte{"old key": before.Append(nil, want), "new key": after.Append(nil, want)} {
		if c, err := after.Verify(token, now); err != nil || c != want {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
		if _, err := after.Verify(token, now.Add(time.Millisecond)); err == nil {
			t.Errorf("%s: valid after its time", name)
		}
	}
	for name, bad := range map[string]func() (*api.TokenRing, error){
		"short key":  func() (*api.TokenRing, error) { return api.NewTokenRing("k", map[string][]byte{"k": []byte("short")}) },
		"no current": func() (*api.TokenRing, error) { return api.NewTokenRing("k3", keys) },
		"key id":     func() (*api.TokenRing, error) { return api.NewTokenRing("K.", map[string][]byte{"K.": keys["k1"]}) },
	} {
		if _, err := bad(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestCoreDownIs503(t *testing.T) {
	h := newHarness(t, nil).listen()
	a, _, _ := h.accepted()
	h = newHarness(t, nil).listen()
	h.core.down = true
	for _, path := range []string{"/v1/vouchers/" + a.get("voucher"), "/v1/trades/" + a.get("trade")} {
		r := h.get(path, apiKey)
		if r.status != 503 || r.get("code") != "view_unavailable" || r.header["Retry-After"] == "" {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
		if strings.Contains(string(r.body), "internal") {
			t.Errorf("the cause is told: %s", r.body)
		}
	}
	if !strings.Contains(h.logged(), "db-7.internal") {
		t.Error("the cause is not in the log")
	}
	if r := h.pay(goodBody, ""); r.status != 202 {
		t.Errorf("acceptance depends on core: %d %s", r.status, r.body)
	}
}

func TestTradeByAnyID(t *testing.T) {
	h := newHarness(t, nil).listen()
	a, x, i := h.accepted()
	all := []string{a.get("trade"), a.get("voucher"), a.get("payment"), "order-1"}
	for _, id := range all {
		if r := h.get("/v1/trades/"+id, apiKey); r.status != 200 || r.get("status") != "unconfirmed" {
			t.Errorf("%s before core knows: %d %s", id, r.status, r.body)
		}
	}
	h.core.knows(x, paymentOf(i, event.Pending, 3))
	for _, id := range all {
		r := h.get("/v1/trades/"+id, apiKey)
		if r.status != 200 || r.get("trade") != a.get("trade") || r.get("order_id") != "order-1" || !strings.Contains(string(r.body), a.get("voucher")) ||
			!strings.Contains(string(r.body), ids.OutTradeNo(i.Y, 0)) || strings.Contains(string(r.body), "qr.example") {
			t.Errorf("%s: %d %s", id, r.status, r.body)
		}
	}
}

func TestATradeIsItsOwnersAlone(t *testing.T) {
	h := newHarness(t, nil).listen()
	a, x, i := h.accepted()
	for _, id := range []string{a.get("trade"), a.get("voucher"), a.get("payment")} {
		if r := h.get("/v1/trades/"+id, otherKey); r.status != 404 {
			t.Errorf("%s, before core knows: %d %s", id, r.status, r.body)
		}
	}
	// A tag that passes by chance, once in a million: the row's merchant decides.
	chance := h.secret.Trade(x.Traffic, "m2", "order-1")
	h.core.knows(x, paymentOf(i, event.Pending, 1))
	h.core.trades[chance] = h.core.trades[x.BizCode]
	if r := h.get("/v1/trades/"+ids.TradeID.With(chance), otherKey); r.status != 404 {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestHealthAndReadiness(t *testing.T) {
	var broken error
	h := newHarness(t, func(_ *harness, d *api.Deps) {
		d.Probes = []api.Probe{{Name: "intake", Check: func() error { return nil }}, {Name: "directory", Check: func() error { return broken }}}
	}).listen()
	if r := h.get("/healthz", ""); r.status != 200 || r.get("status") != "alive" {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := h.get("/readyz", ""); r.status != 200 || r.get("status") != "ready" {
		t.Errorf("%d %s", r.status, r.body)
	}
	broken = errors.New("snapshot too old")
	if r := h.get("/readyz", ""); r.status != 503 || r.get("code") != "not_ready" || !strings.Contains(string(r.body), `"missing":["directory"]`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := h.get("/healthz", ""); r.status != 200 {
		t.Errorf("not ready is not dead: %d", r.status)
	}
}

func TestShutdownEndsLongPollsAtOnce(t *testing.T) {
	h := newHarness(t, nil).listen()
	a, x, i := h.accepted()
	h.core.knows(x, paymentOf(i, event.Pending, 3))
	if r := h.get("/v1/vouchers/"+a.get("voucher"), apiKey); r.get("status") != "ready" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	polled := make(chan answer)
	go func() { polled <- h.get("/v1/vouchers/"+a.get("voucher")+"?wait=60&since=3", apiKey) }()
	for !strings.Contains(h.metrics(), "tallystick_voucher_waiters 1") {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := h.server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if r := <-polled; r.status != 200 || r.get("status") != "ready" || time.Since(start) > 30*time.Second {
		t.Errorf("%d %s after %s", r.status, r.body, time.Since(start))
	}
}

func (h *harness) metrics() string {
	var b strings.Builder
	h.set.WritePrometheus(&b)
	return b.String()
}

func TestMetricsAndLogCarryNoSecretsAndNoIDsAsLabels(t *testing.T) {
	h := newHarness(t, nil).listen()
	a, x, i := h.accepted()
	h.core.knows(x, paymentOf(i, event.Pending, 3))
	h.get("/v1/vouchers/"+a.get("voucher")+"?wait=1&token="+a.get("token"), "")
	h.intake.fate = &fault504{}
	h.pay(strings.Replace(goodBody, "order-1", "order-9", 1), "")
	h.get("/nowhere/"+a.get("voucher"), "")
	m := h.metrics()
	for _, want := range []string{`tallystick_http_requests_total{route="POST /v1/payments",class="2xx"} 1`, `tallystick_http_requests_total{route="POST /v1/payments",class="5xx"} 1`,
		`tallystick_http_requests_total{route="GET /v1/vouchers/{id}?wait",class="2xx"} 1`, `tallystick_http_requests_total{route="other",class="4xx"} 1`,
		`tallystick_accept_total{result="accepted"} 1`, `tallystick_voucher_view_entries 2`} {
		if !strings.Contains(m, want) {
			t.Errorf("no %s in\n%s", want, m)
		}
	}
	log := h.logged()
	if !strings.Contains(log, `"order_type":"general"`) || !strings.Contains(log, `"biz_code":"r`) {
		t.Errorf("a failed payment is logged without its context: %s", log)
	}
	for name, secret := range map[string]string{"API key": apiKey, "token": a.get("token"), "credential": "qr.example", "subject": "pound of tea"} {
		if strings.Contains(m, secret) || strings.Contains(log, secret) {
			t.Errorf("the %s is in metrics or log", name)
		}
	}
	for name, id := range map[string]string{"voucher": string(i.Y), "merchant": `"m1"`, "order": "order-1"} {
		if strings.Contains(m, id) {
			t.Errorf("the %s is a label", name)
		}
	}
}

type fault504 struct{}

func (*fault504) Error() string { return "fsync: input/output error" }

// A panic is one request's trouble, and says the right thing about the payment.
func TestPanicIsAnswered(t *testing.T) {
	h := newHarness(t, func(_ *harness, d *api.Deps) {
		d.Points = func(name string) { panic("at " + name) }
		d.Probes = []api.Probe{{Name: "x", Check: func() error { panic("probe") }}}
	}).listen()
	if a := h.pay(goodBody, ""); a.status != 504 || a.get("code") != "acceptance_unknown" || a.get("voucher") == "" || a.get("token") != "" {
		t.Errorf("after the commit: %d %s", a.status, a.body)
	}
	if a := h.get("/readyz", ""); a.status != 500 || a.get("code") != "internal" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if !strings.Contains(h.logged(), "handler panicked") {
		t.Error("not logged")
	}
}

func TestConfigNamesTheField(t *testing.T) {
	if err := api.DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for i, change := range []func(*api.Config){func(c *api.Config) { c.BodyBytesMax = 0 }, func(c *api.Config) { c.AcceptDeadline = c.AcceptTimeout },
		func(c *api.Config) { c.ExpiresMin = 48 * time.Hour }, func(c *api.Config) { c.HTTP.RequestBodyMaxHard = 1 }, func(c *api.Config) { c.HTTP.ConnsMax = -1 }} {
		c := api.DefaultConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(fmt.Sprint(err), "gateway: api.") {
			t.Errorf("change %d: %v", i, err)
		}
	}
}
