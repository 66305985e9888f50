// Package core decides. It owns trade orders (what is sold) and payment orders
// (how it is paid), and settles every exception: duplicate, late, wrong amount,
// unknown.
//
// Core consumes intents, callbacks and outcomes. For each batch it loads the
// trades that the messages belong to, applies the messages to them in memory by
// the rules of this package, and saves what changed together with its places
// and the events that tell of it: on topic dispatch what prepay is to ask which
// channel account, on topic payments every change. The rules are pure: they see
// aggregates, a clock and the directory, never a store.
package core
