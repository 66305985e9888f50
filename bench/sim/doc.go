// Package sim runs the whole app below HTTP in one goroutine, in an order drawn
// from a seed: steps of the app, calls to the PSP, payers, callbacks and clients.
// Clock, ids and PSP are its own. At a drawn point the app is abandoned in the
// middle of what it does, and its stores are reopened, as after kill -9.
//
// An Auditor keeps what must be true. The same seed gives the same event log,
// byte for byte: what fails once can be looked at again and again.
package sim
