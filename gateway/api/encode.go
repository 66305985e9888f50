package api

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/ids"
)

// appendIntent appends what event.Encode gives, byte for byte, without
// reflection: it is on the path of every acceptance. A test compares the two.
func appendIntent(dst []byte, i *event.Intent) []byte {
	dst = appendName(dst, '{', "y")
	dst = appendString(dst, string(i.Y))
	dst = appendName(dst, ',', "idempotency_key")
	dst = appendString(dst, i.IdempotencyKey)
	dst = appendName(dst, ',', "request")
	dst = append(dst, i.Canonical...)
	dst = appendName(dst, ',', "accepted_at_millis")
	dst = strconv.AppendInt(dst, i.AcceptedAtMillis, 10)
	dst = appendName(dst, ',', "expires_at_millis")
	dst = strconv.AppendInt(dst, i.ExpiresAtMillis, 10)
	return append(dst, '}')
}

func appendName(dst []byte, before byte, name string) []byte {
	dst = append(dst, before, '"')
	dst = append(dst, name...)
	return append(dst, '"', ':')
}

// appendString quotes s. Every string here was checked to be UTF-8 on its way in.
func appendString(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}

// AppendAnswer appends the body of the 202 for an acceptance that Finish or Wait
// said yes to, its client token included. It gives no state but "accepted": the
// view does.
func (s *Service) AppendAnswer(dst []byte, a *Acceptance) []byte {
	dst = appendIDs(append(dst, '{'), a)
	dst = append(dst, `,"token":"`...)
	dst = s.d.Tokens.Append(dst, Claims{Y: a.Y, Merchant: a.Context.Merchant,
		ExpiresAtMillis: a.ExpiresAtMillis + s.d.Config.TokenAfterExpiry.Milliseconds()})
	dst = append(dst, `","status":"accepted","trace_id":"`...)
	dst = append(dst, a.Context.TraceID...)
	dst = append(dst, `","links":{"voucher":"/v1/vouchers/`...)
	dst = append(dst, ids.VoucherID...)
	dst = append(dst, a.Y...)
	dst = append(dst, `","trade":"/v1/trades/`...)
	dst = append(dst, ids.TradeID...)
	dst = append(dst, a.Context.BizCode...)
	return append(dst, `"}}`...)
}

// appendIDs appends the ids of an acceptance as members.
func appendIDs(dst []byte, a *Acceptance) []byte {
	dst = append(dst, `"voucher":"`...)
	dst = append(dst, ids.VoucherID...)
	dst = append(dst, a.Y...)
	dst = append(dst, `","payment":"`...)
	dst = append(dst, ids.PaymentID...)
	dst = append(dst, a.Y...)
	dst = append(dst, `","trade":"`...)
	dst = append(dst, ids.TradeID...)
	dst = append(dst, a.Context.BizCode...)
	return append(dst, '"')
}
