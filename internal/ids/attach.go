package ids

import (
	"fmt"
	"strings"

	"github.com/tallystick/tallystick/internal/traffic"
)

// Bounds of a context's elements in bytes, so that an attach fits the tightest
// PSP (128 bytes).
const (
	MerchantLenMax   = 24
	OrderTypeLenMax  = 16
	OrderSceneLenMax = 16
	TraceIDLen       = 32
)

// Attach is the context in the form that a PSP hands back with a callback, so
// that the gateway knows whose it is without asking anyone. It is at most 128
// bytes. Form is deposit wherever an attach is sent; traffic is in the code.
func (c Context) Attach() string {
	return strings.Join([]string{string(c.BizCode), c.Merchant, c.OrderType, c.OrderScene, c.TraceID}, "|")
}

// ParseAttach is the inverse of Attach, for the institution that handed it back.
func ParseAttach(s, institution string) (Context, error) {
	p := strings.Split(s, "|")
	if len(p) != 5 {
		return Context{}, fmt.Errorf("%w: an attach has 5 parts, not %d", ErrCode, len(p))
	}
	x, err := ParseCode(p[0])
	if err != nil {
		return Context{}, err
	}
	c := Context{BizCode: x, Merchant: p[1], OrderType: p[2], OrderScene: p[3], Institution: institution, TraceID: p[4],
		Form: traffic.Deposit, Traffic: x.Traffic()}
	return c, c.Validate()
}
