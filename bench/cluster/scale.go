package cluster

import (
	"context"
	"fmt"
	"io"
	"math"

	"github.com/tallystick/tallystick/bench/rig"
)

// growthMax is how much more CPU a payment may cost in a cluster that has grown, of what
// it cost in a small one.
const growthMax = 1.10

// step is one size of a cluster. Each process of a role has the groups, and each group
// the load, that the others have.
type step struct{ processes, databases int }

// groupsEach is how many groups come with a process of each role.
const groupsEach = 4

func steps() []step { return []step{{1, 1}, {2, 1}, {4, 1}, {4, 2}} }

// scale runs one size after the other, with as much load for each process, and holds the
// CPU of a payment against the first, and that of more databases against one as well.
// What the broker's JVM compiles is left out: it depends on for how long it has run.
func scale(ctx context.Context, of bench) (map[string]any, error) {
	figures := map[string]any{"growth_max": growthMax}
	var rows []row
	var all []map[string]any
	rate := of.rate / float64(steps()[len(steps())-1].processes)
	for _, s := range steps() {
		b := of
		b.figures = map[string]any{}
		b.Each, b.Databases, b.Groups = s.processes, s.databases, groupsEach*s.processes
		b.rate = rate * float64(s.processes)
		err := b.alone(ctx)
		rows, all = append(rows, row{s, b.figures}), append(all, b.figures)
		figures["steps"] = all
		if err != nil {
			return figures, fmt.Errorf("%d processes, %d databases: %w", s.processes, s.databases, err)
		}
	}
	return figures, rig.Join(judge(of.out, rows))
}

// row is a size and its figures.
type row struct {
	step
	figures map[string]any
}

// judge tells what a payment costs at each size, and what costs too much or shows nothing.
func judge(out io.Writer, rows []row) (failed []string) {
	costs := map[step]float64{}
	for _, r := range rows {
		say := func(format string, args ...any) {
			failed = append(failed, fmt.Sprintf("%d processes of each role, %d databases: ", r.processes, r.databases)+fmt.Sprintf(format, args...))
		}
		cost := r.cost()
		costs[r.step] = cost
		ratio := cost / costs[rows[0].step]
		r.figures["cpu_millis_without_compiling"], r.figures["ratio"] = cost, ratio
		_, _ = fmt.Fprintf(out, "%d processes of each role, %d databases, %3.0f/s: %6.2f ms CPU per settled payment, %.2f of the first; ready in p50 %.0f ms\n",
			r.processes, r.databases, r.of("rate"), cost, ratio, r.of("ready_p50_millis"))
		if carried := r.of("settled_per_second") / r.of("rate"); !(carried >= carriedMin) {
			say("%.2f of the load was carried, and has to be %.2f", carried, carriedMin)
		}
		if !(ratio <= growthMax) {
			say("a payment costs %.2f of what it cost in the first, and may %.2f", ratio, growthMax)
		}
		one, there := costs[step{r.processes, 1}]
		if more := cost / one; there && !(more <= growthMax) {
			say("a payment costs %.2f of what it cost with one database, and may %.2f", more, growthMax)
		}
	}
	return failed
}

// carriedMin is how much of the load has to be settled for each second until the last is
// booked: a cluster that falls behind has large batches, which are cheap.
const carriedMin = 0.9

// of is a figure; NaN if there is none.
func (r row) of(name string) float64 {
	if v, ok := r.figures[name].(float64); ok {
		return v
	}
	return math.NaN()
}

// cost is the CPU of one settled payment in ms, of ours and of the engines.
func (r row) cost() float64 {
	return r.of("cpu_millis_servers") + r.of("cpu_millis_engines") - r.of("cpu_millis_"+rig.Compiling)
}
