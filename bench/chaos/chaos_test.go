package chaos

import (
	"slices"
	"testing"
	"time"
)

// The short form: few payments, and of each kind of trouble one, for as long as it takes
// to lose a lease. Nothing is lost or done twice, and where the brokers live every
// request is accepted.
func TestFewPaymentsThroughTroubles(t *testing.T) {
	names := []string{"PostgreSQL killed", "Redis killed", "Kafka killed", "core 1 stands still", "prepay 1 stands still", "link to PostgreSQL cut", "rolling restart"}
	b := &bench{out: t.Output(), rate: 15, hold: 5 * time.Second, calm: time.Second, patient: true,
		chosen: func(trouble string) bool { return slices.Contains(names, trouble) }}
	if err := b.all(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(b.results) != len(names) {
		t.Errorf("%d of %d troubles came", len(b.results), len(names))
	}
}
