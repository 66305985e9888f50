package app

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/tallystick/tallystick/internal/fault"
)

const envPrefix = "TALLYSTICK_"

// envEngines begins the variables that say where tests and the demo find engines.
const envEngines = "TALLYSTICK_ENGINES"

// override puts environment variables in the place of configuration keys:
// gateway.listen is TALLYSTICK_GATEWAY_LISTEN, intake.unread_bytes_max is
// TALLYSTICK_INTAKE_UNREAD_BYTES_MAX. A variable that names no key is refused.
func override(cfg any, environ []string) error {
	fields := keys(cfg)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || strings.HasPrefix(name, envSecret) || strings.HasPrefix(name, envEngines) || name == EnvCrashAt {
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
		if err := set(f, value); err != nil {
			return &fault.Error{Kind: fault.Invalid, Field: name, Code: "bad_value", Fix: fixOf(f.Type()), Err: fmt.Errorf("%q", value)}
		}
	}
	return nil
}

// set reads a value as the file would be read.
func set(f reflect.Value, text string) (err error) {
	switch {
	case f.Type() == reflect.TypeFor[time.Duration]():
		var d time.Duration
		d, err = time.ParseDuration(text)
		f.SetInt(int64(d))
	case f.CanInt():
		var n int64
		n, err = strconv.ParseInt(text, 0, f.Type().Bits())
		f.SetInt(n)
	default:
		err = yaml.Unmarshal([]byte(text), f.Addr().Interface())
	}
	return err
}

func fixOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "give a duration with its unit, such as 1.5s"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64:
		return "use a whole number"
	}
	return fmt.Sprintf("give it a value of type %s", t)
}

// variable is the environment variable of a key: api.wait_max is
// TALLYSTICK_API_WAIT_MAX.
func variable(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// keys are the keys of a configuration by their variables.
func keys(cfg any) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	collect(reflect.ValueOf(cfg).Elem(), envPrefix, fields)
	return fields
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
	return slices.Sorted(maps.Keys(keys(&Config{})))
}
