package accept

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/VictoriaMetrics/metrics"
	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/obs"
)

// Server is a bench's child: one of the two servers that no subcommand of the
// product is. It serves until it is told to stop.
func Server(ctx context.Context, fs *flag.FlagSet, args []string, _ io.Writer) (map[string]any, error) {
	echo := fs.String("echo", "", "answer every request with the response in this file")
	data := fs.String("data", "", "serve the gateway alone, on this data folder")
	listen := fs.String("listen", "", "address of the echo")
	operator := fs.String("operator", "", "address of the echo's metrics")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if *echo != "" {
		return nil, serveEcho(ctx, *echo, *listen, *operator)
	}
	return nil, serveGateway(ctx, *data)
}

// serveEcho answers the same bytes to everything, in the settings of the API's
// server. GET is for the one who waits until it is there.
func serveEcho(ctx context.Context, file, listen, operator string) error {
	raw, err := os.ReadFile(file) //nolint:gosec // the bench's own folder
	if err != nil {
		return err
	}
	var sample fasthttp.Response
	if err := sample.ReadLimitBody(bufio.NewReader(bytes.NewReader(raw)), 0); err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	type header struct{ name, value []byte }
	var headers []header
	for k, v := range sample.Header.All() {
		switch string(k) {
		case "Content-Length", "Content-Type", "Date":
		default:
			headers = append(headers, header{[]byte(string(k)), []byte(string(v))})
		}
	}
	s := &fasthttp.Server{NoDefaultServerHeader: true, NoDefaultContentType: true, DisablePreParseMultipartForm: true, TCPKeepalive: true,
		ReadBufferSize: 4096, WriteBufferSize: 2048, CloseOnShutdown: true, Handler: func(ctx *fasthttp.RequestCtx) {
			if ctx.IsGet() {
				return
			}
			ctx.SetStatusCode(sample.StatusCode())
			ctx.Response.Header.SetContentTypeBytes(sample.Header.ContentType())
			for _, h := range headers {
				ctx.Response.Header.SetBytesKV(h.name, h.value)
			}
			ctx.Response.SetBodyRaw(sample.Body())
		}}
	return serveUntil(ctx, s, listen, operator, metrics.NewSet())
}

// serveUntil serves on both addresses until ctx ends.
func serveUntil(ctx context.Context, s *fasthttp.Server, listen, operator string, set *metrics.Set) error {
	failed := make(chan error, 2)
	side := &fasthttp.Server{Handler: obs.Operator(set), CloseOnShutdown: true}
	for addr, s := range map[string]*fasthttp.Server{listen: s, operator: side} {
		ln, err := net.Listen("tcp4", addr) //nolint:noctx // at once
		if err != nil {
			return err
		}
		go func() { failed <- s.Serve(ln) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return errors.Join(s.Shutdown(), side.Shutdown())
	}
}

// serveGateway runs what accepts payments, and nothing that works on them: the
// intake, the voucher view and the public API. Nothing is read from the intake, so
// all of it is there afterwards.
func serveGateway(ctx context.Context, data string) (err error) {
	app.TuneGC()
	a, err := app.Open(ctx, data, os.Environ(), os.Stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	public, err := net.Listen("tcp4", a.Config.Listen) //nolint:noctx // at once
	if err != nil {
		return err
	}
	operator, err := net.Listen("tcp4", a.Config.ListenOperator) //nolint:noctx // at once
	if err != nil {
		return err
	}
	side := &fasthttp.Server{Handler: obs.Operator(a.Metrics), CloseOnShutdown: true}
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed, intake := make(chan error, 4), make(chan error, 1)
	go func() { intake <- a.Intake.Run(own, a.Config.Intake.MeasureEvery) }()
	go func() { failed <- a.Views.Run(own, a.Config.Consumers.Idle, a.Config.Consumers.BackoffMax) }()
	go func() { failed <- side.Serve(operator) }()
	go func() { failed <- a.API.Serve(public) }()
	select {
	case err := <-failed:
		return err
	case err := <-intake:
		return err
	case <-ctx.Done():
	}
	err = errors.Join(a.API.Shutdown(own), side.Shutdown())
	stop()
	return errors.Join(err, <-intake)
}
