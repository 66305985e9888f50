// Package accept measures what it costs to accept a payment durably, as a ratio
// to an HTTP server that answers the same bytes and does nothing: requests per
// second, latency, server CPU and allocations per accept.
//
// Servers are child processes, so that their CPU can be told from the load's. The
// load is one thread with an epoll of its own: 256 keep-alive connections, one
// request in flight on each, every key new but for 1 % that repeat the one before
// on the same connection. Echo and accept take turns, five times, and the ratio of
// each pair is taken: what disturbs the machine disturbs both.
//
// With -cluster the gateway is one process on Kafka, whose CPU is told as well.
//
// A figure counts only if it is true: afterwards every 202 is looked for in the
// intake's log, or in Kafka's topic, and its fields compared; and what was refused
// must not be there.
package accept
