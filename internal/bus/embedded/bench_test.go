package embedded_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/internal/traffic"
)

// BenchmarkEmit is rows per second into a log table, in durable transactions of
// 1,000 events over 16 groups.
func BenchmarkEmit(b *testing.B) {
	db, err := sqldb.Open(b.Context(), sqldb.Options{Area: "core", Path: filepath.Join(b.TempDir(), "core.db"),
		Migrations: []string{embedded.Schema(bus.Payments)}})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // a benchmark
	log := embedded.NewLog(db, 16, bus.Payments)
	secret, err := ids.NewSecret(make([]byte, ids.SecretLen))
	if err != nil {
		b.Fatal(err)
	}
	events := make([]bus.Event, 1000)
	for i := range events {
		events[i] = bus.Event{ID: fmt.Sprintf("evt_%032d", i), Type: "payment.changed", Version: bus.EnvelopeVersion, AtMillis: 1,
			Payload: make([]byte, 400), Context: ids.Context{BizCode: secret.Trade(traffic.Real, "m", fmt.Sprint(i)), Merchant: "m",
				OrderType: "general", OrderScene: "online", Institution: "sandbox", TraceID: "0123456789abcdef0123456789abcdef",
				Form: traffic.Deposit, Traffic: traffic.Real}}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		if err := db.Write(b.Context(), func(tx *sqldb.Tx) error { return log.Emit(tx, bus.Payments, events) }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(events))/b.Elapsed().Seconds(), "rows/s")
}
