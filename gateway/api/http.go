package api

import (
	"context"
	"errors"
	"log/slog"
	"net"

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
	return fault.Wrap("gateway", s.http.Serve(listener{ln}))
}

// Shutdown lets long-polls answer at once with what is known, stops accepting, finishes
// what is under way, and returns when all is done or ctx ends. Where there are other
// gateways, everything is answered for a while before that, and each answer ends its
// connection: a request that meets a connection's end is lost, and its client can't know
// that nobody has read it.
func (s *Server) Shutdown(ctx context.Context) error {
	first := !s.closing.Swap(true)
	s.endPoll()
	if first && s.d.Others {
		bus.Sleep(ctx, s.d.Config.Linger)
	}
	return fault.Wrap("gateway shutdown", s.http.ShutdownWithContext(ctx))
}
