package sandbox_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
)

var at = time.Unix(1_700_000_000, 0)

func config() sandbox.Config {
	return sandbox.Config{Account: account, Endpoint: "http://127.0.0.1:1", Keys: [][]byte{key()},
		Now: func() time.Time { return at }, Random: rand.NewChaCha8([32]byte{})}
}

// answering is a channel whose PSP answers with these bytes, genuinely signed
// unless spoiled.
func answering(t *testing.T, status int, body string, spoil func(*wire.Response)) *channels.Channel {
	t.Helper()
	ring, err := wire.NewRing(key())
	if err != nil {
		t.Fatal(err)
	}
	c := config()
	c.Send = func(_ context.Context, r wire.Request) (wire.Response, error) {
		resp := wire.Response{Status: status, Body: []byte(body),
			Seal: ring.Sign(wire.KindReply, wire.ReplySubject(status, r.Path), account, r.Seal.Nonce, at, []byte(body))}
		if spoil != nil {
			spoil(&resp)
		}
		return resp, nil
	}
	ch, err := sandbox.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func request() channels.PayRequest {
	return channels.PayRequest{OutTradeNo: "r0", Amount: money.Of(100, "CNY"), Method: channels.MethodQRCode, Subject: "Tea",
		NotifyURL: "http://us.test/cb", ExpiresAt: at.Add(time.Hour)}
}

// TestOutcomes is the mapping, case by case: nothing but what the PSP definitely
// said is Done or Declined, and no answer at all is ever NotSent.
func TestOutcomes(t *testing.T) {
	const pending = `{"code":"ok","out_trade_no":"r0","state":"pending","credential":{"method":"qr_code","value":"x"}}`
	const paid = `{"code":"ok","out_trade_no":"r0","state":"paid","transaction_id":"t1","paid":{"minor":99,"currency":"CNY"}}`
	of := func(state string) string {
		return fmt.Sprintf(`{"code":"ok","out_trade_no":"r0","state":%q,"reason":"why"}`, state)
	}
	type w struct {
		r channels.Result
		s channels.State
	}
	const done, declined, unknown = channels.Done, channels.Declined, channels.Unknown
	no := w{unknown, ""}
	for _, c := range []struct {
		name              string
		status            int
		body              string
		spoil             func(*wire.Response)
		pay, query, close w
	}{
		{"pending", 200, pending, nil, w{done, "pending"}, w{done, "pending"}, no},
		{"paid", 200, paid, nil, w{done, "paid"}, w{done, "paid"}, w{done, "paid"}},
		{"declined", 200, of("declined"), nil, w{declined, "declined"}, w{done, "declined"}, w{done, "declined"}},
		{"closed", 200, of("closed"), nil, w{declined, "closed"}, w{done, "closed"}, w{done, "closed"}},
		{"not found", 200, of("not_found"), nil, no, w{done, "not_found"}, w{done, "not_found"}},
		{"a state of tomorrow", 200, of("frozen"), nil, no, no, no},
		{"no state", 200, of(""), nil, no, no, no},
		{"a field of tomorrow", 200, strings.Replace(pending, "{", `{"new":1,`, 1), nil, w{done, "pending"}, w{done, "pending"}, no},
		{"another number", 200, strings.Replace(paid, "r0", "r1", 1), nil, no, no, no},
		{"paid without amount", 200, of("paid"), nil, no, no, no},
		{"paid nothing", 200, strings.Replace(paid, "99", "0", 1), nil, no, no, no},
		{"paid half a cent", 200, strings.Replace(paid, "99", "0.5", 1), nil, no, no, no},
		{"a name twice", 200, strings.Replace(paid, "{", `{"state":"declined",`, 1), nil, no, no, no},
		{"cut off", 200, paid[:40], nil, no, no, no},
		{"empty", 200, "", nil, no, no, no},
		{"not JSON", 200, "<html>", nil, no, no, no},
		{"invalid request", 400, `{"code":"invalid_request","message":"m"}`, nil, w{declined, ""}, no, no},
		{"invalid request, unsigned", 400, `{"code":"invalid_request"}`, func(r *wire.Response) { r.Seal = wire.Seal{} }, no, no, no},
		{"400 of another sort", 400, `{"code":"odd"}`, nil, no, no, no},
		{"ok, but 400", 400, paid, nil, no, no, no},
		{"wrong signature of ours", 401, `{"code":"signature_invalid"}`, nil, no, no, no},
		{"conflict", 409, `{"code":"out_trade_no_conflict"}`, nil, no, no, no},
		{"too many requests", 429, `{"code":"slow_down"}`, nil, no, no, no},
		{"redirect", 302, "", nil, no, no, no},
		{"500 that says paid", 500, paid, nil, no, no, no},
		{"503 that says declined", 503, of("declined"), nil, no, no, no},
		{"unsigned", 200, paid, func(r *wire.Response) { r.Seal.Signature = "" }, no, no, no},
		{"another body", 200, paid, func(r *wire.Response) { r.Body = []byte(of("declined")) }, no, no, no},
		{"signed as another status", 200, `{"code":"invalid_request"}`, func(r *wire.Response) { r.Status = 400 }, no, no, no},
		{"answer to another request", 200, paid, func(r *wire.Response) {
			ring, _ := wire.NewRing(key())
			r.Seal = ring.Sign(wire.KindReply, wire.ReplySubject(200, wire.PathPay), account, "another-nonce", at, r.Body)
		}, no, no, no},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := answering(t, c.status, c.body, c.spoil).Pay
			q := channels.QueryRequest{OutTradeNo: "r0"}
			for op, x := range map[string]struct {
				got  channels.Outcome
				want w
			}{
				"pay":   {p.Prepay(t.Context(), request()), c.pay},
				"query": {p.Query(t.Context(), q), c.query},
				"close": {p.Close(t.Context(), q), c.close},
			} {
				if x.got.Result != x.want.r || x.got.State != x.want.s {
					t.Errorf("%s: %s %q (%s), want %s %q", op, x.got.Result, x.got.State, x.got.Code, x.want.r, x.want.s)
				}
				if x.want.r == unknown && (x.got.TransactionID != "" || x.got.Paid != money.Amount{} || x.got.Code == "") {
					t.Errorf("%s: Unknown that claims to know: %+v", op, x.got)
				}
				if x.want.s == channels.StatePaid && (x.got.Paid != money.Of(99, "CNY") || x.got.TransactionID != "t1") {
					t.Errorf("%s: %+v", op, x.got)
				}
				if string(x.got.Raw) != c.body && c.spoil == nil {
					t.Errorf("%s: raw %q", op, x.got.Raw)
				}
			}
		})
	}
}

func TestFailuresOfSending(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want channels.Result
		code string
	}{
		{"dial", fmt.Errorf("%w: refused", sandbox.ErrNotSent), channels.NotSent, sandbox.CodeDialFailed},
		{"deadline", context.DeadlineExceeded, channels.Unknown, sandbox.CodeTimeout},
		{"anything", errors.New("odd"), channels.Unknown, sandbox.CodeConnection},
	} {
		cfg := config()
		cfg.Send = func(context.Context, wire.Request) (wire.Response, error) { return wire.Response{}, c.err }
		ch, err := sandbox.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if o := ch.Pay.Prepay(t.Context(), request()); o.Result != c.want || o.Code != c.code {
			t.Errorf("%s: %s %s, want %s %s", c.name, o.Result, o.Code, c.want, c.code)
		}
	}
}

// server counts requests, and answers each connection as raw bytes.
func raw(t *testing.T, answer func(n int64, c net.Conn)) (string, *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n, stop := &atomic.Int64{}, make(chan struct{})
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		close(stop)
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				<-stop
				_ = c.Close()
			})
			wg.Go(func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					_, _ = br.Discard(int(req.ContentLength))
					answer(n.Add(1), c)
				}
			})
		}
	})
	return "http://" + ln.Addr().String(), n
}

// Whatever happens on a connection, the request goes out once: the client below
// repeats nothing, not even on a connection that had been idle.
func TestEachCallIsOneRequest(t *testing.T) {
	const broken = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"code\""
	for name, bytes := range map[string]string{
		"closed at once": "", "closed in the header": "HTTP/1.1 20", "closed in the body": broken, "no HTTP": "hello\r\n\r\n",
		"too long":           "HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20_000),
		"too long a header":  "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 9_000) + "\r\nContent-Length: 0\r\n\r\n",
		"endless in chunks":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("ffff\r\n"+strings.Repeat("x", 0xffff)+"\r\n", 4),
		"redirect elsewhere": "HTTP/1.1 307 Go\r\nLocation: /v1/pay\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			url, n := raw(t, func(_ int64, c net.Conn) {
				_, _ = c.Write([]byte(bytes))
				_ = c.Close()
			})
			cfg := config()
			cfg.Endpoint = url
			ch, err := sandbox.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if o := ch.Pay.Prepay(t.Context(), request()); o.Result != channels.Unknown {
				t.Errorf("%s (%s %s), want unknown", o.Result, o.Code, o.Message)
			} else if len(o.Raw) > 16<<10 {
				t.Errorf("%d bytes were taken in", len(o.Raw))
			}
			if n.Load() != 1 {
				t.Errorf("%d requests", n.Load())
			}
		})
	}
	t.Run("a connection that dies between two calls", func(t *testing.T) {
		url, n := raw(t, func(n int64, c net.Conn) {
			if n == 1 {
				_, _ = c.Write([]byte("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"))
				return
			}
			_ = c.Close()
		})
		cfg := config()
		cfg.Endpoint = url
		ch, err := sandbox.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if o := ch.Pay.Prepay(t.Context(), request()); o.Result != channels.Unknown {
				t.Errorf("%s, want unknown", o.Result)
			}
		}
		if n.Load() != 2 {
			t.Errorf("%d requests", n.Load())
		}
	})
}

// fasthttp uses its buffers again: what an outcome holds must be its own.
func TestRawIsTheOutcomesOwn(t *testing.T) {
	url, _ := raw(t, func(n int64, c net.Conn) {
		_, _ = fmt.Fprintf(c, "HTTP/1.1 500 No\r\nContent-Length: 8\r\n\r\n%08d", n)
	})
	cfg := config()
	cfg.Endpoint = url
	ch, err := sandbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var all []channels.Outcome
	for range 50 {
		all = append(all, ch.Pay.Prepay(t.Context(), request()))
	}
	for i, o := range all {
		if want := fmt.Sprintf("%08d", i+1); string(o.Raw) != want || o.Code != sandbox.CodeServerError {
			t.Fatalf("answer %d: %s %q, want %q", i, o.Code, o.Raw, want)
		}
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		inside <- struct{}{}
		<-leave
		w.WriteHeader(500)
	}))
	defer srv.Close()
	cfg := config()
	cfg.Endpoint, cfg.ConnectionsMax = srv.URL, 1
	ch, err := sandbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan channels.Outcome)
	go func() { first <- ch.Pay.Prepay(context.Background(), request()) }()
	<-inside
	if o := ch.Pay.Prepay(t.Context(), request()); o.Result != channels.NotSent || o.Code != sandbox.CodeNoConn {
		t.Errorf("%s %s, want not_sent %s", o.Result, o.Code, sandbox.CodeNoConn)
	}
	close(leave)
	if o := <-first; o.Result != channels.Unknown {
		t.Errorf("the first: %s", o.Result)
	}
}

func TestConfig(t *testing.T) {
	for field, spoil := range map[string]func(*sandbox.Config){
		"account":           func(c *sandbox.Config) { c.Account = "a b" },
		"endpoint":          func(c *sandbox.Config) { c.Endpoint = "ftp://x" },
		"keys":              func(c *sandbox.Config) { c.Keys = nil },
		"now":               func(c *sandbox.Config) { c.Now = nil },
		"random":            func(c *sandbox.Config) { c.Random = nil },
		"reply_bytes_max":   func(c *sandbox.Config) { c.ReplyBytesMax = -1 },
		"connections_max":   func(c *sandbox.Config) { c.ConnectionsMax = -1 },
		"idle_millis_max":   func(c *sandbox.Config) { c.IdleMillisMax = wire.ServerIdleMillis },
		"endpoint with key": func(c *sandbox.Config) { c.Endpoint = "http://user:pass@x" },
	} {
		c := config()
		spoil(&c)
		_, err := sandbox.New(c)
		var f *fault.Error
		if !errors.As(err, &f) || f.Kind != fault.Invalid || !strings.HasPrefix(strings.Fields(field)[0], strings.Split(f.Field, ",")[0]) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// Rotation: the PSP signs with a new key while we know both, and the other way round.
func TestCallbackKeysRotate(t *testing.T) {
	old, fresh := key(), []byte("fedcba9876543210")
	p, err := sandbox.NewCallbackParser(account, fresh, old)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"event_id":"e","out_trade_no":"r0","state":"declined","reason":"why","occurred_at_millis":1}`)
	for _, k := range [][]byte{old, fresh} {
		if e, err := p.Parse(callback(t, k, body)); err != nil || e.Code != "why" {
			t.Errorf("%+v, %v", e, err)
		}
	}
	if _, err := p.Parse(callback(t, []byte("somebody-else's-key"), body)); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("another key: %v", err)
	}
}

func callback(t testing.TB, k, body []byte) channels.CallbackRequest {
	ring, err := wire.NewRing(k)
	if err != nil {
		t.Fatal(err)
	}
	s := ring.Sign(wire.KindCallback, "", account, "nonce-01", at, body)
	h := map[string]string{wire.HeaderAccount: s.Account, wire.HeaderKey: s.Key, wire.HeaderTimestamp: s.Timestamp,
		wire.HeaderNonce: s.Nonce, wire.HeaderSignature: s.Signature}
	return channels.CallbackRequest{Method: "POST", Path: "/", Now: at, Body: body, Header: func(n string) string { return h[n] }}
}

// FuzzCallback: nothing unsigned is ever an event, and what is signed is an event
// or Invalid, without a panic.
func FuzzCallback(f *testing.F) {
	f.Add([]byte(`{"event_id":"e","out_trade_no":"r0","state":"paid","transaction_id":"t","paid":{"minor":1,"currency":"CNY"},"occurred_at_millis":1}`), "acct", "33ce155880b5", "1700000000", "nonce-01", "00")
	f.Add([]byte(`{}`), "", "", "", "", "")
	p, err := sandbox.NewCallbackParser(account, key())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, acct, id, stamp, nonce, sig string) {
		h := map[string]string{wire.HeaderAccount: acct, wire.HeaderKey: id, wire.HeaderTimestamp: stamp, wire.HeaderNonce: nonce, wire.HeaderSignature: sig}
		e, err := p.Parse(channels.CallbackRequest{Method: "POST", Now: at, Body: body, Header: func(n string) string { return h[n] }})
		if err == nil || e != (channels.CallbackEvent{}) {
			t.Errorf("unsigned: %+v, %v", e, err)
		}
		e, err = p.Parse(callback(t, key(), body))
		if err != nil && !fault.Is(err, fault.Invalid) || err == nil && (e.EventID == "" || e.OutTradeNo == "" || e.State == "") {
			t.Errorf("signed: %+v, %v", e, err)
		}
	})
}

// The driver is on the way of every payment: what one call allocates is bounded.
func TestAllocationsOfACall(t *testing.T) {
	p := answering(t, 200, `{"code":"ok","out_trade_no":"r0","state":"pending","credential":{"method":"qr_code","value":"x"}}`, nil).Pay
	r, ctx := request(), t.Context()
	const bound = 30 // 14 measured; 26 under the race detector, which empties pools at random
	n := testing.AllocsPerRun(200, func() { p.Prepay(ctx, r) })
	t.Logf("%v allocations", n)
	if n > bound {
		t.Errorf("%v allocations, want at most %d", n, bound)
	}
}
