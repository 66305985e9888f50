package api

import (
	"strconv"
	"unicode/utf8"

	"github.com/tallystick/tallystick/channels"
)

// plain reads what nearly every body is: one flat object of known fields, strings
// without escapes, integers, and metadata of strings. It takes a fifth of the time
// that the library does. What it does not understand it leaves to the library,
// which then says what is wrong, if anything is: plain never refuses. A test holds
// that what it takes, the library takes as well, and reads the same.
type plain struct {
	src string
	at  int
}

// read gives false for what is to be left to the library; r is of no use then.
func (p *plain) read(src string, r *Request) bool {
	*r = Request{Metadata: r.Metadata[:0]}
	p.src, p.at = src, 0
	if !p.object(r) {
		return false
	}
	p.space()
	return p.at == len(src) && utf8.ValidString(src)
}

func (p *plain) object(r *Request) bool {
	if !p.next('{') {
		return false
	}
	var seen [len(fields)]bool
	for more := true; more; {
		name, ok := p.text()
		if !ok || !p.next(':') {
			return false
		}
		i := fieldIndex(name)
		if i < 0 || seen[i] || !p.field(name, r) {
			return false
		}
		seen[i] = true
		if more, ok = p.more(); !ok {
			return false
		}
	}
	for i := range fields {
		if fields[i].required && !seen[i] {
			return false
		}
	}
	return true
}

// field reads the value of a known field. Where an empty string is no value, the
// library says so.
func (p *plain) field(name string, r *Request) (ok bool) {
	filled := func() (s string, ok bool) {
		s, ok = p.text()
		return s, ok && s != ""
	}
	switch name {
	case "order_id":
		r.OrderID, ok = p.text()
	case "amount":
		r.Amount, ok = p.integer()
	case "currency":
		r.Currency, ok = p.text()
	case "subject":
		r.Subject, ok = p.text()
	case "order_type":
		r.OrderType, ok = filled()
	case "order_scene":
		r.OrderScene, ok = filled()
	case "method":
		var s string
		s, ok = filled()
		r.Method = channels.Method(s)
	case "return_url":
		r.ReturnURL, ok = filled()
	case "expires_in_seconds":
		r.ExpiresInSeconds, ok = p.integer()
		ok = ok && r.ExpiresInSeconds > 0
	case "metadata":
		ok = p.metadata(r)
	}
	return ok
}

func (p *plain) metadata(r *Request) bool {
	if !p.next('{') {
		return false
	}
	for more := true; more; {
		key, ok := p.text()
		if !ok || !p.next(':') || len(r.Metadata) >= metadataEntriesMax {
			return false
		}
		value, ok := p.text()
		if !ok {
			return false
		}
		for i := range r.Metadata {
			if r.Metadata[i].key == key {
				return false
			}
		}
		r.Metadata = append(r.Metadata, entry{key, value})
		if more, ok = p.more(); !ok {
			return false
		}
	}
	r.sortMetadata()
	return true
}

// more reads what is behind a member: whether another one follows.
func (p *plain) more() (more, ok bool) {
	if p.next(',') {
		return true, true
	}
	return false, p.next('}')
}

func (p *plain) space() {
	for p.at < len(p.src) {
		switch p.src[p.at] {
		case ' ', '\n', '\r', '\t':
			p.at++
		default:
			return
		}
	}
}

// next reads one character of structure.
func (p *plain) next(c byte) bool {
	if p.at < len(p.src) && p.src[p.at] == c { // mostly there is no space
		p.at++
		return true
	}
	p.space()
	if p.at < len(p.src) && p.src[p.at] == c {
		p.at++
		return true
	}
	return false
}

// text reads a string without escapes.
func (p *plain) text() (string, bool) {
	if !p.next('"') {
		return "", false
	}
	for i := p.at; i < len(p.src); i++ {
		switch c := p.src[i]; {
		case c == '"':
			s := p.src[p.at:i]
			p.at = i + 1
			return s, true
		case c == '\\' || c < ' ':
			return "", false
		}
	}
	return "", false
}

// integer reads a number of digits alone; a sign means that something is wrong.
func (p *plain) integer() (int64, bool) {
	p.space()
	start := p.at
	for p.at < len(p.src) && '0' <= p.src[p.at] && p.src[p.at] <= '9' {
		p.at++
	}
	digits := p.src[start:p.at]
	if digits == "" || digits[0] == '0' && len(digits) > 1 {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil
}
