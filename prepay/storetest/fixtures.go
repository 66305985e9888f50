package storetest

import (
	"bytes"
	"fmt"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
	"github.com/tallystick/tallystick/prepay"
	prepayevent "github.com/tallystick/tallystick/prepay/event"
)

// makeCall is a due first pay; edits change it.
func makeCall(order string, edits ...func(*prepay.Call)) prepay.Call {
	secret, err := ids.NewSecret(bytes.Repeat([]byte{3}, ids.SecretLen))
	if err != nil {
		panic(err) // the length is right
	}
	x := secret.Trade(traffic.Real, "m1", order)
	y := secret.Intent(x, "m1", order, traffic.Deposit, order, ids.Fingerprint{})
	c := prepay.Call{Context: ids.Context{BizCode: x, Merchant: "m1", OrderType: "sale", OrderScene: "web", Institution: "sandbox",
		TraceID: "0123456789abcdef0123456789abcdef", Form: traffic.Deposit, Traffic: traffic.Real},
		OutTradeNo: ids.OutTradeNo(y, 0), Y: y, Account: "a", Amount: money.Of(100, "CNY"), Method: channels.MethodQRCode,
		Status: prepay.Due, Op: event.OpPay, Standing: prepay.NeverSent, NextAtMillis: 10, CreatedAtMillis: 5}
	for _, e := range edits {
		e(&c)
	}
	return c
}

func at(account string, nextMillis int64) func(*prepay.Call) {
	return func(c *prepay.Call) { c.Account, c.NextAtMillis = account, nextMillis }
}

func isSending(c *prepay.Call) { c.Status, c.NextAtMillis, c.Owner = prepay.Sending, 0, "inc_1" }

func isPaid(c *prepay.Call) { c.Status, c.NextAtMillis, c.Standing = prepay.Answered, 0, prepay.Paid }

func outcomeOf(c *prepay.Call, n int) bus.Event {
	o := prepayevent.Outcome{OutTradeNo: c.OutTradeNo, Account: c.Account, Op: "pay", Try: n, Outcome: channels.Outcome{Result: channels.Done}}
	return bus.Event{ID: fmt.Sprintf("evt_%d", n), Type: prepayevent.TypeOutcome, Version: bus.EnvelopeVersion, Context: c.Context,
		AtMillis: int64(n), Payload: o.Encode()}
}

func batchAt(from, to int64) *bus.Batch {
	place := func(seq int64) bus.Place {
		if seq == 0 {
			return bus.Place{}
		}
		return bus.Place{Epoch: 1, Seq: seq}
	}
	return &bus.Batch{Topic: bus.Dispatch, Moves: []bus.Move{{Group: 1, From: place(from), To: place(to)}}}
}

func orders(calls []prepay.Call, names map[string]string) (out []string) {
	for i := range calls {
		out = append(out, names[calls[i].OutTradeNo])
	}
	return out
}
