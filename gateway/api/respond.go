package api

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/internal/fault"
)

func (x *exchange) json(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	x.SetContentType(contentTypeJSON)
	x.Response.SetBodyRaw(b)
	return nil
}

// problem answers with application/problem+json (RFC 9457).
func (s *Server) problem(x *exchange, err error) {
	var more []byte
	if x.begun && fault.Is(err, fault.Unknown) {
		more = appendIDs([]byte{','}, &x.payment) // so that it can be asked for; and no token
	}
	s.problemWith(x, err, more)
}

func (s *Server) problemWith(x *exchange, err error, more []byte) {
	x.err = err
	t := tell(err)
	b := appendName(nil, '{', "type")
	b = appendString(b, problemBase+t.Code)
	b = appendName(b, ',', "title")
	b = appendString(b, t.Title)
	b = appendName(b, ',', "status")
	b = strconv.AppendInt(b, int64(t.Status), 10)
	b = appendName(b, ',', "detail")
	b = appendString(b, t.detail)
	b = appendName(b, ',', "code")
	b = appendString(b, t.Code)
	if t.field != "" {
		b = appendName(b, ',', "field")
		b = appendString(b, t.field)
	}
	b = appendName(b, ',', "fix")
	b = appendString(b, t.fix)
	b = appendName(b, ',', "trace_id")
	b = appendString(b, string(x.trace))
	b = append(append(b, more...), '}')
	h := &x.Response.Header
	switch t.Status {
	case 401:
		h.Set("WWW-Authenticate", "Bearer")
	case 429, 503:
		h.Set("Retry-After", strconv.Itoa(max(1, int(s.d.Config.RetryAfter.Round(time.Second)/time.Second))))
	}
	x.SetStatusCode(t.Status)
	x.SetContentType("application/problem+json")
	x.Response.SetBodyRaw(b)
}

// problemBase and an error's code are its type, a name that never changes.
const problemBase = "urn:tallystick:problem:"
