package sim_test

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/goleak"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
)

// fasthttp keeps goroutines that end by themselves some seconds later.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*Client).mCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*TCPDialer).tcpAddrsClean"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

func start(t *testing.T, f sim.Faults, change func(*sim.Config)) (*sim.Sim, *channels.Channel) {
	t.Helper()
	c := sim.Config{Now: time.Now, Log: slog.New(slog.DiscardHandler), CallbackWorkers: 4, TickMillis: 1,
		Desk: sim.DeskConfig{Seed: 7, CallbackBackoffMillis: 1, Metrics: metrics.NewSet(),
			Accounts: []sim.Account{{Name: "a", Keys: [][]byte{key()}, Faults: f}}}}
	if change != nil {
		change(&c)
	}
	s, err := sim.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	ch, err := sandbox.New(sandbox.Config{Account: "a", Endpoint: s.URL(), Keys: [][]byte{key()}, Now: time.Now, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	return s, ch
}

func soon(n, notify string) channels.PayRequest {
	r := request(n)
	r.ExpiresAt, r.NotifyURL = time.Now().Add(time.Hour), notify
	return r
}

// merchant answers callbacks as told and counts them.
func merchant(t *testing.T, answer func(n int64, w http.ResponseWriter)) (string, chan string) {
	t.Helper()
	var n atomic.Int64
	bodies := make(chan string, 1000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies <- string(b)
		answer(n.Add(1), w)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, bodies
}

// Only the one accepted answer ends the repetitions: not a 200 with other words,
// not an error, not a closed connection.
func TestCallbacksAreSentUntilAccepted(t *testing.T) {
	notify, bodies := merchant(t, func(n int64, w http.ResponseWriter) {
		switch n {
		case 1:
			w.WriteHeader(500)
		case 2:
			_, _ = io.WriteString(w, `{"code":"refused"}`)
		case 3:
			panic(http.ErrAbortHandler)
		case 4:
			w.WriteHeader(201)
			_, _ = io.WriteString(w, wire.AcceptedBody)
		default:
			_, _ = io.WriteString(w, wire.AcceptedBody)
		}
	})
	s, ch := start(t, sim.Faults{}, nil)
	if o := ch.Pay.Prepay(t.Context(), soon("n", notify)); o.Result != channels.Done {
		t.Fatalf("%+v", o)
	}
	if !s.UserPays("a", "n", money.Of(99, "CNY")) {
		t.Fatal("not paid")
	}
	first := <-bodies
	for range 4 {
		if b := <-bodies; b != first {
			t.Errorf("repeated as %s, was %s", b, first)
		}
	}
	// Another payment's callback comes after whatever the first would still cause.
	ch.Pay.Prepay(t.Context(), soon("m", notify))
	s.UserPays("a", "m", money.Amount{})
	if b := <-bodies; !strings.Contains(b, `"m"`) {
		t.Errorf("sent again after it was accepted: %s", b)
	}
}

// A storm of payments with everything going wrong: whatever the client was told,
// each number was paid at most once, and each paid one was called back.
func TestStorm(t *testing.T) {
	var mu sync.Mutex
	called := map[string]int{}
	p, err := sandbox.NewCallbackParser("a", key())
	if err != nil {
		t.Fatal(err)
	}
	forged := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		e, err := p.Parse(channels.CallbackRequest{Method: r.Method, Header: r.Header.Get, Body: b, Now: time.Now()})
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			forged++
			w.WriteHeader(503)
			return
		}
		if e.State == channels.StatePaid {
			called[e.OutTradeNo]++
		}
		_, _ = w.Write(p.Accepted().Body)
	}))
	defer srv.Close()
	f := mixed()
	f.LatencyBaseMillis, f.LatencyTailMillis, f.LatencyMaxMillis, f.HangMaxMillis = 1, 2, 20, 300
	s, ch := start(t, f, nil)
	var wg sync.WaitGroup
	for _, n := range numbers(200) {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // a hang ends long before
			defer cancel()
			ch.Pay.Prepay(ctx, soon(n, srv.URL))
		})
	}
	wg.Wait()
	deadline := time.Now().Add(time.Minute)
	for {
		_, busy := s.NextAt()
		if !busy || time.Now().After(deadline) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	paid := 0
	for _, r := range s.Payments() {
		if r.Taken.Minor == 0 {
			continue
		}
		paid++
		for {
			mu.Lock()
			n := called[r.OutTradeNo]
			mu.Unlock()
			if n > 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s was paid and not called back", r.OutTradeNo)
			}
			time.Sleep(time.Millisecond)
		}
	}
	if paid < 50 {
		t.Errorf("only %d of 200 were paid", paid)
	}
	for name, n := range s.Injected("a") {
		if n == 0 {
			t.Errorf("fault %s was never injected", name)
		}
	}
}

func get(t *testing.T, method, to, form string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, to, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestPayersPage(t *testing.T) {
	notify, bodies := merchant(t, func(_ int64, w http.ResponseWriter) { _, _ = io.WriteString(w, wire.AcceptedBody) })
	s, ch := start(t, sim.Faults{}, nil)
	r := soon("n", notify)
	r.Subject, r.ReturnURL = `<script>alert(1)</script>`, "javascript:alert(1)"
	o := ch.Pay.Prepay(t.Context(), r)
	page := o.Credential.Value
	if u, err := url.Parse(page); err != nil || u.Host != s.Addr() {
		t.Fatalf("credential %q", page)
	}
	status, html := get(t, "GET", page, "")
	if status != 200 || !strings.Contains(html, `value="pay"`) || strings.Contains(html, "<script>") {
		t.Errorf("%d %s", status, html)
	}
	if status, _ := get(t, "POST", page, "action=pay&amount_minor=0"); status != 400 {
		t.Errorf("nothing paid: %d", status)
	}
	status, html = get(t, "POST", page, "action=pay&amount_minor=55") // and follows to the page
	if status != 200 || strings.Contains(html, `value="pay"`) || strings.Contains(html, `"javascript:`) {
		t.Errorf("%d %s", status, html)
	}
	if b := <-bodies; !strings.Contains(b, `"paid":{"minor":55,"currency":"CNY"}`) {
		t.Errorf("callback %s", b)
	}
	if status, _ = get(t, "POST", page, "action=decline"); status != 409 {
		t.Errorf("declined after paid: %d", status)
	}
	if status, _ = get(t, "GET", s.URL()+"/pay/a/other", ""); status != 404 {
		t.Errorf("unknown payment: %d", status)
	}
}

func TestAdmin(t *testing.T) {
	s, ch := start(t, sim.Faults{}, nil)
	if status, _ := get(t, "PUT", s.URL()+"/admin/faults?account=a", `{"server_error_share":1}`); status != 204 {
		t.Errorf("put: %d", status)
	}
	if status, b := get(t, "GET", s.URL()+"/admin/faults", ""); status != 200 || !strings.Contains(b, `"server_error_share": 1`) {
		t.Errorf("get: %d %s", status, b)
	}
	if o := ch.Pay.Prepay(t.Context(), soon("n", "http://x")); o.Code != sandbox.CodeServerError {
		t.Errorf("%+v", o)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "/admin/faults?account=b", `{}`, 404}, {"PUT", "/admin/faults", `{"x":1}`, 400}, {"PUT", "/admin/faults", `{"hang_share":7}`, 400},
		{"PUT", "/admin/refuse?for_millis=x", "", 400}, {"POST", "/admin/faults", "", 404}, {"GET", "/v1/pay", "", 405}, {"GET", "/", "", 404},
	} {
		if status, _ := get(t, c.method, s.URL()+c.path, c.body); status != c.status {
			t.Errorf("%s %s %s: %d, want %d", c.method, c.path, c.body, status, c.status)
		}
	}
	if _, b := get(t, "GET", s.URL()+"/metrics", ""); !strings.Contains(b, `sandbox_sim_faults_total{account="a",fault="server_error"} 1`) {
		t.Errorf("metrics: %s", b)
	}
}

// Refused for a while: NotSent meanwhile, on the connection that was open as well,
// and answered again on the same address afterwards.
func TestRefuse(t *testing.T) {
	s, ch := start(t, sim.Faults{}, nil)
	q := channels.QueryRequest{OutTradeNo: "n"}
	if o := ch.Pay.Query(t.Context(), q); o.Result != channels.Done {
		t.Fatalf("%+v", o)
	}
	for range 3 {
		if err := s.Refuse(true); err != nil {
			t.Fatal(err)
		}
		ch.Pay.Query(t.Context(), q) // the open connection is found dead: Unknown
		if o := ch.Pay.Query(t.Context(), q); o.Result != channels.NotSent {
			t.Fatalf("%+v", o)
		}
		if err := s.Refuse(false); err != nil {
			t.Fatal(err)
		}
		if o := ch.Pay.Query(t.Context(), q); o.Result != channels.Done {
			t.Fatalf("%+v", o)
		}
	}
	if status, _ := get(t, "PUT", s.URL()+"/admin/refuse?for_millis=100", ""); status != 204 {
		t.Fatalf("refuse: %d", status)
	}
	saw := false
	for deadline := time.Now().Add(20 * time.Second); ; {
		o := ch.Pay.Query(t.Context(), q)
		saw = saw || o.Result == channels.NotSent
		if saw && o.Result == channels.Done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("refused: %v, then %+v", saw, o)
		}
	}
}

// Stopping waits for nobody: not for a request that hangs, nor for one that is
// answered in an hour, nor for a callback that nobody takes.
func TestStopWaitsForNobody(t *testing.T) {
	s, err := sim.New(sim.Config{Now: time.Now, Log: slog.New(slog.DiscardHandler), Desk: sim.DeskConfig{Accounts: []sim.Account{
		{Name: "a", Keys: [][]byte{key()}, Faults: sim.Faults{HangShare: 1, HangMaxMillis: 3_600_000}},
		{Name: "b", Keys: [][]byte{key()}, Faults: sim.Faults{LatencyBaseMillis: 3_600_000, LatencyMaxMillis: 3_600_000}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, outcomes := make(chan error), make(chan channels.Outcome)
	go func() { done <- s.Run(ctx) }()
	for _, account := range []string{"a", "b"} {
		ch, err := sandbox.New(sandbox.Config{Account: account, Endpoint: s.URL(), Keys: [][]byte{key()}, Now: time.Now,
			Random: rand.Reader, CallMillisMax: 3_600_000})
		if err != nil {
			t.Fatal(err)
		}
		go func() { outcomes <- ch.Pay.Prepay(context.Background(), soon("n", "http://127.0.0.1:1/")) }()
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, came := s.Find("b", "n"); came && s.Injected("a")["hang"] == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the requests did not come")
		}
	}
	cancel()
	for range 2 {
		if o := <-outcomes; o.Result != channels.Unknown || o.Code != sandbox.CodeConnection {
			t.Errorf("%+v", o)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := s.Refuse(false); !fault.Is(err, fault.Unavailable) {
		t.Errorf("listens again after it was stopped: %v", err)
	}
}

func TestConfig(t *testing.T) {
	ok := func() sim.Config {
		return sim.Config{Now: time.Now, Log: slog.New(slog.DiscardHandler), Desk: sim.DeskConfig{
			Accounts: []sim.Account{{Name: "a", Keys: [][]byte{key()}}}}}
	}
	if _, err := sim.New(ok()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*sim.Config){
		"no clock": func(c *sim.Config) { c.Now = nil }, "no log": func(c *sim.Config) { c.Log = nil },
		"no account":          func(c *sim.Config) { c.Desk.Accounts = nil },
		"two alike":           func(c *sim.Config) { c.Desk.Accounts = append(c.Desk.Accounts, c.Desk.Accounts[0]) },
		"a name with a slash": func(c *sim.Config) { c.Desk.Accounts[0].Name = "a/b" },
		"a short key":         func(c *sim.Config) { c.Desk.Accounts[0].Keys = [][]byte{[]byte("short")} },
		"faults":              func(c *sim.Config) { c.Desk.Accounts[0].Faults.HangShare = 2 },
		"workers":             func(c *sim.Config) { c.CallbackWorkers = -1 },
		"payments":            func(c *sim.Config) { c.Desk.PaymentsMax = -1 },
	} {
		c := ok()
		spoil(&c)
		if _, err := sim.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
