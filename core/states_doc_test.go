package core_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
)

// rewrite makes TestStates write the drawing instead of comparing it.
var rewrite = flag.Bool("rewrite", false, "write docs/states.md from the transition tables")

const statesDoc = "../docs/states.md"

// The drawing in the documentation is made from the tables that core runs on, and
// this test keeps the two the same.
func TestStates(t *testing.T) {
	drawn := drawStates()
	if *rewrite {
		if err := os.WriteFile(statesDoc, []byte(drawn), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	written, err := os.ReadFile(statesDoc)
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != drawn {
		t.Errorf("%s is not what the transition tables say: go test ./core -run TestStates -rewrite", statesDoc)
	}
}

// A state that is final for the API has no way out, and every other has one.
func TestFinalStatesHaveNoSuccessors(t *testing.T) {
	for from, tos := range core.Transitions() {
		if from.Final() != (len(tos) == 0) {
			t.Errorf("%s: final is %t, successors %v", from, from.Final(), tos)
		}
		for _, to := range tos {
			if _, known := core.Transitions()[to]; !known {
				t.Errorf("%s leads to %s, which is in no row of the table", from, to)
			}
		}
	}
}

// statesOrder is how people read them; a state that is missing here comes last.
var statesOrder = []event.Status{event.Created, event.Dispatched, core.AttemptNotSent, event.Unknown, event.Pending, event.Succeeded,
	event.Declined, event.Closed, event.Expired, event.Rejected}

func drawStates() string {
	var b strings.Builder
	b.WriteString(`# State machines

Drawn from the transition tables in ` + "`core/transitions.go`" + ` by ` + "`go test ./core -run TestStates -rewrite`" + `; do not edit by hand. A
transition that is not drawn here is refused before anything is written, and the SQL guards it again by the old version
and status.
`)
	draw(&b, "Payment order", "A success that comes after a final state is an exception, not a transition: the money goes to suspense.",
		event.Created, core.Transitions())
	draw(&b, "Attempt", "An attempt that certainly reached nobody (`not_sent`) may be sent again under its number. There is one exception to the table:\n"+
		"a success that is heard after an attempt's own end still settles its payment order while that is open, and the attempt\n"+
		"keeps what it was before in its reason.",
		event.Dispatched, core.AttemptTransitions())
	return b.String()
}

func draw(b *strings.Builder, title, note string, first event.Status, table map[event.Status][]event.Status) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n```mermaid\nstateDiagram-v2\n    [*] --> %s\n", title, note, first)
	for _, from := range states(table) {
		for _, to := range ordered(table[from]) {
			fmt.Fprintf(b, "    %s --> %s\n", from, to)
		}
		if len(table[from]) == 0 {
			fmt.Fprintf(b, "    %s --> [*]\n", from)
		}
	}
	b.WriteString("```\n\n| from | to |\n|---|---|\n")
	for _, from := range states(table) {
		to := "final"
		if len(table[from]) > 0 {
			var names []string
			for _, s := range ordered(table[from]) {
				names = append(names, string(s))
			}
			to = strings.Join(names, ", ")
		}
		fmt.Fprintf(b, "| %s | %s |\n", from, to)
	}
}

func states(table map[event.Status][]event.Status) []event.Status {
	var all []event.Status
	for s := range table {
		all = append(all, s)
	}
	return ordered(all)
}

func ordered(s []event.Status) []event.Status {
	s = slices.Clone(s)
	rank := func(s event.Status) int {
		if i := slices.Index(statesOrder, s); i >= 0 {
			return i
		}
		return len(statesOrder)
	}
	slices.SortFunc(s, func(a, b event.Status) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(string(a), string(b))
	})
	return s
}
