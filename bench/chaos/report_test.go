package chaos

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The report shows each second and each trouble, and says what was not as promised.
func TestReport(t *testing.T) {
	begun := time.Unix(1_790_000_000, 0)
	seconds := make([]second, 100)
	for i := range seconds {
		seconds[i] = second{Offered: 50, Accepted: 50}
	}
	seconds[40] = second{Offered: 50, Refused: 49, Unknown: 1, Settled: 700}
	seconds[41] = second{failures: failures{Wrong: 1, Cut: 22, Unreached: 1}}
	b := &bench{rate: 50, report: filepath.Join(t.TempDir(), "report.html"), shop: &shop{begun: begun, seconds: seconds},
		results: []result{{Name: "Kafka <killed>", Seconds: 30, Offered: 1500, Accepted: 45, Unknown: 9, Elsewhere: 7, failed: failures{Wrong: 3, Cut: 2, Unreached: 1}, from: begun.Add(20 * time.Second), to: begun.Add(50 * time.Second)},
			{Name: "disk full", Seconds: 10, from: begun.Add(60 * time.Second), to: begun.Add(70 * time.Second)}}}
	write := func() string {
		t.Helper()
		if err := b.writeReport(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(b.report)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	text := write()
	for _, want := range []string{"Kafka &lt;killed&gt;", "<td>2<td>disk full<td>10", "nothing was lost", `x="200" y="0" width="300"`, `x="600" y="0" width="100"`,
		">800</text>", ">1m30s</text>", ">10s</text>", "400.0,33.0 ", "400.0,22.5 ", "410.0,108.0 ", "<td>9<td>6<td>7<td>"} { // 49 of a chart up to 60, 700 of one up to 800, and 24
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %s", want)
		}
	}
	for svg := range strings.SplitSeq(text, "<svg") {
		if body, _, has := strings.Cut(svg, "</svg>"); has {
			var any struct{}
			if err := xml.Unmarshal([]byte("<svg"+body+"</svg>"), &any); err != nil {
				t.Errorf("a chart is no XML: %v", err)
			}
		}
	}
	if strings.Count(text, "<polyline") != 5 {
		t.Errorf("%d lines, want 5", strings.Count(text, "<polyline"))
	}
	b.failed = []string{"a payment was <lost>"}
	if text = write(); strings.Contains(text, "nothing was lost") || !strings.Contains(text, "a payment was &lt;lost&gt;") {
		t.Error("the report does not say what was not as promised")
	}
}

func TestNice(t *testing.T) {
	for n, want := range map[float64]float64{0: 1, .3: 1, 1: 1, 1.2: 2, 3: 5, 6: 10, 10: 10, 182: 200, 730: 1000} {
		if have := nice(n); have != want {
			t.Errorf("%g: %g, want %g", n, have, want)
		}
	}
}
