package app_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/cmd/app"
)

// fill sets everything that a value has, also in one line of each list: names to name, and
// numbers to n, n + 1 and so on.
func fill(v reflect.Value, name string, n *int64) {
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		v.SetInt(*n)
		*n++
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(name)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), name, n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), name, n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, name, n)
		fill(value, name, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	default:
		panic(fmt.Sprintf("the test cannot fill a %s", v.Type()))
	}
}

// numbers are all of a value, by where they are.
func numbers(out map[string]int64, at string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		out[at] = v.Int()
	case reflect.Struct:
		for i := range v.NumField() {
			numbers(out, at+"."+v.Type().Field(i).Name, v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			numbers(out, fmt.Sprintf("%s[%d]", at, i), v.Index(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			numbers(out, fmt.Sprintf("%s[%s]", at, k), v.MapIndex(k))
		}
	}
}

func filled(name string, n int64) (v app.Verification, is map[string]int64) {
	fill(reflect.ValueOf(&v).Elem(), name, &n)
	is = map[string]int64{}
	numbers(is, "", reflect.ValueOf(v))
	return v, is
}

// What several databases have is summed up, number by number: one that was left out would be
// missing from the equations of the whole without a word.
func TestVerificationsAreAdded(t *testing.T) {
	a, ofA := filled("m", 1000)
	b, ofB := filled("m", 2_000_000)
	if len(ofA) < 35 {
		t.Fatalf("there are %d numbers: %v", len(ofA), ofA)
	}
	var sum app.Verification
	sum.Add(&a)
	sum.Add(&b)
	have := map[string]int64{}
	numbers(have, "", reflect.ValueOf(sum))
	for at, n := range ofA {
		if have[at] != n+ofB[at] {
			t.Errorf("%s: %d and %d are %d", at, n, ofB[at], have[at])
		}
	}
	if len(have) != len(ofA) || !sum.Moved || !slices.Equal(sum.Violations, []string{"m", "m"}) {
		t.Errorf("%+v", sum)
	}
	if fresh, is := filled("m", 1000); !reflect.DeepEqual(a, fresh) {
		t.Errorf("what was added has changed: %+v, was %v", a, is)
	}

	other, _ := filled("n", 1)
	other.Moved = false
	sum.Add(&other) // lines of other names stay apart
	if len(sum.Orders) != 2 || len(sum.Money) != 2 || len(sum.Unread) != 2 || len(sum.Trimmed) != 2 || len(sum.Parked) != 2 || !sum.Moved {
		t.Fatalf("%+v", sum)
	}
	if sum.Orders[1] != other.Orders[0] || sum.Money[1] != other.Money[0] || sum.Unread[1] != other.Unread[0] || sum.Trimmed[1] != other.Trimmed[0] ||
		sum.Parked["n"] != other.Parked["n"] || sum.Orders[0].Accepted != have[".Orders[0].Accepted"] {
		t.Errorf("%+v and %+v", sum, other)
	}
	for _, change := range []func(*app.MoneyLine){func(l *app.MoneyLine) { l.Merchant = "x" }, func(l *app.MoneyLine) { l.Account = "x" }, func(l *app.MoneyLine) { l.Currency = "x" }} {
		two, _ := filled("m", 1)
		three, _ := filled("m", 1)
		change(&three.Money[0])
		if two.Add(&three); len(two.Money) != 2 {
			t.Errorf("%d lines of money, want 2: %+v", len(two.Money), two.Money)
		}
	}
}
