package judge

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tallystick/tallystick/accounting/rules"
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
	"github.com/tallystick/tallystick/prepay"
)

// Case is what is compared. Nothing may be at work on the stores any more.
type Case struct {
	Orders []*Order
	PSPs   map[string]*sim.Sim // by channel account; one may be that of several
	Secret *ids.Secret
	Books  interface {
		Verify(ctx context.Context) (app.Verification, error)
		Owner(code ids.Code) (*app.Stores, error)
	}
	Out io.Writer // told what is still open
}

// judgement is a case under comparison.
type judgement struct {
	Case
	res Verdict
	// taken is what PSPs took, in minor units, by Y; known are those that belong to a
	// payment order of the log.
	taken map[ids.Code]int64
	known map[ids.Code]bool
}

// Judge compares. The error is that something could not be read.
func (c Case) Judge(ctx context.Context) (Verdict, error) {
	j := &judgement{Case: c, taken: map[ids.Code]int64{}, known: map[ids.Code]bool{}}
	v, err := c.Books.Verify(ctx)
	if err != nil {
		return j.res, err
	}
	j.res.Books = v
	for _, violation := range v.Violations {
		j.res.Add(Other, "%s", violation)
	}
	j.takings()
	if err := j.orders(ctx); err != nil {
		return j.res, err
	}
	j.strangers(v)
	j.totals(v)
	return j.res, nil
}

// payments are those of one account.
func (j *judgement) payments(account string) (out []sim.Record) {
	for _, p := range j.PSPs[account].Payments() {
		if p.Account == account {
			out = append(out, p)
		}
	}
	return out
}

// takings reads what each PSP took, and which calls it was asked for.
func (j *judgement) takings() {
	for _, account := range app.ExampleAccounts() {
		for _, p := range j.payments(account) {
			y, _, err := ids.ParseOutTradeNo(p.OutTradeNo)
			if err != nil {
				j.res.Add(Other, "%s was asked for %q, which is no number of ours", account, p.OutTradeNo)
				continue
			}
			if p.State == channels.StatePaid {
				j.taken[y] += p.Taken.Minor
				j.res.Paid++
				j.res.PaidMinor += p.Taken.Minor
			}
			// A pay that may have arrived is asked after before it is sent again.
			if p.Requests.Pay-1 > p.Requests.Query+p.Requests.Close {
				j.res.Add(PaidTwice, "%s was asked to pay %s %d times, and only %d times what had become of it", account, p.OutTradeNo,
					p.Requests.Pay, p.Requests.Query+p.Requests.Close)
			}
		}
	}
}

func (j *judgement) orders(ctx context.Context) error {
	j.res.Orders = len(j.Orders)
	for _, o := range j.Orders {
		code := j.Secret.Trade(traffic.Real, app.ExampleMerchant, o.OrderID)
		stores, err := j.Books.Owner(code)
		if err != nil {
			return err
		}
		t, found, err := core.Queries{Store: stores.Core}.Trade(ctx, code)
		if err != nil {
			return err
		}
		if !found {
			t = event.Trade{}
		}
		j.promises(o, &t)
		for i := range t.Payments {
			j.payment(&t.Payments[i])
			if err := j.scheduled(ctx, stores, &t.Payments[i]); err != nil {
				return err
			}
		}
		if found {
			if err := j.books(ctx, stores, o, &t); err != nil {
				return err
			}
		}
	}
	return nil
}

// promises compares what the merchant was told with what core knows.
func (j *judgement) promises(o *Order, t *event.Trade) {
	if o.Wrong != "" {
		j.res.Add(Other, "order %s: %s", o.OrderID, o.Wrong)
	}
	if len(o.Vouchers) > 1 {
		j.res.Add(Other, "order %s under one key got the vouchers %q", o.OrderID, o.Vouchers)
	}
	if o.Acks > 1 && len(o.Vouchers) == 1 {
		j.res.RetriedSame++
	}
	if o.Acks == 0 && o.Unsure == 0 && len(t.Payments) > 0 {
		j.res.Add(Other, "order %s was only ever refused for certain, and core has it", o.OrderID)
	}
	for _, voucher := range o.Vouchers {
		j.res.Acknowledged++
		i := slices.IndexFunc(t.Payments, func(p event.Payment) bool { return ids.VoucherID.With(p.Y) == voucher })
		switch {
		case i < 0:
			j.res.Add(Lost, "voucher %s of order %s was acknowledged, and core does not know it", voucher, o.OrderID)
		case t.Payments[i].Status.Final():
			j.res.Final++
		default:
			j.res.Open++
			j.describe(&t.Payments[i])
		}
	}
	var one []ids.Code
	for i := range t.Payments {
		if p := &t.Payments[i]; p.Status == event.Rejected {
			j.res.Add(Other, "order %s, which is valid, was rejected: %s", o.OrderID, p.Reason)
		} else {
			one = append(one, p.Y)
		}
	}
	if len(one) > 1 {
		j.res.Add(PaidTwice, "order %s under one key has the payment orders %q", o.OrderID, one)
	}
}

// describe prints a payment order that is still open: it waits for something, and
// may.
func (j *judgement) describe(p *event.Payment) {
	if j.res.Open > 5 {
		return
	}
	_, _ = fmt.Fprintf(j.Out, "open: %s is %s, next %s at %s\n", p.Y, p.Status, p.NextAction, time.UnixMilli(p.NextAtMillis).UTC().Format(time.RFC3339))
	for _, a := range p.Attempts {
		r, _ := j.PSPs[a.Account].Find(a.Account, a.OutTradeNo)
		_, _ = fmt.Fprintf(j.Out, "  attempt %s is %s; %s has it as %q (%s) after %+v\n", a.OutTradeNo, a.Status, a.Account, r.State, r.Reason, r.Requests)
	}
}

// scheduled wants of an order that is not final that core has a next action for
// it, and that prepay goes on asking: a dispatch that got lost would wait for the
// order's expiry, and nobody would notice.
func (j *judgement) scheduled(ctx context.Context, stores *app.Stores, p *event.Payment) error {
	if p.Status.Final() {
		return nil
	}
	if p.NextAction == "" {
		j.res.Add(Other, "payment order %s is %s, without a next action", p.Y, p.Status)
	}
	for i := len(p.Attempts) - 1; i >= 0; i-- {
		c, ok, err := stores.Prepay.Find(ctx, p.Attempts[i].OutTradeNo)
		if err != nil {
			return err
		}
		if ok && c.Status == prepay.Due && c.NextAtMillis > 0 {
			return nil
		}
	}
	j.res.Add(Other, "payment order %s is %s, and prepay has no call due for it", p.Y, p.Status)
	return nil
}

// payment looks at what the PSPs say about a payment order's attempts.
func (j *judgement) payment(p *event.Payment) {
	j.known[p.Y] = true
	payable, paid := 0, 0
	for _, a := range p.Attempts {
		r, exists := sim.Record{}, false
		if psp := j.PSPs[a.Account]; psp != nil {
			r, exists = psp.Find(a.Account, a.OutTradeNo)
		}
		// A number that the PSP does not know, and was asked about, may yet arrive.
		heard := r.Requests != sim.Requests{}
		if heard && !(exists && (r.State == channels.StateDeclined || r.State == channels.StateClosed)) {
			payable++
		}
		if exists && r.State == channels.StatePaid {
			paid++
		}
	}
	if payable > 1 {
		j.res.Add(PaidTwice, "payment order %s has %d numbers at PSPs of which no other is out of the way", p.Y, payable)
	}
	if paid > 1 {
		j.res.Add(PaidTwice, "payment order %s was paid %d times", p.Y, paid)
	}
	if p.Status == event.Succeeded && paid == 0 {
		j.res.Add(Other, "payment order %s succeeded, and no PSP took money for it", p.Y)
	}
}

// books compares an order's entries with what PSPs took for it.
func (j *judgement) books(ctx context.Context, stores *app.Stores, o *Order, t *event.Trade) error {
	entries, err := stores.Accounting.EntriesByBizCode(ctx, t.Context.BizCode)
	if err != nil {
		return err
	}
	var booked, taken int64
	for i := range entries {
		for _, l := range entries[i].Lines {
			if l.Account.Name == rules.PSPReceivable+":"+entries[i].ChannelAccount || l.Account.Name == rules.PSPFees+":"+entries[i].ChannelAccount {
				booked += l.Amount.Minor
			}
		}
	}
	for i := range t.Payments {
		taken += j.taken[t.Payments[i].Y]
	}
	switch {
	case booked > taken:
		j.res.Add(BookedTwice, "order %s: PSPs took %d, the ledger received %d in %d entries", o.OrderID, taken, booked, len(entries))
	case booked < taken:
		j.res.Add(NotBooked, "order %s: PSPs took %d, the ledger received %d in %d entries", o.OrderID, taken, booked, len(entries))
	}
	return nil
}

// strangers are payment orders that no merchant asked for, and payments at a PSP that
// core knows nothing of.
func (j *judgement) strangers(v app.Verification) {
	accepted := int64(0)
	for _, o := range v.Orders {
		accepted += o.Accepted
	}
	if accepted != int64(len(j.known)) {
		j.res.Add(Other, "core has %d payment orders, of which %d are for orders of the merchants' log", accepted, len(j.known))
	}
	for y := range j.taken {
		if !j.known[y] {
			j.res.Add(Other, "a PSP took %d for %s, which core does not know", j.taken[y], y)
		}
	}
}

// totals compares, by account, what was taken with what was booked: also what
// belongs to no order of the log.
func (j *judgement) totals(v app.Verification) {
	booked := map[string]int64{}
	for _, m := range v.Money {
		booked[m.Account] += m.Ledger.Received
	}
	for _, account := range app.ExampleAccounts() {
		taken := int64(0)
		for _, p := range j.payments(account) {
			if p.State == channels.StatePaid {
				taken += p.Taken.Minor
			}
		}
		if taken != booked[account] {
			j.res.Add(Other, "%s took %d minor units in all, the ledger received %d", account, taken, booked[account])
		}
	}
}
