package sqldb

import (
	"fmt"
	"reflect"
	"strconv"

	sqlite3 "modernc.org/sqlite/lib"
)

// textLen is how many bytes a value needs outside the parameter itself.
func textLen(a any) int {
	switch v := a.(type) {
	case string:
		return len(v)
	case *string:
		return len(*v)
	case []byte:
		return len(v)
	case int64, int, bool, nil, *int64, *int, *bool:
		return 0
	}
	if v := reflect.ValueOf(a); v.Kind() == reflect.String {
		return v.Len()
	}
	return 0
}

// bind gives parameter i the value a; texts are put at the address at, which is
// moved behind them. Go's nil and nil slices are NULL, and a pointer is what it
// points to: it costs no allocation.
func (s *stmt) bind(i int32, a any, at uintptr) (uintptr, error) {
	var rc int32
	switch v := a.(type) {
	case string:
		return s.bindText(i, v, at)
	case *string:
		return s.bindText(i, *v, at)
	case *int64:
		rc = sqlite3.Xsqlite3_bind_int64(s.e.tls, s.p, i, *v)
	case *int:
		rc = sqlite3.Xsqlite3_bind_int64(s.e.tls, s.p, i, int64(*v))
	case *bool:
		return s.bind(i, *v, at)
	case int64:
		rc = sqlite3.Xsqlite3_bind_int64(s.e.tls, s.p, i, v)
	case int:
		rc = sqlite3.Xsqlite3_bind_int64(s.e.tls, s.p, i, int64(v))
	case bool:
		n := int64(0)
		if v {
			n = 1
		}
		rc = sqlite3.Xsqlite3_bind_int64(s.e.tls, s.p, i, n)
	case nil:
		rc = sqlite3.Xsqlite3_bind_null(s.e.tls, s.p, i)
	case []byte:
		if v == nil {
			rc = sqlite3.Xsqlite3_bind_null(s.e.tls, s.p, i)
			break
		}
		copy(view(at, len(v)), v)
		rc = sqlite3.Xsqlite3_bind_blob(s.e.tls, s.p, i, at, int32(len(v)), sqlite3.SQLITE_STATIC) //nolint:gosec // SQLite allows 1e9
		at += uintptr(len(v))
	default:
		return s.bindOther(i, reflect.ValueOf(a), at)
	}
	if rc != sqlite3.SQLITE_OK {
		return at, s.e.fail(rc)
	}
	return at, nil
}

func (s *stmt) bindText(i int32, v string, at uintptr) (uintptr, error) {
	copy(view(at, len(v)), v)
	if rc := sqlite3.Xsqlite3_bind_text(s.e.tls, s.p, i, at, int32(len(v)), sqlite3.SQLITE_STATIC); rc != sqlite3.SQLITE_OK { //nolint:gosec // SQLite allows 1e9
		return at, s.e.fail(rc)
	}
	return at + uintptr(len(v)), nil
}

// bindOther binds types that are made of those that SQLite knows.
func (s *stmt) bindOther(i int32, v reflect.Value, at uintptr) (uintptr, error) {
	switch v.Kind() {
	case reflect.String:
		return s.bindText(i, v.String(), at)
	case reflect.Bool:
		return s.bind(i, v.Bool(), at)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return s.bind(i, v.Int(), at)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return s.bind(i, int64(v.Uint()), at) //nolint:gosec // at most 32 bits
	}
	return at, fmt.Errorf("value %d: %s cannot be stored", i, v.Type())
}

// scanRow reads the current row. A NULL is read into a slice of bytes or an any
// alone, and what is no number not into a number.
func (s *stmt) scanRow(dst ...any) error {
	if len(dst) != s.columns {
		return fmt.Errorf("%d targets for %d columns", len(dst), s.columns)
	}
	for i, d := range dst {
		if err := s.read(int32(i), d); err != nil { //nolint:gosec // SQLite allows 32,767
			return fmt.Errorf("column %d: %w", i, err)
		}
	}
	return nil
}

func (s *stmt) read(i int32, dst any) error {
	switch d := dst.(type) {
	case *string:
		return s.text(i, d)
	case *int64:
		return s.number(i, d)
	case *int:
		var n int64
		err := s.number(i, &n)
		*d = int(n)
		return err
	case *bool:
		var n int64
		err := s.number(i, &n)
		*d = n != 0
		return err
	case *[]byte:
		*d = append([]byte(nil), s.bytes(i)...)
		return nil
	case *any:
		*d = s.value(i)
		return nil
	}
	return s.readOther(i, reflect.ValueOf(dst))
}

// readOther reads into types that are made of those that SQLite knows.
func (s *stmt) readOther(i int32, v reflect.Value) error {
	if v.Kind() != reflect.Pointer {
		return fmt.Errorf("%s is no target", v.Type())
	}
	v = v.Elem()
	switch v.Kind() {
	case reflect.String:
		var t string
		err := s.text(i, &t)
		v.SetString(t)
		return err
	case reflect.Bool:
		var n int64
		err := s.number(i, &n)
		v.SetBool(n != 0)
		return err
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var n int64
		err := s.number(i, &n)
		if err == nil && v.OverflowInt(n) {
			err = fmt.Errorf("%d does not fit %s", n, v.Type())
		}
		v.SetInt(n)
		return err
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		var n int64
		err := s.number(i, &n)
		if err == nil && (n < 0 || v.OverflowUint(uint64(n))) {
			err = fmt.Errorf("%d does not fit %s", n, v.Type())
		}
		v.SetUint(uint64(n)) //nolint:gosec // checked
		return err
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(append([]byte(nil), s.bytes(i)...))
			return nil
		}
	}
	return fmt.Errorf("%s is no target", v.Type())
}

func (s *stmt) number(i int32, d *int64) error {
	if kind := sqlite3.Xsqlite3_column_type(s.e.tls, s.p, i); kind != sqlite3.SQLITE_INTEGER {
		return fmt.Errorf("%s is no integer", kindName(kind))
	}
	*d = sqlite3.Xsqlite3_column_int64(s.e.tls, s.p, i)
	return nil
}

func (s *stmt) text(i int32, d *string) error {
	switch kind := sqlite3.Xsqlite3_column_type(s.e.tls, s.p, i); kind {
	case sqlite3.SQLITE_TEXT, sqlite3.SQLITE_BLOB:
		*d = s.e.word(s.bytes(i))
	case sqlite3.SQLITE_INTEGER:
		*d = strconv.FormatInt(sqlite3.Xsqlite3_column_int64(s.e.tls, s.p, i), 10)
	default:
		return fmt.Errorf("%s is no text", kindName(kind))
	}
	return nil
}

// bytes is a text or blob, valid until the next call on this column.
func (s *stmt) bytes(i int32) []byte {
	p := sqlite3.Xsqlite3_column_blob(s.e.tls, s.p, i)
	return view(p, int(sqlite3.Xsqlite3_column_bytes(s.e.tls, s.p, i)))
}

func (s *stmt) value(i int32) any {
	switch sqlite3.Xsqlite3_column_type(s.e.tls, s.p, i) {
	case sqlite3.SQLITE_INTEGER:
		return sqlite3.Xsqlite3_column_int64(s.e.tls, s.p, i)
	case sqlite3.SQLITE_FLOAT:
		return sqlite3.Xsqlite3_column_double(s.e.tls, s.p, i)
	case sqlite3.SQLITE_TEXT:
		return string(s.bytes(i))
	case sqlite3.SQLITE_BLOB:
		return append([]byte(nil), s.bytes(i)...)
	}
	return nil
}

func kindName(kind int32) string {
	switch kind {
	case sqlite3.SQLITE_INTEGER:
		return "an integer"
	case sqlite3.SQLITE_FLOAT:
		return "a float"
	case sqlite3.SQLITE_TEXT:
		return "a text"
	case sqlite3.SQLITE_BLOB:
		return "a blob"
	}
	return "NULL"
}

// wordBytesMax is the longest text that is worth looking for among the last ones.
const wordBytesMax = 24

// word is b as a string. Currencies, merchants, states and their like are not
// allocated again each time that they are read.
func (e *engine) word(b []byte) string {
	if len(b) > wordBytesMax {
		return string(b)
	}
	h := uint32(len(b))
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	w := &e.words[(h^h>>16)%uint32(len(e.words))]
	if *w != string(b) {
		*w = string(b)
	}
	return *w
}
