package strictyaml_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/strictyaml"
)

type shop struct {
	Name  string  `yaml:"name"`
	Rate  float64 `yaml:"rate"`
	Burst int     `yaml:"burst"`
}

type file struct {
	Groups int           `yaml:"groups"`
	Wait   time.Duration `yaml:"wait"`
	Inner  struct {
		Wait time.Duration `yaml:"wait"`
		Max  int64         `yaml:"max"`
	} `yaml:"inner"`
	Shops []shop `yaml:"shops"`
}

func TestDecode(t *testing.T) {
	f := file{Groups: 4}
	if err := strictyaml.Decode("f", []byte("wait: 1.5s\ninner: {max: 9}\nshops:\n  - &s {name: a, rate: 1.5, burst: 2}\n  - <<: *s\n"), &f); err != nil {
		t.Fatal(err)
	}
	if f.Groups != 4 || f.Wait != 1500*time.Millisecond || f.Inner.Max != 9 || len(f.Shops) != 2 || f.Shops[1] != (shop{"a", 1.5, 2}) {
		t.Errorf("%+v", f)
	}
	for _, empty := range []string{"", "# nothing\n", "---\n"} {
		if err := strictyaml.Decode("f", []byte(empty), &f); err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text, field, says string }{
		{"a fraction", "groups: 16.7\n", "groups", "line 1: 16.7"},
		{"a large float", "groups: 1e300\n", "", "groups: 1e300"},
		{"an anchor that holds itself", "shops: &s\n  - *s\n", "", "f"},
		{"infinity", "groups: .inf\n", "groups", "whole"},
		{"not a number", "groups: .nan\n", "groups", "whole"},
		{"a nested fraction", "inner:\n  max: 1.9\n", "inner.max", "line 2: 1.9"},
		{"a fraction in a list", "shops:\n  - {burst: 1}\n  - {burst: 2.5}\n", "shops[1].burst", "line 3"},
		{"a fraction behind an alias", "shops:\n  - {rate: &r 1.5}\n  - {burst: *r}\n", "shops[1].burst", "whole"},
		{"a tagged fraction", "groups: !!float 1.5\n", "groups", "whole"},
		{"a number for a text", "shops:\n  - {name: 1.10}\n", "shops[0].name", "quotes"},
		{"no duration", "wait: potato\n", "wait", "line 1: potato"},
		{"a nested non-duration", "groups: 1\ninner:\n  wait: potato\n", "inner.wait", "line 3: potato"},
		{"a duration without unit", "wait: 5\n", "wait", "unit"},
		{"a second document", "groups: 1\n---\nbogus: 1\n", "---", "one document"},
		{"unknown key", "bogus: 1\n", "", "bogus"},
		{"unknown nested key", "inner: {bogus: 1}\n", "", "bogus"},
		{"a key twice", "groups: 1\ngroups: 2\n", "", "groups"},
		{"another type", "groups: many\n", "", "groups: many"},
		{"no YAML", "groups: [\n", "", "f"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := strictyaml.Decode("f", []byte(tc.text), &file{})
			var e *fault.Error
			if !errors.As(err, &e) || e.Kind != fault.Invalid || e.Fix == "" || e.Op != "f" {
				t.Fatalf("not refused as invalid: %v", err)
			}
			if e.Field != tc.field || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("field %q, want %q; %q is to say %q", e.Field, tc.field, err, tc.says)
			}
		})
	}
}

// What another build has written may have keys more, and else nothing that is refused.
func TestDecodeKnown(t *testing.T) {
	var f file
	if err := strictyaml.DecodeKnown("f", []byte("bogus: {a: [1]}\ngroups: 4\ninner: {bogus: 1, max: 9}\nshops:\n  - {bogus: 1.5, name: a}\n"), &f); err != nil {
		t.Fatal(err)
	}
	if f.Groups != 4 || f.Inner.Max != 9 || len(f.Shops) != 1 || f.Shops[0].Name != "a" {
		t.Errorf("%+v", f)
	}
	for _, text := range []string{"groups: 16.7\n", "groups: 1\ngroups: 2\n", "groups: many\n", "groups: 1\n---\nbogus: 1\n", "groups: [\n"} {
		if err := strictyaml.DecodeKnown("f", []byte(text), &file{}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"groups: 1", "a: &x 1\nb: *x", "shops:\n  - {<<: *s}\n", "inner: [1]", "---\n---\n", "wait: !!str 1s"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := strictyaml.Decode("f", text, &file{}); err != nil && !errors.Is(err, io.EOF) && !fault.Is(err, fault.Invalid) {
			t.Errorf("%v", err)
		}
	})
}
