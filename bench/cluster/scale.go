package cluster

import (
	"context"
	"fmt"
	"io"

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
// CPU of a payment against the first. What the broker's JVM compiles is left out: it
// depends on for how long it has run.
func scale(ctx context.Context, of bench) (map[string]any, error) {
	var rows []map[string]any
	rate := of.rate / float64(steps()[len(steps())-1].processes)
	for _, s := range steps() {
		b := of
		b.figures, b.Each, b.Databases, b.Groups, b.rate = map[string]any{}, s.processes, s.databases, groupsEach*s.processes, rate*float64(s.processes)
		if err := b.alone(ctx); err != nil {
			return nil, fmt.Errorf("%d processes, %d databases: %w", s.processes, s.databases, err)
		}
		rows = append(rows, b.figures)
	}
	failed := judge(of.out, rows)
	figures := map[string]any{"steps": rows, "growth_max": growthMax}
	if len(failed) > 0 {
		return figures, rig.Join(failed)
	}
	return figures, nil
}

// judge tells what a payment costs at each size, and what costs too much.
func judge(out io.Writer, rows []map[string]any) (failed []string) {
	first := cost(rows[0])
	for _, f := range rows {
		ratio := cost(f) / first
		f["cpu_millis_without_compiling"], f["ratio"] = cost(f), ratio
		_, _ = fmt.Fprintf(out, "%d processes of each role, %2d groups, %d databases, %3.0f/s: %6.2f ms CPU per settled payment, %.2f of the first; ready in p50 %.0f ms\n",
			f["each"], f["groups"], f["databases"], f["rate"], cost(f), ratio, f["ready_p50_millis"])
		if ratio > growthMax {
			failed = append(failed, fmt.Sprintf("%d processes of each role and %d databases: a payment costs %.2f of what it cost with one, and may %.2f", f["each"], f["databases"], ratio, growthMax))
		}
	}
	return failed
}

// cost is the CPU of one settled payment in ms, of ours and of the engines.
func cost(f map[string]any) float64 {
	of := func(name string) float64 { v, _ := f["cpu_millis_"+name].(float64); return v }
	return of("servers") + of("engines") - of(rig.Compiling)
}
