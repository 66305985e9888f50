package accept

import (
	"fmt"
	"slices"
)

// window is what one server came to in one turn.
type window struct {
	perSecond, p50Millis, p99Millis  float64
	cpuMicros, allocs                float64 // of the server, per accept
	perCommit                        float64 // accepts; on a cluster those that one partition gets at once
	kafkaMicros, redisMicros         float64 // CPU per accept
	compilingMicros                  float64 // of Kafka's
	accepted, repeats, limited, shed int
	checked, inCore                  int
	unreadBytes, oldestUnread        float64 // at the end of the load
}

// median is of one figure over the turns of a kind.
func (b *bench) median(kind string, of func(window) float64) float64 {
	values := make([]float64, 0, b.rounds)
	for _, w := range b.windows[kind] {
		values = append(values, of(w))
	}
	return median(values)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// ratio is the median, over the turns, of a figure of a kind over the echo's.
func (b *bench) ratio(kind string, of func(window) float64) float64 {
	var ratios []float64
	for i := range min(len(b.windows[kind]), len(b.windows[kindEcho])) {
		ratios = append(ratios, of(b.windows[kind][i])/of(b.windows[kindEcho][i]))
	}
	return median(ratios)
}

func perSecond(w window) float64 { return w.perSecond }
func cpuMicros(w window) float64 { return w.cpuMicros }

func (b *bench) figures() map[string]any {
	out := map[string]any{"connections": b.connections, "rounds": b.rounds, "window_seconds": b.width.Seconds(), "cluster": b.onCluster}
	for kind := range b.windows {
		out[kind+"_per_second"] = b.median(kind, perSecond)
		out[kind+"_p50_millis"] = b.median(kind, func(w window) float64 { return w.p50Millis })
		out[kind+"_p99_millis"] = b.median(kind, func(w window) float64 { return w.p99Millis })
		out[kind+"_server_cpu_micros"] = b.median(kind, cpuMicros)
		out[kind+"_allocs"] = b.median(kind, func(w window) float64 { return w.allocs })
		if kind == kindEcho {
			continue
		}
		if b.onCluster {
			out[kind+"_kafka_cpu_micros"] = b.median(kind, func(w window) float64 { return w.kafkaMicros })
			out[kind+"_kafka_compiling_cpu_micros"] = b.median(kind, func(w window) float64 { return w.compilingMicros })
			out[kind+"_redis_cpu_micros"] = b.median(kind, func(w window) float64 { return w.redisMicros })
		}
		out[kind+"_per_commit"] = b.median(kind, func(w window) float64 { return w.perCommit })
		total := window{}
		for _, w := range b.windows[kind] {
			total.accepted += w.accepted
			total.checked += w.checked
			total.inCore += w.inCore
			total.repeats += w.repeats
			total.limited += w.limited
			total.shed += w.shed
		}
		out[kind+"_ratio"], out[kind+"_server_cpu_ratio"] = b.ratio(kind, perSecond), b.ratio(kind, cpuMicros)
		out[kind+"_accepted"], out[kind+"_found"], out[kind+"_found_in_core"], out[kind+"_repeats"] = total.accepted, total.checked, total.inCore, total.repeats
		out[kind+"_429"], out[kind+"_503"] = total.limited, total.shed
		out[kind+"_unread_bytes_at_end"] = b.median(kind, func(w window) float64 { return w.unreadBytes })
		out[kind+"_oldest_unread_seconds_at_end"] = b.median(kind, func(w window) float64 { return w.oldestUnread })
	}
	out["violations"] = len(b.violations)
	return out
}

func (b *bench) print(kinds []string) {
	if len(b.windows[kindEcho]) == 0 {
		return
	}
	for _, kind := range kinds {
		if kind == kindEcho {
			continue
		}
		_, _ = fmt.Fprintf(b.out, "%s: %.2f of the echo's requests per second, at %.2f times its server CPU (medians of %d pairs)\n", kind,
			b.ratio(kind, perSecond), b.ratio(kind, cpuMicros), len(b.windows[kind]))
	}
}
