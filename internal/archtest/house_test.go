package archtest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Sizes: about 70 and 400 are aimed at; these are where it ends.
const (
	functionLinesMax = 80
	fileLinesMax     = 450
)

// longer are the exceptions, with their reasons. The list may only shrink.
var longer = map[string]string{}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	docs := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, s.path), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		docs[s.dir] = docs[s.dir] || f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != ""
	}
	for dir, ok := range docs {
		if !ok {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}

func TestNothingStartsByItself(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join(root, s.path), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init()", s.path)
			}
			lines := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
			if name := s.path + " " + fn.Name.Name; lines > functionLinesMax && longer[name] == "" {
				t.Errorf("%s has %d lines: at most %d", name, lines, functionLinesMax)
			}
		}
		if n := len(s.lines); n > fileLinesMax && longer[s.path] == "" {
			t.Errorf("%s has %d lines: at most %d", s.path, n, fileLinesMax)
		}
	}
}

// suites are packages of tests that are no _test files.
const suites = `.*/[a-z]*test`

// banned are calls that must not be made, and where they may be made all the same.
var banned = []struct{ call, why, exceptIn string }{
	{`time\.(Now|Since|Until)\(`, "clocks are handed in; only the deadline of a context is in the runtime's time", `cmd/.*|bench(/.*)?|channels/sandbox/sim|channels/(limit|sandbox)`},
	{`rand\.(Int|IntN|Int64N|Float64|Shuffle|Perm)\(`, "randomness is handed in", `bench/(crash|rig)`},
	{`uuid\.(New|NewString|NewV7|NewRandom)\(`, "ids come from ids.Source", `none`},
	{`http\.(Get|Post|DefaultClient)`, "clients have bounds", `bench(/.*)?`},
	{`fmt\.Print(ln|f)?\(`, "libraries do not print", `cmd/tallystick|cmd/pspsim|bench(/.*)?`},
	{`slog\.(Info|Warn|Error|Debug|Default)\(`, "loggers are handed in", `none`},
	{`metrics\.(NewCounter|GetOrCreateCounter|NewGauge|GetOrCreateGauge|NewHistogram|GetOrCreateHistogram)\(`, "metric sets are handed in", `none`},
	{`os\.Exit\(|log\.Fatal`, "errors are returned", `cmd/tallystick|cmd/pspsim|bench(/.*)?`},
	{`kafka\.(NewReader|ReaderConfig|Writer|NewWriter|WriterConfig|DialLeader|ConsumerGroupConfig)\b`, "the library's reader and writer retry, batch and commit by themselves: what was appended and read would not be ours to say", `none`},
	{`context\.Background\(\)`, "contexts are handed in", `cmd/.*|bench(/.*)?|gateway/api`},
}

func TestBannedCalls(t *testing.T) {
	for _, b := range banned {
		call := regexp.MustCompile(`(^|[^.\w])(` + b.call + `)`)
		for _, s := range sources(t) {
			if s.test || matches(b.exceptIn, s.dir) || matches(suites, s.dir) {
				continue
			}
			for n, line := range s.lines {
				if code, _, _ := strings.Cut(line, "//"); call.MatchString(code) {
					t.Errorf("%s:%d: %s: %s", s.path, n+1, b.why, strings.TrimSpace(line))
				}
			}
		}
	}
}

// A target that is declared and has no rule does nothing, and says that all is well.
func TestMakefileTargetsHaveRules(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^\.PHONY:(.*)$`).FindStringSubmatch(string(text))
	if declared == nil {
		t.Fatal("the Makefile declares no targets")
	}
	for _, target := range strings.Fields(declared[1]) {
		if !regexp.MustCompile(`(?m)^` + target + `:.*$`).Match(text) {
			t.Errorf("make %s has no rule", target)
		}
	}
}

// dependencies are the modules that we import ourselves, each with its reason.
var dependencies = map[string]string{
	"github.com/VictoriaMetrics/metrics": "Prometheus metrics with hardly a dependency",
	"github.com/alecthomas/kong":         "the command line",
	"github.com/bojanz/currency":         "display of amounts, nothing else",
	"github.com/getkin/kin-openapi":      "tests hold recorded traffic against the API's description",
	"github.com/go-json-experiment/json": "JSON that refuses duplicate keys and bad UTF-8: what becomes encoding/json/v2",
	"github.com/goccy/go-yaml":           "configuration, strict, with good errors",
	"github.com/google/pprof":            "the benches read CPU profiles",
	"github.com/google/uuid":             "the text form of UUIDs",
	"github.com/jackc/pgx/v5":            "PostgreSQL",
	"github.com/pressly/goose/v3":        "migrations",
	"github.com/redis/go-redis/v9":       "Redis, which replicas coordinate through",
	"github.com/segmentio/kafka-go":      "Apache Kafka, the bus of the cluster profile",
	"github.com/sony/gobreaker/v2":       "circuit breakers",
	"github.com/valyala/fasthttp":        "HTTP, in and out",
	"go.uber.org/goleak":                 "tests that no goroutine is left",
	"golang.org/x/sys":                   "two socket calls that package syscall lacks: a gateway stops without a connection lost",
	"golang.org/x/time":                  "rate limits",
	"modernc.org/libc":                   "what modernc.org/sqlite runs on: statements are run without database/sql",
	"modernc.org/sqlite":                 "the embedded stores, in Go alone",
	"pgregory.net/rapid":                 "property tests",
}

func TestDependencies(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	var direct []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && strings.HasPrefix(fields[1], "v") && !strings.Contains(line, "// indirect") {
			direct = append(direct, fields[0])
		}
	}
	if len(direct) == 0 {
		t.Fatal("go.mod lists no direct dependency: it was not read right")
	}
	for _, d := range direct {
		if dependencies[d] == "" {
			t.Errorf("%s is a new dependency: list it with its reason, or do without", d)
		}
	}
	for d := range dependencies {
		if !slices.Contains(direct, d) {
			t.Errorf("%s is listed, and not a direct dependency any more", d)
		}
	}
}

// Where nothing may be missing, a test that was skipped fails, whatever it says, unless
// it is named: by the runner, or by who runs it as one that another run has.
func TestSkipsAreNamed(t *testing.T) {
	runner, err := filepath.Abs(filepath.Join(root, ".ci", "gotest"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module skips\n", "skips_test.go": `package skips

import "testing"

func TestOne(t *testing.T)      { t.Skip("covered by another one") }
func TestDiskFull(t *testing.T) { t.Skip("not here") }
func TestRuns(t *testing.T)     {}
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		env  []string
		fine bool
	}{
		{[]string{"CI=1"}, false},
		{[]string{"CI=1", "MAY_SKIP=TestOn|TestRuns"}, false},
		{[]string{"CI=1", "MAY_SKIP=TestRuns|TestOne"}, true},
		{[]string{"CI="}, true},
	} {
		cmd := exec.CommandContext(t.Context(), runner, "skips", ".") //nolint:gosec // our own script
		cmd.Dir, cmd.Env = dir, append(append(os.Environ(), "MAY_SKIP="), tc.env...)
		if out, err := cmd.CombinedOutput(); (err == nil) != tc.fine {
			t.Errorf("%v: %v\n%s", tc.env, err, out)
		}
	}
}
