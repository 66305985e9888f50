package app_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What operators are told to watch, and what /readyz is said to name, is in the
// code under that name.
func TestWhatTheDocsNameIsThere(t *testing.T) {
	text, err := os.ReadFile("../../docs/ops/README.md")
	must(t, err)
	var code strings.Builder
	must(t, filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		code.Write(b)
		return err
	}))
	names := map[string]bool{}
	for _, m := range regexp.MustCompile("`(tallystick_[a-z_]+)").FindAllStringSubmatch(string(text), -1) {
		names[m[1]] = true
	}
	if len(names) < 10 {
		t.Fatalf("only %d metrics were found in the docs", len(names))
	}
	for name := range names {
		if !strings.Contains(code.String(), name) {
			t.Errorf("docs/ops names the metric %s, which is nowhere in the code", name)
		}
	}
}
