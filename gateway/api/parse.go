package api

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/channels"
)

// Request is a payment request as its body says it. Absent fields are empty: no
// value of a field is. Its strings are parts of the one that was read; Metadata is
// used again for the next request.
type Request struct {
	OrderID          string
	Amount           int64 // minor units
	Currency         string
	Subject          string
	OrderType        string
	OrderScene       string
	Method           channels.Method
	ReturnURL        string
	ExpiresInSeconds int64
	Metadata         []entry // in order of the keys
}

// entry is one of the metadata.
type entry struct{ key, value string }

// parser reads one body. It is used again and again, and owns the bytes it reads.
type parser struct {
	plain   plain
	body    []byte
	src     string // the same, for the strings of the request to be parts of
	in      bytes.Buffer
	dec     *jsontext.Decoder
	scratch []byte
}

func newParser() *parser {
	p := &parser{}
	p.dec = jsontext.NewDecoder(&p.in)
	return p
}

// parse reads a payment request from exactly one JSON object. Duplicate and
// unknown fields, other types, null, invalid UTF-8 and data behind the object are
// refused; the error names the field.
func (p *parser) parse(body string, r *Request) error {
	if p.plain.read(body, r) {
		return nil
	}
	return p.parseAny(body, r)
}

// parseAny is parse by the library.
func (p *parser) parseAny(body string, r *Request) error {
	*r = Request{Metadata: r.Metadata[:0]}
	p.src = body
	p.body = append(p.body[:0], body...)
	p.in = *bytes.NewBuffer(p.body)
	p.dec.Reset(&p.in)
	err := p.object(r)
	if err == nil {
		if _, end := p.dec.ReadToken(); !errors.Is(end, io.EOF) {
			err = invalid("json_trailing_data", "", "send exactly one JSON object", nil)
		}
	}
	return err
}

func (p *parser) object(r *Request) error {
	if k := p.dec.PeekKind(); k != '{' {
		if _, err := p.dec.ReadToken(); err != nil {
			return p.syntax(err)
		}
		return invalid("field_type", "", "send a JSON object", nil)
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return p.syntax(err)
	}
	var seen [len(fields)]bool
	for p.dec.PeekKind() == '"' {
		name, err := p.text()
		if err != nil {
			return err
		}
		i := fieldIndex(name)
		if i < 0 {
			// The name is the caller's: it is told back, but not at any length.
			return invalid("field_unknown", clip(name, 64), "remove it; known are "+fieldNames, nil)
		}
		seen[i] = true
		if err := fields[i].read(p, r); err != nil {
			return err
		}
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return p.syntax(err)
	}
	for i := range fields {
		if fields[i].required && !seen[i] {
			return invalid("field_missing", fields[i].name, "add "+fields[i].what, nil)
		}
	}
	return nil
}

// field is one field of the request and how it is read.
type field struct {
	name     string
	what     string // type, for humans
	required bool
	read     func(*parser, *Request) error
}

const fieldNames = "order_id, amount, currency, subject, order_type, order_scene, method, return_url, expires_in_seconds, metadata"

// fields is a table, and never changed.
var fields = [...]field{
	{"order_id", "a string", true, func(p *parser, r *Request) (err error) { r.OrderID, err = p.str("order_id"); return }},
	{"amount", "an integer of minor units", true, func(p *parser, r *Request) (err error) { r.Amount, err = p.integer("amount"); return }},
	{"currency", "a string", true, func(p *parser, r *Request) (err error) { r.Currency, err = p.str("currency"); return }},
	{"subject", "a string", true, func(p *parser, r *Request) (err error) { r.Subject, err = p.str("subject"); return }},
	{"order_type", "a string", false, func(p *parser, r *Request) (err error) { r.OrderType, err = p.filled("order_type"); return }},
	{"order_scene", "a string", false, func(p *parser, r *Request) (err error) { r.OrderScene, err = p.filled("order_scene"); return }},
	{"method", "a string", false, func(p *parser, r *Request) error {
		s, err := p.filled("method")
		r.Method = channels.Method(s)
		return err
	}},
	{"return_url", "a string", false, func(p *parser, r *Request) (err error) { r.ReturnURL, err = p.filled("return_url"); return }},
	{"expires_in_seconds", "an integer", false, func(p *parser, r *Request) (err error) {
		r.ExpiresInSeconds, err = p.integer("expires_in_seconds")
		if err == nil && r.ExpiresInSeconds <= 0 {
			err = invalid("field_invalid", "expires_in_seconds", "send a positive number of seconds, or leave it out", nil)
		}
		return err
	}},
	{"metadata", "an object of strings", false, (*parser).metadata},
}

func fieldIndex(name string) int {
	for i := range fields {
		if fields[i].name == name {
			return i
		}
	}
	return -1
}

// text reads a string: a name, or a value whose kind was looked at before.
func (p *parser) text() (string, error) {
	raw, err := p.dec.ReadValue()
	if err != nil {
		return "", p.syntax(err)
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		end := int(p.dec.InputOffset())
		return p.src[end-len(raw)+1 : end-1], nil
	}
	p.scratch, err = jsontext.AppendUnquote(p.scratch[:0], raw)
	if err != nil {
		return "", p.syntax(err)
	}
	return string(p.scratch), nil
}

// str reads a string value.
func (p *parser) str(name string) (string, error) {
	if err := p.kind(name, '"', "send a string"); err != nil {
		return "", err
	}
	return p.text()
}

// filled reads a string value that is not empty: an empty one would read as absent.
func (p *parser) filled(name string) (string, error) {
	s, err := p.str(name)
	if err == nil && s == "" {
		err = invalid("field_invalid", name, "leave it out, or fill it in", nil)
	}
	return s, err
}

// integer reads a number that is written as one: no fraction, no exponent.
func (p *parser) integer(name string) (int64, error) {
	if err := p.kind(name, '0', "send an integer, not a string"); err != nil {
		return 0, err
	}
	raw, err := p.dec.ReadValue()
	if err != nil {
		return 0, p.syntax(err)
	}
	if bytes.ContainsAny(raw, ".eE") {
		return 0, invalid("field_type", name, "send an integer without fraction or exponent; amounts are in minor units", nil)
	}
	end := int(p.dec.InputOffset())
	n, err := strconv.ParseInt(p.src[end-len(raw):end], 10, 64)
	if err != nil || string(raw) == "-0" {
		return 0, invalid("field_invalid", name, "send an integer of 64 bits", nil)
	}
	return n, nil
}

// kind looks at the next value before it is read, so that nothing nested is.
func (p *parser) kind(name string, want jsontext.Kind, fix string) error {
	k := p.dec.PeekKind()
	if k == want {
		return nil
	}
	switch k {
	case '"', '0', '{', '[', 'n', 't', 'f':
		return invalid("field_type", name, fix, nil)
	}
	_, err := p.dec.ReadToken() // it says what is wrong
	if err == nil {
		return invalid("json_invalid", name, fix, nil)
	}
	return p.syntax(err)
}

func (p *parser) metadata(r *Request) error {
	if err := p.kind("metadata", '{', "send an object of strings"); err != nil {
		return err
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return p.syntax(err)
	}
	for p.dec.PeekKind() == '"' {
		key, err := p.text()
		if err != nil {
			return err
		}
		if len(r.Metadata) >= metadataEntriesMax {
			return invalid("field_invalid", "metadata", "send at most 16 entries", nil)
		}
		value, err := p.str("metadata." + clip(key, metadataKeyMax))
		if err != nil {
			return err
		}
		r.Metadata = append(r.Metadata, entry{key, value})
	}
	r.sortMetadata()
	_, err := p.dec.ReadToken()
	return p.syntax(err)
}

// sortMetadata is by insertion: there are few, and mostly in order.
func (r *Request) sortMetadata() {
	m := r.Metadata
	for i := 1; i < len(m); i++ {
		for j := i; j > 0 && m[j].key < m[j-1].key; j-- {
			m[j], m[j-1] = m[j-1], m[j]
		}
	}
}

// syntax says what is wrong with the JSON, and where.
func (p *parser) syntax(err error) error {
	if err == nil {
		return nil
	}
	at := ""
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		at = clip(strings.ReplaceAll(strings.TrimPrefix(string(syntactic.JSONPointer), "/"), "/", "."), 64)
	}
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return invalid("field_duplicate", at, "send the field once", nil)
	case !utf8.Valid(p.body) || strings.Contains(err.Error(), "UTF-8") || strings.Contains(err.Error(), "surrogate"):
		return invalid("json_utf8_invalid", at, "encode the body as UTF-8", nil)
	default:
		return invalid("json_invalid", at, "send one JSON object", nil)
	}
}

// clip shortens what is told back to a caller, and keeps it valid.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}
