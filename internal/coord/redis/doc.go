// Package redis coordinates replicas through Redis, by go-redis. Nothing that a
// caller asks waits for Redis: answers come from memory, and one goroutine talks to
// Redis, one pipeline at a time, within Config.CallTimeout and behind a breaker of
// its own. Redis keeps nothing that must not be lost: it may be killed, emptied,
// or hang.
//
// # Limits
//
// Each replica has a share of its own of every bucket, rate ÷ replicas, and uses it
// without asking. What it has used it tells Redis with the next call. What it needs
// beyond that it draws from the bucket in Redis, which knows what all have used, in
// portions and ahead: before its own share has run out.
//
// In any time T, replicas that reach Redis together get at most
//
//	2 × Burst + PerSecond × T + 2 × replicas × portion
//
// tokens: a full bucket here and the shares there, and what each replica holds, or
// has used and not told. A portion is a quarter of the burst, or what the rate
// gives within PortionAge if that is more; at most PortionMax, at least 1. What
// is left of it goes back when nothing was drawn for PortionAge. A replica that cannot reach Redis has its
// share: PerSecond ÷ replicas, and Burst ÷ replicas, at least 1. Replicas are
// counted in Redis, by a heartbeat; without it the last number counts, and before
// there was one, Config.Replicas.
//
// # Hints and wake-ups
//
// Both go by PUBLISH, many in one message, and come by one subscription for each
// replica: at most once, stored nowhere, and never asked for, as an acceptance takes
// less time than a round trip. Who was not connected has missed them.
package redis
