package limit_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/limit"
	"github.com/tallystick/tallystick/internal/fault"
)

type psp struct{ calls atomic.Int64 }

func (p *psp) answer() channels.Outcome {
	p.calls.Add(1)
	return channels.Outcome{Result: channels.Done}
}
func (p *psp) Prepay(context.Context, channels.PayRequest) channels.Outcome  { return p.answer() }
func (p *psp) Query(context.Context, channels.QueryRequest) channels.Outcome { return p.answer() }
func (p *psp) Close(context.Context, channels.QueryRequest) channels.Outcome { return p.answer() }

func wrap(t *testing.T, p *psp, s limit.Settings, now func() time.Time) channels.Payer {
	t.Helper()
	ch, err := limit.Wrap(&channels.Channel{Pay: p}, s, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	return ch.Pay
}

func refused(o channels.Outcome) bool {
	return o.Result == channels.NotSent && o.Code == limit.Code
}

// Without waiting the bucket follows the clock that was handed in, and what is
// refused costs nothing.
func TestBucket(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	p := &psp{}
	pay := wrap(t, p, limit.Settings{CallsPerSecond: 10, Burst: 3}, func() time.Time { return now })
	ctx, q := t.Context(), channels.QueryRequest{}
	// All three sorts draw from one bucket.
	if refused(pay.Prepay(ctx, channels.PayRequest{})) || refused(pay.Query(ctx, q)) || refused(pay.Close(ctx, q)) {
		t.Fatal("refused within the burst")
	}
	for range 50 {
		if !refused(pay.Prepay(ctx, channels.PayRequest{})) || !refused(pay.Query(ctx, q)) || !refused(pay.Close(ctx, q)) {
			t.Fatal("let through beyond the burst")
		}
	}
	if p.calls.Load() != 3 {
		t.Fatalf("%d calls", p.calls.Load())
	}
	now = now.Add(100 * time.Millisecond) // one token, although 150 were asked for
	if refused(pay.Query(ctx, q)) || !refused(pay.Query(ctx, q)) || p.calls.Load() != 4 {
		t.Errorf("%d calls after one token's time", p.calls.Load())
	}
	now = now.Add(time.Hour)
	for range 3 {
		if refused(pay.Query(ctx, q)) {
			t.Error("refused with a full bucket")
		}
	}
	if !refused(pay.Query(ctx, q)) {
		t.Error("an hour's pause makes more than the burst")
	}
}

func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &psp{}
		pay := wrap(t, p, limit.Settings{CallsPerSecond: 10, Burst: 1, WaitMax: 250 * time.Millisecond}, time.Now)
		ctx, start := context.Background(), time.Now()
		call := func(ctx context.Context) channels.Outcome { return pay.Prepay(ctx, channels.PayRequest{}) }
		took := func(want time.Duration) {
			t.Helper()
			if d := time.Since(start); d != want {
				t.Errorf("took %v, want %v", d, want)
			}
			start = time.Now()
		}
		call(ctx)
		took(0)
		if refused(call(ctx)) {
			t.Error("refused although it may wait")
		}
		took(100 * time.Millisecond)

		// Three may wait, the fourth would wait too long, and is told at once.
		results := make(chan channels.Outcome, 3)
		for range 2 {
			go func() { results <- call(ctx) }()
		}
		synctest.Wait()
		if !refused(call(ctx)) {
			t.Error("waits longer than it may")
		}
		took(0)
		for range 2 {
			if refused(<-results) {
				t.Error("refused although it waited")
			}
		}
		took(200 * time.Millisecond)

		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if !refused(call(short)) {
			t.Error("waits beyond the deadline")
		}
		took(0)

		given, giveUp := context.WithCancel(ctx)
		go func() { results <- call(given) }()
		time.Sleep(10 * time.Millisecond)
		giveUp()
		if !refused(<-results) {
			t.Error("calls after it was given up")
		}
		took(10 * time.Millisecond)
		if refused(call(ctx)) {
			t.Error("refused")
		}
		took(90 * time.Millisecond) // the token that was given up is there for the next
		if p.calls.Load() != 5 {
			t.Errorf("%d calls", p.calls.Load())
		}
	})
}

func TestSettings(t *testing.T) {
	for _, s := range []limit.Settings{{}, {CallsPerSecond: 1}, {CallsPerSecond: -1, Burst: 1}, {CallsPerSecond: 1, Burst: 1, WaitMax: -1},
		{CallsPerSecond: 1, Burst: 1, WaitMax: time.Hour}} {
		if _, err := limit.Wrap(&channels.Channel{}, s, nil, time.Now); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// shared is a bucket of several processes: here its answers are given.
type shared struct {
	wait      time.Duration
	cancelled int
}

func (s *shared) Reserve(time.Time) (time.Duration, func(time.Time)) {
	return s.wait, func(time.Time) { s.cancelled++ }
}

// A bucket that is handed in decides, whatever rate the settings have, and gets back
// what is not used.
func TestSharedBucket(t *testing.T) {
	p, b := &psp{}, &shared{}
	ch, err := limit.Wrap(&channels.Channel{Pay: p}, limit.Settings{CallsPerSecond: 1, Burst: 1}, b, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if refused(ch.Pay.Query(t.Context(), channels.QueryRequest{})) {
			t.Fatal("refused, though the bucket has one")
		}
	}
	b.wait = time.Minute
	if !refused(ch.Pay.Query(t.Context(), channels.QueryRequest{})) || p.calls.Load() != 10 || b.cancelled != 1 {
		t.Errorf("%d calls, %d tokens given back", p.calls.Load(), b.cancelled)
	}
}
