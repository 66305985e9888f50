package prepay_test

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
)

// One operation is one payment: dispatched, drawn, answered as pending, and
// stopped, in batches of 64. cpu-ns/op is what it costs in user and system time:
// the figure to hold a change against on a machine that others share.
func BenchmarkPayment(b *testing.B) {
	const batch = 64
	w := newWorld(b, b.TempDir(), "a")
	w.limits.ConcurrentMax = batch
	w.psps["a"].answer = func(request) channels.Outcome { return withQR }
	b.ReportAllocs()
	statements, commits, cpu := w.store.DB().Statements(), w.store.DB().Commits(), cpuNanos(b)
	for n := 0; n < b.N; n += batch {
		var pays, stops []dispatch
		for i := range batch {
			order := fmt.Sprint("o", n+i)
			pays = append(pays, dispatch{order: order, account: "a", op: event.OpPay})
			stops = append(stops, dispatch{order: order, account: "a", op: event.OpStop})
		}
		w.apply(pays...)
		w.turn()
		w.apply(stops...)
		w.log, w.psps["a"].requests = &bytes.Buffer{}, nil
	}
	b.ReportMetric(float64(cpuNanos(b)-cpu)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(w.store.DB().Statements()-statements)/float64(b.N), "statements/op")
	b.ReportMetric(float64(w.store.DB().Commits()-commits)/float64(b.N), "commits/op")
}

// cpuNanos is the CPU that this process has used.
func cpuNanos(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
