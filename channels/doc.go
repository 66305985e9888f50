// Package channels is the port to payment service providers (PSPs) and its
// types. A channel is a driver; a channel account is a merchant's configured
// credentials for it. A driver gets one folder below this one, with its
// simulator beside it, and one line in channels/all.
//
// What a PSP call came to is an Outcome with four results. Done and Declined are
// what the PSP said. NotSent may be said only by who knows that no byte of the
// request left: breaker open, limiter, connection refused. Anything else is
// Unknown: time-outs, broken replies, 5xx. Unknown is never failure.
package channels
