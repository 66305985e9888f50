package api

// ParseBoth reads a body as acceptances do, and by the library alone.
func ParseBoth(body string) (r, library Request, err, libraryErr error) {
	err = newParser().parse(body, &r)
	libraryErr = newParser().parseAny(body, &library)
	return r, library, err, libraryErr
}

// ParsePlain tells whether a body is read without the library.
func ParsePlain(body string) bool {
	var p plain
	var r Request
	return p.read(body, &r)
}

// NaturalKey is the hash of a natural key.
var NaturalKey = naturalKey

// Closing reports whether Shutdown has begun.
func (s *Server) Closing() bool { return s.closing.Load() }
