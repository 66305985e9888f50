package app_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/fault"
)

func initialised(t *testing.T) (string, app.Initialised) {
	t.Helper()
	dir := t.TempDir()
	made, err := app.Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, made
}

func TestTheExampleIsTheDefaults(t *testing.T) {
	dir, _ := initialised(t)
	c, err := app.LoadConfig(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c != app.DefaultConfig() {
		t.Errorf("tallystick.yaml says\n%+v\nthe defaults are\n%+v", c, app.DefaultConfig())
	}
	// Every key is in the example: without the defaults, none may be missing.
	text, err := os.ReadFile(filepath.Join(dir, app.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	if have := variables("TALLYSTICK", tree); !slices.Equal(have, app.Variables()) {
		t.Errorf("the example has\n%v\nthe configuration\n%v", have, app.Variables())
	}
}

// variables are the environment variables of the keys in a tree, sorted.
func variables(prefix string, tree map[string]any) (out []string) {
	for key, v := range tree {
		name := prefix + "_" + strings.ToUpper(key)
		if sub, ok := v.(map[string]any); ok {
			out = append(out, variables(name, sub)...)
		} else {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func TestInitKeepsSecretsAndRefusesToRepeat(t *testing.T) {
	dir, made := initialised(t)
	files, err := filepath.Glob(filepath.Join(dir, app.SecretsDir, "*"))
	if err != nil || len(files) != 4 {
		t.Fatalf("secrets: %v %v", files, err)
	}
	for _, f := range append(files, filepath.Join(dir, app.ConfigFile), filepath.Join(dir, app.DirectoryFile)) {
		info, err := os.Stat(f)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, info.Mode(), err)
		}
	}
	s, err := merchant.Load(filepath.Join(dir, app.DirectoryFile))
	if err != nil {
		t.Fatal(err)
	}
	if m := merchant.NewDirectory(s).Current().Authenticate([]byte(made.APIKey)); m == nil || m.ID != app.ExampleMerchant {
		t.Errorf("the API key belongs to %v", m)
	}
	before, _ := os.ReadFile(files[0])
	if _, err := app.Init(dir); !fault.Is(err, fault.Conflict) {
		t.Errorf("a second init: %v", err)
	}
	if after, _ := os.ReadFile(files[0]); string(after) != string(before) {
		t.Error("a second init changed a secret")
	}
}

func TestBadConfigurationNamesTheKeyAndTheFix(t *testing.T) {
	for _, tc := range []struct {
		name, yaml string
		env        []string
		want       []string
	}{
		{"unknown key", "lisen: x\n", nil, []string{"lisen", "unknown"}},
		{"unknown nested key", "api:\n  wait_maxx: 1s\n", nil, []string{"wait_maxx"}},
		{"wrong type", "groups: many\n", nil, []string{"groups: many"}},
		{"twice", "groups: 1\ngroups: 2\n", nil, []string{"groups"}},
		{"out of range", "groups: 0\n", nil, []string{"groups", "1 to 1024"}},
		{"an area's bound", "core:\n  payments_max: 0\n", nil, []string{"core.payments_max", "at least 1"}},
		{"an intake bound", "intake:\n  batch_bytes_max: 0\n", nil, []string{"intake.batch_bytes_max", "at least 1"}},
		{"an API bound", "api:\n  wait_max: 0s\n", nil, []string{"api.wait_max", "give a duration above 0"}},
		{"a duration below 0", "", []string{"TALLYSTICK_API_WAIT_MAX=-3s"}, []string{"api.wait_max", "give a duration above 0"}},
		{"an intake duration", "intake:\n  unread_age_max: 0s\n", nil, []string{"intake.unread_age_max", "give a duration above 0"}},
		{"looks too far apart", "intake:\n  measure_every: 501ms\n", nil, []string{"intake.measure_every", "at most 500ms"}},
		{"no duration", "api:\n  accept_timeout: 1s\n  wait_max: potato\n", nil, []string{"api.wait_max", "line 3", "potato", "give a duration"}},
		{"a duration without unit", "directory_poll: 5\n", nil, []string{"directory_poll", "line 1", "its unit"}},
		{"a fraction", "groups: 16.7\n", nil, []string{"groups", "16.7", "whole number"}},
		{"a fraction of an area", "core:\n  payments_max: 1.9\n", nil, []string{"core.payments_max", "line 2", "whole number"}},
		{"a second document", "groups: 4\n---\nbogus: 1\n", nil, []string{"---", "line 2", "one document"}},
		{"a fraction in a variable", "", []string{"TALLYSTICK_GROUPS=16.7"}, []string{"TALLYSTICK_GROUPS", "16.7", "whole number"}},
		{"no duration in a variable", "", []string{"TALLYSTICK_API_WAIT_MAX=potato"}, []string{"TALLYSTICK_API_WAIT_MAX", "potato", "give a duration"}},
		{"an empty variable", "", []string{"TALLYSTICK_GROUPS="}, []string{"TALLYSTICK_GROUPS", "whole number"}},
		{"a prepay bound", "prepay:\n  lanes_max: 0\n", nil, []string{"prepay.lanes_max"}},
		{"a drain longer than the stop", "shutdown_timeout: 10s\n", nil, []string{"prepay.drain_millis", "shutdown_timeout"}},
		{"callbacks that are taken back before they are sent", "bus: kafka\nkafka:\n  brokers: 127.0.0.1:9092\n  callback_gather: 1s\ncallback:\n  commit_timeout: 1500ms\n", nil, []string{"kafka.callback_gather", "callback.commit_timeout"}},
		{"a linger longer than the stop", "shutdown_timeout: 500ms\nprepay:\n  drain_millis: 100\napi:\n  linger: 300ms\n  last_request: 200ms\n", nil, []string{"api.linger", "api.last_request", "shutdown_timeout"}},
		{"a last request that is long in coming", "api:\n  last_request: 11s\n", nil, []string{"api.last_request", "0s to 10s"}},
		{"a password in the file", "kafka:\n  sasl:\n    password: x\n", nil, []string{"password", "unknown"}},
		{"a password that is no secret", "", []string{"TALLYSTICK_KAFKA_SASL_PASSWORD=x"}, []string{"TALLYSTICK_KAFKA_SASL_PASSWORD"}},
		{"not a URL", "public_url: here\n", nil, []string{"public_url", "https://"}},
		{"unknown variable", "", []string{"TALLYSTICK_API_WAIT_MAXX=1s"}, []string{"TALLYSTICK_API_WAIT_MAXX", "TALLYSTICK_API_WAIT_MAX"}},
		{"bad variable", "", []string{"TALLYSTICK_GROUPS=many"}, []string{"TALLYSTICK_GROUPS", "whole number"}},
		{"variable out of range", "", []string{"TALLYSTICK_GROUPS=4096"}, []string{"groups", "1 to 1024"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, app.ConfigFile), []byte(tc.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := app.LoadConfig(dir, tc.env)
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("error %v", err)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}

func TestTheEnvironmentTakesTheKeysPlace(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, app.ConfigFile), []byte("groups: 4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := app.LoadConfig(dir, []string{"TALLYSTICK_API_HTTP_CONNS_MAX=7", "TALLYSTICK_LISTEN=127.0.0.1:0", "TALLYSTICK_DIRECTORY_POLL=250ms", "PATH=/bin", "TALLYSTICK_ENGINES_REDIS=/bin/redis-server"})
	if err != nil {
		t.Fatal(err)
	}
	if c.API.HTTP.ConnsMax != 7 || c.Listen != "127.0.0.1:0" || c.DirectoryPoll.Milliseconds() != 250 || c.Groups != 4 {
		t.Errorf("configuration %+v", c)
	}
	if c.Core != app.DefaultConfig().Core {
		t.Error("a key that is left out lost its default")
	}
}

func TestSecretsAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(t *testing.T, path string)
		want  string
	}{
		{"missing", func(t *testing.T, p string) { must(t, os.Remove(p)) }, "tallystick init"},
		{"readable by others", func(t *testing.T, p string) { must(t, os.Chmod(p, 0o644)) }, "chmod 600"},
		{"malformed", func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte("zz"), 0o600)) }, "64 hexadecimal digits"},
	} {
		for _, name := range []string{"code", "token-1", "psp-sandbox-a"} {
			t.Run(tc.name+" "+name, func(t *testing.T) {
				dir, _ := initialised(t)
				tc.spoil(t, filepath.Join(dir, app.SecretsDir, name+".key"))
				_, err := app.Production(dir, nil, os.Stderr)
				if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), name) {
					t.Fatalf("error %v", err)
				}
				variable := "TALLYSTICK_SECRET_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "=" + strings.Repeat("ab", 32)
				if _, err := app.Production(dir, []string{variable}, os.Stderr); err != nil {
					t.Errorf("with %s: %v", variable, err)
				}
			})
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBoundsOfMovesAreChecked(t *testing.T) {
	dir, _ := initialised(t)
	base := []string{"TALLYSTICK_BUS=kafka", "TALLYSTICK_KAFKA_BROKERS=a:1", "TALLYSTICK_STORES=postgres", "TALLYSTICK_POSTGRES_DATABASES=1=postgres://db/tallystick"}
	if _, err := app.LoadConfig(dir, base); err != nil {
		t.Fatal(err)
	}
	for env, field := range map[string]string{"TALLYSTICK_LEASE_REFUSED_EVERY=100ms": "lease.refused_every", "TALLYSTICK_MOVE_WAIT_MAX=1s": "move.wait_max", "TALLYSTICK_MOVE_LOOK_EVERY=0s": "move.look_every",
		"TALLYSTICK_MOVE_LOOK_EVERY=2m": "move.look_every", "TALLYSTICK_MOVE_COPY_TIMEOUT=0s": "move.copy_timeout"} {
		if _, err := app.LoadConfig(dir, append(slices.Clone(base), env)); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v, want %s", env, err, field)
		}
	}
}
