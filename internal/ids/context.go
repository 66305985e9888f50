package ids

import (
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/internal/traffic"
)

// Context is what every row, message and log line carries: the BizCode, the
// five elements (merchant, order type, order scene, institution, trace id), form
// and traffic. It is handed on explicitly, and never lives only in a
// context.Context.
type Context struct {
	BizCode     Code         `json:"biz_code"`
	Merchant    string       `json:"merchant"`
	OrderType   string       `json:"order_type"`
	OrderScene  string       `json:"order_scene"`
	Institution string       `json:"institution,omitzero"` // the channel; empty only before routing
	TraceID     string       `json:"trace_id"`             // 32 hex digits, as in W3C traceparent
	Form        traffic.Form `json:"form"`
	Traffic     traffic.Kind `json:"traffic"`
}

// Validate refuses a context with an element missing; the institution may be empty.
func (c Context) Validate() error {
	if c.BizCode != "" && c.Merchant != "" && c.OrderType != "" && c.OrderScene != "" && c.TraceID != "" &&
		c.Form.Validate() == nil && c.Traffic.Validate() == nil && c.BizCode.Traffic() == c.Traffic {
		return nil // as all are: nothing is allocated
	}
	var errs []error
	need := func(name, v string) {
		if v == "" {
			errs = append(errs, fmt.Errorf("context: %s is empty", name))
		}
	}
	need("biz_code", string(c.BizCode))
	need("merchant", c.Merchant)
	need("order_type", c.OrderType)
	need("order_scene", c.OrderScene)
	need("trace_id", c.TraceID)
	errs = append(errs, c.Form.Validate(), c.Traffic.Validate())
	if c.BizCode != "" && c.BizCode.Traffic() != c.Traffic {
		errs = append(errs, fmt.Errorf("context: code %s is not of %s traffic", c.BizCode, c.Traffic))
	}
	return errors.Join(errs...)
}

// Columns are the names of the context's columns, in the order of Values.
var Columns = []string{"biz_code", "merchant", "order_type", "order_scene", "institution", "trace_id", "form", "traffic"}

// AppendValues appends the context as column values, in the order of Columns.
func (c *Context) AppendValues(dst []any) []any {
	return append(dst, string(c.BizCode), c.Merchant, c.OrderType, c.OrderScene, c.Institution, c.TraceID,
		string(c.Form), string(c.Traffic))
}

// Targets are pointers to scan the context's columns into, in the order of Columns.
func (c *Context) Targets() []any {
	return []any{&c.BizCode, &c.Merchant, &c.OrderType, &c.OrderScene, &c.Institution, &c.TraceID, &c.Form, &c.Traffic}
}

// LogAttrs are the context as alternating keys and values for log/slog.
func (c *Context) LogAttrs() []any {
	return []any{"biz_code", string(c.BizCode), "merchant", c.Merchant, "order_type", c.OrderType,
		"order_scene", c.OrderScene, "institution", c.Institution, "trace_id", c.TraceID,
		"form", string(c.Form), "traffic", string(c.Traffic)}
}
