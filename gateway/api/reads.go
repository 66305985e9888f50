package api

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// Caller is who reads: a merchant by API key, or the holder of a client token.
type Caller struct {
	Merchant *merchant.Merchant // nil for a token
	Claims   Claims
}

func (c *Caller) merchantID() string {
	if c.Merchant != nil {
		return c.Merchant.ID
	}
	return c.Claims.Merchant
}

// Voucher gives what became of a voucher, waiting for news as Views.Await does.
// id is a vch_ or pay_ id. An id whose tag verifies is never NotFound to its owner.
func (s *Service) Voucher(ctx context.Context, c Caller, id string, since int64, wait time.Duration) (VoucherAnswer, error) {
	if c.Merchant != nil {
		if err := s.mayRead(c.Merchant); err != nil {
			return VoucherAnswer{}, err
		}
	}
	y, err := voucherCode(id)
	if err != nil {
		return VoucherAnswer{}, err
	}
	switch {
	case c.Merchant == nil && c.Claims.Y != y:
		return VoucherAnswer{}, &fault.Error{Kind: fault.Forbidden, Op: "voucher", Code: "token_scope"}
	case c.Merchant != nil && !s.d.Secret.Verify(y, c.Merchant.ID):
		return VoucherAnswer{}, &fault.Error{Kind: fault.NotFound, Op: "voucher", Code: "not_found"}
	}
	v, err := s.d.Views.Await(ctx, voucher.Ask{Y: y, Merchant: c.merchantID(), Since: since, Wait: wait, Token: c.Merchant == nil})
	if err != nil {
		return VoucherAnswer{}, err
	}
	return voucherAnswer(&v, c.Merchant != nil), nil
}

// mayRead takes one of the merchant's reads: what is not in memory costs core one
// of a few connections to its store.
func (s *Service) mayRead(m *merchant.Merchant) error {
	if s.reads.allow(m, s.d.Now()) {
		return nil
	}
	s.metrics.limited.Inc()
	return &fault.Error{Kind: fault.Limited, Op: "read", Code: "rate_limited"}
}

func voucherCode(id string) (ids.Code, error) {
	p, y, err := ids.ParseID(id)
	if err == nil && p != ids.VoucherID && p != ids.PaymentID {
		err = errors.New("this is no voucher's id")
	}
	if err != nil {
		return "", &fault.Error{Kind: fault.Invalid, Op: "voucher", Code: "id_invalid", Field: "id", Fix: "use the vch_ or pay_ id of the 202", Err: err}
	}
	return y, nil
}

// Trade gives the whole chain by any of its ids (trd_, vch_, pay_) or by the
// merchant's own order id, to its owner alone. What core has not seen reads as
// unconfirmed, as for a voucher.
func (s *Service) Trade(ctx context.Context, m *merchant.Merchant, id string) (TradeAnswer, error) {
	if err := s.mayRead(m); err != nil {
		return TradeAnswer{}, err
	}
	code := ids.Code("")
	prefix := ids.TradeID
	if p, c, err := ids.ParseID(id); err == nil {
		if !s.d.Secret.Verify(c, m.ID) {
			return TradeAnswer{}, &fault.Error{Kind: fault.NotFound, Op: "trade", Code: "not_found"}
		}
		prefix, code = p, c
	} else if validOrderID(id) {
		code = s.d.Secret.Trade(traffic.Real, m.ID, id)
	} else {
		return TradeAnswer{}, &fault.Error{Kind: fault.Invalid, Op: "trade", Code: "id_invalid", Field: "id", Fix: "use an id of the 202, or your order id", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, s.d.Config.QueryTimeout)
	defer cancel()
	t, found, err := s.d.Queries.Trade(ctx, code)
	switch {
	case err != nil:
		return TradeAnswer{}, &fault.Error{Kind: fault.Unavailable, Op: "trade", Code: "view_unavailable", Err: err}
	case found && t.Context.Merchant != m.ID: // a forged tag passes once in a million
		return TradeAnswer{}, &fault.Error{Kind: fault.NotFound, Op: "trade", Code: "not_found"}
	case !found && prefix == ids.TradeID:
		return TradeAnswer{Trade: ids.TradeID.With(code), Status: string(voucher.Unconfirmed), Payments: []TradePayment{}}, nil
	case !found:
		return TradeAnswer{Status: string(voucher.Unconfirmed), Payments: []TradePayment{}}, nil
	}
	return tradeAnswer(&t), nil
}

// VoucherAnswer is the body of GET /v1/vouchers/{id}. The second half is for the
// merchant alone.
type VoucherAnswer struct {
	Voucher          string         `json:"voucher"`
	Payment          string         `json:"payment"`
	Trade            string         `json:"trade,omitzero"`
	Status           voucher.Status `json:"status"`
	Final            bool           `json:"final"`
	Version          int64          `json:"version"`
	Amount           int64          `json:"amount,omitzero"`
	Currency         string         `json:"currency,omitzero"`
	Method           string         `json:"method,omitzero"`
	Subject          string         `json:"subject,omitzero"`
	Credential       *Credential    `json:"credential,omitzero"`
	AcceptedAtMillis int64          `json:"accepted_at_millis,omitzero"`
	ExpiresAtMillis  int64          `json:"expires_at_millis,omitzero"`

	OrderID        string `json:"order_id,omitzero"`
	IdempotencyKey string `json:"idempotency_key,omitzero"`
	Reason         string `json:"reason,omitzero"`
	AliasOf        string `json:"alias_of,omitzero"`
	NextAction     string `json:"next_action,omitzero"`
	NextAtMillis   int64  `json:"next_at_millis,omitzero"`

	context ids.Context
}

// Credential is what the payer's device needs: the text of a QR code, or a URL.
type Credential struct {
	Method string `json:"method"`
	Value  string `json:"value"`
}

func voucherAnswer(v *voucher.View, owner bool) VoucherAnswer {
	a := VoucherAnswer{Voucher: ids.VoucherID.With(v.Y), Payment: ids.PaymentID.With(v.Y), Status: v.Status, Final: v.Status.Final(),
		Version: v.Version, Amount: v.Amount.Minor, Currency: string(v.Amount.Currency), Method: string(v.Method), Subject: v.Subject,
		Credential: credentialOf(v.Credential), AcceptedAtMillis: v.AcceptedAtMillis, ExpiresAtMillis: v.ExpiresAtMillis, context: v.Context}
	if v.Context.BizCode != "" {
		a.Trade = ids.TradeID.With(v.Context.BizCode)
	}
	if !owner {
		return a
	}
	a.OrderID, a.IdempotencyKey, a.Reason, a.NextAction, a.NextAtMillis = v.OrderID, v.IdempotencyKey, v.Reason, v.NextAction, v.NextAtMillis
	if v.AliasOf != "" {
		a.AliasOf = ids.VoucherID.With(v.AliasOf)
	}
	return a
}

func credentialOf(c channels.Credential) *Credential {
	if c.Value == "" {
		return nil
	}
	return &Credential{Method: string(c.Method), Value: c.Value}
}

// TradeAnswer is the body of GET /v1/trades/{id}.
type TradeAnswer struct {
	Trade            string         `json:"trade,omitzero"`
	OrderID          string         `json:"order_id,omitzero"`
	Status           string         `json:"status"`
	Version          int64          `json:"version"`
	Amount           int64          `json:"amount,omitzero"`
	Paid             int64          `json:"paid"`
	Currency         string         `json:"currency,omitzero"`
	OrderType        string         `json:"order_type,omitzero"`
	OrderScene       string         `json:"order_scene,omitzero"`
	TraceID          string         `json:"trace_id,omitzero"`
	AcceptedAtMillis int64          `json:"accepted_at_millis,omitzero"`
	ExpiresAtMillis  int64          `json:"expires_at_millis,omitzero"`
	Payments         []TradePayment `json:"payments"`
	RejectedMore     bool           `json:"rejected_more,omitzero"` // the last ones are here

	context ids.Context
}

// TradePayment is one payment order of a trade.
type TradePayment struct {
	Payment          string         `json:"payment"`
	Voucher          string         `json:"voucher"`
	Status           voucher.Status `json:"status"`
	Version          int64          `json:"version"`
	Reason           string         `json:"reason,omitzero"`
	AliasOf          string         `json:"alias_of,omitzero"`
	IdempotencyKey   string         `json:"idempotency_key"`
	Amount           int64          `json:"amount"`
	Currency         string         `json:"currency"`
	Fee              int64          `json:"fee,omitzero"`
	Method           string         `json:"method,omitzero"`
	AcceptedAtMillis int64          `json:"accepted_at_millis"`
	ExpiresAtMillis  int64          `json:"expires_at_millis"`
	NextAction       string         `json:"next_action,omitzero"`
	NextAtMillis     int64          `json:"next_at_millis,omitzero"`
	Attempts         []TradeAttempt `json:"attempts"`
}

// TradeAttempt is one try of a payment order on one channel account.
type TradeAttempt struct {
	OutTradeNo    string `json:"out_trade_no"`
	Channel       string `json:"channel"`
	Status        string `json:"status"`
	Reason        string `json:"reason,omitzero"`
	TransactionID string `json:"transaction_id,omitzero"`
	Paid          int64  `json:"paid,omitzero"`
}

func tradeAnswer(t *event.Trade) TradeAnswer {
	c := &t.Context
	a := TradeAnswer{Trade: ids.TradeID.With(c.BizCode), OrderID: t.OrderID, Status: t.Status, Version: t.Version, Amount: t.Amount.Minor,
		Paid: t.Paid.Minor, Currency: string(t.Amount.Currency), OrderType: c.OrderType, OrderScene: c.OrderScene, TraceID: c.TraceID,
		AcceptedAtMillis: t.AcceptedAtMillis, ExpiresAtMillis: t.ExpiresAtMillis, Payments: make([]TradePayment, 0, len(t.Payments)), RejectedMore: t.RejectedMore, context: *c}
	for i := range t.Payments {
		p := &t.Payments[i]
		tp := TradePayment{Payment: ids.OrderPrefix(c.Form).With(p.Y), Voucher: ids.VoucherID.With(p.Y), Status: voucher.StatusOf(p),
			Version: p.Version, Reason: p.Reason, IdempotencyKey: p.IdempotencyKey, Amount: p.Amount.Minor, Currency: string(p.Amount.Currency),
			Fee: p.Fee.Minor, Method: string(p.Method), AcceptedAtMillis: p.AcceptedAtMillis, ExpiresAtMillis: p.ExpiresAtMillis,
			NextAction: p.NextAction, NextAtMillis: p.NextAtMillis, Attempts: make([]TradeAttempt, 0, len(p.Attempts))}
		if p.AliasOf != "" {
			tp.AliasOf = ids.VoucherID.With(p.AliasOf)
		}
		for _, at := range p.Attempts {
			tp.Attempts = append(tp.Attempts, TradeAttempt{OutTradeNo: at.OutTradeNo, Channel: at.Channel, Status: string(at.Status),
				Reason: at.Reason, TransactionID: at.TransactionID, Paid: at.Paid.Minor})
		}
		a.Payments = append(a.Payments, tp)
	}
	return a
}

// readWait reads ?wait=: whole seconds, 0 to WaitMax.
func (s *Service) readWait(text string) (time.Duration, error) {
	most := int64(s.d.Config.WaitMax / time.Second)
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || int64(n) > most {
		return 0, invalid("query_invalid", "wait", fmt.Sprintf("send whole seconds, 0 to %d", most), nil)
	}
	return time.Duration(n) * time.Second, nil
}

// readSince reads ?since=: a version, 0 for none.
func readSince(text string) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, invalid("query_invalid", "since", "send the version of the last answer, or leave since out", nil)
	}
	return int64(n), nil //nolint:gosec // 63 bits
}
