// Package voucher is the view of what became of vouchers: a fold of topic
// payments by version, in memory, and the long-polls that wait for it. Nothing
// about money reads it.
//
// It starts empty at the end of payments. It holds what this replica accepted or
// is being asked for, within a bound on bytes, and skips the rest by the
// message's key, undecoded. What it does not hold it follows first and then asks
// core for, once; from then on the fold alone keeps it. Versions decide, so that
// messages may come twice; after a gap every entry is asked for again.
//
// A version that a client has seen is never followed by an older one.
package voucher
