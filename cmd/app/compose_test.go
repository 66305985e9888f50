package app_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/tallystick/tallystick/cmd/app"
)

const deploy = "../../deploy"

// composed is what is looked at of a service in the compose file.
type composed struct {
	Image       string            `yaml:"image"`
	Command     []string          `yaml:"command"`
	EnvFile     any               `yaml:"env_file"`
	Environment map[string]string `yaml:"environment"`
	Volumes     []string          `yaml:"volumes"`
}

// envFiles are the files that a service gets secrets from.
func (c composed) envFiles() (files []string) {
	switch f := c.EnvFile.(type) {
	case string:
		files = []string{f}
	case []any:
		for _, one := range f {
			files = append(files, one.(string))
		}
	}
	return files
}

// environment is what they say, where they are filled in like the examples.
func (c composed) environment(t *testing.T) (env []string) {
	for _, f := range c.envFiles() {
		text, err := os.ReadFile(filepath.Join(deploy, f+".example"))
		must(t, err)
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				env = append(env, line)
			}
		}
	}
	return env
}

// handedOut runs the command that gives each role a folder, on a folder as init makes it,
// and gives those folders by their names.
func handedOut(t *testing.T, command []string) map[string]string {
	t.Helper()
	root, bin := t.TempDir(), t.TempDir()
	_, err := app.Init(filepath.Join(root, "data"))
	must(t, err)
	out := map[string]string{}
	for _, name := range []string{"gateway", "core", "prepay", "accounting", "pspsim"} { // where volumes are
		out[name] = filepath.Join(root, name)
		must(t, os.Mkdir(out[name], 0o755))
	}
	must(t, os.WriteFile(filepath.Join(bin, "chown"), []byte("#!/bin/sh\n"), 0o700)) // which needs root
	script := strings.NewReplacer("$$", "$", " /", " "+root+"/").Replace(command[len(command)-1])
	for range 2 { // each `up` does it again
		cmd := exec.CommandContext(t.Context(), command[0], append(slices.Clone(command[1:len(command)-1]), script)...) //nolint:gosec // our own file
		cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin"}
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	return out
}

// names are those of a folder's files.
func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// The compose file's processes start with its configuration, each with the secrets that
// it needs and no others, and engines keep what they have where a volume is.
func TestComposeFile(t *testing.T) {
	text, err := os.ReadFile(deploy + "/compose.yaml")
	must(t, err)
	var file struct {
		Services map[string]composed `yaml:"services"`
	}
	// What a service has besides what it shares is a duplicate to this parser.
	must(t, yaml.UnmarshalWithOptions(text, &file, yaml.AllowDuplicateMapKey()))
	folders := handedOut(t, file.Services["folders"].Command)
	needs := secretsOf()
	needs["core"], needs["prepay"], needs["accounting"] = nil, []string{"psp-sandbox-a.key", "psp-sandbox-b.key"}, nil // their passwords are in the environment
	roles := map[string]int{}
	for name, s := range file.Services {
		files := s.envFiles()
		at := slices.Index(s.Command, "--role")
		if at < 0 {
			if superuser := slices.Contains(files, "superuser.env"); superuser != (name == "postgres" || name == "migrate") {
				t.Errorf("%s and the superuser's password: %t", name, superuser)
			}
			continue
		}
		role := s.Command[at+1]
		roles[role]++
		env := s.environment(t)
		if want := map[bool][]string{true: nil, false: {role + ".env"}}[role == "gateway"]; !slices.Equal(files, want) || len(env) != len(want) {
			t.Errorf("%s gets the secrets of %v, it needs those of %v: one password", name, files, want)
		}
		for k, v := range s.Environment {
			env = append(env, k+"="+v)
		}
		if !slices.Equal(s.Volumes, []string{role + ":/data"}) {
			t.Errorf("%s has the volumes %v", name, s.Volumes)
		}
		d, err := app.Production(folders[role], append(env, "TALLYSTICK_ROLES="+role), io.Discard)
		if err != nil {
			t.Errorf("%s does not start: %v", name, err)
		}
		if role != "gateway" && d.Passwords[app.Role(role)] == "" {
			t.Errorf("%s has no password for its database", name)
		}
	}
	for role, dir := range folders {
		want := append([]string{"code.key"}, needs[role]...)
		if role == "pspsim" {
			want = []string{"psp-sandbox-a.key", "psp-sandbox-b.key"}
		}
		if have := names(t, filepath.Join(dir, app.SecretsDir)); !slices.Equal(have, slices.Sorted(slices.Values(want))) {
			t.Errorf("%s has the secrets %v, it needs %v", role, have, want)
		}
		if have := slices.Contains(names(t, dir), app.DirectoryFile); have != (role == "core") {
			t.Errorf("%s has a directory: %t", role, have)
		}
	}
	if have := file.Services["pspsim"].Volumes; !slices.Equal(have, []string{"pspsim:/data:ro"}) {
		t.Errorf("the simulator has the volumes %v", have)
	}
	if have := file.Services["migrate"].environment(t); !slices.Equal(file.Services["migrate"].envFiles(), []string{"core.env", "prepay.env", "accounting.env", "superuser.env"}) {
		t.Errorf("migrate has %v: it needs the passwords of all areas, and the superuser's", have)
	}
	if len(roles) != 4 || roles["gateway"] != 2 || roles["core"] != 2 || roles["prepay"] != 2 || roles["accounting"] != 2 {
		t.Errorf("processes by role: %v, want two of each", roles)
	}
	pom, err := os.ReadFile(deploy + "/engines/pom.xml")
	must(t, err)
	tested := regexp.MustCompile(`<artifactId>kafka_[0-9.]+</artifactId><version>([0-9.]+)</version>`).FindSubmatch(pom)
	if tested == nil {
		t.Fatal("deploy/engines/pom.xml names no version of Kafka")
	}
	if have, want := file.Services["kafka"].Image, "apache/kafka:"+string(tested[1]); have != want {
		t.Errorf("the broker is %s, and tests run %s", have, want)
	}
	for service, folder := range map[string]string{"kafka": file.Services["kafka"].Environment["KAFKA_LOG_DIRS"], "postgres": "/var/lib/postgresql/data"} {
		if !slices.Contains(file.Services[service].Volumes, service+":"+folder) {
			t.Errorf("%s keeps its data in %q, and has the volumes %v", service, folder, file.Services[service].Volumes)
		}
	}
}
