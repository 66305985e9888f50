package app

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/tallystick/tallystick/internal/fault"
)

const envPrefix = "TALLYSTICK_"

// override puts environment variables in the place of configuration keys:
// gateway.listen is TALLYSTICK_GATEWAY_LISTEN, intake.unread_bytes_max is
// TALLYSTICK_INTAKE_UNREAD_BYTES_MAX. A variable that names no key is refused.
func override(cfg any, environ []string) error {
	fields := map[string]reflect.Value{}
	collect(reflect.ValueOf(cfg).Elem(), envPrefix, fields)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || strings.HasPrefix(name, envSecret) || name == EnvCrashAt {
			continue
		}
		f, known := fields[name]
		if !known {
			return &fault.Error{Kind: fault.Invalid, Field: name, Code: "unknown_variable",
				Fix: "unset it, or use one such as " + nearest(name, fields)}
		}
		if f.Kind() == reflect.String {
			f.SetString(value)
			continue
		}
		if err := yaml.Unmarshal([]byte(value), f.Addr().Interface()); err != nil {
			return &fault.Error{Kind: fault.Invalid, Field: name, Code: "bad_value",
				Fix: fmt.Sprintf("give it a value of type %s", f.Type()), Err: fmt.Errorf("%q", value)}
		}
	}
	return nil
}

// collect finds the variable of each key, by the keys' names in the file.
func collect(v reflect.Value, prefix string, into map[string]reflect.Value) {
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		f := v.Field(i)
		if f.Kind() == reflect.Struct {
			collect(f, prefix+strings.ToUpper(name)+"_", into)
			continue
		}
		into[prefix+strings.ToUpper(name)] = f
	}
}

// nearest is the variable that begins most like the given name.
func nearest(name string, fields map[string]reflect.Value) string {
	best, most := "", -1
	for _, n := range slices.Sorted(maps.Keys(fields)) {
		same := 0
		for same < min(len(n), len(name)) && n[same] == name[same] {
			same++
		}
		if same > most || same == most && len(n) < len(best) {
			best, most = n, same
		}
	}
	return best
}

// Variables are the environment variables that stand for keys, sorted.
func Variables() []string {
	c := Config{}
	fields := map[string]reflect.Value{}
	collect(reflect.ValueOf(&c).Elem(), envPrefix, fields)
	return slices.Sorted(maps.Keys(fields))
}
