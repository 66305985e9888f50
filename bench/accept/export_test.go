package accept

import (
	"context"

	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// What the tests see of a request, an answer and the check.
var (
	ReadAnswer = readAnswer
	OrderOf    = orderOf
	OrderIDOf  = orderIDOf
	KeyOf      = keyOf
	AmountOf   = amountOf

	OpenIntents = openIntents
)

// Size and Status of an answer.
func (a answer) Size() int       { return a.size }
func (a answer) Status() int     { return a.status }
func (a answer) Voucher() string { return string(a.voucher[:]) }

// RequestOf is the bytes of the n-th order's request.
func RequestOf(host, key string, n int) []byte {
	r := newRequest(host, key)
	r.set(n)
	return r.bytes
}

// Seen is what the check says of one kept intent, where the one order that was
// sent was answered with status and voucher.
func Seen(status int16, promised ids.Code, orderID, key string, y ids.Code, amount money.Amount) (found bool, violations []string) {
	f := fate{status: status}
	copy(f.voucher[:], promised)
	c := check{fates: []fate{f}, found: make([]bool, 1)}
	c.see(orderID, key, y, amount)
	return c.found[0], c.violations
}

// Promise is what an order was answered.
type Promise struct {
	Status  int16
	Voucher ids.Code
}

// CheckTopic is what the check says of what came into a topic since the last time.
func CheckTopic(ctx context.Context, in *intents, promises ...Promise) (found []bool, violations []string, perBatch float64, err error) {
	fates := make([]fate, len(promises))
	for n, p := range promises {
		fates[n].status = p.Status
		copy(fates[n].voucher[:], p.Voucher)
	}
	c, perBatch, err := checkTopic(ctx, in, fates)
	if err != nil {
		return nil, nil, 0, err
	}
	return c.found, c.violations, perBatch, nil
}
