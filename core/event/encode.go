package event

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/internal/money"
)

// The events that every payment makes several of are appended by hand: the same
// bytes as Encode gives, without reflection. A test compares the two.

// object appends the fields of a JSON object, one by one.
type object struct {
	b     []byte
	comma bool
}

// name appends what comes before a value.
func (o *object) name(n string) {
	if o.comma {
		o.b = append(o.b, ',')
	}
	o.comma = true
	o.b = append(o.b, '"')
	o.b = append(o.b, n...)
	o.b = append(o.b, '"', ':')
}

func (o *object) text(n, v string) {
	o.name(n)
	o.b, _ = jsontext.AppendQuote(o.b, v) // what is not UTF-8 is replaced, as Encode does
}

func (o *object) textIf(n, v string) {
	if v != "" {
		o.text(n, v)
	}
}

func (o *object) number(n string, v int64) {
	o.name(n)
	o.b = strconv.AppendInt(o.b, v, 10)
}

func (o *object) numberIf(n string, v int64) {
	if v != 0 {
		o.number(n, v)
	}
}

func (o *object) amount(n string, v money.Amount) {
	o.begin(n)
	o.number("minor", v.Minor)
	o.text("currency", string(v.Currency))
	o.end()
}

func (o *object) amountIf(n string, v money.Amount) {
	if v != (money.Amount{}) {
		o.amount(n, v)
	}
}

// begin and end enclose an object within.
func (o *object) begin(n string) {
	o.name(n)
	o.b = append(o.b, '{')
	o.comma = false
}

func (o *object) end() {
	o.b = append(o.b, '}')
	o.comma = true
}

// Encode gives the payload, as Encode(p) does.
func (p *PaymentChanged) Encode() []byte {
	o := object{b: append(make([]byte, 0, 640+len(p.Subject)+len(p.Credential.Value)), '{')}
	o.text("y", string(p.Y))
	o.text("order_id", p.OrderID)
	o.text("idempotency_key", p.IdempotencyKey)
	o.text("status", string(p.Status))
	o.number("version", p.Version)
	o.textIf("reason", p.Reason)
	o.textIf("alias_of", string(p.AliasOf))
	o.amount("amount", p.Amount)
	o.textIf("method", string(p.Method))
	o.textIf("subject", p.Subject)
	if c := p.Credential; c.Method != "" || c.Value != "" {
		o.begin("credential")
		o.textIf("method", string(c.Method))
		o.textIf("value", c.Value)
		o.end()
	}
	if p.Attempts != nil {
		o.name("attempts")
		o.b = append(o.b, '[')
		for i := range p.Attempts {
			if i > 0 {
				o.b = append(o.b, ',')
			}
			o.b, o.comma = append(o.b, '{'), false
			o.attempt(&p.Attempts[i])
			o.end()
		}
		o.b = append(o.b, ']')
	}
	o.numberIf("fee_rate_ppm", int64(p.FeeRate))
	o.amountIf("fee", p.Fee)
	o.number("accepted_at_millis", p.AcceptedAtMillis)
	o.number("expires_at_millis", p.ExpiresAtMillis)
	o.textIf("next_action", p.NextAction)
	o.numberIf("next_at_millis", p.NextAtMillis)
	o.number("settled", int64(p.Settled))
	o.end()
	return o.b
}

func (o *object) attempt(a *Attempt) {
	o.text("out_trade_no", a.OutTradeNo)
	o.text("channel", a.Channel)
	o.text("account", a.Account)
	o.text("status", string(a.Status))
	o.textIf("reason", a.Reason)
	o.textIf("transaction_id", a.TransactionID)
	o.amountIf("paid", a.Paid)
	o.numberIf("psp_fee_rate_ppm", int64(a.PSPFeeRate))
	o.amountIf("psp_fee", a.PSPFee)
}

// Encode gives the payload, as Encode(d) does.
func (d *Dispatch) Encode() []byte {
	o := object{b: append(make([]byte, 0, 320+len(d.Subject)+len(d.ReturnURL)), '{')}
	o.text("op", string(d.Op))
	o.text("y", string(d.Y))
	o.text("out_trade_no", d.OutTradeNo)
	o.text("account", d.Account)
	o.amountIf("amount", d.Amount)
	o.textIf("method", string(d.Method))
	o.textIf("subject", d.Subject)
	o.textIf("return_url", d.ReturnURL)
	o.numberIf("expires_at_millis", d.ExpiresAtMillis)
	o.numberIf("not_before_millis", d.NotBeforeMillis)
	o.end()
	return o.b
}

// ReadPaymentChanged gives the event of a message: its value, where the message
// comes from the memory of this process, else what its payload says, which is the
// truth. Nobody may change what it points to.
func ReadPaymentChanged(payload []byte, value any) (*PaymentChanged, error) {
	if p, ok := value.(*PaymentChanged); ok {
		return p, nil
	}
	p := &PaymentChanged{}
	return p, Decode(payload, p)
}

// ReadDispatch does the same for a dispatch.
func ReadDispatch(payload []byte, value any) (*Dispatch, error) {
	if d, ok := value.(*Dispatch); ok {
		return d, nil
	}
	d := &Dispatch{}
	return d, Decode(payload, d)
}
