// Package pgtest gives tests a PostgreSQL schema of their own, in one server that is
// started at the first call and ends with the tests.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Server is the server of a package's tests. The zero value is ready.
type Server struct {
	once    sync.Once
	engine  *engines.Postgres
	err     error
	schemas atomic.Int64
}

// Main runs the tests of a package and stops the server, if it was started.
func (s *Server) Main(m *testing.M) {
	code := m.Run()
	if err := s.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// Close stops the server, if it was started.
func (s *Server) Close() error {
	if s.engine == nil {
		return nil
	}
	return s.engine.Close()
}

// Engine is the server, started if it is not.
func (s *Server) Engine(tb testing.TB) *engines.Postgres {
	tb.Helper()
	s.once.Do(func() { s.engine, s.err = engines.StartPostgres(context.WithoutCancel(tb.Context()), false) })
	if s.err != nil {
		tb.Fatal(s.err)
	}
	return s.engine
}

// Schema is a place for a schema that nobody has used.
func (s *Server) Schema(tb testing.TB) *sqldb.Postgres {
	tb.Helper()
	return &sqldb.Postgres{URL: s.Engine(tb).URL("postgres"), Schema: fmt.Sprintf("test_%d", s.schemas.Add(1)), Number: 1}
}
