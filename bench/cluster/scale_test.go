package cluster

import (
	"io"
	"strings"
	"testing"
)

// A payment that costs more than a tenth above what it cost in the smallest cluster is a
// failure; what the JVM compiles does not count.
func TestGrowthIsJudged(t *testing.T) {
	row := func(each int, servers, engines, compiling float64) map[string]any {
		return map[string]any{"each": each, "groups": 4 * each, "databases": 1, "rate": 50.0, "ready_p50_millis": 30.0,
			"cpu_millis_servers": servers, "cpu_millis_engines": engines, "cpu_millis_kafka_compiling": compiling}
	}
	rows := []map[string]any{row(1, 6, 5, 1), row(2, 4, 4, 0), row(4, 6, 7.9, 3), row(8, 6, 6, 0.9)}
	failed := judge(io.Discard, rows)
	if len(failed) != 1 || !strings.Contains(failed[0], "8 processes of each role and 1 databases: a payment costs 1.11") {
		t.Errorf("%q", failed)
	}
	if have := rows[1]["ratio"]; have != 0.8 {
		t.Errorf("ratio %v, want 0.8", have)
	}
}
