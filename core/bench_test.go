package core_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	prepay "github.com/tallystick/tallystick/prepay/event"
)

// One operation is one payment: intent, outcome and callback, in batches of 64.
func BenchmarkPayment(b *testing.B) {
	const batch = 64
	h := newHarness(b)
	b.ReportAllocs()
	start := cpu()
	statements := h.store.DB().Statements()
	for n := 0; n < b.N; n += batch {
		var intents, outcomes, callbacks []bus.Event
		for i := range batch {
			in, e := h.intent(order{id: fmt.Sprint("o", n+i)})
			c := e.Context
			c.Institution = "sandbox"
			number := ids.OutTradeNo(in.Y, 0)
			intents = append(intents, e)
			outcomes = append(outcomes, bus.Event{ID: "evt_x", Type: prepay.TypeOutcome, Version: 1, Context: c,
				Payload: prepay.Outcome{OutTradeNo: number, Account: "a", Op: "pay", Outcome: pendingOutcome()}.Encode()})
			callbacks = append(callbacks, bus.Event{ID: "evt_c", Type: event.TypeCallback, Version: 1, Context: c,
				Payload: event.Encode(event.CallbackReceived{Channel: "sandbox", Account: "a", Raw: []byte("raw"), Event: channels.CallbackEvent{
					EventID: "e", OutTradeNo: number, State: channels.StatePaid, TransactionID: "t", Paid: money.Of(10_000, "CNY")}})})
		}
		h.must(h.core.ApplyIntents(context.Background(), h.batch(bus.Intents, intents...)))
		h.must(h.core.ApplyOutcomes(context.Background(), h.batch(bus.Outcomes, outcomes...)))
		h.must(h.core.ApplyCallbacks(context.Background(), h.batch(bus.Callbacks, callbacks...)))
	}
	b.ReportMetric(float64((cpu()-start).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(h.store.DB().Statements()-statements)/float64(b.N), "statements/op")
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
