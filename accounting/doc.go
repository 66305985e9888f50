// Package accounting is the double-entry ledger: it books what happened as
// balanced, immutable journal entries and keeps the balance of every account.
//
// An event on another area's topic is turned into a Draft by the Rules, and
// booked by the Poster as one Entry, in batches. Of each batch, the Store
// commits in one transaction: the entries and their postings, the balances, the
// consumer's places, and one event per entry on topic postings.
//
// What is promised:
//   - Every entry balances per currency; a draft that does not is parked with its
//     key, never booked and never dropped.
//   - An event is booked once, for ever. The place is the first fence, and a
//     unique key on the event is the second: booking it again gives the first
//     result.
//   - A balance is the fold of its account's postings, and entries are never
//     changed. Where this is found violated, that group stops and an alarm is
//     raised; nothing is written.
//   - One rejected entry does not fail its batch.
//   - An account that every entry touches costs one row update per batch and group.
//
// Amounts of postings are signed: debits positive, credits negative. A balance
// that is shown to someone is positive on the account's normal side.
package accounting
