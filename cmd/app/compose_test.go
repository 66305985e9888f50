package app_test

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/tallystick/tallystick/cmd/app"
)

// composed is what is looked at of a service in the compose file.
type composed struct {
	Image       string            `yaml:"image"`
	Command     []string          `yaml:"command"`
	EnvFile     any               `yaml:"env_file"`
	Environment map[string]string `yaml:"environment"`
	Volumes     []string          `yaml:"volumes"`
}

// The compose file's processes start with its configuration, each with the secrets that
// it needs and no others, and engines keep what they have where a volume is.
func TestComposeFile(t *testing.T) {
	const deploy = "../../deploy"
	text, err := os.ReadFile(deploy + "/compose.yaml")
	must(t, err)
	var file struct {
		Services map[string]composed `yaml:"services"`
	}
	// What a service has besides what it shares is a duplicate to this parser.
	must(t, yaml.UnmarshalWithOptions(text, &file, yaml.AllowDuplicateMapKey()))
	dir := t.TempDir()
	_, err = app.Init(dir)
	must(t, err)
	roles := map[string]int{}
	for name, s := range file.Services {
		var files []string
		switch f := s.EnvFile.(type) {
		case string:
			files = []string{f}
		case []any:
			for _, one := range f {
				files = append(files, one.(string))
			}
		}
		var env []string
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(deploy, f+".example"))
			must(t, err)
			for line := range strings.Lines(string(text)) {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
					env = append(env, line)
				}
			}
		}
		at := slices.Index(s.Command, "--role")
		if at < 0 {
			if superuser := slices.Contains(files, "superuser.env"); superuser != (name == "postgres" || name == "migrate") {
				t.Errorf("%s and the superuser's password: %t", name, superuser)
			}
			continue
		}
		role := s.Command[at+1]
		roles[role]++
		for k, v := range s.Environment {
			env = append(env, k+"="+v)
		}
		env = append(env, "TALLYSTICK_ROLES="+role)
		if _, err := app.Production(dir, env, io.Discard); err != nil {
			t.Errorf("%s does not start: %v", name, err)
		}
		if want := map[bool][]string{true: nil, false: {"areas.env"}}[role == "gateway"]; !slices.Equal(files, want) {
			t.Errorf("%s gets the secrets of %v, it needs those of %v", name, files, want)
		}
	}
	if len(roles) != 4 || roles["gateway"] != 2 || roles["core"] != 2 || roles["prepay"] != 2 || roles["accounting"] != 2 {
		t.Errorf("processes by role: %v, want two of each", roles)
	}
	for service, folder := range map[string]string{"kafka": file.Services["kafka"].Environment["KAFKA_LOG_DIRS"], "postgres": "/var/lib/postgresql/data"} {
		if !slices.Contains(file.Services[service].Volumes, service+":"+folder) {
			t.Errorf("%s keeps its data in %q, and has the volumes %v", service, folder, file.Services[service].Volumes)
		}
	}
}
