package accept_test

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/bench/accept"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

const code = "r0123456789abcdefghjkmnpqrs"

func TestRequestIsWhatItSays(t *testing.T) {
	for _, n := range []int{0, 7, 123_456_789, 4_000_001} {
		var req fasthttp.Request
		if err := req.Read(bufio.NewReader(bytes.NewReader(accept.RequestOf("127.0.0.1:80", "tsk_x", n)))); err != nil {
			t.Fatal(err)
		}
		var body struct {
			OrderID string            `json:"order_id"`
			Amount  int64             `json:"amount"`
			Subject string            `json:"subject"`
			Meta    map[string]string `json:"metadata"`
		}
		if err := json.Unmarshal(req.Body(), &body); err != nil {
			t.Fatalf("%s: %v", req.Body(), err)
		}
		back, ok := accept.OrderOf(body.OrderID)
		if !ok || back != n || body.Amount != accept.AmountOf(n) || string(req.Header.Peek("Idempotency-Key")) != accept.KeyOf(n) ||
			!strings.HasSuffix(body.Subject, fmt.Sprintf("%010d", n)) || body.Meta["cart"] != fmt.Sprintf("c-%010d", n) {
			t.Errorf("order %d: %s", n, &req)
		}
	}
}

func TestAnswerIsReadWholeOrNotAtAll(t *testing.T) {
	body := `{"voucher":"vch_` + code + `","payment":"x"}`
	whole := fmt.Sprintf("HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX: y\r\n\r\n%s", len(body), body)
	for n := range len(whole) {
		if a := accept.ReadAnswer([]byte(whole[:n])); a.Size() != 0 {
			t.Fatalf("%d of %d bytes are taken for an answer of %d", n, len(whole), a.Size())
		}
	}
	if a := accept.ReadAnswer([]byte(whole)); a.Size() != len(whole) || a.Status() != 202 || a.Voucher() != code {
		t.Errorf("size %d, status %d, voucher %s", a.Size(), a.Status(), a.Voucher())
	}
	for name, bad := range map[string]string{
		"no length":        "HTTP/1.1 202 Accepted\r\n\r\n{}",
		"no voucher":       "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}",
		"voucher too long": strings.ReplaceAll(strings.ReplaceAll(whole, code, code+"0"), fmt.Sprint(len(body)), fmt.Sprint(len(body)+1)),
	} {
		if a := accept.ReadAnswer([]byte(bad)); a.Status() != -1 {
			t.Errorf("%s: status %d", name, a.Status())
		}
	}
	if a := accept.ReadAnswer([]byte("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}")); a.Status() != 503 || a.Size() == 0 {
		t.Errorf("503: status %d, size %d", a.Status(), a.Size())
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	const other ids.Code = "r1123456789abcdefghjkmnpqrs"
	right := money.Of(accept.AmountOf(0), "CNY")
	for _, c := range []struct {
		name         string
		status       int16
		orderID, key string
		y            ids.Code
		amount       money.Amount
		found        bool
	}{
		{"as promised", 202, accept.OrderIDOf(0), accept.KeyOf(0), code, right, true},
		{"no answer, and kept", 0, accept.OrderIDOf(0), accept.KeyOf(0), code, right, true},
		{"another voucher", 202, accept.OrderIDOf(0), accept.KeyOf(0), other, right, false},
		{"another amount", 202, accept.OrderIDOf(0), accept.KeyOf(0), code, money.Of(1, "CNY"), false},
		{"another key", 202, accept.OrderIDOf(0), accept.KeyOf(1), code, right, false},
		{"an order that was never sent", 202, accept.OrderIDOf(1), accept.KeyOf(1), code, right, false},
		{"refused with 503, and kept", 503, accept.OrderIDOf(0), accept.KeyOf(0), code, right, false},
		{"refused with 429, and kept", 429, accept.OrderIDOf(0), accept.KeyOf(0), code, right, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, violations := accept.Seen(c.status, code, c.orderID, c.key, c.y, c.amount)
			if found != c.found || c.found == (len(violations) > 0) {
				t.Errorf("found %v, violations %q", found, violations)
			}
		})
	}
}
