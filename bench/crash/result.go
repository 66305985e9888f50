package crash

import (
	"slices"
	"time"

	"github.com/tallystick/tallystick/bench/judge"
)

// Result is what a run showed.
type Result struct {
	judge.Verdict          // as it stands
	Kills         int      // processes killed
	Points        []string // points at which one died

	Flushes   map[string]int64 // of each area's files; nil without strace
	Commits   map[string]int64 // writing transactions of each area, by its own count
	recovered []time.Duration
}

// Figures are those of the bench's last line. recovered_in_millis is from the
// start of a process to its first healthy answer, and for information only.
func (r *Result) Figures() map[string]any {
	f := map[string]any{"kills": r.Kills, "points": len(r.Points), "orders": r.Orders, "acknowledged": r.Acknowledged, "final": r.Final,
		"open": r.Open, "paid": r.Paid, "paid_minor": r.PaidMinor, "retried_same_voucher": r.RetriedSame, "violations": len(r.Violations)}
	for _, k := range []judge.Kind{judge.Lost, judge.PaidTwice, judge.BookedTwice, judge.NotBooked} {
		f[string(k)] = r.Count(k)
	}
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
