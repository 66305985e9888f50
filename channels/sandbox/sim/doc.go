// Package sim is the sandbox PSP itself, as a simulator: stateful, seeded, and
// with the faults that real PSPs have. It is built in three layers, each usable
// without the next:
//
//   - State is the rules: what a number may become. It has no clock, no HTTP, no
//     goroutine and no faults.
//   - Desk adds accounts, signatures, faults, payers and callbacks in time order.
//     It still has no clock and no goroutine: time is passed in, what is due is
//     asked for. A simulation in one goroutine uses Desk by Channel and Due.
//   - Sim serves a Desk over HTTP and delivers its callbacks.
//
// Which fault a request meets is a pure function of the seed, the account, the
// number, and how many requests of this sort there were under the number: it does
// not depend on the order in which payments arrive, nor on the clock.
package sim
