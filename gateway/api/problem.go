package api

import (
	"errors"

	"github.com/tallystick/tallystick/internal/fault"
)

// Problem is one entry of the catalogue of errors: docs/api/errors.md is made
// from it, and a test keeps the two the same.
type Problem struct {
	Code    string
	Status  int
	Title   string
	Meaning string // what happened, and what it says about the payment
	Action  string // what the caller should do
}

// catalogue lists every error of the API, by status.
var catalogue = []Problem{
	{"request_malformed", 400, "Malformed request", "The bytes are no HTTP request that this server reads.", "Send HTTP/1.1 with valid headers."},
	{"json_invalid", 400, "Malformed JSON", "The body is not valid JSON (RFC 8259).", "Send one JSON object; `field` says where reading stopped."},
	{"json_utf8_invalid", 400, "Invalid UTF-8", "The body contains bytes or escapes that are not valid UTF-8.", "Encode the body as UTF-8."},
	{"json_trailing_data", 400, "Data after the JSON object", "Something follows the JSON object.", "Send exactly one JSON object."},
	{"field_duplicate", 400, "Duplicate field", "A field is there twice, so that nobody can say which one is meant.", "Send each field once."},
	{"field_unknown", 400, "Unknown field", "The API does not know this field. It is refused, because a field that is silently ignored can cost money.", "Remove it or correct its name."},
	{"field_type", 400, "Wrong JSON type", "The field has another JSON type. `null` is no value: leave absent fields out.", "Send the type that `fix` names."},
	{"field_missing", 400, "Required field missing", "A required field is not there.", "Add the field."},
	{"field_invalid", 400, "Invalid field", "The field's value breaks the rule that `fix` states.", "Correct the value."},
	{"header_invalid", 400, "Invalid header", "The header that `field` names breaks the rule that `fix` states.", "Correct the header."},
	{"query_invalid", 400, "Invalid query parameter", "The parameter that `field` names breaks the rule that `fix` states.", "Correct the parameter."},
	{"id_invalid", 400, "Malformed id", "The id in the path has no form that an id can have.", "Use an id as the API gave it, or your own order id."},
	{"callback_refused", 400, "Callback not understood", "The callback's signature is right, but it is of no payment that came from here, or cannot be read.", "Nothing was stored. PSPs repeat it; operators see a metric."},
	{"unauthorized", 401, "API key missing or wrong", "No active API key was sent.", "Send `Authorization: Bearer <API key>`."},
	{"token_invalid", 401, "Client token not valid", "The token was not made here, or is damaged.", "Use the token from the 202 as it is."},
	{"token_expired", 401, "Client token expired", "The token's time is over.", "Read the voucher with the API key, or ask again with the same idempotency key for a new token."},
	{"callback_forged", 401, "Callback signature refused", "The signature, its key or its time is not right.", "Nothing was stored."},
	{"merchant_disabled", 403, "Merchant disabled", "The merchant may not create payments at the moment. Reading still works.", "Ask the operators."},
	{"token_scope", 403, "Token of another voucher", "A client token reads the one voucher that it was given for.", "Use that voucher's own token, or the API key."},
	{"not_found", 404, "Not found", "There is no such thing for this caller.", "Check the id and whose key was used."},
	{"route_unknown", 404, "No such path", "The API has no such path.", "See the reference for all paths."},
	{"method_not_allowed", 405, "Method not allowed", "The path does not know this method; the header `Allow` names those that it does.", "Use an allowed method."},
	{"request_timeout", 408, "Request not received in time", "The request did not arrive completely in time. Nothing was accepted.", "Send it again."},
	{"idempotency_conflict", 409, "Key already used with another body", "This order's key was accepted with another body. One key is one payment, for ever. Nothing new was accepted.", "Repeat the first body exactly, or use a new key."},
	{"body_too_large", 413, "Body too large", "The body is over the configured bound. Nothing was accepted.", "Send less."},
	{"media_type_unsupported", 415, "Not JSON", "The body must be JSON, not compressed.", "Send `Content-Type: application/json`."},
	{"card_number", 422, "Card number in free text", "The field contains what looks like a card number. Card numbers must never enter. Nothing was accepted.", "Remove it; never send card data."},
	{"currency_not_allowed", 422, "Currency not allowed", "The merchant may not take payments in this currency. Nothing was accepted.", "Use an allowed currency, or ask the operators."},
	{"amount_over_limit", 422, "Amount over the merchant's limit", "One payment may not be as large. Nothing was accepted.", "Lower the amount, or ask the operators."},
	{"rate_limited", 429, "Too many requests", "The merchant's rate of requests is used up. Nothing was accepted.", "Send again after `Retry-After`, with the same key."},
	{"waiters_limited", 429, "Too many waiting requests", "Too many requests are waiting for this voucher, this merchant or in all.", "Wait for an answer before asking again."},
	{"headers_too_large", 431, "Headers too large", "The headers are over the configured bound. Nothing was accepted.", "Send less."},
	{"internal", 500, "Internal error", "A bug on our side. For a payment request this counts as no answer: it may or may not have been accepted.", "Ask again with the same key."},
	{"not_accepted", 503, "Not accepted", "The payment was certainly not accepted: the gateway cannot keep more at the moment.", "Send again after `Retry-After`, with the same key."},
	{"view_unavailable", 503, "State not known at the moment", "What was asked for is not held here, and core, or one of its databases, is not reached. It says nothing about a payment.", "Ask again after `Retry-After`."},
	{"callback_not_kept", 503, "Callback not kept", "The callback could not be committed.", "The PSP repeats it."},
	{"not_ready", 503, "Not ready", "The process lacks what it needs; at `/readyz`, `missing` names it. Nothing was accepted.", "Send traffic to another replica."},
	{"acceptance_unknown", 504, "Acceptance unknown", "Nobody can say yet whether the payment was accepted. The body names its ids, and gives no token.", "Ask again with the same key and body, or read the voucher with the API key."},
}

// Catalogue gives every error of the API, ordered by status.
func Catalogue() []Problem { return catalogue }

// ProblemOf finds an entry; nil if there is none.
func ProblemOf(code string) *Problem {
	for i := range catalogue {
		if catalogue[i].Code == code {
			return &catalogue[i]
		}
	}
	return nil
}

// codeOfKind is what an error is told as that has no code of the catalogue. Every
// kind is here: an edge maps them all.
func codeOfKind(k fault.Kind) string {
	switch k {
	case fault.Invalid:
		return "field_invalid"
	case fault.Unauthorized:
		return "unauthorized"
	case fault.Forbidden:
		return "merchant_disabled"
	case fault.NotFound:
		return "not_found"
	case fault.Conflict:
		return "idempotency_conflict"
	case fault.TooLarge:
		return "body_too_large"
	case fault.Limited:
		return "rate_limited"
	case fault.Unavailable:
		return "view_unavailable"
	case fault.Unknown:
		return "acceptance_unknown"
	default: // internal, fenced, poison
		return "internal"
	}
}

// told is an error as a client is told it.
type told struct {
	*Problem
	detail, field, fix string
}

// tell maps any error. What a caller caused is told in full; the cause of our own
// failures stays in the log.
func tell(err error) told {
	var e *fault.Error
	errors.As(err, &e)
	var t told
	if e != nil {
		t.Problem = ProblemOf(e.Code)
	}
	if t.Problem == nil {
		t.Problem = ProblemOf(codeOfKind(fault.KindOf(err)))
	}
	t.detail = t.Meaning
	if e != nil && t.Status < 500 {
		t.field, t.fix = e.Field, e.Fix
		if e.Err != nil {
			t.detail = e.Err.Error()
		}
	}
	if t.fix == "" {
		t.fix = t.Action
	}
	return t
}

// invalid is the error of a field, parameter or header.
func invalid(code, field, fix string, cause error) error {
	return &fault.Error{Kind: fault.Invalid, Op: "gateway", Code: code, Field: field, Fix: fix, Err: cause}
}
