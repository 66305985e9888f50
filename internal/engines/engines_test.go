package engines_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/engines"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wrapped makes a program that leaves a mark and is another one then, and gives its mark.
func wrapped(t *testing.T, dir, name, real string) (mark string) {
	t.Helper()
	mark = filepath.Join(dir, name+".used")
	must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n: >"+mark+"\nexec "+real+" \"$@\"\n"), 0o755)) //nolint:gosec // others run it
	return mark
}

// Engines that are there already are used where they are, and nothing is installed for them.
func TestEnginesThatAreThere(t *testing.T) {
	dir, err := os.MkdirTemp("", "engines-") // not below a folder of the test's, where no other user comes
	must(t, err)
	defer os.RemoveAll(dir)       //nolint:errcheck // a temporary folder
	must(t, os.Chmod(dir, 0o777)) //nolint:gosec // another user leaves marks
	installed, err := engines.PostgresBin()
	must(t, err)
	marks := []string{wrapped(t, dir, "redis-server", "/usr/bin/env redis-server")}
	for _, name := range []string{"initdb", "postgres", "pg_isready", "psql"} {
		marks = append(marks, wrapped(t, dir, name, filepath.Join(installed, name)))
	}
	t.Setenv("TALLYSTICK_ENGINES_POSTGRES", dir)
	t.Setenv("TALLYSTICK_ENGINES_REDIS", filepath.Join(dir, "redis-server"))
	r, err := engines.StartRedis(t.Context(), t.TempDir())
	must(t, err)
	must(t, r.Stop())
	p, err := engines.StartPostgres(t.Context(), false)
	must(t, err)
	defer p.Close() //nolint:errcheck // a test
	if one, err := p.Query(t.Context(), "postgres", "SELECT 1"); err != nil || one != "1" {
		t.Errorf("it answers %q: %v", one, err)
	}
	for _, mark := range marks {
		if _, err := os.Stat(mark); err != nil {
			t.Errorf("another one was used: %v", err)
		}
	}
}

// Where nothing can be installed, what is missing is named with the way out; what is said
// to be there is taken; and a place that has nothing is named.
func TestInstallWithoutApt(t *testing.T) {
	bin, jars := t.TempDir(), t.TempDir()
	for _, tool := range []string{"bash", "dirname", "mkdir", "ls", "cat", "env", "sed"} {
		path, err := exec.LookPath(tool)
		must(t, err)
		must(t, os.Symlink(path, filepath.Join(bin, tool)))
	}
	must(t, os.WriteFile(filepath.Join(jars, "kafka_2.13-4.4.0.jar"), nil, 0o600))
	install := func(what string, env ...string) (string, error) {
		cmd := exec.CommandContext(context.Background(), "../../deploy/engines/install", what) //nolint:gosec // our own script
		cmd.Env = append([]string{"PATH=" + bin, "HOME=" + t.TempDir()}, env...)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return string(exit.Stderr), err
		}
		return strings.TrimSpace(string(out)), err
	}
	for what, words := range map[string]string{"redis": "please install redis-server", "kafka": "please install default-jre-headless maven"} {
		if out, err := install(what); err == nil || !strings.Contains(out, words) || !strings.Contains(out, "say where they are") {
			t.Errorf("%s: %v %s", what, err, out)
		}
	}
	for _, tc := range []struct{ what, variable, there, last string }{
		{"redis", "TALLYSTICK_ENGINES_REDIS", filepath.Join(bin, "ls"), ""},
		{"kafka", "TALLYSTICK_ENGINES_KAFKA", jars, jars},
	} {
		if out, err := install(tc.what, tc.variable+"="+tc.there); err != nil || out != tc.last {
			t.Errorf("%s that is there: %v %q", tc.what, err, out)
		}
	}
	for what, variable := range map[string]string{"postgres": "TALLYSTICK_ENGINES_POSTGRES", "redis": "TALLYSTICK_ENGINES_REDIS", "kafka": "TALLYSTICK_ENGINES_KAFKA"} {
		if out, err := install(what, variable+"=/nowhere"); err == nil || !strings.Contains(out, variable) {
			t.Errorf("%s that is not there: %v %q", what, err, out)
		}
	}
}
