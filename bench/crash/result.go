package crash

import (
	"fmt"
	"slices"
	"time"
)

// kind is what a violation breaks.
type kind string

const (
	lost        kind = "lost"         // a voucher was acknowledged, and core does not know it
	paidTwice   kind = "paid_twice"   // one order was, or may be, paid twice
	bookedTwice kind = "booked_twice" // the ledger has more than the PSPs took
	notBooked   kind = "not_booked"   // the ledger has less than the PSPs took
	other       kind = "other"
)

// Violation is something that must not be.
type Violation struct {
	Kind kind
	What string
}

// Result is what a run showed.
type Result struct {
	Kills        int      // children killed
	Points       []string // points at which one died
	Acknowledged int      // vouchers with a 202
	Orders       int      // asked for, whatever the answer
	Final, Open  int      // of the acknowledged
	Paid         int      // numbers that the PSPs took money for
	PaidMinor    int64
	Violations   []Violation

	Flushes     map[string]int64 // of each area's files; nil without strace
	Commits     map[string]int64 // writing transactions of each area, by its own count
	recovered   []time.Duration
	retriedSame int
}

func (r *Result) add(k kind, format string, args ...any) {
	r.Violations = append(r.Violations, Violation{k, fmt.Sprintf(format, args...)})
}

func (r *Result) count(k kind) (n int) {
	for _, v := range r.Violations {
		if v.Kind == k {
			n++
		}
	}
	return n
}

// Figures are those of the bench's last line. recovered_in_millis is from the
// start of a process to its first healthy answer, and for information only.
func (r *Result) Figures() map[string]any {
	f := map[string]any{"kills": r.Kills, "points": len(r.Points), "orders": r.Orders, "acknowledged": r.Acknowledged, "final": r.Final,
		"open": r.Open, "paid": r.Paid, "paid_minor": r.PaidMinor, "retried_same_voucher": r.retriedSame, "violations": len(r.Violations),
		"lost": r.count(lost), "paid_twice": r.count(paidTwice), "booked_twice": r.count(bookedTwice), "not_booked": r.count(notBooked)}
	if n := len(r.recovered); n > 0 {
		sorted := slices.Sorted(slices.Values(r.recovered))
		f["recovered_in_millis"] = map[string]any{"median": sorted[n/2].Milliseconds(), "max": sorted[n-1].Milliseconds()}
	}
	if r.Flushes != nil {
		f["flushes"], f["batches"] = r.Flushes[flushedArea], r.Commits[flushedArea]
		f["flushes_by_area"], f["commits_by_area"] = r.Flushes, r.Commits
	}
	return f
}
