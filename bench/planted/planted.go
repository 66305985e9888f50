// Package planted proves that the proofs can fail. Each patch of this folder
// plants one bug that loses or doubles money; it is applied to a copy of the tree,
// and the command that it names must fail there, with the words that it names.
//
// A patch begins with headers:
//
//	Bug: what it does
//	Breaks: the promise
//	Caught-By: arguments of `go run ./bench`
//	Says: a regular expression that the output must match
//	Needs: a command that must succeed, or nothing can be caught; may be left out
package planted

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
)

// Patch is one planted bug.
type Patch struct {
	Name, Bug, Breaks string
	CaughtBy          []string
	Says              *regexp.Regexp
	Needs             []string
	path              string
}

// caughtMax bounds one command.
const caughtMax = 5 * time.Minute

// Load reads all patches of a source tree, by name.
func Load(root string) ([]Patch, error) {
	paths, err := filepath.Glob(filepath.Join(root, "bench", "planted", "*.patch"))
	if err != nil {
		return nil, fault.Wrap("planted", err)
	}
	var all []Patch
	for _, path := range paths {
		p, err := read(path)
		if err != nil {
			return nil, fault.Wrap(filepath.Base(path), err)
		}
		all = append(all, p)
	}
	return all, nil
}

func read(path string) (p Patch, err error) {
	text, err := os.ReadFile(path) //nolint:gosec // of our own tree
	if err != nil {
		return p, err
	}
	p.Name, p.path = strings.TrimSuffix(filepath.Base(path), ".patch"), path
	head, _, _ := strings.Cut(string(text), "\n--- ")
	for line := range strings.Lines(head) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "":
		case "Bug":
			p.Bug = value
		case "Breaks":
			p.Breaks = value
		case "Caught-By":
			p.CaughtBy = strings.Fields(value)
		case "Needs":
			p.Needs = strings.Fields(value)
		case "Says":
			if p.Says, err = regexp.Compile(value); err != nil {
				return p, err
			}
		default:
			return p, fmt.Errorf("no header %q", name)
		}
	}
	if p.Bug == "" || p.Breaks == "" || len(p.CaughtBy) == 0 || p.Says == nil {
		return p, errors.New("wants the headers Bug, Breaks, Caught-By and Says")
	}
	return p, nil
}

// Root is the folder of the module that this process was started in.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	return strings.TrimSpace(string(out)), fault.Wrap("planted: find the module", err)
}

// Applies checks that a patch applies to a tree, every line of it.
func (p *Patch) Applies(ctx context.Context, root string) error { return p.git(ctx, root, "--check") }

// git applies to a folder, whatever repository it may be in.
func (p *Patch) git(ctx context.Context, dir string, flags ...string) error {
	cmd := exec.CommandContext(ctx, "git", append(append([]string{"apply", "--whitespace=nowarn"}, flags...), p.path)...) //nolint:gosec // our own patch
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s does not apply: %w: %s", p.Name, err, bytes.TrimSpace(out))
	}
	return nil
}

// verdict is what became of a planted bug.
type verdict string

const (
	caught  verdict = "caught"
	missed  verdict = "MISSED"
	skipped verdict = "SKIPPED"
)

// Try plants the bug in a copy of the tree and gives what the command said.
func (p *Patch) Try(ctx context.Context, root string) (verdict, []byte, error) {
	if len(p.Needs) > 0 && exec.CommandContext(ctx, p.Needs[0], p.Needs[1:]...).Run() != nil { //nolint:gosec // our own patch
		return skipped, nil, nil
	}
	dir, err := os.MkdirTemp("", "tallystick-planted-")
	if err != nil {
		return missed, nil, fault.Wrap("planted", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // temporary
	if err := copyTree(dir, root); err != nil {
		return missed, nil, fault.Wrap("planted: copy", err)
	}
	if err := p.git(ctx, dir); err != nil {
		return missed, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, caughtMax)
	defer cancel()
	// -trimpath: what was compiled in one copy is not compiled again in the next.
	exe := filepath.Join(dir, "planted-bench")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", exe, "./bench")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return missed, out, fmt.Errorf("%s does not build: %w", p.Name, err)
	}
	cmd := exec.CommandContext(ctx, exe, p.CaughtBy...) //nolint:gosec // our own build and patch
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-trimpath")
	cmd.WaitDelay = 10 * time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it has children of its own to end
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return missed, out, ctx.Err()
	}
	if err != nil && p.Says.Match(out) {
		return caught, out, nil
	}
	return missed, out, nil
}

// copyTree copies what a build needs: no repository, no data, no large binaries.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel != "." && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > 4<<20 {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // of our own tree
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, 0o600)
	})
}

// Bench is `go run ./bench planted`: every planted bug must be caught.
func Bench(ctx context.Context, fs *flag.FlagSet, args []string, out io.Writer) (map[string]any, error) {
	_ = fs.Bool("short", false, "the same: there is no shorter way")
	only := fs.String("only", "", "only the patch of this name")
	verbose := fs.Bool("v", false, "print what each command said")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	root, err := Root(ctx)
	if err != nil {
		return nil, err
	}
	patches, err := Load(root)
	if err != nil {
		return nil, err
	}
	count, tried := map[verdict]int{}, 0
	for i := range patches {
		if *only != "" && patches[i].Name != *only {
			continue
		}
		tried++
		count[patches[i].show(ctx, root, *verbose, out)]++
	}
	figures := map[string]any{"patches": tried, "caught": count[caught], "missed": count[missed], "skipped": count[skipped]}
	switch {
	case count[missed] > 0:
		return figures, fmt.Errorf("%d planted bugs were not caught", count[missed])
	case count[caught] == 0:
		return figures, errors.New("no planted bug was tried")
	}
	return figures, nil
}

// show tries a patch and prints what became of it. One that cannot be tried is
// missed.
func (p *Patch) show(ctx context.Context, root string, verbose bool, out io.Writer) verdict {
	start := time.Now()
	v, said, err := p.Try(ctx, root)
	_, _ = fmt.Fprintf(out, "%-8s %-34s %3.0f s  %s\n", v, p.Name, time.Since(start).Seconds(), p.Bug)
	if v == skipped {
		_, _ = fmt.Fprintf(out, "\n!!! %q DOES NOT RUN HERE: WHETHER %s IS CAUGHT WAS NOT TRIED. !!!\n\n", strings.Join(p.Needs, " "), p.Name)
	}
	if verbose || v == missed {
		_, _ = fmt.Fprintf(out, "%s\n", said)
	}
	if err != nil {
		_, _ = fmt.Fprintln(out, err)
	}
	return v
}
