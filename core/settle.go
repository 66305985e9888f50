package core

import (
	"fmt"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/money"
)

// success is what a PSP said it received for an attempt.
type success struct {
	transactionID string
	paid          money.Amount
}

// settle applies a success of any attempt, from wherever it was heard. The first
// one of the right amount settles the payment order; every other transaction of
// the PSP is surplus: it goes to suspense once, and is to be refunded. Hearing of
// the same transaction again does nothing.
func (r *rules) settle(t *Trade, p *Payment, a *Attempt, s success) error {
	if s.paid.Minor <= 0 || s.paid.Currency.Validate() != nil {
		return fmt.Errorf("%s is said to be paid, with %v", a.OutTradeNo, s.paid)
	}
	switch {
	case s.transactionID != "" && a.TransactionID == s.transactionID:
		if s.paid != a.Paid { // told again, and not the same: nothing is booked twice, but someone must look
			r.work.alarm(p, a.OutTradeNo, fmt.Sprintf("transaction %s is said to be %v now, and was %v", s.transactionID, s.paid, a.Paid))
		}
		return nil
	case s.transactionID == "" && a.TransactionID != "":
		return nil // told again, by a source that names no transaction
	case s.transactionID == "":
		s.transactionID = a.OutTradeNo // stands for the PSP's number until one is told
	case a.TransactionID == a.OutTradeNo && a.Paid == s.paid:
		a.TransactionID = s.transactionID // the number of what we know of already
		a.Version++
		return nil
	}
	if e := p.exception(a.OutTradeNo, s.transactionID); e != nil {
		if s.paid != e.Paid {
			r.work.alarm(p, a.OutTradeNo, fmt.Sprintf("transaction %s is said to be %v now, and was %v", s.transactionID, s.paid, e.Paid))
		}
		return nil
	}
	if a.TransactionID != "" {
		return r.surplus(p, a, s, WhySecondSuccess)
	}
	fee, err := s.paid.Share(a.PSPFeeRate)
	if err != nil {
		return fmt.Errorf("PSP fee of %s: %w", a.OutTradeNo, err)
	}
	a.TransactionID, a.Paid, a.PSPFee = s.transactionID, s.paid, fee
	a.Version++
	switch {
	case p.Status == event.Succeeded:
		return r.surplus(p, a, s, WhySecondSuccess)
	case !p.Open():
		return r.surplus(p, a, s, WhyPaidAfterFinal)
	case s.paid != p.Amount:
		return r.closeWithSurplus(p, a, s, ReasonAmountPaid, WhyAmountMismatch)
	case t.Status == TradePaid:
		return r.closeWithSurplus(p, a, s, ReasonOrderPaid, WhySecondSuccess)
	}
	return r.succeed(t, p, a)
}

// exception finds a transaction that was taken as an exception; nil if it was not.
func (p *Payment) exception(outTradeNo, transactionID string) *Exception {
	for i := range p.Exceptions {
		if e := &p.Exceptions[i]; e.OutTradeNo == outTradeNo && e.TransactionID == transactionID {
			return e
		}
	}
	return nil
}

func (r *rules) succeed(t *Trade, p *Payment, a *Attempt) error {
	var err error
	if p.Fee, err = a.Paid.Share(p.FeeRate); err != nil {
		return fmt.Errorf("fee of %s: %w", p.Y, err)
	}
	if t.Paid, err = t.Paid.Add(a.Paid); err != nil {
		return fmt.Errorf("paid of trade %s: %w", t.Context.BizCode, err)
	}
	t.Status = TradePaid
	t.Version++
	if err := r.attemptTo(p, a, event.Succeeded, ""); err != nil {
		// A success after the attempt's own end still settles an open order.
		a.Status, a.Reason = event.Succeeded, "after "+string(a.Status)
		a.Version++
	}
	if err := r.paymentTo(p, event.Succeeded, ""); err != nil {
		return err
	}
	for i := range p.Attempts {
		if p.Attempts[i] == a {
			r.changed(p, i)
		}
	}
	r.closeRest(t, p)
	return nil
}

// closeRest asks for the closing of whatever could still be paid of a trade that
// is: its other payment orders, and the other numbers of the one that settled it.
func (r *rules) closeRest(t *Trade, settled *Payment) {
	for _, p := range t.Payments {
		if p == settled || p.Open() {
			r.closeAttempts(p)
		}
	}
}

func (r *rules) closeAttempts(p *Payment) {
	for _, a := range p.Attempts {
		if a.live() {
			r.dispatch(p, a, event.OpClose, 0)
		}
	}
}

func (r *rules) closeWithSurplus(p *Payment, a *Attempt, s success, reason, why string) error {
	if err := r.attemptTo(p, a, event.Closed, reason); err != nil {
		return err
	}
	if err := r.paymentTo(p, event.Closed, reason); err != nil {
		return err
	}
	r.changed(p, -1)
	r.closeAttempts(p)
	return r.surplus(p, a, s, why)
}

// surplus records money that settles nothing and tells accounting.
func (r *rules) surplus(p *Payment, a *Attempt, s success, why string) error {
	fee, err := s.paid.Share(a.PSPFeeRate)
	if err != nil {
		return fmt.Errorf("PSP fee of %s: %w", a.OutTradeNo, err)
	}
	p.Exceptions = append(p.Exceptions, Exception{OutTradeNo: a.OutTradeNo, Account: a.Account, TransactionID: s.transactionID, Why: why, Paid: s.paid, AtMillis: r.now})
	payload := event.Encode(event.Surplus{Y: p.Y, OutTradeNo: a.OutTradeNo, Channel: a.Channel, Account: a.Account,
		TransactionID: s.transactionID, Paid: s.paid, PSPFee: fee, Why: why})
	r.work.Payments = append(r.work.Payments, r.event(p, event.TypeSurplus, payload, nil))
	return nil
}

// learn applies what a PSP said of an attempt, short of a success.
func (r *rules) learn(t *Trade, p *Payment, a *Attempt, state channels.State, credential channels.Credential, code string) error {
	var to, attempt event.Status
	switch state {
	case channels.StatePending:
		if !p.Open() {
			return nil
		}
		if t.Status == TradePaid {
			credential = channels.Credential{} // paid already: nobody is to be asked for it again
		}
		return r.pending(p, a, credential)
	case channels.StateDeclined:
		attempt, to = event.Declined, event.Declined
		if code == ReasonExpired {
			to = event.Expired
		}
	case channels.StateClosed:
		attempt, to = event.Closed, event.Closed
		if r.now >= p.ExpiresAtMillis {
			to = event.Expired
		}
	default:
		return nil // not found and no state are no news: prepay goes on asking
	}
	if !p.Open() && !a.live() || a.Status == attempt || a.Status == AttemptNotSent {
		return nil
	}
	if err := r.attemptTo(p, a, attempt, code); err != nil || !p.Open() {
		return err // of a final order only the attempt has not ended yet
	}
	if err := r.paymentTo(p, to, code); err != nil {
		return err
	}
	r.changed(p, -1)
	return nil
}

func (r *rules) pending(p *Payment, a *Attempt, credential channels.Credential) error {
	if a.Status != event.Dispatched && a.Status != event.Unknown && (a.Status != event.Pending || credential == p.Credential || credential.Value == "") {
		return nil
	}
	if err := r.attemptTo(p, a, event.Pending, ""); err != nil {
		return err
	}
	if credential.Value != "" {
		p.Credential = credential
	}
	if p.Status != event.Pending {
		if err := r.paymentTo(p, event.Pending, ""); err != nil {
			return err
		}
	}
	r.changed(p, -1)
	return nil
}
