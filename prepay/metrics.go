package prepay

import (
	"context"
	"fmt"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
)

// laneMetrics are one account's series, looked up once.
type laneMetrics struct {
	calls    map[event.Op]map[channels.Result]*metrics.Counter
	duration map[event.Op]*metrics.PrometheusHistogram

	inFlight, sendingOldest, due, dueOldest, waiting, unknown, desk *metrics.Gauge
}

func newLaneMetrics(s *metrics.Set, account string) laneMetrics {
	m := laneMetrics{calls: map[event.Op]map[channels.Result]*metrics.Counter{}, duration: map[event.Op]*metrics.PrometheusHistogram{}}
	for _, op := range []event.Op{event.OpPay, event.OpQuery, event.OpClose} {
		m.calls[op] = map[channels.Result]*metrics.Counter{}
		for _, r := range []channels.Result{channels.Done, channels.Declined, channels.NotSent, channels.Unknown} {
			m.calls[op][r] = s.GetOrCreateCounter(fmt.Sprintf(`tallystick_prepay_calls_total{account=%q,op=%q,result=%q}`, account, op, r))
		}
		m.duration[op] = s.GetOrCreatePrometheusHistogram(fmt.Sprintf(`tallystick_prepay_call_duration_seconds{account=%q,op=%q}`, account, op))
	}
	gauge := func(name string) *metrics.Gauge {
		return s.GetOrCreateGauge(fmt.Sprintf(`%s{account=%q}`, name, account), nil)
	}
	m.inFlight = gauge("tallystick_prepay_calls_in_flight")
	m.sendingOldest = gauge("tallystick_prepay_calls_in_flight_oldest_seconds")
	m.due = gauge("tallystick_prepay_calls_due")
	m.dueOldest = gauge("tallystick_prepay_calls_due_oldest_seconds")
	m.waiting = gauge("tallystick_prepay_calls_waiting")
	m.unknown = gauge("tallystick_prepay_calls_unknown")
	m.desk = gauge("tallystick_prepay_calls_on_desk")
	return m
}

func (m *laneMetrics) called(op event.Op, r channels.Result, seconds float64) {
	m.calls[op][r].Inc()
	m.duration[op].Update(seconds)
}

// clear sets the gauges of an account that is gone.
func (m *laneMetrics) clear() {
	for _, g := range []*metrics.Gauge{m.inFlight, m.sendingOldest, m.due, m.dueOldest, m.waiting, m.unknown, m.desk} {
		g.Set(0)
	}
}

// figures sets the gauges that only the store knows.
func (p *Prepay) figures(ctx context.Context, now int64) error {
	stats, err := p.Store.Stats(ctx, now)
	if err != nil {
		return fault.Wrap("prepay: figures", err)
	}
	by := make(map[string]AccountStats, len(stats))
	lost := int64(0)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range stats {
		by[s.Account] = s
		if p.lanes[s.Account] == nil {
			lost += s.Due + s.Waiting
		}
	}
	p.Metrics.GetOrCreateGauge("tallystick_prepay_calls_without_lane", nil).Set(float64(lost))
	for a, l := range p.lanes {
		s := by[a]
		l.metrics.due.Set(float64(s.Due))
		l.metrics.dueOldest.Set(seconds(now, s.OldestDueMillis))
		l.metrics.waiting.Set(float64(s.Waiting))
		l.metrics.unknown.Set(float64(s.Unknown))
		l.metrics.desk.Set(float64(s.Desk))
		oldest := int64(0)
		for _, at := range l.started {
			if oldest == 0 || at < oldest {
				oldest = at
			}
		}
		l.metrics.sendingOldest.Set(seconds(now, oldest))
	}
	return nil
}

// seconds is the age of an instant; 0 for none.
func seconds(nowMillis, atMillis int64) float64 {
	if atMillis == 0 {
		return 0
	}
	return float64(nowMillis-atMillis) / 1000
}
