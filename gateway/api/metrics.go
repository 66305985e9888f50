package api

import (
	"fmt"

	"github.com/VictoriaMetrics/metrics"
)

// serviceMetrics are of accepting, whoever drives it.
type serviceMetrics struct {
	accepted, repeated, conflicts, limited, withdrawn, unknown *metrics.Counter
	hinted, hintsUnproven                                      *metrics.Counter
	acceptSeconds                                              *metrics.PrometheusHistogram
}

// acceptBuckets are seconds: a fsync takes a tenth of a millisecond to ten.
var acceptBuckets = []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5}

func newServiceMetrics(set *metrics.Set) *serviceMetrics {
	result := func(r string) *metrics.Counter {
		return set.GetOrCreateCounter(`tallystick_accept_total{result="` + r + `"}`)
	}
	return &serviceMetrics{accepted: result("accepted"), repeated: result("repeated"), conflicts: result("conflict"),
		hinted: set.GetOrCreateCounter("tallystick_hints_used_total"), hintsUnproven: set.GetOrCreateCounter("tallystick_hints_unproven_total"),
		limited: result("rate_limited"), withdrawn: result("withdrawn"), unknown: result("unknown"),
		acceptSeconds: set.GetOrCreatePrometheusHistogramExt("tallystick_accept_seconds", acceptBuckets)}
}

// route is one of the API's paths, for metrics.
type route int

// The routes. A long-poll is one of its own, as its duration means nothing.
const (
	routeOther route = iota
	routePayments
	routeList
	routeVoucher
	routeVoucherWait
	routeTrade
	routeCallback
	routeHealth
	routeReady
	routes int = iota
)

// routePatterns are the label values of the routes.
var routePatterns = [routes]string{"other", "POST /v1/payments", "GET /v1/payments", "GET /v1/vouchers/{id}", "GET /v1/vouchers/{id}?wait",
	"GET /v1/trades/{id}", "POST /v1/callbacks/{channel}/{account}", "GET /healthz", "GET /readyz"}

// routeMetrics are rate, errors and duration per route.
type routeMetrics struct {
	requests [routes][6]*metrics.Counter // by status class
	seconds  [routes]*metrics.PrometheusHistogram
}

func newRouteMetrics(set *metrics.Set) *routeMetrics {
	m := &routeMetrics{}
	for r, pattern := range routePatterns {
		for class := 2; class <= 5; class++ {
			m.requests[r][class] = set.GetOrCreateCounter(fmt.Sprintf(`tallystick_http_requests_total{route=%q,class="%dxx"}`, pattern, class))
		}
		m.seconds[r] = set.GetOrCreatePrometheusHistogramExt(fmt.Sprintf(`tallystick_http_seconds{route=%q}`, pattern), acceptBuckets)
	}
	return m
}
