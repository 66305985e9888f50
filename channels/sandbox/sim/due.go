package sim

import (
	"container/heap"
	"encoding/hex"
	"net/url"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/money"
)

// item is something that will happen: a payer pays, or a callback is sent. One
// heap holds them all, so that a payment costs no timer and no goroutine.
type item struct {
	due      time.Time
	seq      uint64 // ties are broken by age
	payer    bool   // else delivery is due
	delivery Delivery
}

type queue []item

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if c := q[i].due.Compare(q[j].due); c != 0 {
		return c < 0
	}
	return q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(item)) }
func (q *queue) Pop() any {
	old := *q
	it := old[len(old)-1]
	old[len(old)-1] = item{}
	*q = old[:len(old)-1]
	return it
}

func (d *Desk) push(it item) {
	d.seq++
	it.seq = d.seq
	heap.Push(&d.queue, it)
}

// NextAt is when something is due next; false if nothing is.
func (d *Desk) NextAt() (time.Time, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		return time.Time{}, false
	}
	return d.queue[0].due, true
}

// Due lets the payers pay whose time has come, and gives at most n deliveries
// that are due now. Each must be followed by Delivered.
func (d *Desk) Due(now time.Time, n int) []Delivery {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Delivery
	for len(out) < n && len(d.queue) > 0 && !d.queue[0].due.After(now) {
		it := heap.Pop(&d.queue).(item)
		if it.payer {
			d.payer(it.delivery.Key, now)
		} else {
			out = append(out, it.delivery)
		}
	}
	return out
}

// payer is one who pays by himself, if he has the money.
func (d *Desk) payer(k Key, now time.Time) {
	a := d.accounts[k.Account]
	chance := roll(d.cfg.Seed, k, "payer", 0)
	if chance.share(2) < a.faults.PayerDeclinedShare {
		if n, ok := d.state.Decline(k, wire.ReasonInsufficient, now); ok {
			a.injected[faultPayer].Inc()
			d.tellMerchant(a, n, now)
		}
		return
	}
	if n, ok := d.state.UserPays(k, money.Amount{}, now); ok {
		d.tellMerchant(a, n, now)
	}
}

// UserPays is a payer who pays now, by hand: amount, or what was asked for if it
// is the zero Amount. False if there is nothing to pay.
func (d *Desk) UserPays(account, outTradeNo string, amount money.Amount, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok := d.state.UserPays(Key{account, outTradeNo}, amount, now)
	if ok {
		d.tellMerchant(d.accounts[account], n, now)
	}
	return ok
}

// UserDeclined is a payer who tries now and has no funds.
func (d *Desk) UserDeclined(account, outTradeNo string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok := d.state.Decline(Key{account, outTradeNo}, wire.ReasonInsufficient, now)
	if ok {
		d.tellMerchant(d.accounts[account], n, now)
	}
	return ok
}

// tellMerchant makes a notice a callback, perhaps two.
func (d *Desk) tellMerchant(a *account, n Notice, now time.Time) {
	d.push(item{due: now.Add(millis(a.faults.CallbackDelayMillis)), delivery: Delivery{Notice: n, Attempt: 1}})
	d.maybeTwice(a, n, now)
}

// maybeTwice sends the same event once more, whatever becomes of the first.
func (d *Desk) maybeTwice(a *account, n Notice, now time.Time) {
	chance := roll(d.cfg.Seed, n.Key, "callback", 0)
	if chance.share(0) >= a.faults.DuplicateCallbackShare {
		return
	}
	a.injected[faultDuplicate].Inc()
	d.push(item{due: now.Add(millis(a.faults.CallbackDelayMillis) + chance.tail(1, 500)), delivery: Delivery{Notice: n, Attempt: 1}})
}

// Delivered says whether the merchant accepted a delivery. What was not accepted
// comes due again, with growing distance, a bounded number of times; what was
// forged does not.
func (d *Desk) Delivered(v Delivery, accepted bool, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.accounts[v.Account]
	if accepted {
		a.accepted.Inc()
		return
	}
	a.refused.Inc()
	if v.Forged {
		return
	}
	if v.Attempt >= d.cfg.CallbackAttemptsMax {
		a.gaveUp.Inc()
		return
	}
	wait := int64(backoffMillisMax)
	if v.Attempt < 20 {
		wait = min(wait, d.cfg.CallbackBackoffMillis<<(v.Attempt-1))
	}
	v.Attempt++
	d.push(item{due: now.Add(millis(wait)), delivery: v})
}

// Sign makes the bytes of a delivery, with the time of now in its signature.
func (d *Desk) Sign(v Delivery, now time.Time) (wire.Seal, []byte) {
	body := wire.Marshal(v.Event)
	chance := roll(d.cfg.Seed, v.Key, "nonce "+v.Event.EventID, v.Attempt)
	nonce := hex.EncodeToString(chance[:12])
	genuine := d.accounts[v.Account].ring.Sign(wire.KindCallback, "", v.Account, nonce, now, body)
	if v.Forged {
		forged := d.forger.Sign(wire.KindCallback, "", v.Account, nonce, now, body)
		forged.Key = genuine.Key // he knows the key's name
		return forged, body
	}
	return genuine, body
}

// CallbackRequest is a delivery as the callback edge would hand it to a parser.
func (d *Desk) CallbackRequest(v Delivery, now time.Time) channels.CallbackRequest {
	s, body := d.Sign(v, now)
	path := v.URL
	if u, err := url.Parse(v.URL); err == nil {
		path = u.Path
	}
	return channels.CallbackRequest{Method: "POST", Path: path, Body: body, Now: now, Header: func(name string) string {
		switch name {
		case wire.HeaderAccount:
			return s.Account
		case wire.HeaderKey:
			return s.Key
		case wire.HeaderTimestamp:
			return s.Timestamp
		case wire.HeaderNonce:
			return s.Nonce
		case wire.HeaderSignature:
			return s.Signature
		}
		return ""
	}}
}
