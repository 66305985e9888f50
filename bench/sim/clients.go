package sim

import (
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// ask is what a client sends: one body under one key.
type ask struct {
	Order, Key, Subject, Currency string
	Amount                        int64
}

func (a ask) body() []byte {
	b, err := json.Marshal(map[string]any{"order_id": a.Order, "amount": a.Amount, "currency": a.Currency, "subject": a.Subject, "expires_in_seconds": 300},
		json.Deterministic(true))
	if err != nil {
		panic(err) // a map of strings and numbers
	}
	return b
}

// waiting is an ask whose answer has not come.
type waiting struct {
	ask
	acceptance *api.Acceptance
}

// clients are merchants that ask, lose answers, ask again, and ask wrongly.
type clients struct {
	n       int
	out     []waiting
	unknown []ask // no answer came: only asking again tells
	asked   []ask
}

// lose is what happens to open requests when the gateway dies.
func (c *clients) lose() {
	for _, w := range c.out {
		c.unknown = append(c.unknown, w.ask)
	}
	c.out = nil
}

func (c *clients) idle() bool { return len(c.out) == 0 && len(c.unknown) == 0 }

// client is one thing that some client does.
func (w *World) client() error {
	c := &w.clients
	switch n := w.rand.IntN(10); {
	case n < 4:
		if c.n < w.cfg.Orders {
			c.n++
			w.begin(ask{Order: fmt.Sprint("o", c.n), Key: "k1", Subject: "mug", Currency: w.currency(), Amount: 100 + w.rand.Int64N(5_000)})
		}
	case n < 8:
		w.answer()
	case len(c.unknown) > 0 && n == 8:
		w.begin(w.takeUnknown())
	case len(c.asked) > 0:
		w.begin(w.variant(c.asked[w.rand.IntN(len(c.asked))]))
	}
	return nil
}

func (w *World) takeUnknown() ask {
	c := &w.clients
	i := w.rand.IntN(len(c.unknown))
	a := c.unknown[i]
	c.unknown = append(c.unknown[:i], c.unknown[i+1:]...)
	return a
}

// currency is one that the merchant may be paid in, and now and then one that no
// channel account takes.
func (w *World) currency() string {
	if w.rand.IntN(8) == 0 {
		return "USD"
	}
	return "CNY"
}

// variant asks for the same order again: the same, under another key, with
// another body under the same key, for another amount, or in a currency that can
// be paid.
func (w *World) variant(a ask) ask {
	switch w.rand.IntN(5) {
	case 0:
		a.Key = fmt.Sprint("k", 1+w.rand.IntN(3))
	case 1:
		a.Subject = "cup"
	case 2:
		a.Key, a.Amount = "k2", a.Amount+1
	case 3:
		a.Key, a.Currency = "k4", "CNY"
	}
	return a
}

func (w *World) begin(a ask) {
	m := w.dir.Current().Merchant("shop")
	acceptance, err := w.app.API.Begin(m, api.Call{Body: a.body(), IdempotencyKey: a.Key})
	w.trace("ask %+v: %v", a, err)
	if err != nil {
		w.auditor.refused(a, err)
		return
	}
	w.clients.asked = append(w.clients.asked, a)
	w.clients.out = append(w.clients.out, waiting{a, acceptance})
}

// answer gives one waiting client its answer, or lets it give up.
func (w *World) answer() {
	c := &w.clients
	if len(c.out) == 0 {
		return
	}
	i := w.rand.IntN(len(c.out))
	p := c.out[i]
	select {
	case <-p.acceptance.Done():
	default:
		if w.rand.IntN(10) != 0 {
			return
		}
		c.out = append(c.out[:i], c.out[i+1:]...)
		if w.app.API.Abandon(p.acceptance) {
			w.trace("withdrawn %+v", p.ask)
			w.auditor.withdrawn(p.ask, p.acceptance.Y)
		} else {
			c.unknown = append(c.unknown, p.ask)
		}
		return
	}
	err := w.app.API.Finish(p.acceptance) // it may be abandoned in here: then the client has no answer
	c.out = append(c.out[:i], c.out[i+1:]...)
	w.trace("answered %+v %s: %v", p.ask, p.acceptance.Y, err)
	switch {
	case err == nil:
		w.auditor.accepted(p.ask, p.acceptance.Y)
	case fault.Is(err, fault.Unavailable):
		w.auditor.withdrawn(p.ask, p.acceptance.Y)
	default:
		c.unknown = append(c.unknown, p.ask)
	}
}

// settle, when all is healed, answers everyone, and asks again wherever nobody
// knows.
func (c *clients) settle(w *World) error {
	for len(c.unknown) > 0 {
		w.begin(w.takeUnknown())
	}
	for range len(c.out) {
		w.answer()
	}
	return nil
}

// voucher is the id under which a client knows a payment.
func voucher(y ids.Code) string { return ids.VoucherID.With(y) }
