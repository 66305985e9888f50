package cluster

import (
	"io"
	"maps"
	"strings"
	"testing"
)

// A payment that costs more than a tenth above what it cost in the smallest cluster, or
// with one database, is a failure, as are figures that are missing and a load that was not
// carried; what the JVM compiles does not count.
func TestGrowthIsJudged(t *testing.T) {
	of := func(servers, engines, compiling float64) map[string]any {
		return map[string]any{"rate": 50.0, "settled_per_second": 49.0, "ready_p50_millis": 30.0,
			"cpu_millis_servers": servers, "cpu_millis_engines": engines, "cpu_millis_kafka_compiling": compiling}
	}
	first := row{step{1, 1}, of(6, 5, 1)}
	without := func(name string) map[string]any {
		f := maps.Clone(of(6, 5, 1))
		delete(f, name)
		return f
	}
	slow := of(1, 1, 0)
	slow["settled_per_second"] = 40.0
	for name, c := range map[string]struct {
		rows []row
		want string
	}{
		"it falls":                {[]row{first, {step{2, 1}, of(4, 4, 0)}, {step{4, 1}, of(6, 7.9, 3)}}, ""},
		"it grows":                {[]row{first, {step{4, 1}, of(6, 6, 0.9)}}, "4 processes of each role, 1 databases: a payment costs 1.11 of what it cost in the first"},
		"with databases":          {[]row{first, {step{4, 1}, of(4, 1, 0)}, {step{4, 2}, of(4, 2, 0)}}, "4 processes of each role, 2 databases: a payment costs 1.20 of what it cost with one database"},
		"nothing was settled":     {[]row{first, {step{2, 1}, without("cpu_millis_servers")}}, "a payment costs NaN"},
		"nothing was compiled":    {[]row{first, {step{2, 1}, without("cpu_millis_kafka_compiling")}}, "a payment costs NaN"},
		"not all were carried":    {[]row{first, {step{2, 1}, slow}}, "0.80 of the load was carried"},
		"nobody knows how many":   {[]row{first, {step{2, 1}, without("settled_per_second")}}, "NaN of the load was carried"},
		"the first shows nothing": {[]row{{step{1, 1}, without("cpu_millis_engines")}}, "a payment costs NaN"},
	} {
		failed := strings.Join(judge(io.Discard, c.rows), "; ")
		if c.want == "" && failed != "" || !strings.Contains(failed, c.want) {
			t.Errorf("%s: %q, want %q", name, failed, c.want)
		}
	}
}
