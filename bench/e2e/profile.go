package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

const module = "github.com/tallystick/tallystick/"

// areas are the packages whose time is told apart, by the beginning of a
// function's name. A sample belongs to the area that is nearest to where the time
// was spent: what the API asks of the voucher view is the view's.
var areas = [...]struct{ area, prefix string }{
	{"gateway/api", module + "gateway/api."},
	{"gateway/voucher", module + "gateway/voucher."},
	{"gateway/callback", module + "gateway/callback."},
	{"intake", module + "internal/bus/embedded.(*Intake)."},
	{"intake", module + "internal/bus/embedded.(*intakeLog)."},
	{"core", module + "core."}, {"core", module + "core/sqlstore."},
	{"prepay", module + "prepay."}, {"prepay", module + "prepay/sqlstore."},
	{"channels", module + "channels/"},
	{"accounting", module + "accounting."}, {"accounting", module + "accounting/rules."}, {"accounting", module + "accounting/sqlstore."},
}

// otherAreas are looked for, in this order, when none of ours is on the stack.
var otherAreas = [...]struct{ area, prefix string }{
	{"garbage collector", "runtime.gcBgMarkWorker"}, {"garbage collector", "runtime.bgsweep"}, {"garbage collector", "runtime.bgscavenge"},
	{"topics", module + "internal/bus"}, {"topics", "github.com/segmentio/kafka-go"},
	{"coordination", module + "internal/coord"}, {"coordination", "github.com/redis/go-redis"},
	{"http server", "github.com/valyala/fasthttp."},
	{"wiring", module + "cmd/app."},
	{"profiler", "runtime/pprof."}, {"profiler", "runtime.sigprof"},
	{"scheduler", "runtime."},
}

// kinds are what an area's time goes into: the nearest to where it was spent.
var kinds = [...]struct{ kind, prefix string }{
	{"memory", "runtime.mallocgc"}, {"memory", "runtime.gcAssistAlloc"}, {"memory", "runtime.growslice"}, {"memory", "runtime.newobject"},
	{"sqlite", "modernc.org/"},
	{"sql", "database/sql"}, {"sql", module + "internal/sqldb."},
	{"json", "github.com/go-json-experiment/"}, {"json", "encoding/base64"},
	{"crypto", "crypto/"},
	{"net", "github.com/valyala/fasthttp."}, {"net", "net."}, {"net", "internal/poll."},
	{"own", module},
}

// kindOrder is the order of the columns.
var kindOrder = [...]string{"own", "json", "crypto", "sql", "sqlite", "net", "memory", "rest"}

// spent is CPU time by area, and in each by kind.
type spent map[string]map[string]int64

func (s spent) area(area string) (total int64) {
	for _, v := range s[area] {
		total += v
	}
	return total
}

func (s spent) total() (total int64) {
	for a := range s {
		total += s.area(a)
	}
	return total
}

// function is one function's share: flat is spent in it, cum in it and what it
// calls.
type function struct {
	name      string
	flat, cum int64
}

// merge makes one CPU profile of those of several processes.
func merge(raws ...[]byte) ([]byte, error) {
	if len(raws) == 1 {
		return raws[0], nil
	}
	all := make([]*profile.Profile, 0, len(raws))
	for _, raw := range raws {
		p, err := profile.Parse(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("CPU profile: %w", err)
		}
		all = append(all, p)
	}
	p, err := profile.Merge(all)
	if err != nil {
		return nil, fmt.Errorf("CPU profiles: %w", err)
	}
	var out bytes.Buffer
	err = p.Write(&out)
	return out.Bytes(), err
}

// attribute reads a CPU profile.
func attribute(raw []byte) (spent, []function, error) {
	p, err := profile.Parse(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, fmt.Errorf("CPU profile: %w", err)
	}
	s, functions := spent{}, map[string]*function{}
	for _, sample := range p.Sample {
		stack := names(sample)
		nanos := sample.Value[len(sample.Value)-1]
		area, kind := areaOf(stack), kindOf(stack)
		if s[area] == nil {
			s[area] = map[string]int64{}
		}
		s[area][kind] += nanos
		seen := map[string]bool{}
		for i, name := range stack {
			f := functions[name]
			if f == nil {
				f = &function{name: name}
				functions[name] = f
			}
			if i == 0 {
				f.flat += nanos
			}
			if !seen[name] {
				seen[name] = true
				f.cum += nanos
			}
		}
	}
	out := make([]function, 0, len(functions))
	for _, f := range functions {
		out = append(out, *f)
	}
	return s, out, nil
}

// names are the functions on a sample's stack, the innermost first.
func names(s *profile.Sample) (out []string) {
	for _, l := range s.Location {
		for _, line := range l.Line {
			if line.Function != nil {
				out = append(out, line.Function.Name)
			}
		}
	}
	return out
}

func areaOf(stack []string) string {
	for _, name := range stack {
		for _, a := range areas {
			if strings.HasPrefix(name, a.prefix) {
				return a.area
			}
		}
	}
	for _, a := range otherAreas {
		for _, name := range stack {
			if strings.HasPrefix(name, a.prefix) {
				return a.area
			}
		}
	}
	return "rest"
}

func kindOf(stack []string) string {
	for _, name := range stack {
		for _, k := range kinds {
			if strings.HasPrefix(name, k.prefix) {
				return k.kind
			}
		}
	}
	return "rest"
}

// table prints where the time goes, in CPU milliseconds per settled payment:
// cpuMillis is what the whole process took for one.
func (s spent) table(out io.Writer, cpuMillis float64) {
	total := float64(s.total())
	if total == 0 {
		return
	}
	names := make([]string, 0, len(s))
	for a := range s {
		names = append(names, a)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(s.area(b), s.area(a)), cmp.Compare(a, b)) })
	_, _ = fmt.Fprintf(out, "%-18s %9s %6s |", "CPU ms per payment", "total", "share")
	for _, k := range kindOrder {
		_, _ = fmt.Fprintf(out, " %7s", k)
	}
	_, _ = fmt.Fprintln(out)
	for _, a := range names {
		share := float64(s.area(a)) / total
		_, _ = fmt.Fprintf(out, "%-18s %9.4f %5.1f%% |", a, share*cpuMillis, 100*share)
		for _, k := range kindOrder {
			_, _ = fmt.Fprintf(out, " %7.4f", float64(s[a][k])/total*cpuMillis)
		}
		_, _ = fmt.Fprintln(out)
	}
}

// top prints the n functions with the most time, flat and with what they call.
func top(out io.Writer, functions []function, total int64, n int) {
	for _, by := range []struct {
		title string
		of    func(function) int64
	}{{"flat", func(f function) int64 { return f.flat }}, {"cumulative", func(f function) int64 { return f.cum }}} {
		slices.SortFunc(functions, func(a, b function) int { return cmp.Or(cmp.Compare(by.of(b), by.of(a)), cmp.Compare(a.name, b.name)) })
		_, _ = fmt.Fprintf(out, "top %d, %s:\n", n, by.title)
		for _, f := range functions[:min(n, len(functions))] {
			_, _ = fmt.Fprintf(out, "  %5.1f%%  %s\n", 100*float64(by.of(f))/float64(total), f.name)
		}
	}
}
