package api_test

import (
	"bufio"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/gateway/api"
)

// bad is a request that must be refused with a problem, and append nothing.
type bad struct {
	name   string
	req    request
	status int
	code   string
	field  string
}

func body(s string) request {
	return request{method: "POST", path: "/v1/payments", key: apiKey, body: []byte(s)}
}

// with replaces or adds fields of a good body, as raw JSON; "" removes one.
func with(fields ...string) request {
	names := []string{"order_id", "amount", "currency", "subject"}
	values := map[string]string{"order_id": `"o-1"`, "amount": "100", "currency": `"CNY"`, "subject": `"Tea"`}
	for i := 0; i < len(fields); i += 2 {
		if _, there := values[fields[i]]; !there {
			names = append(names, fields[i])
		}
		values[fields[i]] = fields[i+1]
	}
	var parts []string
	for _, n := range names {
		if values[n] != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", n, values[n]))
		}
	}
	return body("{" + strings.Join(parts, ",") + "}")
}

func quoted(s string) string { return `"` + s + `"` }

func object(entries int) string {
	var parts []string
	for i := range entries {
		parts = append(parts, fmt.Sprintf(`"k%d":"v"`, i))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// corpus is everything that was thought of.
func corpus() (out []bad) {
	add := func(status int, code, field, name string, r request) {
		out = append(out, bad{name: name, req: r, status: status, code: code, field: field})
	}
	// Types: every field with every wrong type.
	types := map[string]string{"string": `"x"`, "number": "1", "fraction": "1.5", "exponent": "1e3", "true": "true", "false": "false", "null": "null",
		"object": `{"a":"b"}`, "empty object": "{}", "array": `["x"]`}
	for _, f := range []string{"order_id", "currency", "subject", "order_type", "order_scene", "method", "return_url", "amount", "expires_in_seconds", "metadata"} {
		for kind, v := range types {
			right := kind == "string"
			switch f {
			case "amount", "expires_in_seconds":
				right = kind == "number"
			case "metadata":
				right = strings.Contains(kind, "object")
			}
			if !right {
				add(400, "field_type", f, f+" as "+kind, with(f, v))
			}
		}
	}
	for kind, v := range types {
		if kind != "string" {
			add(400, "field_type", "metadata.k", "metadata entry as "+kind, with("metadata", `{"k":`+v+`}`))
		}
		if !strings.Contains(kind, "object") {
			add(400, "field_type", "", "body as "+kind, body(v))
		}
	}
	for _, f := range []string{"order_id", "amount", "currency", "subject"} {
		add(400, "field_missing", f, f+" missing", with(f, ""))
		add(400, "field_duplicate", f, f+" twice", body(strings.TrimSuffix(string(with().body), "}")+fmt.Sprintf(`,%q:1}`, f)))
	}
	add(400, "field_missing", "order_id", "empty object", body("{}"))
	add(400, "field_duplicate", "metadata.k", "metadata entry twice", with("metadata", `{"k":"1","k":"2"}`))
	add(400, "field_duplicate", "subject", "twice, once escaped", body(`{"order_id":"o","amount":1,"currency":"CNY","subject":"a","\u0073ubject":"b"}`))
	// Values.
	for f, values := range map[string][]string{
		"order_id":   {``, ` `, `a b`, `a/b`, `a\tb`, `ö`, `a\u0000`, strings.Repeat("a", 65), `a,b`, `a"b`[:1] + `\"b`, `a%20b`, `a+b`, `a@b`, `<a>`},
		"currency":   {``, `CN`, `CNYY`, `cny`, `Cny`, `CN1`, `C\u00d1Y`, ` CNY`},
		"subject":    {``, strings.Repeat("a", 129), strings.Repeat("茶", 129), `a\nb`, `a\u0000b`, `a\u007fb`, `a\u0085b`, `\ufffd`},
		"order_type": {``, `A`, `a-b`, strings.Repeat("a", 17), `a b`, `a|b`}, "order_scene": {``, `A`, `a-b`, strings.Repeat("a", 17), `a b`, `a|b`},
		"method": {``, `QR_CODE`, `card`, `qr code`, `qr_code `},
		"return_url": {``, `x`, `/back`, `//shop.example/`, `http://shop.example/`, `ftp://shop.example/`, `javascript:alert(1)`, `https://`, `https:///x`,
			`https://user:pw@shop.example/`, `https://user@shop.example/`, `https://shop.example/ x`, `https://shop.example/\n`, `https://shop.example/é`,
			`https:shop.example`, `http://localhost.evil.example/`, `http://10.0.0.1/`, `https://[::1`, `https://shop.example/` + strings.Repeat("a", 500), `data:text/html,x`},
	} {
		for i, v := range values {
			add(400, "field_invalid", f, fmt.Sprintf("%s value %d %.20q", f, i, v), with(f, quoted(v)))
		}
	}
	for _, v := range []string{"0", "-1", "-0", "9223372036854775808", "-9223372036854775809", strings.Repeat("9", 400)} {
		add(400, "field_invalid", "amount", "amount "+v[:min(len(v), 25)], with("amount", v))
	}
	for _, v := range []string{"0", "-900", "59", "86401", "9223372036854775807", "9223372036854775808"} {
		add(400, "field_invalid", "expires_in_seconds", "expires "+v, with("expires_in_seconds", v))
	}
	add(400, "field_invalid", "metadata", "17 entries", with("metadata", object(17)))
	for _, k := range []string{"", "a b", strings.Repeat("k", 41), "ä", "a/b"} {
		add(400, "field_invalid", "metadata", fmt.Sprintf("metadata key %.10q", k), with("metadata", fmt.Sprintf(`{%q:"v"}`, k)))
	}
	for i, v := range []string{strings.Repeat("v", 257), `a\u0001`, `a\u009f`, strings.Repeat("茶", 86)} {
		add(400, "field_invalid", "metadata.k", fmt.Sprint("metadata value ", i), with("metadata", `{"k":`+quoted(v)+`}`))
	}
	// What the merchant may not do, and what nobody may send.
	add(422, "currency_not_allowed", "currency", "currency not enabled", with("currency", `"EUR"`))
	add(422, "amount_over_limit", "amount", "amount over the limit", with("amount", "1000001"))
	add(422, "amount_over_limit", "amount", "largest integer", with("amount", "9223372036854775807"))
	for _, card := range []string{"4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "5555555555554444", "378282246310005", "6222021234567894", "my card 4111111111111111 please"} {
		if strings.HasPrefix(card, "62220212") {
			card = "6240008631401148" // UnionPay's own test number
		}
		add(422, "card_number", "subject", "card in subject "+card, with("subject", quoted(card)))
		add(422, "card_number", "metadata.note", "card in metadata "+card, with("metadata", `{"note":`+quoted(card)+`}`))
		if !strings.Contains(card, " ") {
			add(422, "card_number", "metadata", "card as a name of metadata "+card, with("metadata", `{`+quoted(card)+`:"note"}`))
		}
	}
	// Unknown fields.
	for _, f := range []string{"Amount", "amount ", "AMOUNT", "orderId", "id", "customer", "", "order_id\\u0000", "metadata.k", "__proto__", strings.Repeat("f", 64), "card_number", "idempotency_key"} {
		name := strings.ReplaceAll(f, "\\u0000", "\x00")
		add(400, "field_unknown", name, fmt.Sprintf("unknown field %.20q", f), body(strings.TrimSuffix(string(with().body), "}")+`,"`+f+`":"x"}`))
	}
	add(400, "field_unknown", "deep", "deep nesting in an unknown field", body(`{"deep":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`))
	return append(out, broken()...)
}

// broken is what is wrong below or above the fields.
func broken() (out []bad) {
	add := func(status int, code, field, name string, r request) {
		out = append(out, bad{name: name, req: r, status: status, code: code, field: field})
	}
	good := string(with().body)
	for i := 1; i < len(good); i += 3 {
		out = append(out, bad{name: fmt.Sprint("cut after ", i), req: body(good[:i]), status: 400, code: "json_invalid", field: "*"})
	}
	for name, b := range map[string]string{"single quotes": `{'order_id':'o'}`, "trailing comma": `{"order_id":"o",}`, "comment": `{/* */"order_id":"o"}`,
		"unquoted name": `{order_id:"o"}`, "NaN": `{"amount":NaN}`, "leading zero": `{"amount":01}`, "plus": `{"amount":+1}`, "hex": `{"amount":0x10}`, "bare minus": `{"amount":-}`,
		"undefined": `undefined`, "BOM": "\xef\xbb\xbf" + good, "raw control character": "{\"subject\":\"a\nb\"}", "bad escape": `{"subject":"\x41"}`, "two commas": `{"amount":1,,"currency":"CNY"}`,
		"missing colon": `{"amount" 1}`, "blank": "   ", "NUL": "\x00", "XML": "<a/>", "form": "order_id=o&amount=1", "wrong bracket": `{"amount":1]`, "metadata cut": `{"metadata":{"k":`, "metadata bracket": `{"metadata":{"k":"v"]}`} {
		add(400, "json_invalid", "*", name, body(b))
	}
	for name, b := range map[string]string{"invalid byte": "{\"subject\":\"\xff\"}", "cut rune": "{\"subject\":\"\xe8\x8c\"}", "overlong": "{\"subject\":\"\xc0\xaf\"}",
		"surrogate bytes": "{\"subject\":\"\xed\xa0\x80\"}", "lone surrogate escape": `{"subject":"\ud800"}`, "in a name": "{\"\xff\":1}"} {
		add(400, "json_utf8_invalid", "*", name, body(b))
	}
	for name, tail := range map[string]string{"second object": good, "letters": "x", "bracket": "}", "comma": ",", "null": "null", "NUL": "\x00"} {
		add(400, "json_trailing_data", "", "behind the object: "+name, body(good+" "+tail))
	}
	big := request{method: "POST", path: "/v1/payments", key: apiKey, body: []byte(`{"subject":"` + strings.Repeat("a", 17<<10) + `"}`)}
	add(413, "body_too_large", "", "body over the bound", big)
	// Headers.
	header := func(name, value string) request {
		r := with()
		r.headers = [][2]string{{name, value}}
		return r
	}
	for i, v := range []string{"a b", strings.Repeat("k", 256), "ö", "", " "} {
		add(400, "header_invalid", "Idempotency-Key", fmt.Sprint("idempotency key ", i), header("Idempotency-Key", v))
	}
	twice := with()
	twice.headers = [][2]string{{"Idempotency-Key", "a"}, {"Idempotency-Key", "b"}}
	add(400, "header_invalid", "Idempotency-Key", "two idempotency keys", twice)
	add(415, "media_type_unsupported", "", "compressed", header("Content-Encoding", "gzip"))
	for _, ct := range []string{"text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=latin1", "application/jsonp", ""} {
		r := with()
		r.noType = true
		if ct != "" {
			r.headers = [][2]string{{"Content-Type", ct}}
		}
		add(415, "media_type_unsupported", "", "content type "+ct, r)
	}
	for i, key := range []string{"", "wrong", apiKey + "x", apiKey[:5], strings.ToUpper(apiKey), "vtk_k2.AAAA.AAAA", "Bearer " + apiKey} {
		r := with()
		r.key = key
		add(401, "unauthorized", "", fmt.Sprint("key ", i), r)
	}
	r := with()
	r.key, r.headers = "", [][2]string{{"Authorization", "Basic " + apiKey}}
	add(401, "unauthorized", "", "basic authentication", r)
	r = with()
	r.key = offKey
	add(403, "merchant_disabled", "", "disabled merchant", r)
	r = with()
	r.path += "?order_id=2"
	add(400, "query_invalid", "", "query parameters", r)
	for _, m := range []string{"PUT", "DELETE", "PATCH"} {
		add(405, "method_not_allowed", "", m, request{method: m, path: "/v1/payments", key: apiKey})
	}
	for _, p := range []string{"/", "/v1", "/v1/payments/", "/v1/payments/x", "/v2/payments", "/v1/Payments", "/v1/vouchers/", "/v1/trades/a/b", "/v1/callbacks/sandbox", "/v1/callbacks/a/b/c", "/metrics"} {
		add(404, "route_unknown", "", p, request{method: "POST", path: p, key: apiKey, body: []byte(good)})
	}
	return out
}

func TestBadRequests(t *testing.T) {
	h := newHarness(t, nil).listen()
	cases := corpus()
	if len(cases) < 200 {
		t.Fatalf("only %d requests", len(cases))
	}
	t.Logf("%d bad requests", len(cases))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			a := h.do(c.req)
			if a.status != c.status || a.get("code") != c.code || c.field != "*" && a.get("field") != c.field {
				t.Fatalf("%d %s, want %d %s %q", a.status, a.body, c.status, c.code, c.field)
			}
			if a.header["Content-Type"] != "application/problem+json" || a.get("fix") == "" || a.get("detail") == "" || len(a.get("trace_id")) != 32 {
				t.Errorf("incomplete: %v %s", a.header, a.body)
			}
		})
	}
	h.t = t
	if n := h.intake.count(); n != 0 {
		t.Fatalf("%d of the bad requests were appended", n)
	}
	if a := h.do(with()); a.status != 202 {
		t.Errorf("the good request that they were made from: %d %s", a.status, a.body)
	}
}

// What the server refuses while it reads has its answer before all is sent.
func TestTooLargeForTheServer(t *testing.T) {
	h := newHarness(t, nil).listen()
	for _, c := range []struct {
		name, head string
		padding    int
		status     int
		code       string
	}{
		{"body over the hard bound", "Content-Length: 300000\r\n\r\n", 300_000, 413, "body_too_large"},
		{"headers over the bound", "X-Padding: ", 20_000, 431, "headers_too_large"},
		{"no HTTP", "\x00\x01\r\n\r\n", 0, 400, "request_malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := h.listener.Dial()
			if err != nil {
				t.Fatal(err)
			}
			written := make(chan struct{})
			go func() {
				defer close(written)
				head := "POST /v1/payments HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer " + apiKey + "\r\n"
				_, _ = conn.Write([]byte(head + c.head + strings.Repeat("a", c.padding))) // the server may hang up
			}()
			var res fasthttp.Response
			if err := res.Read(bufio.NewReader(conn)); err != nil {
				t.Fatal(err)
			}
			a := answer{body: res.Body()}
			if res.StatusCode() != c.status || a.get("code") != c.code {
				t.Errorf("%d %s", res.StatusCode(), res.Body())
			}
			_ = conn.Close()
			<-written
		})
	}
	if h.intake.count() != 0 {
		t.Error("appended")
	}
}

// What looks unusual and is right must go through: each refusal is a lost sale.
func TestUnusualButGood(t *testing.T) {
	h := newHarness(t, nil)
	for name, r := range map[string]request{
		"order id that passes Luhn":   with("order_id", `"4111111111111111"`),
		"order id of every character": with("order_id", `"A.b_c:d-9"`),
		"longest order id":            with("order_id", quoted(strings.Repeat("a", 64))),
		"smallest amount":             with("amount", "1"),
		"largest amount":              with("amount", "1000000"),
		"128 runes":                   with("subject", quoted(strings.Repeat("茶", 128))),
		"emoji":                       with("subject", `"\ud83c\udf75 tea"`),
		"digits that are no card":     with("subject", `"order 4111111111111112"`),
		"loopback for development":    with("return_url", `"http://127.0.0.1:8080/back"`),
		"localhost":                   with("return_url", `"http://localhost/back"`),
		"16 entries":                  with("metadata", object(16)),
		"no entries":                  with("metadata", "{}"),
		"empty value":                 with("metadata", `{"k":""}`),
		"longest value":               with("metadata", `{"k":`+quoted(strings.Repeat("v", 256))+`}`),
		"whitespace around":           body(" \t\r\n" + string(with().body) + "\n"),
		"escaped name":                body(`{"order\u005fid":"o","amount":1,"currency":"CNY","subject":"x"}`),
		"shortest expiry":             with("expires_in_seconds", "60"),
		"longest expiry":              with("expires_in_seconds", "86400"),
	} {
		if _, err := h.begin(string(r.body), ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Absent fields and spelled-out defaults are different bodies, and the order of
// fields and escapes is none.
func TestWhatMakesABodyEqual(t *testing.T) {
	h := newHarness(t, nil)
	code := func(r request) string {
		a, err := h.begin(string(r.body), "")
		if err != nil {
			t.Fatal(err)
		}
		return string(a.Y)
	}
	plain := code(with())
	for name, c := range map[string]struct {
		r     request
		equal bool
	}{
		"order of fields": {body(`{"subject":"Tea","currency":"CNY","amount":100,"order_id":"o-1"}`), true},
		"escapes":         {with("subject", `"\u0054ea"`), true},
		"no metadata":     {with("metadata", "{}"), true},
		"method":          {with("method", `"qr_code"`), false}, "scene": {with("order_scene", `"online"`), false},
		"type": {with("order_type", `"general"`), false}, "expiry": {with("expires_in_seconds", "900"), false},
		"metadata": {with("metadata", `{"a":"b"}`), false}, "amount": {with("amount", "101"), false},
		"subject": {with("subject", `"tea"`), false}, "currency": {with("currency", `"USD"`), false},
		"return_url": {with("return_url", `"https://a.example/"`), false},
	} {
		if (code(c.r) == plain) != c.equal {
			t.Errorf("%s: equal must be %v", name, c.equal)
		}
	}
	if code(with("metadata", `{"a":"b","c":"d"}`)) == code(with("metadata", `{"a":"bc","d":""}`)) {
		t.Error("metadata runs together")
	}
}

func FuzzRequest(f *testing.F) {
	for _, c := range corpus() {
		if len(c.req.body) < 2000 {
			f.Add(c.req.body)
		}
	}
	f.Add([]byte(goodBody))
	h := newHarness(f, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		before := h.intake.count()
		a, err := h.server.Begin(h.seller(), api.Call{Body: b})
		if (err == nil) != (h.intake.count() == before+1) {
			t.Fatalf("error %v, but %d appended", err, h.intake.count()-before)
		}
		if err != nil {
			return
		}
		again, err := h.server.Begin(h.seller(), api.Call{Body: b})
		if err != nil || again.Y != a.Y || !h.secret.Verify(a.Y, "m1") {
			t.Fatalf("not a function of the body: %v", err)
		}
	})
}

func FuzzToken(f *testing.F) {
	h := newHarness(f, nil)
	a, err := h.begin(goodBody, "")
	if err != nil {
		f.Fatal(err)
	}
	now := time.UnixMilli(1_800_000_000_000) // the same in every worker process
	claims := api.Claims{Y: a.Y, Merchant: "m1", ExpiresAtMillis: now.UnixMilli() + 3_600_000}
	good := h.tokens.Append(nil, claims)
	f.Add(good)
	f.Add([]byte("vtk_k1.."))
	f.Add([]byte("vtk_"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := h.tokens.Verify(b, now)
		if err == nil && (string(b) != string(good) || c != claims) {
			t.Fatalf("%q was never signed", b)
		}
	})
}
