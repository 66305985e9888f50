package archtest_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tallystick/tallystick/"

// root is the module's folder.
const root = "../.."

// sourceFile is a Go file with its imports.
type sourceFile struct {
	path    string // from the module's folder
	dir     string
	imports []string
	test    bool
	lines   []string
}

// sources reads every Go file of the module.
func sources(t *testing.T) []sourceFile {
	t.Helper()
	var out []sourceFile
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "testdata" || d.Name() == "planted") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		s := sourceFile{path: rel, dir: filepath.Dir(rel), test: strings.HasSuffix(rel, "_test.go"), lines: strings.Split(string(text), "\n")}
		for _, i := range f.Imports {
			s.imports = append(s.imports, strings.Trim(i.Path.Value, `"`))
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 100 {
		t.Fatalf("only %d files were found: the walk is wrong", len(out))
	}
	return out
}

// leaf are the packages that everything may import.
const leaf = `internal/(money|ids|fault|traffic)`

// allowed says, for packages that match the first pattern, which of ours they may
// import. The first match counts. Tests may import more, see below.
var allowed = []struct{ pkg, may string }{
	{`internal/(fault|traffic|money)`, `none`},
	{`internal/ids`, `internal/traffic`},
	{`internal/(cardguard|wholefile)`, `none`},
	{`internal/strictyaml`, leaf}, // the files that operators write
	{`internal/obs`, `internal/cardguard|` + leaf},
	{`internal/sqldb`, leaf},
	{`internal/bus`, leaf},
	{`internal/bus/embedded`, `internal/(bus|sqldb)|` + leaf},
	{`internal/bus/kafka`, `internal/bus|` + leaf},
	{`internal/engines`, `none`}, // for tests and the demo
	{`internal/engines/pgtest`, `internal/(engines|sqldb)`},
	{`internal/lease`, `internal/sqldb|` + leaf},
	{`internal/move`, `internal/(lease|sqldb)|` + leaf},
	{`internal/coord`, leaf},
	{`internal/coord/(local|redis|coordtest)`, `internal/coord|` + leaf},
	{`internal/bus/bustest`, `internal/bus|` + leaf},
	{`internal/bus/bustest/sqlreader`, `internal/(bus|bus/(bustest|embedded)|sqldb)|` + leaf},
	{`internal/archtest`, `none`},

	{`channels`, leaf},
	{`channels/all`, `channels(/[a-z]+)?|` + leaf},
	{`channels/channeltest`, `channels|` + leaf},
	{`channels/(breaker|limit|router)`, `channels|` + leaf},
	{`channels/sandbox(/.*)?`, `channels(/sandbox(/.*)?)?|` + leaf},

	{`core/merchant`, `channels|internal/(strictyaml|wholefile)|` + leaf},
	{`core/event`, `channels|` + leaf},
	{`prepay/event`, `channels|` + leaf},
	{`accounting/event`, leaf},

	{`core`, `core/(event|merchant)|prepay/event|channels|internal/bus|` + leaf},
	{`core/(sqlstore|storetest)`, `core(/event|/merchant)?|channels|internal/(bus|bus/embedded|lease|move|sqldb)|` + leaf},
	{`prepay`, `prepay/event|core/(event|merchant)|channels|internal/bus|` + leaf},
	{`prepay/(sqlstore|storetest)`, `prepay(/event)?|core/event|channels|internal/(bus|bus/embedded|lease|move|sqldb)|` + leaf},
	{`accounting`, `accounting/event|internal/bus|` + leaf},
	{`accounting/rules`, `accounting|core/event|internal/bus|` + leaf},
	{`accounting/(sqlstore|storetest)`, `accounting(/event)?|internal/(bus|bus/embedded|lease|move|sqldb)|` + leaf},

	{`gateway/voucher`, `core/event|channels|internal/bus|` + leaf},
	{`gateway/callback`, `core/event|channels|internal/bus|` + leaf},
	{`gateway/api`, `gateway/(voucher|callback)|core/(event|merchant)|channels|internal/(bus|cardguard)|` + leaf},

	{`cmd/app`, `.*`}, // the wiring: the only place that knows all
	{`cmd/tallystick`, `cmd/app|bench/(load|rig)|channels(/(breaker|sandbox/sim))?|core(/event|/merchant)?|internal/(bus|bus/embedded)|` + leaf},
	{`cmd/pspsim`, `channels(/sandbox(/.*)?)?|internal/obs|` + leaf},
	{`bench(/.*)?`, `.*`},
}

// drivers are libraries that one place alone may import.
var drivers = []struct{ library, onlyIn string }{
	{`modernc\.org/(sqlite|libc).*`, `internal/sqldb`},
	{`github\.com/jackc/pgx/v5.*`, `internal/sqldb`},
	{`github\.com/pressly/goose.*`, `internal/sqldb`},
	{`database/sql.*`, `internal/sqldb`},
	{`github\.com/sony/gobreaker.*`, `channels/breaker|internal/coord/redis`},
	{`github\.com/segmentio/kafka-go.*`, `internal/bus/kafka`},
	{`github\.com/redis/go-redis.*`, `internal/coord/redis`},
	{`github\.com/tallystick/tallystick/channels/all`, `cmd/app`},
	{`encoding/json`, `nowhere: github.com/go-json-experiment/json is stricter, and three times as fast`},
}

func matches(pattern, s string) bool { return regexp.MustCompile(`^(` + pattern + `)$`).MatchString(s) }

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		for _, imported := range s.imports {
			for _, d := range drivers {
				if matches(d.library, imported) && !matches(d.onlyIn, s.dir) && !s.test {
					t.Errorf("%s imports %s: only %s may", s.path, imported, d.onlyIn)
				}
			}
			ours, isOurs := strings.CutPrefix(imported, module)
			if !isOurs || s.test {
				continue // tests are black box, and may put pieces together
			}
			i := slices.IndexFunc(allowed, func(r struct{ pkg, may string }) bool { return matches(r.pkg, s.dir) })
			if i < 0 {
				t.Errorf("%s: no rule for package %s: list what it may import", s.path, s.dir)
				break
			}
			if !matches(allowed[i].may, ours) {
				t.Errorf("%s imports %s, which is not listed for %s", s.path, ours, s.dir)
			}
		}
	}
}

// The rules themselves are proven on what they must forbid.
func TestRulesForbid(t *testing.T) {
	for _, tc := range []struct{ from, to string }{
		{"core", "accounting"}, {"core", "prepay"}, {"accounting", "core/event"}, {"gateway/api", "core"}, {"gateway/api", "core/sqlstore"},
		{"prepay", "core"}, {"channels/sandbox", "core/merchant"}, {"channels/breaker", "channels/sandbox"}, {"core/event", "core"}, {"internal/bus", "internal/sqldb"},
		{"accounting/sqlstore", "accounting/rules"}, {"internal/money", "internal/fault"},
		{"gateway/api", "internal/coord"}, {"channels/limit", "internal/coord"}, {"internal/coord", "internal/coord/redis"}, {"internal/coord/local", "internal/coord/redis"},
	} {
		i := slices.IndexFunc(allowed, func(r struct{ pkg, may string }) bool { return matches(r.pkg, tc.from) })
		if i >= 0 && matches(allowed[i].may, tc.to) {
			t.Errorf("%s may import %s", tc.from, tc.to)
		}
	}
}
