package app_test

import (
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/tallystick/tallystick/cmd/app"
)

// opsDocs is what operators read, and the words of our code without its comments.
func opsDocs(t *testing.T) (docs string, code map[string]bool) {
	t.Helper()
	text, err := os.ReadFile("../../docs/ops/README.md")
	must(t, err)
	code = map[string]bool{}
	word := regexp.MustCompile(`\w+`)
	must(t, filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for line := range strings.Lines(string(b)) {
			line, _, _ = strings.Cut(line, "// ")
			for _, w := range word.FindAllString(line, -1) {
				code[w] = true
			}
		}
		return err
	}))
	return regexp.MustCompile("(?s)```.*?```").ReplaceAllString(string(text), ""), code
}

// quoted are the words in backticks that a pattern matches as a whole.
func quoted(docs, pattern string) (words []string) {
	for _, m := range regexp.MustCompile("`("+pattern+")`").FindAllStringSubmatch(docs, -1) {
		words = append(words, m[1])
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// Metrics that operators are told to watch, codes of errors and names of tables are in
// the code under that name.
func TestWhatTheDocsNameIsThere(t *testing.T) {
	docs, code := opsDocs(t)
	theirs := []string{"max_prepared_transactions", "remote_write"} // PostgreSQL's
	metrics := 0
	missing := missingNames(t, docs) // which have a test of their own
	for _, m := range quoted(docs, `[a-z0-9]+(?:_[a-z0-9]+)+(?:\{[^`+"`"+`]*\})?`) {
		name, _, _ := strings.Cut(m, "{")
		if strings.HasPrefix(name, "tallystick_") {
			metrics++
		}
		if strings.HasPrefix(name, "sqlstate_") { // PostgreSQL's own codes behind it
			name = "sqlstate_"
		}
		if !slices.Contains(theirs, name) && !slices.Contains(missing, name) && !code[name] {
			t.Errorf("docs/ops names %s, which is nowhere in the code", name)
		}
	}
	if metrics < 30 {
		t.Fatalf("only %d metrics were found in the docs", metrics)
	}
}

// missingNames are the first column of the table of what /readyz may name.
func missingNames(t *testing.T, docs string) (names []string) {
	t.Helper()
	_, table, found := strings.Cut(docs, "| `missing` of `/readyz` | means |\n|---|---|\n")
	if !found {
		t.Fatal("docs/ops has no table of what /readyz names")
	}
	for row := range strings.Lines(table) {
		if !strings.HasPrefix(row, "|") {
			break
		}
		names = append(names, quoted(strings.Split(row, "|")[1], "[^`]+")...)
	}
	return names
}

// What /readyz names is in the docs, and what the docs say that it names it names.
func TestWhatReadyzNamesIsInTheDocs(t *testing.T) {
	docs, _ := opsDocs(t)
	said := missingNames(t, docs)
	named := []string{"shutting down"} // by the public port itself
	for _, env := range [][]string{nil, {"TALLYSTICK_BUS=kafka", "TALLYSTICK_KAFKA_BROKERS=127.0.0.1:1", "TALLYSTICK_KAFKA_PRODUCE_TIMEOUT=100ms",
		"TALLYSTICK_STORES=postgres", "TALLYSTICK_POSTGRES_DATABASES=1=postgres://127.0.0.1:1/t"}} {
		dir, _ := initialised(t)
		a, err := app.Open(t.Context(), dir, env, io.Discard)
		must(t, err)
		named = append(named, a.ProbeNames()...)
		must(t, a.Close())
	}
	for _, name := range said {
		if !slices.Contains(named, name) {
			t.Errorf("docs/ops says that /readyz names %s: it names %v", name, named)
		}
	}
	rows := regexp.MustCompile(`^(.*_stalled|accounting_1)$`) // "and so on", "..."
	for _, name := range named {
		if !slices.Contains(said, name) && !rows.MatchString(name) {
			t.Errorf("/readyz names %s, which is not in docs/ops", name)
		}
	}
}

// Every key of the configuration that operators are told of is one.
func TestKeysInTheDocsAreThere(t *testing.T) {
	docs, _ := opsDocs(t)
	dir, _ := initialised(t)
	keys := map[string]bool{}
	for _, file := range []string{app.ConfigFile, app.DirectoryFile} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		must(t, err)
		var tree map[string]any
		must(t, yaml.Unmarshal(text, &tree))
		addKeys(keys, "", tree)
	}
	theirs := []string{"retention.ms", "retention.bytes", "unclean.leader.election.enable"} // Kafka's
	files := regexp.MustCompile(`\.(key|password|yaml|conf|snapshot)$`)
	found := 0
	for _, key := range quoted(docs, `[a-z_]+(?:\.[a-z_*]+)+`) {
		if files.MatchString(key) || slices.Contains(theirs, key) {
			continue
		}
		found++
		ok := false
		for k := range keys {
			matched, err := path.Match(key, k)
			must(t, err)
			ok = ok || matched
		}
		if !ok {
			t.Errorf("docs/ops names the key %s, which is none", key)
		}
	}
	for _, set := range quoted(docs, `[a-z_]+: [a-z0-9]+`) {
		found++
		if key, _, _ := strings.Cut(set, ":"); !keys[key] {
			t.Errorf("docs/ops says %s: there is no such key", set)
		}
	}
	if found < 30 {
		t.Fatalf("only %d keys were found in the docs", found)
	}
}

// addKeys adds the keys of a tree with dots between them. Those of lists are named by
// themselves.
func addKeys(keys map[string]bool, prefix string, tree map[string]any) {
	for key, v := range tree {
		keys[prefix+key] = true
		switch sub := v.(type) {
		case map[string]any:
			addKeys(keys, prefix+key+".", sub)
		case []any:
			for _, one := range sub {
				if m, ok := one.(map[string]any); ok {
					addKeys(keys, "", m)
				}
			}
		}
	}
}
