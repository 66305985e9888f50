package api_test

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/gateway/api"
)

// sameRequest holds what acceptances read against the library: never may more be
// taken, or read as something else. Of what is refused both must say the same.
func sameRequest(t interface{ Fatalf(string, ...any) }, body string) {
	r, library, err, libraryErr := api.ParseBoth(body)
	if (err == nil) != (libraryErr == nil) {
		t.Fatalf("%q: %v, the library says %v", body, err, libraryErr)
	}
	if err != nil && err.Error() != libraryErr.Error() {
		t.Fatalf("%q: %v, the library says %v", body, err, libraryErr)
	}
	if err == nil && len(r.Metadata) == 0 {
		r.Metadata, library.Metadata = nil, nil
	}
	if err == nil && !reflect.DeepEqual(r, library) {
		t.Fatalf("%q is read as %+v, by the library as %+v", body, r, library)
	}
}

func FuzzPlain(f *testing.F) {
	for _, c := range corpus() {
		f.Add(string(c.req.body))
	}
	f.Add(goodBody)
	f.Fuzz(func(t *testing.T, body string) { sameRequest(t, body) })
}

// Bodies made of pieces that are mostly right.
func TestPlainReadsAsTheLibraryDoes(t *testing.T) {
	space := rapid.SampledFrom(append(make([]string, 100), " ", " ", "\n\t", "\r", "\v", "\ufeff"))
	name := rapid.SampledFrom([]string{`"order_id"`, `"amount"`, `"currency"`, `"subject"`, `"order_type"`, `"method"`, `"expires_in_seconds"`, `"metadata"`,
		`"return_url"`, `"order_scene"`, `"Amount"`, `"amoun\u0074"`, `amount`, `""`})
	text := rapid.SampledFrom([]string{`"a"`, `"茶"`, `""`, `"a\"b"`, `"\u00e9"`, `"\ud800"`, "\"\xff\"", "\"\xed\xa0\x80\"", "\"a\nb\"", "\"\x7f\"", `"a`, `a"`, `"https://a.example/"`})
	number := rapid.SampledFrom([]string{"1", "0", "-1", "-0", "01", "1.0", "1e3", "9223372036854775807", "9223372036854775808", "+1", "1_0", "0x1", ""})
	other := rapid.SampledFrom([]string{"null", "true", "[]", "{}", `{"a":1}`, `{"a":"1","a":"2"}`, `{"b":"1","a":"2"}`, `{"a":"1",}`, `{"\u0061":"1","a":"2"}`, object(16), object(17)})
	plain := 0
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		put := func(s string) { b.WriteString(space.Draw(t, "space") + s) }
		put("{")
		names := []string{`"order_id"`, `"amount"`, `"currency"`, `"subject"`, `"metadata"`, `"order_type"`, `"method"`}
		names = rapid.Permutation(names[:rapid.IntRange(4, len(names)).Draw(t, "fields")]).Draw(t, "names")
		for i, n := range names {
			if i > 0 {
				put(",")
			}
			if rapid.IntRange(0, 19).Draw(t, "another") == 19 {
				n = name.Draw(t, "name")
			}
			put(n)
			put(":")
			switch rapid.IntRange(0, 49).Draw(t, "kind") {
			case 47:
				put(text.Draw(t, "text"))
			case 48:
				put(number.Draw(t, "number"))
			case 49:
				put(other.Draw(t, "other"))
			default: // the right kind
				switch n {
				case `"amount"`, `"expires_in_seconds"`:
					put(rapid.SampledFrom([]string{"1", "600", "0"}).Draw(t, "right"))
				case `"metadata"`:
					put(`{"b":"1", "a" : "2"}`)
				default:
					put(`"abc"`)
				}
			}
		}
		put("}")
		b.WriteString(rapid.SampledFrom([]string{"", "", "", " ", "x", "{}", ","}).Draw(t, "behind"))
		sameRequest(t, b.String())
		if api.ParsePlain(b.String()) {
			plain++
		}
	})
	for _, body := range []string{goodBody, `{ "order_id" : "o", "amount" : 1 , "currency":"CNY",` + "\n" + `"subject":"茶","metadata":{"b":"1","a":"2"}}`} {
		if !api.ParsePlain(body) {
			t.Errorf("%s is left to the library", body)
		}
	}
	if plain == 0 {
		t.Error("no body was read without the library: it shows nothing")
	}
}
