package accounting

import "github.com/tallystick/tallystick/internal/bus"

// Verified is what the verification of one group found out for the comparison
// with core: all of it is of one moment.
type Verified struct {
	// Payments is the last message of core's that had been applied, or put aside;
	// Postings the last one told.
	Payments, Postings bus.Place
	Parked             map[string]bool          // events that were put aside
	Notices            int64                    // messages of topic postings
	Begin              bus.Place                // up to where topic postings is gone
	Entries            map[string]VerifiedEntry // by the event that they book
}

// VerifiedEntry is an entry of the journal. Gross is the sum of its debits in
// minor units, 0 if it was rejected.
type VerifiedEntry struct {
	EntryID string
	Reason  string
	Gross   int64
}
