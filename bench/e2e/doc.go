// Package e2e measures whole payments: how many per second one process settles,
// from the first accept to the last posting, and what each costs in CPU, by area.
//
// The server is `tallystick serve` in a process of its own, on a folder of its own.
// This process is the merchant, its customers and the PSP: it asks for payments
// over HTTP, long-polls each voucher until it is ready, answers the server's calls
// with the latencies and faults of the demo, and calls back when a payer has paid.
// Load and simulator share the machine with the server, and are part of the figure.
//
// By default the load is closed: as many users as -users, each with one payment
// that is not ready yet, so that the server is always busy and never buried. -rate
// makes it open: a constant rate, whatever the server does.
//
// With -cluster the server is processes of each role, on Kafka, PostgreSQL and Redis,
// and the CPU of these is told as well.
//
// Afterwards everything must be explained: every voucher known, each order final,
// the ledger balanced and equal to what the PSP took, to the minor unit.
package e2e
