package app_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// trades are what core's internal port reads.
type trades struct {
	list func(ctx context.Context, l event.Listing) ([]event.Listed, error)
}

func (trades) Trade(context.Context, ids.Code) (*core.Trade, error) { return nil, nil }

func (s trades) List(ctx context.Context, l event.Listing) ([]event.Listed, error) {
	return s.list(ctx, l)
}

// serveInternal is core's internal port, until the test ends. It gives its base address.
func serveInternal(t *testing.T, timeout time.Duration, s trades) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := &fasthttp.Server{Handler: app.AnswerQueries(core.Queries{Store: s}, timeout, func(c *fasthttp.RequestCtx) { c.Error("no question", 404) })}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		must(t, l.Close())
		<-ended
	})
	return "http://" + l.Addr().String()
}

// Lists wait for the slowest database: however many there are, they leave the
// connections of single questions alone.
func TestListsHaveConnectionsOfTheirOwn(t *testing.T) {
	t.Parallel()
	const asked = app.QueryConnsMax + app.ListConnsMax
	begun, end := make(chan struct{}, asked), make(chan struct{})
	q := app.NewRemoteQueries(serveInternal(t, time.Minute, trades{func(context.Context, event.Listing) ([]event.Listed, error) {
		begun <- struct{}{}
		<-end
		return nil, nil
	}}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, asked)
	for range asked {
		go func() {
			_, _, err := q.List(ctx, event.Listing{Merchant: "m1", Limit: 1})
			ended <- err
		}()
	}
	reading := 0
	for range asked { // each is read, or finds no connection in time
		select {
		case <-begun:
			reading++
		case err := <-ended:
			if !fault.Is(err, fault.Unavailable) {
				t.Errorf("a list beyond the bound: %v", err)
			}
		}
	}
	if reading != app.ListConnsMax {
		t.Errorf("%d lists are read at the same time, want %d", reading, app.ListConnsMax)
	}
	if _, _, _, err := q.Payment(ctx, someCode(t)); err != nil {
		t.Errorf("a question while lists wait: %v", err)
	}
	close(end)
	for range reading {
		must(t, <-ended)
	}
}

// What is asked after core was restarted meets connections of before, which fail one after
// the other, and is answered over a new one.
func TestQuestionsOutliveARestartOfCore(t *testing.T) {
	t.Parallel()
	var busy sync.WaitGroup
	handler := app.AnswerQueries(core.Queries{Store: trades{func(context.Context, event.Listing) ([]event.Listed, error) {
		busy.Done()
		busy.Wait()
		return nil, nil
	}}}, time.Minute, func(c *fasthttp.RequestCtx) { c.Error("no question", 404) })
	address := "127.0.0.1:0"
	serve := func() (stop func()) {
		l, err := net.Listen("tcp", address)
		must(t, err)
		address = l.Addr().String()
		server := &fasthttp.Server{Handler: handler}
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(l) }()
		return func() {
			must(t, server.Shutdown())
			_ = l.Close() // it does not know of it when Serve has only just been called
			if err := <-ended; err != nil && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
	}
	stop := serve()
	q := app.NewRemoteQueries("http://" + address)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	busy.Add(app.ListConnsMax)
	var lists sync.WaitGroup
	for range app.ListConnsMax {
		lists.Go(func() {
			_, _, err := q.List(ctx, event.Listing{Merchant: "m1", Limit: 1})
			if err != nil {
				t.Error(err)
			}
		})
	}
	lists.Wait()
	stop()
	defer serve()()
	busy.Add(1)
	if _, _, err := q.List(ctx, event.Listing{Merchant: "m1", Limit: 1}); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// standsStill is a core that takes connections and answers nothing, and how many it took.
func standsStill(t *testing.T) (base string, taken *atomic.Int64) {
	t.Helper()
	still, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	taken = new(atomic.Int64)
	var conns []net.Conn
	var asked sync.WaitGroup
	asked.Go(func() {
		for {
			c, err := still.Accept()
			if err != nil {
				return
			}
			taken.Add(1)
			conns = append(conns, c)
		}
	})
	t.Cleanup(func() {
		must(t, still.Close())
		asked.Wait()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	return "http://" + still.Addr().String(), taken
}

// A core that stands still is passed over: another one is asked in time, and first from
// then on. One that is gone takes no time.
func TestACoreThatStandsStillIsPassedOver(t *testing.T) {
	t.Parallel()
	still, taken := standsStill(t)
	works := serveInternal(t, time.Minute, trades{func(context.Context, event.Listing) ([]event.Listed, error) { return nil, nil }})
	q := app.NewRemoteQueries("http://127.0.0.1:1 " + still + " " + works)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		if _, _, _, err := q.Payment(ctx, someCode(t)); err != nil {
			t.Error(err)
		}
		if _, _, err := q.List(ctx, event.Listing{Merchant: "m1", Limit: 1}); err != nil {
			t.Error(err)
		}
		cancel()
	}
	if n := taken.Load(); n != 1 {
		t.Errorf("it was asked %d times, want once", n)
	}
}

// Where two stand still, a question fails, and the next one finds the third.
func TestTwoCoresThatStandStill(t *testing.T) {
	t.Parallel()
	one, _ := standsStill(t)
	two, _ := standsStill(t)
	works := serveInternal(t, time.Minute, trades{})
	q := app.NewRemoteQueries(one + " " + two + " " + works)
	ask := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		_, _, _, err := q.Payment(ctx, someCode(t))
		return err
	}
	if err := ask(100 * time.Millisecond); !fault.Is(err, fault.Unavailable) {
		t.Errorf("have %v, want unavailable", err)
	}
	if err := ask(6 * time.Second); err != nil {
		t.Errorf("the third one works: %v", err)
	}
}

// Cores that are slow are waited for: each question is answered in its time.
func TestSlowCoresAreWaitedFor(t *testing.T) {
	t.Parallel()
	slow := trades{func(ctx context.Context, _ event.Listing) ([]event.Listed, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(3 * time.Second):
			return nil, nil
		}
	}}
	q := app.NewRemoteQueries(serveInternal(t, time.Minute, slow) + " " + serveInternal(t, time.Minute, slow))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // less than both need, one after the other
	defer cancel()
	if _, _, err := q.List(ctx, event.Listing{Merchant: "m1", Limit: 1}); err != nil {
		t.Error(err)
	}
}

// Where all are slow two are asked, and no more: it would only add to what they have to do.
func TestWhereAllAreSlowTwoAreAsked(t *testing.T) {
	t.Parallel()
	var asked [3]atomic.Int64
	var bases []string
	for i := range asked {
		bases = append(bases, serveInternal(t, time.Minute, trades{func(ctx context.Context, _ event.Listing) ([]event.Listed, error) {
			asked[i].Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		}}))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, _, err := app.NewRemoteQueries(strings.Join(bases, " ")).List(ctx, event.Listing{Merchant: "m1", Limit: 1}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("have %v, want unavailable", err)
	}
	if n := asked[2].Load(); n != 0 {
		t.Errorf("the third was asked %d times", n)
	}
}

// What its asker waits for no longer core stops looking for, though it has a minute.
func TestCoreStopsWithItsAsker(t *testing.T) {
	t.Parallel()
	stopped := make(chan struct{}, 100)
	q := app.NewRemoteQueries(serveInternal(t, time.Minute, trades{func(ctx context.Context, _ event.Listing) ([]event.Listed, error) {
		<-ctx.Done()
		stopped <- struct{}{}
		return nil, ctx.Err()
	}}))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, _, err := q.List(ctx, event.Listing{Merchant: "m1", Limit: 1}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("have %v, want unavailable", err)
	}
	select {
	case <-stopped:
	case <-time.After(30 * time.Second):
		t.Error("core looks for what nobody waits for")
	}
}

func someCode(t *testing.T) ids.Code {
	t.Helper()
	secret, err := ids.NewSecret(make([]byte, ids.SecretLen))
	must(t, err)
	return secret.Trade(traffic.Real, "m1", "order-1")
}

// A list ends at both ends when its time is over, whatever the other one does.
func TestListEndsInTime(t *testing.T) {
	t.Parallel()
	list := func(ctx context.Context, _ event.Listing) ([]event.Listed, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Second):
			return nil, nil
		}
	}
	for name, bound := range map[string]struct{ gateway, core time.Duration }{
		"the gateway's": {20 * time.Millisecond, time.Minute}, "core's": {time.Minute, 20 * time.Millisecond}} {
		ctx, cancel := context.WithTimeout(t.Context(), bound.gateway)
		_, _, err := app.NewRemoteQueries(serveInternal(t, bound.core, trades{list})).List(ctx, event.Listing{Merchant: "m1", Limit: 1})
		if cancel(); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A list of which all credentials are long, and of the worst text there is, comes whole,
// page by page.
func TestListsOfLongCredentials(t *testing.T) {
	t.Parallel()
	var all []event.Listed
	for n := range event.ListMax {
		p := event.Payment{Y: ids.Code(fmt.Sprintf("y%03d", n)), AcceptedAtMillis: int64(n + 1), OrderID: strings.Repeat("o", 64),
			IdempotencyKey: strings.Repeat("i", 255), Subject: strings.Repeat("\u2028", 128)}
		p.Credential.Value = strings.Repeat("\x01", 5<<10)
		if n%20 == 0 {
			p.Credential.Value = strings.Repeat("\x01", 600<<10)
		}
		all = append(all, event.Listed{Payment: p})
	}
	q := app.NewRemoteQueries(serveInternal(t, time.Minute, trades{func(_ context.Context, l event.Listing) ([]event.Listed, error) {
		behind := slices.DeleteFunc(slices.Clone(all), func(x event.Listed) bool { return l.AfterY != "" && x.Payment.Y >= l.AfterY })
		return l.InOrder(behind), nil
	}}))
	l, have, pages := event.Listing{Merchant: "m1", Limit: event.ListMax}, 0, 0
	for cut := true; cut; pages++ {
		var list []event.Listed
		var err error
		list, cut, err = q.List(t.Context(), l)
		must(t, err)
		if len(list) == 0 {
			t.Fatal("a page of nothing")
		}
		for _, x := range list {
			if have++; x.Payment.Y != all[len(all)-have].Payment.Y || x.Payment.Credential != all[len(all)-have].Payment.Credential {
				t.Fatalf("%s is not the next one", x.Payment.Y)
			}
		}
		l.AfterMillis, l.AfterY = all[len(all)-have].Payment.AcceptedAtMillis, all[len(all)-have].Payment.Y
	}
	if have != len(all) || pages < 6 {
		t.Errorf("%d of %d in %d pages", have, len(all), pages)
	}
}

// What is no question of a list is refused with what is wrong, and is no matter of
// whether core is well.
func TestMalformedLists(t *testing.T) {
	t.Parallel()
	base := serveInternal(t, time.Minute, trades{func(_ context.Context, l event.Listing) ([]event.Listed, error) {
		if l.Limit < 1 {
			return nil, fault.New(fault.Invalid, "list", "a limit of %d", l.Limit)
		}
		return nil, fault.New(fault.Unavailable, "list", "no database")
	}})
	for body, want := range map[string]struct {
		status int
		says   string
	}{
		``:                                   {400, "list: "},
		`{"merchant":`:                       {400, "list: "},
		`{"merchant":"m1","limit":"twenty"}`: {400, "limit"},
		`{"limit":1,"limit":2}`:              {400, "limit"},
		`{"merchant":"m1"}`:                  {400, "a limit of 0"},
		`{"merchant":"m1","limit":1}`:        {503, "no database"},
	} {
		status, said := send(t, "POST", base+"/internal/v1/list", body)
		if status != want.status || !strings.Contains(said, want.says) {
			t.Errorf("%s: %d %s, want %d with %q", body, status, said, want.status, want.says)
		}
	}
	for method, path := range map[string]string{"GET": "/internal/v1/list", "POST": "/internal/v1/lists"} {
		if status, said := send(t, method, base+path, `{"merchant":"m1"}`); status != 404 {
			t.Errorf("%s %s: %d %s", method, path, status, said)
		}
	}
}

func send(t *testing.T, method, url, body string) (status int, said string) {
	t.Helper()
	req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(res)
	req.SetRequestURI(url)
	req.Header.SetMethod(method)
	req.SetBodyString(body)
	must(t, fasthttp.Do(req, res))
	return res.StatusCode(), string(res.Body())
}
