package chaos

import (
	"fmt"
	"html"
	"os"
	"strings"
)

// The chart: a second is so many pixels wide, the rate so many high.
const (
	secondWide = 3
	chartHigh  = 220
)

// writeReport writes what happened, second by second, as a page with one chart.
func (b *bench) writeReport() error {
	var p strings.Builder
	seconds := b.shop.seconds
	top := 1
	for _, s := range seconds {
		top = max(top, s.Offered, s.Settled)
	}
	y := func(n int) float64 { return chartHigh - float64(n)*chartHigh/float64(top) }
	width := len(seconds)*secondWide + 20
	fmt.Fprintf(&p, `<!doctype html><meta charset="utf-8"><title>Chaos</title><style>body{font:14px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}td:first-child,th:first-child{text-align:left}</style>
<h1>What clients saw while things went wrong</h1><p>%g payments per second were offered. Grey bands are the time of each trouble.</p>
<svg width="%d" height="%d" xmlns="http://www.w3.org/2000/svg">`, b.rate, width, chartHigh+60)
	for i, r := range b.results {
		x, to := r.from.Sub(b.shop.begun).Seconds()*secondWide, r.to.Sub(b.shop.begun).Seconds()*secondWide
		fmt.Fprintf(&p, `<rect x="%.1f" y="0" width="%.1f" height="%d" fill="#ddd"/><text x="%.1f" y="%d" font-size="11">%s</text>`,
			x, max(2, to-x), chartHigh, x, chartHigh+14+14*(i%3), html.EscapeString(r.Name))
	}
	line := func(colour string, of func(second) int) {
		points := make([]string, len(seconds))
		for i, s := range seconds {
			points[i] = fmt.Sprintf("%d,%.1f", i*secondWide, y(of(s)))
		}
		fmt.Fprintf(&p, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>`, colour, strings.Join(points, " "))
	}
	line("#1a7f37", func(s second) int { return s.Accepted })
	line("#0969da", func(s second) int { return s.Settled })
	line("#bf8700", func(s second) int { return s.Refused })
	line("#cf222e", func(s second) int { return s.Unknown })
	p.WriteString(`</svg><p><b style="color:#1a7f37">accepted</b>, <b style="color:#0969da">booked</b>, <b style="color:#bf8700">refused (429, 503)</b>, <b style="color:#cf222e">unknown (504, no answer)</b>, each per second</p>
<table><tr><th>trouble<th>lasted, s<th>offered<th>accepted<th>refused<th>unknown<th>later than 1 s<th>slowest, ms<th>accepting again, s<th>backlog drained, s</tr>`)
	for _, r := range b.results {
		fmt.Fprintf(&p, `<tr><td>%s<td>%.0f<td>%d<td>%d<td>%d<td>%d<td>%d<td>%.0f<td>%.1f<td>%.1f</tr>`, html.EscapeString(r.Name), r.Seconds, r.Offered, r.Accepted,
			r.Refused, r.Unknown, r.Late, r.SlowestMillis, r.AcceptsAfter, r.DrainedAfter)
	}
	p.WriteString("</table>")
	for _, f := range b.failed {
		fmt.Fprintf(&p, "<p><b>Not as promised:</b> %s", html.EscapeString(f))
	}
	if len(b.failed) == 0 {
		p.WriteString("<p>In the end nothing was lost and nothing came twice: vouchers, core, prepay, the ledger and the PSP's takings agree.")
	}
	return os.WriteFile(b.report, []byte(p.String()), 0o600)
}
