package app

import (
	"fmt"
	"reflect"
)

// Add adds what was found in another database: numbers are added, whatever there is a
// number of, and lines of the same names are one.
func (v *Verification) Add(o *Verification) {
	plus(reflect.ValueOf(v).Elem(), reflect.ValueOf(o).Elem())
}

// plus adds field by field, so that none can be forgotten. What it does not know how to
// add is a defect, which the first verification shows.
func plus(sum, more reflect.Value) {
	switch sum.Kind() {
	case reflect.Int, reflect.Int64:
		sum.SetInt(sum.Int() + more.Int())
	case reflect.Bool:
		sum.SetBool(sum.Bool() || more.Bool())
	case reflect.String: // a name: that of a line, or of nothing yet
		if sum.Len() == 0 {
			sum.Set(more)
		}
	case reflect.Struct:
		for i := range sum.NumField() {
			plus(sum.Field(i), more.Field(i))
		}
	case reflect.Map:
		if sum.IsNil() {
			sum.Set(reflect.MakeMap(sum.Type()))
		}
		for at := more.MapRange(); at.Next(); {
			n := reflect.New(sum.Type().Elem()).Elem()
			if has := sum.MapIndex(at.Key()); has.IsValid() {
				n.Set(has)
			}
			plus(n, at.Value())
			sum.SetMapIndex(at.Key(), n)
		}
	case reflect.Slice:
		for i := range more.Len() {
			if line := lineLike(sum, more.Index(i)); line.IsValid() {
				plus(line, more.Index(i))
			} else {
				sum.Set(reflect.Append(sum, more.Index(i)))
			}
		}
	default:
		panic(fmt.Sprintf("a verification has a %s, which nobody can add", sum.Type()))
	}
}

// lineLike finds the line in a list that has the same names; texts are no lines.
func lineLike(list, like reflect.Value) reflect.Value {
	if like.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	for i := range list.Len() {
		line, same := list.Index(i), true
		for j := range like.NumField() {
			same = same && (like.Field(j).Kind() != reflect.String || like.Field(j).String() == line.Field(j).String())
		}
		if same {
			return line
		}
	}
	return reflect.Value{}
}
