package e2e_test

import (
	"bytes"
	"testing"

	"github.com/google/pprof/profile"

	"github.com/tallystick/tallystick/bench/e2e"
)

const module = "github.com/tallystick/tallystick/"

// profileOf makes a profile with one sample of one nanosecond: a stack, the
// innermost function first.
func profileOf(t *testing.T, stack ...string) []byte {
	t.Helper()
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}}}
	s := &profile.Sample{Value: []int64{1, 1}}
	for i, name := range stack {
		f := &profile.Function{ID: uint64(i + 1), Name: name} //nolint:gosec // small
		l := &profile.Location{ID: f.ID, Line: []profile.Line{{Function: f}}}
		p.Function, p.Location, s.Location = append(p.Function, f), append(p.Location, l), append(s.Location, l)
	}
	p.Sample = append(p.Sample, s)
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTimeGoesToTheNearestArea(t *testing.T) {
	run := module + "cmd/app.(*App).Run.func3"
	for _, c := range []struct {
		name, area, kind string
		stack            []string
	}{
		{"SQL of core", "core", "sqlite", []string{"modernc.org/sqlite/lib._sqlite3VdbeExec", "database/sql.(*Stmt).ExecContext",
			module + "internal/sqldb.(*Tx).Exec", module + "internal/bus/embedded.(*Log).Emit", module + "core/sqlstore.(*Store).Apply", module + "core.(*Core).apply",
			module + "internal/bus.(*Consumer).Step", run}},
		{"the view, asked by the API", "gateway/voucher", "own", []string{"runtime.mapaccess1", module + "gateway/voucher.(*Views).Hold",
			module + "gateway/api.(*Service).append", "github.com/valyala/fasthttp.(*Server).serveConn"}},
		{"memory of the API's JSON", "gateway/api", "memory", []string{"runtime.mallocgc", "github.com/go-json-experiment/json.Marshal",
			module + "gateway/api.(*exchange).json", "github.com/valyala/fasthttp.(*Server).serveConn"}},
		{"the commit of the intake", "intake", "sqlite", []string{"modernc.org/libc.Xfsync", module + "internal/sqldb.(*DB).Write",
			module + "internal/bus/embedded.(*Intake).Step", run}},
		{"a topic is read", "topics", "sql", []string{"database/sql.(*Rows).Scan", module + "internal/bus/embedded.(*topicLog).Read",
			module + "internal/bus.(*Consumer).gather", run}},
		{"a response is written", "http server", "net", []string{"internal/runtime/syscall/linux.Syscall6", "internal/poll.(*FD).Write",
			"github.com/valyala/fasthttp.(*Server).serveConn"}},
		{"a PSP is called", "channels", "net", []string{"internal/poll.(*FD).Write", "github.com/valyala/fasthttp.(*HostClient).Do",
			module + "channels/sandbox.(*driver).ask", module + "prepay.(*Prepay).call"}},
		{"an event is no area", "accounting", "json", []string{"github.com/go-json-experiment/json.Unmarshal", module + "core/event.Decode",
			module + "accounting/rules.Payments.Entries", run}},
		{"the library reads a topic", "topics", "net", []string{"internal/poll.(*FD).Read", "net.(*conn).Read", "github.com/segmentio/kafka-go/protocol.(*Conn).Read"}},
		{"the collector", "garbage collector", "rest", []string{"runtime.scanobject", "runtime.gcBgMarkWorker"}},
		{"nothing of ours", "scheduler", "rest", []string{"runtime.findRunnable", "runtime.schedule"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spent, err := e2e.Attribute(profileOf(t, c.stack...))
			if err != nil || len(spent) != 1 || spent[c.area][c.kind] != 1 {
				t.Errorf("want %s, %s; got %v, %v", c.area, c.kind, spent, err)
			}
		})
	}
}

func TestProfilesOfSeveralProcessesAreOne(t *testing.T) {
	core := profileOf(t, module+"core.(*Core).apply")
	spent, err := e2e.Attribute(core, profileOf(t, "runtime.gcBgMarkWorker"), core)
	if err != nil || len(spent) != 2 || spent["core"]["own"] != 2 || spent["garbage collector"]["rest"] != 1 {
		t.Errorf("got %v, %v", spent, err)
	}
}
