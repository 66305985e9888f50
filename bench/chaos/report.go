package chaos

import (
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"os"
	"strings"
	"time"
)

//go:embed report.html
var reportHTML string

// The charts' own units: the page stretches them to its width.
const (
	chartWide = 1000.0
	chartHigh = 180.0
)

// page is what report.html shows.
type page struct {
	Rate    float64
	Charts  []chart
	Results []result
	Failed  []string
}

// chart is some figures, second by second, over the whole time.
type chart struct {
	Title  string
	Lines  []line
	Bands  []band
	Rows   []tick // of the height
	Ticks  []tick // of the time
	Height float64
}

type line struct{ Name, Colour, Points string }

// band is the time of a trouble; its number is that in the table.
type band struct {
	Number     int
	From, Wide float64
}

type tick struct {
	At   float64
	Text string
}

// writeReport writes what happened as a page with charts.
func (b *bench) writeReport() error {
	t, err := template.New("report").Funcs(template.FuncMap{"number": func(i int) int { return i + 1 }}).Parse(reportHTML)
	if err != nil {
		return err
	}
	seconds, begun := b.shop.seconds, b.shop.begun
	p := page{Rate: b.rate, Results: b.results, Failed: b.failed, Charts: []chart{
		newChart("Answers to clients, per second", seconds, map[string]func(second) int{
			"accepted": func(s second) int { return s.Accepted }, "refused": func(s second) int { return s.Refused }, "unknown": func(s second) int { return s.Unknown }, "failed": func(s second) int { return s.failures.sum() }}),
		newChart("Payments booked, per second", seconds, map[string]func(second) int{"booked": func(s second) int { return s.Settled }}),
	}}
	for i := range p.Charts {
		p.Charts[i].Bands = bands(b.results, begun, len(seconds))
	}
	f, err := os.OpenFile(b.report, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := t.Execute(f, p); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// colours are those of the lines, in the order in which they are drawn.
var colours = []struct{ name, colour string }{{"accepted", "#1a7f37"}, {"booked", "#0969da"}, {"refused", "#bf8700"}, {"unknown", "#8250df"}, {"failed", "#cf222e"}}

// newChart draws some figures of each second. It is as high as the highest of them.
func newChart(title string, seconds []second, figures map[string]func(second) int) chart {
	c := chart{Title: title, Height: chartHigh}
	most := 1
	for _, of := range figures {
		for _, s := range seconds {
			most = max(most, of(s))
		}
	}
	step := nice(float64(most) / 4)
	top := step * math.Ceil(float64(most)/step)
	high := func(n float64) float64 { return chartHigh * (1 - n/top) }
	for n := 0.0; n <= top; n += step {
		c.Rows = append(c.Rows, tick{high(n), fmt.Sprint(n)})
	}
	wide := chartWide / float64(max(1, len(seconds)))
	every := 5
	for _, s := range []int{10, 30, 60, 120, 300, 600} {
		if len(seconds)/every > 12 {
			every = s
		}
	}
	for s := 0; s < len(seconds); s += every {
		c.Ticks = append(c.Ticks, tick{float64(s) * wide, (time.Duration(s) * time.Second).String()})
	}
	for _, l := range colours {
		of := figures[l.name]
		if of == nil {
			continue
		}
		points := make([]string, len(seconds))
		for i, s := range seconds {
			points[i] = fmt.Sprintf("%.1f,%.1f", float64(i)*wide, high(float64(of(s))))
		}
		c.Lines = append(c.Lines, line{l.name, l.colour, strings.Join(points, " ")})
	}
	return c
}

// nice is 1, 2 or 5 times a power of ten: at least n, and at least 1.
func nice(n float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(max(1, n))))
	for _, f := range []float64{1, 2, 5} {
		if f*power >= n {
			return f * power
		}
	}
	return 10 * power
}

// bands are the times of the troubles.
func bands(results []result, begun time.Time, seconds int) (out []band) {
	wide := chartWide / float64(max(1, seconds))
	for i, r := range results {
		out = append(out, band{i + 1, r.from.Sub(begun).Seconds() * wide, max(2, r.to.Sub(r.from).Seconds()*wide)})
	}
	return out
}
