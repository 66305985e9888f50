package planted_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/bench/judge"
	"github.com/tallystick/tallystick/bench/planted"
)

// load gives the patches of this source tree.
func load(t *testing.T) (root string, patches []planted.Patch) {
	t.Helper()
	root, err := planted.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if patches, err = planted.Load(root); err != nil {
		t.Fatal(err)
	}
	return root, patches
}

// A patch that no longer applies proves nothing: whoever changes the lines around
// a planted bug plants it again. `make planted` runs them.
func TestEveryPatchApplies(t *testing.T) {
	root, patches := load(t)
	if len(patches) < 5 {
		t.Errorf("%d patches, want at least 5", len(patches))
	}
	for _, p := range patches {
		t.Run(p.Name, func(t *testing.T) {
			if err := p.Applies(t.Context(), root); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a bug is known by, or at least one way of it, is what our sources say today: a line
// of the judge, or of a process, with something in the place of what differs.
func TestWhatIsSaidIsThere(t *testing.T) {
	root, patches := load(t)
	kinds := []judge.Kind{judge.Lost, judge.PaidTwice, judge.BookedTwice, judge.NotBooked, judge.Other}
	verb := regexp.MustCompile(`%[+.0-9]*[a-z]`)
	var said []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil && strings.Contains(text, " ") {
					said = append(said, verb.ReplaceAllString(text, "7"))
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range patches {
		found := slices.ContainsFunc(said, func(text string) bool {
			return p.Says.MatchString(text) || slices.ContainsFunc(kinds, func(k judge.Kind) bool { return p.Says.MatchString(fmt.Sprintf("  %s: %s", k, text)) })
		})
		if !found {
			t.Errorf("%s: nothing in the sources says %q", p.Name, p.Says)
		}
	}
}

func TestHeadersAreRead(t *testing.T) {
	const good = "Bug: b\nBreaks: p\nCaught-By: crash -n 1\nSays: (?m)^lost\n\n--- a/x\n+++ b/x\n"
	for name, tc := range map[string]struct{ text, wrong string }{
		"all":                 {good, ""},
		"and what it needs":   {"Needs: strace -f true\n" + good, ""},
		"without its command": {strings.Replace(good, "Caught-By: crash -n 1\n", "", 1), "Caught-By"},
		"without its words":   {strings.Replace(good, "Says: (?m)^lost\n", "", 1), "Says"},
		"a bad expression":    {strings.Replace(good, "^lost", "(", 1), "missing closing"},
		"a header too many":   {"Author: x\n" + good, "Author"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "bench", "planted")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "one.patch"), []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			all, err := planted.Load(root)
			switch {
			case tc.wrong == "" && (err != nil || len(all) != 1 || all[0].Name != "one" || !all[0].Says.MatchString("lost")):
				t.Errorf("%+v, %v", all, err)
			case tc.wrong != "" && (err == nil || !strings.Contains(err.Error(), tc.wrong)):
				t.Errorf("%v, want one about %s", err, tc.wrong)
			}
		})
	}
}
