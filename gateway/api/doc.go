// Package api is the gateway's side towards merchants and checkout clients:
//
//	POST /v1/payments        accept an intent: durable, or certainly not, or unknown
//	GET  /v1/vouchers/{id}   what became of it, with a bounded long-poll
//	GET  /v1/trades/{id}     the whole chain, by any id, for the owner alone
//	GET  /healthz, /readyz
//
// Service does the work and knows no HTTP; Server is its fasthttp shell. An
// acceptance needs the intake alone: no PSP, no core. Its answer has three
// values. 202 is given only after the intake's fsync. 4xx, 429 and 503 mean that
// the intent is certainly not kept. 504 means that nobody can say yet, and
// carries the ids under which it can be asked; so must any lost answer and any
// 500 be taken.
//
// Nothing of a RequestCtx outlives its handler: fasthttp reuses the memory for
// the next request, and a slice kept by a committer would be committed as
// someone else's payment. Whatever is kept is copied into strings first.
//
// The HTTP contract is docs/api/openapi.yaml, and docs/api/errors.md lists every
// error; tests hold both against this code.
package api
