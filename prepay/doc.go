// Package prepay makes the calls to PSPs. Core decides what is to be asked, of
// which channel account and under which number; prepay asks, repeats where a
// repetition cannot pay twice, and polls until the fate of a number is known.
//
// A number (out_trade_no) is one row, a Call, that goes from due to sending to
// answered, and back to due while there is more to ask. A new one starts as sending if
// its lane is idle. What is promised:
//
//   - A call is committed as sending before its first byte leaves. Found in
//     sending by a later process, it is queried first and never just paid again.
//   - A time-out is Unknown, never failure. A number that is Unknown is asked
//     after for ever, with a backoff that grows to six hours and stays there. No
//     row is dropped: each one is final, waits for core's word after NotSent, or
//     has a time at which it is asked again.
//   - What is final or stopped is cleaned away when it is old (KeepMillis) and its
//     number has expired. A number can't be sent anew for that: core gives a number one
//     expiry for ever, and what has expired before its first call is never sent.
//   - "Not found" is neither a close nor a proof that nothing was sent. The same
//     number is paid again, with the same body at the same account, only where
//     the channel declares that repeatable.
//   - NotSent is said only by the process that made the call, and only of a
//     number of which no earlier call may have reached the PSP.
//   - What expired before its first call is never sent.
//
// Each channel account has a lane with slots of its own, so that a PSP that
// hangs holds up nobody but itself. Calls run on an Executor; what they come to
// is recorded by a recorder, many answers of all lanes in one transaction.
//
// Dispatches of one trade arrive in the order in which core made them. So a
// query, close or stop for a number without a row can only be a defect
// elsewhere, or as old as what is cleaned away: it is logged and counted as an
// orphan, and nothing is kept.
package prepay
