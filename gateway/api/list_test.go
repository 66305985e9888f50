package api_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/ids"
)

// list reads a page, and gives the order ids that are on it.
func (h *harness) list(path, key string) (page api.ListAnswer, orders []string) {
	h.t.Helper()
	a := h.get(path, key)
	if a.status != 200 {
		h.t.Fatalf("%s: %d %s", path, a.status, a.body)
	}
	if err := json.Unmarshal(a.body, &page); err != nil {
		h.t.Fatal(err)
	}
	for _, p := range page.Payments {
		orders = append(orders, p.OrderID)
	}
	return page, orders
}

func TestList(t *testing.T) {
	h := newHarness(t, nil).listen()
	if a := h.get("/v1/payments", apiKey); string(a.body) != `{"payments":[],"more":false}` {
		t.Errorf("nothing yet: %d %s", a.status, a.body)
	}
	for n := 1; n <= 25; n++ {
		_, x, i := h.acceptedAs(fmt.Sprintf("o%02d", n))
		p := paymentOf(i, event.Pending, 2)
		p.AcceptedAtMillis = int64(1_000 * n)
		h.core.knows(x, p)
	}
	page, orders := h.list("/v1/payments", apiKey)
	if len(orders) != 20 || orders[0] != "o25" || orders[19] != "o06" || !page.More {
		t.Errorf("a page of its own size: %v, more %t", orders, page.More)
	}
	one := h.get("/v1/vouchers/"+page.Payments[0].Voucher, apiKey)
	if have, err := json.Marshal(page.Payments[0]); err != nil || !strings.EqualFold(string(have), string(one.body)) {
		t.Errorf("listed %s, alone %s", have, one.body)
	}
	var all []string
	for path, more := "/v1/payments?limit=7", true; more; {
		page, orders = h.list(path, apiKey)
		all, more = append(all, orders...), page.More
		path = "/v1/payments?limit=7&after=" + page.Payments[len(page.Payments)-1].Payment
	}
	if len(all) != 25 || !slices.IsSortedFunc(all, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Errorf("page by page: %v", all)
	}
	if page, orders = h.list("/v1/payments?limit=4&from_millis=3000&until_millis=7000", apiKey); fmt.Sprint(orders) != "[o06 o05 o04 o03]" || page.More {
		t.Errorf("within bounds: %v, more %t", orders, page.More)
	}
	if page, _ = h.list("/v1/payments?limit=3&from_millis=3000&until_millis=7000", apiKey); len(page.Payments) != 3 || !page.More {
		t.Errorf("a full page: %+v", page)
	}
	last := page.Payments[2]
	if _, orders = h.list("/v1/payments?from_millis=3000&until_millis=7000&after="+last.Voucher, apiKey); fmt.Sprint(orders) != "[o03]" {
		t.Errorf("behind a voucher: %v", orders)
	}
	if _, orders = h.list("/v1/payments", otherKey); len(orders) != 0 {
		t.Errorf("another merchant sees %v", orders)
	}
	if a := h.get("/v1/payments?after="+last.Payment, otherKey); a.status != 400 || a.get("field") != "after" {
		t.Errorf("behind another merchant's: %d %s", a.status, a.body)
	}
	if n := len(h.core.listed); n == 0 || h.core.listed[n-1].Merchant != "m2" {
		t.Errorf("asked for %+v", h.core.listed)
	}
}

// A page that core cut is no last one.
func TestCutList(t *testing.T) {
	h := newHarness(t, nil).listen()
	for n := range 5 {
		_, x, i := h.acceptedAs(fmt.Sprint("o", n))
		p := paymentOf(i, event.Pending, 2)
		p.AcceptedAtMillis = int64(1_000 + n)
		h.core.knows(x, p)
	}
	h.core.cut = 2
	have := ""
	for path, more := "/v1/payments", true; more; {
		page, orders := h.list(path, apiKey)
		have, more = have+fmt.Sprint(orders), page.More
		path = "/v1/payments?after=" + page.Payments[len(page.Payments)-1].Payment
	}
	if have != "[o4 o3][o2 o1][o0]" {
		t.Error(have)
	}
}

func TestListRefusals(t *testing.T) {
	h := newHarness(t, nil).listen()
	y := ids.Code(h.someY()) // accepted, and not known to core
	for query, field := range map[string]string{"limit=0": "limit", "limit=101": "limit", "limit=x": "limit", "limit=": "limit", "limit=1&limit=1": "limit",
		"after=": "after", "after=x": "after", "after=" + ids.TradeID.With(y): "after", "after=" + ids.PaymentID.With(y): "after",
		"from_millis=0": "from_millis", "from_millis=-1": "from_millis", "until_millis=9007199254740993": "until_millis",
		"from_millis=5&until_millis=5": "until_millis", "status=paid": "status"} {
		if a := h.get("/v1/payments?"+query, apiKey); a.status != 400 || a.get("code") != "query_invalid" || a.get("field") != field || a.get("fix") == "" {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
	if a := h.get("/v1/payments?limit=1&offset=20", apiKey); a.get("fix") != "remove it; known are limit, after, from_millis, until_millis" {
		t.Errorf("an unknown one: %s", a.body)
	}
	if a := h.get("/v1/payments?limit=0", "nope"); a.status != 401 {
		t.Errorf("a stranger: %d %s", a.status, a.body)
	}
	a := h.do(request{method: "PUT", path: "/v1/payments", key: apiKey})
	if allow := a.header["Allow"]; a.status != 405 || allow != "GET, POST" {
		t.Errorf("PUT: %d, allowed %q", a.status, allow)
	}
	h.core.down = true
	for _, path := range []string{"/v1/payments", "/v1/payments?after=" + ids.PaymentID.With(y)} {
		if a := h.get(path, apiKey); a.status != 503 || a.get("code") != "view_unavailable" || strings.Contains(string(a.body), "db-7") {
			t.Errorf("%s while core is down: %d %s", path, a.status, a.body)
		}
	}
}

// A list that gets no answer ends as any question to core does.
func TestListIsBounded(t *testing.T) {
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Config.QueryTimeout = 20 * time.Millisecond }).listen()
	h.core.stuck = true
	if a := h.get("/v1/payments", apiKey); a.status != 503 || a.get("code") != "view_unavailable" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestMetricsOfLists(t *testing.T) {
	h := newHarness(t, nil).listen()
	h.list("/v1/payments", apiKey)
	h.get("/v1/payments?limit=0", apiKey)
	h.pay(goodBody, "")
	m := h.metrics()
	for _, want := range []string{`http_requests_total{route="GET /v1/payments",class="2xx"} 1`, `http_requests_total{route="GET /v1/payments",class="4xx"} 1`,
		`http_requests_total{route="POST /v1/payments",class="2xx"} 1`, `http_seconds_count{route="GET /v1/payments"} 2`} {
		if !strings.Contains(m, "tallystick_"+want) {
			t.Errorf("no %s in\n%s", want, m)
		}
	}
}

func TestPageMax(t *testing.T) {
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Config.PageMax = 3 }).listen()
	if a := h.get("/v1/payments?limit=4", apiKey); a.status != 400 || !strings.Contains(a.get("fix"), "3") {
		t.Errorf("%d %s", a.status, a.body)
	}
	h.list("/v1/payments", apiKey)
	if l := h.core.listed[0]; l.Limit != 4 { // one more, to know whether there is one
		t.Errorf("asked for %d", l.Limit)
	}
	for most, ok := range map[int]bool{0: false, 1: true, event.ListMax - 1: true, event.ListMax: false} {
		c := api.DefaultConfig()
		c.PageMax = most
		if err := c.Validate(); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "api.page_max") {
			t.Errorf("%d: %v", most, err)
		}
	}
}
