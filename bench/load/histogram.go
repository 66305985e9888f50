package load

import (
	"math"
	"sync/atomic"
	"time"
)

// Histogram counts durations in buckets that grow by 5 %, from 1 µs to about
// 17 minutes. Safe for concurrent use; the zero value is ready.
type Histogram struct {
	buckets [426]atomic.Int64
	n       atomic.Int64
}

const growth = 1.05

// Record counts one duration.
func (h *Histogram) Record(d time.Duration) {
	i := 0
	if us := float64(d) / float64(time.Microsecond); us > 1 {
		i = min(int(math.Log(us)/math.Log(growth))+1, len(h.buckets)-1)
	}
	h.buckets[i].Add(1)
	h.n.Add(1)
}

// Count is the number of durations recorded.
func (h *Histogram) Count() int64 { return h.n.Load() }

// Quantile is the duration that a share q (0 to 1) of all were not longer than,
// to within 5 %; 0 without any.
func (h *Histogram) Quantile(q float64) time.Duration {
	want := int64(math.Ceil(q * float64(h.n.Load())))
	if want == 0 {
		return 0
	}
	seen := int64(0)
	for i := range h.buckets {
		if seen += h.buckets[i].Load(); seen >= want {
			return time.Duration(math.Pow(growth, float64(i)) * float64(time.Microsecond))
		}
	}
	return 0
}
