package sim

import (
	"context"
	"fmt"
	"strings"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/callback"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/money"
)

// psp gives the app its channels: the real driver, whose requests reach the desk
// by a function call, and which now and then is not reached at all.
type psp struct {
	world *World
	built map[string]*channels.Channel
}

// Accounts implements app.Channels.
func (p *psp) Accounts() []string { return accounts() }

// Channel implements app.Channels.
func (p *psp) Channel(account string) (*channels.Channel, bool) {
	if c := p.built[account]; c != nil {
		return c, true
	}
	c, err := p.world.desk.Channel(account, p.world.clock, reader{p.world.rand})
	if err != nil {
		return nil, false
	}
	c.Pay = &sometimes{Payer: c.Pay, world: p.world}
	if p.built == nil {
		p.built = map[string]*channels.Channel{}
	}
	p.built[account] = c
	return c, true
}

// Limits implements app.Channels.
func (p *psp) Limits(account string) merchant.AccountLimits {
	if a := p.world.dir.Current().Account(account); a != nil {
		return a.Limits
	}
	return merchant.AccountLimits{}
}

// Parser implements app.Channels.
func (p *psp) Parser(channel, account string) (channels.CallbackParser, bool) {
	c, ok := p.Channel(account)
	if !ok || channel != sandbox.Name {
		return nil, false
	}
	return c.Callback, true
}

// sometimes is a connection that is refused now and then.
type sometimes struct {
	channels.Payer
	world *World
}

func (s *sometimes) refused() bool { return !s.world.healing && s.world.rand.IntN(20) == 0 }

// Prepay implements channels.Payer.
func (s *sometimes) Prepay(ctx context.Context, r channels.PayRequest) channels.Outcome {
	if s.refused() {
		return channels.Outcome{Result: channels.NotSent, Code: "dial_failed"}
	}
	o := s.Payer.Prepay(ctx, r)
	s.world.trace("PSP pay %s: %s %s %s", r.OutTradeNo, o.Result, o.State, o.Code)
	s.world.auditor.asked(r)
	return o
}

// Query implements channels.Payer.
func (s *sometimes) Query(ctx context.Context, r channels.QueryRequest) channels.Outcome {
	if s.refused() {
		return channels.Outcome{Result: channels.NotSent, Code: "dial_failed"}
	}
	o := s.Payer.Query(ctx, r)
	s.world.trace("PSP query %s: %s %s %s", r.OutTradeNo, o.Result, o.State, o.Code)
	return o
}

// Close implements channels.Payer.
func (s *sometimes) Close(ctx context.Context, r channels.QueryRequest) channels.Outcome {
	if s.refused() {
		return channels.Outcome{Result: channels.NotSent, Code: "dial_failed"}
	}
	o := s.Payer.Close(ctx, r)
	s.world.trace("PSP close %s: %s %s %s", r.OutTradeNo, o.Result, o.State, o.Code)
	return o
}

// delivery is a callback that was posted and is not answered yet.
type delivery struct {
	sim.Delivery
	receipt *callback.Receipt
}

// deliver posts what is due, and hands the answers that have come to the PSP. A
// post that is lost in a crash was not answered: the PSP repeats it.
func (w *World) deliver() error {
	for _, d := range w.desk.Due(w.now, 1+w.rand.IntN(3)) {
		err := w.guard("callback", func() error { w.post(d); return nil })
		if err != nil {
			return err
		}
	}
	waiting := w.posts
	w.posts = nil
	for i, p := range waiting {
		select {
		case <-p.receipt.Done():
		default:
			w.posts = append(w.posts, p)
			continue
		}
		crashes := w.crashes
		answered := false
		err := w.guard("callback answer", func() error {
			_, err := w.app.Callback.Finish(p.receipt)
			w.desk.Delivered(p.Delivery, err == nil, w.now)
			answered = true
			return nil
		})
		if err != nil {
			return err
		}
		if w.crashes > crashes {
			if !answered {
				w.desk.Delivered(p.Delivery, false, w.now)
			}
			for _, lost := range append(waiting[i+1:], w.posts...) {
				w.desk.Delivered(lost.Delivery, false, w.now)
			}
			w.posts = nil
			return nil
		}
	}
	return nil
}

func (w *World) post(d sim.Delivery) {
	q := w.desk.CallbackRequest(d, w.now)
	headers := map[string]string{}
	for _, name := range []string{wire.HeaderAccount, wire.HeaderKey, wire.HeaderTimestamp, wire.HeaderNonce, wire.HeaderSignature} {
		if v := q.Header(name); v != "" {
			headers[strings.ToLower(name)] = v
		}
	}
	r, _, err := w.app.Callback.Begin(callback.Request{Channel: sandbox.Name, Account: d.Account, Method: q.Method, Path: q.Path, Headers: headers, Body: q.Body})
	w.trace("callback of %s %s: %v", d.OutTradeNo, d.Event.EventID, err)
	if err != nil {
		w.desk.Delivered(d, false, w.now)
		return
	}
	w.posts = append(w.posts, delivery{d, r})
}

// payByHand is a payer in front of a credential, with the right amount, or
// another one: some PSPs let them.
func (w *World) payByHand() {
	all := w.desk.Payments()
	if len(all) == 0 {
		return
	}
	r := all[w.rand.IntN(len(all))]
	amount := money.Amount{}
	if w.rand.IntN(4) == 0 {
		amount = money.Of(r.Body.Amount.Minor+w.rand.Int64N(3)-1, "CNY")
	}
	if w.desk.UserPays(r.Account, r.OutTradeNo, amount, w.now) {
		w.trace("paid by hand: %s %v", r.OutTradeNo, amount)
	}
}

func readAll(src bus.Source, group int) (out []bus.Message, err error) {
	for at := (bus.Place{}); ; {
		msgs, err := src.Read(context.Background(), group, at, 1000)
		if err != nil || len(msgs) == 0 {
			return out, err
		}
		out = append(out, msgs...)
		at = msgs[len(msgs)-1].Place
	}
}

// wrong collects what the auditor finds.
type wrong []string

func (w *wrong) add(format string, args ...any) { *w = append(*w, fmt.Sprintf(format, args...)) }
