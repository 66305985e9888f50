package core

import (
	"hash/fnv"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// choose picks a channel account for the next attempt of a payment order: one
// that fits, that no attempt was opened on yet, by weight, and always the same
// one for the same order and attempt. It is nil when there is none.
func (r *rules) choose(p *Payment) *merchant.ChannelAccount {
	var fit []*merchant.ChannelAccount
	total := 0
	for i := range r.directory.Accounts {
		a := &r.directory.Accounts[i]
		if a.Fits(p.Context.Merchant, p.Context.Traffic, p.Amount.Currency, p.Method) && !p.tried(a.ID) {
			fit = append(fit, a)
			total += a.Weight
		}
	}
	switch {
	case len(fit) == 0 || len(p.Attempts) >= ids.AttemptsMax:
		return nil
	case total == 0:
		return fit[0]
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(p.Y)) // never fails
	_, _ = h.Write([]byte{byte(len(p.Attempts))})
	n := int(h.Sum64() % uint64(total)) //nolint:gosec // total is positive and small
	for _, a := range fit {
		if n -= a.Weight; n < 0 {
			return a
		}
	}
	return fit[0]
}

func (p *Payment) tried(account string) bool {
	for _, a := range p.Attempts {
		if a.Account == account {
			return true
		}
	}
	return false
}

// openAttempt opens an attempt on an account, with a number of its own, and asks
// prepay to send it.
func (r *rules) openAttempt(p *Payment, account *merchant.ChannelAccount) {
	zero := money.Of(0, p.Amount.Currency)
	a := &Attempt{Version: 1, Attempt: event.Attempt{OutTradeNo: ids.OutTradeNo(p.Y, len(p.Attempts)), Channel: account.Channel,
		Account: account.ID, Status: event.Dispatched, PSPFeeRate: account.FeeRate, Paid: zero, PSPFee: zero}}
	p.Attempts = append(p.Attempts, a)
	p.Context.Institution = account.Channel
	r.dispatch(p, a, event.OpPay, 0)
}

// reroute goes on after NotSent: on another account, under a new number; or, if
// every account that fits was tried, with the attempt that failed longest ago,
// under its own number, after a pause. Nothing is sent once it has expired.
func (r *rules) reroute(p *Payment, reason string) error {
	if r.now >= p.ExpiresAtMillis {
		return r.paymentTo(p, event.Expired, ReasonExpiredBacklog)
	}
	if account := r.choose(p); account != nil {
		r.openAttempt(p, account)
		return nil
	}
	var again *Attempt
	for _, a := range p.Attempts {
		if a.Status == AttemptNotSent && (again == nil || a.Version < again.Version) {
			again = a
		}
	}
	if err := r.attemptTo(p, again, event.Dispatched, reason); err != nil {
		return err
	}
	pause := r.cfg.NotSentPauseMillis << min(again.Version/2, 16)
	r.dispatch(p, again, event.OpPay, r.now+min(pause, r.cfg.NotSentPauseMaxMillis))
	return nil
}
