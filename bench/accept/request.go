package accept

import (
	"bytes"
	"fmt"
	"strings"
)

// digits is the width of an order's number wherever it stands in a request.
const digits = 10

// The amounts: seven digits, so that all requests have one length, and within
// what the example merchant may ask for.
const (
	amountLow   = 1_000_000
	amountRange = 4_000_000
)

func amountOf(n int) int64   { return amountLow + int64(n%amountRange) }
func orderIDOf(n int) string { return fmt.Sprintf("bench-%010d", n) }
func keyOf(n int) string     { return fmt.Sprintf("key-%010d", n) }
func orderOf(id string) (n int, ok bool) {
	_, err := fmt.Sscanf(id, "bench-%010d", &n)
	return n, err == nil && orderIDOf(n) == id
}

// request is a payment request whose number is patched in place.
type request struct {
	bytes  []byte
	number []int // where the number stands
	amount int   // where the amount stands
}

// newRequest makes a request of 250 bytes of JSON for a host.
func newRequest(host, apiKey string) request {
	const number, amount = "##########", "$$$$$$$"
	body := `{"order_id":"bench-` + number + `","amount":` + amount + `,"currency":"CNY","subject":"Coffee mug, white, 300 ml, no. ` + number +
		`","order_type":"goods","order_scene":"app","method":"qr_code","metadata":{"shop":"Riverside","cart":"c-` + number + `","clerk":"17"}}`
	text := fmt.Sprintf("POST /v1/payments HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nIdempotency-Key: key-%s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", host, apiKey, number, len(body), body)
	r := request{bytes: []byte(text), amount: strings.Index(text, amount)}
	for at := 0; ; {
		i := strings.Index(text[at:], number)
		if i < 0 {
			return r
		}
		r.number = append(r.number, at+i)
		at += i + digits
	}
}

// set makes it the n-th order's request.
func (r *request) set(n int) {
	for _, at := range r.number {
		decimal(r.bytes[at:at+digits], int64(n))
	}
	decimal(r.bytes[r.amount:r.amount+7], amountOf(n))
}

// decimal writes n with leading zeros.
func decimal(dst []byte, n int64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
}

// voucher is the code in a voucher's id: 27 characters, without the prefix.
type voucher [27]byte

var (
	headEnd       = []byte("\r\n\r\n")
	contentLength = []byte("\r\nContent-Length: ")
	voucherPrefix = []byte(`{"voucher":"vch_`)
)

// answer is what one response says.
type answer struct {
	status  int
	size    int // of the whole response; 0 while it is not complete
	voucher voucher
}

// readAnswer reads a response, as our servers write it: a Content-Length, no
// chunks. A response that it can't read has the status -1.
func readAnswer(b []byte) (a answer) {
	head := bytes.Index(b, headEnd)
	if head < 0 {
		return a
	}
	at := bytes.Index(b[:head], contentLength)
	if at < 0 || head < 12 {
		return answer{status: -1, size: len(b)}
	}
	length := 0
	for _, c := range b[at+len(contentLength) : head] {
		if c < '0' || c > '9' {
			break
		}
		length = length*10 + int(c-'0')
	}
	if len(b) < head+4+length {
		return a
	}
	a.size = head + 4 + length
	a.status = int(b[9]-'0')*100 + int(b[10]-'0')*10 + int(b[11]-'0')
	if a.status == 202 {
		rest, ok := bytes.CutPrefix(b[head+4:a.size], voucherPrefix)
		if !ok || len(rest) <= len(a.voucher) || rest[len(a.voucher)] != '"' {
			a.status = -1
			return a
		}
		copy(a.voucher[:], rest)
	}
	return a
}
