package api

import (
	"bytes"
	"encoding/hex"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/internal/ids"
)

// exchange is one request on its way through the handler. It lives no longer, and
// is used again.
type exchange struct {
	*fasthttp.RequestCtx
	start   time.Time
	random  [24]byte
	parent  [traceparentLen]byte // the traceparent that is answered; the trace id is in it
	trace   []byte               // in parent
	route   route
	payment Acceptance  // of a payment request
	begun   bool        // payment is on its way
	context ids.Context // for the log, once known
	err     error
	out     []byte
}

// traceparentLen is the length of a W3C traceparent of version 00.
const traceparentLen = 55

// noTrace is what is answered if all fails before there is a trace id: never that
// of another request.
const noTrace = "00-00000000000000000000000000000000-0000000000000000-01"

// exchange begins one. It has no trace id yet.
func (s *Server) exchange(ctx *fasthttp.RequestCtx) *exchange {
	x, _ := s.pool.Get().(*exchange)
	if x == nil {
		x = &exchange{}
		x.trace = x.parent[3:35]
	}
	x.RequestCtx, x.start = ctx, s.d.Now()
	copy(x.parent[:], noTrace)
	return x
}

// release gives x back. The response has copies of all that is in it.
func (s *Server) release(x *exchange) {
	x.RequestCtx, x.route, x.payment, x.begun, x.context, x.err = nil, routeOther, Acceptance{}, false, ids.Context{}, nil
	s.pool.Put(x)
}

// identifyTrace takes the caller's trace id, or makes one, and a span id of ours.
func (s *Server) identifyTrace(x *exchange) {
	if _, err := io.ReadFull(s.d.Random, x.random[:]); err != nil {
		panic("gateway: no randomness: " + err.Error())
	}
	hex.Encode(x.trace, x.random[:16])
	hex.Encode(x.parent[36:52], x.random[16:])
	if t := x.Request.Header.Peek(headerTraceparent); validTraceparent(t) {
		copy(x.trace, t[3:35])
	}
}

// validTraceparent holds a header against W3C Trace Context, version 00.
func validTraceparent(b []byte) bool {
	if len(b) != traceparentLen || b[0] != '0' || b[1] != '0' || b[2] != '-' || b[35] != '-' || b[52] != '-' {
		return false
	}
	return lowerHex(b[3:35]) && lowerHex(b[36:52]) && lowerHex(b[53:55]) && !zeros(b[3:35]) && !zeros(b[36:52])
}

func lowerHex(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func zeros(b []byte) bool { return len(bytes.Trim(b, "0")) == 0 }

// bearer gives the credentials of the Authorization header; empty without them.
func (x *exchange) bearer() []byte {
	const scheme = "Bearer "
	h := x.Request.Header.Peek("Authorization")
	if len(h) <= len(scheme) || !bytes.EqualFold(h[:len(scheme)], []byte(scheme)) {
		return nil
	}
	return h[len(scheme):]
}

const contentTypeJSON = "application/json"

// hasQuery parses a query only where there is one.
func (x *exchange) hasQuery() bool { return len(x.URI().QueryString()) > 0 && x.QueryArgs().Len() > 0 }

// parameter is one that a query may have.
type parameter struct {
	name string
	read func(text string) error
}

// parameters reads a query that may have each of those that are known once, and no others.
func (x *exchange) parameters(known ...parameter) error {
	seen := make([]bool, len(known))
	for k, v := range x.QueryArgs().All() {
		i := slices.IndexFunc(known, func(p parameter) bool { return p.name == string(k) })
		if i < 0 {
			var names []string
			for _, p := range known {
				names = append(names, p.name)
			}
			return invalid("query_invalid", clip(string(k), 64), "remove it; known are "+strings.Join(names, ", "), nil)
		}
		if err := known[i].read(string(v)); err != nil {
			return err
		}
		if seen[i] {
			return invalid("query_invalid", known[i].name, "send it once", nil)
		}
		seen[i] = true
	}
	return nil
}

// isJSON takes application/json, in UTF-8.
func isJSON(contentType []byte) bool {
	if string(contentType) == contentTypeJSON {
		return true
	}
	media, params, _ := bytes.Cut(contentType, []byte(";"))
	params = bytes.TrimSpace(params)
	return bytes.EqualFold(bytes.TrimSpace(media), []byte(contentTypeJSON)) &&
		(len(params) == 0 || bytes.EqualFold(bytes.ReplaceAll(params, []byte(`"`), nil), []byte("charset=utf-8")))
}
