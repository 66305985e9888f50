package sim

import (
	"bytes"
	"io"
	"net"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/fault"
)

func (s *Sim) newServer(client *fasthttp.Client) *fasthttp.Server {
	return &fasthttp.Server{
		Handler:               func(ctx *fasthttp.RequestCtx) { s.route(ctx, client) },
		Concurrency:           s.cfg.ConnectionsMax,
		MaxRequestBodySize:    wire.RequestBytesMax,
		ReadTimeout:           30 * time.Second,
		WriteTimeout:          10 * time.Second,
		IdleTimeout:           wire.ServerIdleMillis * time.Millisecond,
		NoDefaultServerHeader: true,
		NoDefaultDate:         true,
		CloseOnShutdown:       true,
		Logger:                quiet{}, // a client that went away is no news
	}
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

func (s *Sim) route(ctx *fasthttp.RequestCtx, client *fasthttp.Client) {
	path := string(ctx.Path())
	switch {
	case path == wire.PathPay, path == wire.PathQuery, path == wire.PathClose:
		if !ctx.IsPost() {
			ctx.Error("want a POST\n", 405)
			return
		}
		s.serve(ctx, client, path)
	case strings.HasPrefix(path, "/pay/"):
		s.page(ctx, strings.TrimPrefix(path, "/pay/"))
	case strings.HasPrefix(path, "/admin/"):
		s.admin(ctx, path)
	case path == "/metrics" && s.cfg.Desk.Metrics != nil:
		s.cfg.Desk.Metrics.WritePrometheus(ctx)
	default:
		ctx.Error("not found\n", 404)
	}
}

// serve answers one signed request as the Desk says.
func (s *Sim) serve(ctx *fasthttp.RequestCtx, client *fasthttp.Client, path string) {
	h := &ctx.Request.Header
	ans := s.Handle(wire.Request{Path: path, Body: ctx.PostBody(), Seal: wire.Seal{
		Account:   string(h.Peek(wire.HeaderAccount)),
		Key:       string(h.Peek(wire.HeaderKey)),
		Timestamp: string(h.Peek(wire.HeaderTimestamp)),
		Nonce:     string(h.Peek(wire.HeaderNonce)),
		Signature: string(h.Peek(wire.HeaderSignature)),
	}}, s.cfg.Now())
	if ans.Early != nil {
		s.call(client, *ans.Early)
	}
	if ans.Hang > 0 {
		s.hang(ctx, ans.Hang)
		return
	}
	if !s.sleep(ans.After) || ans.Lost {
		s.hang(ctx, 0)
		return
	}
	ctx.SetStatusCode(ans.Response.Status)
	if k := ans.Response.Seal; k.Signature != "" {
		ctx.SetContentType(wire.ContentType)
		ctx.Response.Header.Set(wire.HeaderKey, k.Key)
		ctx.Response.Header.Set(wire.HeaderTimestamp, k.Timestamp)
		ctx.Response.Header.Set(wire.HeaderSignature, k.Signature)
	}
	ctx.Response.SetBodyRaw(ans.Response.Body)
}

// hang never answers: it takes the connection out of the server, waits until the
// client leaves or the time is over, and closes it.
func (s *Sim) hang(ctx *fasthttp.RequestCtx, most time.Duration) {
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(c net.Conn) {
		if most > 0 {
			_ = c.SetReadDeadline(time.Now().Add(most))
			_, _ = io.Copy(io.Discard, io.LimitReader(c, 1<<20))
		}
	})
}

// sleep gives false if the simulator stops meanwhile.
func (s *Sim) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.done:
		return false
	}
}

// admin is for this machine alone: it changes what payments meet.
//
//	GET /admin/faults                  all accounts' faults
//	PUT /admin/faults?account=a        replaces them; without account, everybody's
//	PUT /admin/refuse?for_millis=5000  refuses connections for a while
func (s *Sim) admin(ctx *fasthttp.RequestCtx, path string) {
	if !ctx.RemoteIP().IsLoopback() {
		ctx.Error("from this machine only\n", 403)
		return
	}
	switch method := string(ctx.Method()); method + " " + path {
	case "GET /admin/faults":
		b, err := json.Marshal(s.Faults(), json.Deterministic(true), jsontext.Multiline(true))
		if err != nil {
			ctx.Error(err.Error()+"\n", 500)
			return
		}
		ctx.SetContentType(wire.ContentType)
		ctx.SetBody(append(b, '\n'))
	case "PUT /admin/faults":
		if err := s.putFaults(string(ctx.QueryArgs().Peek("account")), bytes.Clone(ctx.PostBody())); err != nil {
			status := 400
			if fault.Is(err, fault.NotFound) {
				status = 404
			}
			ctx.Error(err.Error()+"\n", status)
			return
		}
		ctx.SetStatusCode(204)
	case "PUT /admin/refuse":
		n, err := ctx.QueryArgs().GetUint("for_millis")
		if err != nil || n < 1 || n > delayMillisMax {
			ctx.Error("for_millis: 1 to 3600000\n", 400)
			return
		}
		select {
		case s.pause <- millis(int64(n)):
			ctx.SetStatusCode(204)
		default:
			ctx.Error("already refusing\n", 409)
		}
	default:
		ctx.Error("not found\n", 404)
	}
}

func (s *Sim) putFaults(account string, body []byte) error {
	f, err := ParseFaults(body)
	if err != nil {
		return err
	}
	if account != "" {
		return s.SetFaults(account, f)
	}
	for _, a := range s.cfg.Desk.Accounts {
		if err := s.SetFaults(a.Name, f); err != nil {
			return err
		}
	}
	return nil
}

// pauses refuses connections for the durations that come in, one after the other.
// It starts a little late, so that the answer to who asked gets out.
func (s *Sim) pauses() {
	const grace = 50 * time.Millisecond
	for {
		select {
		case <-s.done:
			return
		case d := <-s.pause:
			if !s.sleep(grace) {
				return
			}
			_ = s.Refuse(true)
			if !s.sleep(d) {
				return
			}
			if err := s.Refuse(false); err != nil {
				s.cfg.Log.Error("cannot listen again", "error", err.Error())
			}
		}
	}
}
