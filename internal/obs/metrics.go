package obs

import (
	"strconv"
	"strings"

	"github.com/VictoriaMetrics/metrics"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/pprofhandler"
)

// Name is a metric's name with its labels, given as names and values in turn,
// in the order given. A merchant's or an order's id is never a label: there is
// no bound on how many there are. It panics on a name without a value.
func Name(name string, labels ...string) string {
	if len(labels) == 0 {
		return name
	}
	var b strings.Builder
	b.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(labels[i])
		b.WriteByte('=')
		b.WriteString(strconv.Quote(labels[i+1]))
	}
	b.WriteByte('}')
	return b.String()
}

// Latency is a histogram in seconds, fine enough to see both a voucher given
// in under a millisecond and a PSP that takes a minute. A second call with the
// same name gives the same histogram.
func Latency(set *metrics.Set, name string) *metrics.PrometheusHistogram {
	return set.GetOrCreatePrometheusHistogramExt(name, []float64{
		0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60})
}

// Operator is the handler of the operator port: GET /metrics (the set's and the
// process's) and GET /debug/pprof/. It must not be reachable from outside.
func Operator(set *metrics.Set) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		path := string(ctx.Path())
		switch {
		case path != "/metrics" && !strings.HasPrefix(path, "/debug/pprof/"):
			ctx.Error("not found; try /metrics or /debug/pprof/", fasthttp.StatusNotFound)
		case !ctx.IsGet():
			ctx.Response.Header.Set("Allow", "GET")
			ctx.Error("only GET", fasthttp.StatusMethodNotAllowed)
		case path == "/metrics":
			ctx.SetContentType("text/plain; version=0.0.4; charset=utf-8")
			set.WritePrometheus(ctx)
			metrics.WriteProcessMetrics(ctx)
		default:
			pprofhandler.PprofHandler(ctx)
		}
	}
}
