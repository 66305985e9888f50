// Package app wires the areas into one process: the only place that knows them
// all. It reads configuration, secrets and directory, opens the stores, starts
// what runs in order and stops it in reverse order.
//
// An App can be run (Run: goroutines, HTTP servers) or stepped (Steps: each
// consumer, lane and schedule does one bounded piece of work when told to), which
// is what the simulation does.
package app
