package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// newHTTP sets the HTTP server up. Every connection costs its buffers, and a
// long-poll holds one: the buffers are small, and bound the headers at the same
// time. ReduceMemoryUsage stays off: it gives buffers back between two requests,
// which costs every keep-alive request an allocation and saves memory only while
// connections idle, and those are closed by IdleTimeout.
func (s *Server) newHTTP() *fasthttp.Server {
	c := &s.d.Config.HTTP
	return &fasthttp.Server{
		Handler:                      s.Handler,
		ErrorHandler:                 s.refuse,
		Logger:                       quiet{s.d.Log},
		Concurrency:                  c.ConnsMax,
		ReadBufferSize:               c.HeaderBytesMax,
		WriteBufferSize:              c.WriteBufferBytes,
		MaxRequestBodySize:           c.RequestBodyMaxHard,
		ReadTimeout:                  c.ReadTimeout,
		WriteTimeout:                 c.WriteTimeout,
		IdleTimeout:                  c.IdleTimeout,
		TCPKeepalive:                 true,
		NoDefaultServerHeader:        true, // tells an attacker what to try
		NoDefaultContentType:         true,
		DisablePreParseMultipartForm: true, // no route takes a form: no disk, no memory for one
		CloseOnShutdown:              true,
		SecureErrorLogMessage:        true, // keys and tokens are in headers
	}
}

// quiet keeps fasthttp's own log lines at debug level: they are about connections
// that clients broke, and none is about a payment.
type quiet struct{ log *slog.Logger }

func (q quiet) Printf(format string, args ...any) {
	if len(args) == 0 {
		q.log.Debug("http", "message", format)
		return
	}
	q.log.Debug("http", "message", format, "args", len(args))
}

// refuse answers what could not be read as a request.
func (s *Server) refuse(ctx *fasthttp.RequestCtx, err error) {
	x := s.exchange(ctx)
	defer s.release(x)
	defer s.finish(x)
	s.identifyTrace(x)
	code := "request_malformed"
	var timeout net.Error
	var small *fasthttp.ErrSmallBuffer
	switch {
	case errors.As(err, &small):
		code = "headers_too_large"
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		code = "body_too_large"
	case errors.As(err, &timeout) && timeout.Timeout():
		code = "request_timeout"
	}
	ctx.Response.Header.SetConnectionClose()
	s.problem(x, &fault.Error{Kind: fault.Invalid, Op: "gateway", Code: code})
	x.err = err
}

// Serve answers on a listener until Shutdown.
func (s *Server) Serve(ln net.Listener) error {
	l := newListener(ln)
	s.listening.Store(l)
	return fault.Wrap("gateway", s.http.Serve(l))
}

// Shutdown lets long-polls answer at once with what is known, refuses new connections,
// finishes what is under way, and returns when all is done or ctx ends. From its start
// each answer ends its connection. Where there are other gateways, all goes on for
// Config.Linger before that, and connections that are there have Config.LastRequest
// after it for one more request: a request that meets its connection's end is lost, and
// its client can't know that nobody has read it.
func (s *Server) Shutdown(ctx context.Context) error {
	first := !s.closing.Swap(true)
	s.endPoll()
	if l := s.listening.Load(); first && l != nil {
		if s.d.Others {
			bus.Sleep(ctx, s.d.Config.Linger)
		}
		if err := l.stop(ctx); err != nil {
			s.d.Log.Error("listener ended badly: connections may have been lost", "error", err)
		}
		if s.d.Others {
			s.awaitLastRequests(ctx)
		}
	}
	return fault.Wrap("gateway shutdown", s.http.ShutdownWithContext(ctx))
}

// awaitLastRequests waits until no connection is open, at most for Config.LastRequest.
func (s *Server) awaitLastRequests(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.d.Config.LastRequest)
	defer cancel()
	for s.http.GetOpenConnectionsCount() >= 0 && ctx.Err() == nil { // one less than there are: it takes the listener off, which is gone
		bus.Sleep(ctx, 10*time.Millisecond)
	}
}
