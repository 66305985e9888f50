package sandbox_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/channeltest"
	"github.com/tallystick/tallystick/channels/sandbox"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/money"
)

const account = "acct"

func key() []byte { return []byte("0123456789abcdef") }

// fasthttp keeps a clock, and cleaners that end when their connections have.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*Client).mCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*TCPDialer).tcpAddrsClean"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// live is the sandbox PSP over HTTP, with a merchant that listens for callbacks.
type live struct {
	t         *testing.T
	sim       *sim.Sim
	mu        sync.Mutex
	callbacks []channels.CallbackRequest
	came      chan struct{}
}

func fresh(t *testing.T) channeltest.Harness {
	l := &live{t: t, came: make(chan struct{}, 100)}
	merchant := httptest.NewServer(l)
	t.Cleanup(merchant.Close)
	var err error
	l.sim, err = sim.New(sim.Config{Now: time.Now, Log: slog.New(slog.DiscardHandler), CallbackWorkers: 2, TickMillis: 1,
		Desk: sim.DeskConfig{Seed: 1, Accounts: []sim.Account{{Name: account, Keys: [][]byte{key()}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.sim.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.sim.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	ch, err := sandbox.New(sandbox.Config{Account: account, Endpoint: l.sim.URL(), Keys: [][]byte{key()}, Now: time.Now, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	return channeltest.Harness{Channel: ch, PSP: l, Now: time.Now, NotifyURL: merchant.URL + "/cb", Currency: "CNY",
		Window: wire.SkewSecondsMax * time.Second, HangMax: 50 * time.Millisecond}
}

func (l *live) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	header := r.Header.Clone()
	l.mu.Lock()
	l.callbacks = append(l.callbacks, channels.CallbackRequest{Method: r.Method, Path: r.URL.Path, Header: header.Get, Body: body, Now: time.Now()})
	l.mu.Unlock()
	_, _ = io.WriteString(w, wire.AcceptedBody)
	l.came <- struct{}{}
}

func (l *live) With(f channeltest.Fault, call func()) bool {
	var faults sim.Faults
	switch f {
	case channeltest.LostReply:
		faults.LostReplyShare = 1
	case channeltest.Hang:
		faults.HangShare, faults.HangMaxMillis = 1, 60_000
	case channeltest.ServerError:
		faults.ServerErrorShare = 1
	case channeltest.Decline:
		faults.DeclineShare = 1
	case channeltest.Early:
		faults.EarlyCallbackShare = 1
	case channeltest.Refuse:
		if err := l.sim.Refuse(true); err != nil {
			l.t.Fatal(err)
		}
		call()
		if err := l.sim.Refuse(false); err != nil {
			l.t.Fatal(err)
		}
		return true
	}
	l.set(faults)
	defer l.set(sim.Faults{})
	call()
	if f == channeltest.Early && len(l.came) == 0 {
		l.t.Error("the callback came after the answer")
	}
	return true
}

func (l *live) set(f sim.Faults) {
	if err := l.sim.SetFaults(account, f); err != nil {
		l.t.Fatal(err)
	}
}

func (l *live) Pays(n string, a money.Amount) bool { return l.sim.UserPays(account, n, a) }

func (l *live) Taken(n string) (money.Amount, int) {
	r, _ := l.sim.Find(account, n)
	return r.Taken, len(l.sim.Payments())
}

func (l *live) Callback(n string) (channels.CallbackRequest, bool) {
	select {
	case <-l.came:
	case <-time.After(10 * time.Second):
		return channels.CallbackRequest{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.callbacks[0]
	l.callbacks = l.callbacks[1:]
	return r, bytes.Contains(r.Body, []byte(n))
}

func TestSandboxOverHTTP(t *testing.T) { channeltest.Run(t, fresh) }
