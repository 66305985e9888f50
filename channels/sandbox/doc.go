// Package sandbox is the driver for the sandbox PSP: a small signed HTTP and JSON
// protocol of our own, described in PROTOCOL.md, so that everything a payment
// goes through can be run without anybody's money. Its simulator is in the folder
// sim, its bytes in the folder wire.
//
// What the driver makes of an answer:
//
//   - NotSent: the connection was refused or could not be made, all connections
//     allowed are in use, or the caller's context was over before the call. No
//     byte of the request has left.
//   - Declined, from Prepay alone: a signed reply says that the payment is
//     declined or closed, or (400) that the request breaks a rule and made no
//     payment.
//   - Done: a signed reply says pending or paid; and whatever Query and Close
//     were told, a declined payment and not_found included.
//   - Unknown: everything else. Time-outs, a connection that closes, 5xx, a reply
//     that is unsigned, wrongly signed, broken, too long or about another number.
//     Also 401, which the PSP cannot sign without making itself an oracle; 409,
//     as another payment exists under the number; and 429.
package sandbox
