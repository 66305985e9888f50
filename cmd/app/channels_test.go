package app_test

import (
	"bytes"
	"crypto/rand"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/coord"
	"github.com/tallystick/tallystick/internal/coord/local"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

// account is a channel account of the sandbox that nobody calls.
func account(id string) merchant.ChannelAccount {
	return merchant.ChannelAccount{ID: id, Channel: "sandbox", Enabled: true, Traffic: traffic.Real, Currencies: []money.Currency{"CNY"},
		Methods: []channels.Method{"qr_code"}, Weight: 1, Endpoint: "http://127.0.0.1:1", KeyName: id,
		Limits: merchant.AccountLimits{CallsPerSecond: 1, Burst: 1, ConcurrentMax: 1, DeadlineMillis: 1000, BreakerFailures: 1, BreakerOpenMillis: 1000}}
}

// channelSet is the channels of a directory, with a key for each.
func channelSet(t *testing.T, d *merchant.Directory, limits coord.Limits, m *metrics.Set) *app.ChannelSet {
	t.Helper()
	s, err := app.NewChannelSet(d, func(string) ([][]byte, error) { return [][]byte{make([]byte, 32)}, nil }, limits, time.Now, rand.Reader, m, slog.New(slog.DiscardHandler))
	must(t, err)
	return s
}

// series are the lines of a metric set whose value is 1.
func series(m *metrics.Set, name string) (out []string) {
	var b bytes.Buffer
	m.WritePrometheus(&b)
	for line := range strings.Lines(b.String()) {
		if labels, ok := strings.CutPrefix(strings.TrimSuffix(line, " 1\n"), name); ok && strings.HasSuffix(line, " 1\n") {
			out = append(out, labels)
		}
	}
	slices.Sort(out)
	return out
}

// Both breakers of an account are to be seen, each in one of its three states.
func TestBreakersAreSeen(t *testing.T) {
	a := account("a")
	a.Limits.CallsPerSecond, a.Limits.Burst, a.Limits.BreakerOpenMillis = 1000, 1000, 50
	m := metrics.NewSet()
	s := channelSet(t, merchant.NewDirectory(&merchant.Snapshot{Version: 1, Accounts: []merchant.ChannelAccount{a}}), local.New().Replica(), m)
	want := func(pay, ask string) {
		t.Helper()
		have := series(m, "tallystick_channel_breaker_state")
		if lines := []string{`{account="a",which="ask",state="` + ask + `"}`, `{account="a",which="pay",state="` + pay + `"}`}; !slices.Equal(have, lines) {
			t.Errorf("have %v, want %v", have, lines)
		}
	}
	want("closed", "closed")
	c, _ := s.Channel("a")
	if o := c.Pay.Query(t.Context(), channels.QueryRequest{OutTradeNo: strings.Repeat("a", 28)}); o.Result != channels.NotSent {
		t.Fatalf("a query where nobody listens: %+v", o)
	}
	want("closed", "open")
	time.Sleep(60 * time.Millisecond)
	want("closed", "half-open")
}

// Callbacks and lanes ask for an account while the directory is replaced: for the
// race detector.
func TestChannelsAreAskedForWhileTheDirectoryChanges(t *testing.T) {
	d := merchant.NewDirectory(&merchant.Snapshot{Version: 1, Accounts: []merchant.ChannelAccount{account("a")}})
	s := channelSet(t, d, local.New().Replica(), metrics.NewSet())
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, ok := s.Parser("sandbox", "a"); !ok || s.Limits("a").Burst != 1 || len(s.Accounts()) != 1 {
					t.Error("the account was away for a moment")
					return
				}
			}
		})
	}
	for v := 2; v < 200; v++ {
		changed := account("a")
		changed.Weight = v // nothing that the channel is built from
		d.Replace(&merchant.Snapshot{Version: int64(v), Accounts: []merchant.ChannelAccount{changed}})
		time.Sleep(50 * time.Microsecond)
	}
	close(done)
	readers.Wait()
}

// A directory that changes what a channel is built from builds it anew.
func TestChannelsFollowTheDirectory(t *testing.T) {
	d := merchant.NewDirectory(&merchant.Snapshot{Version: 1, Accounts: []merchant.ChannelAccount{account("a")}})
	s := channelSet(t, d, local.New().Replica(), metrics.NewSet())
	changed := account("a")
	changed.Limits.Burst = 7
	d.Replace(&merchant.Snapshot{Version: 2, Accounts: []merchant.ChannelAccount{changed, account("b")}})
	if names := s.Accounts(); len(names) != 2 || s.Limits("a").Burst != 7 {
		t.Errorf("accounts %v, burst %d", names, s.Limits("a").Burst)
	}
	d.Replace(&merchant.Snapshot{Version: 3, Accounts: []merchant.ChannelAccount{account("b")}})
	if _, ok := s.Parser("sandbox", "a"); !ok {
		t.Error("an account that left the directory has no parser any more: its callbacks would be refused")
	}
	if _, ok := s.Parser("alipay", "a"); ok {
		t.Error("an account has a parser under another channel")
	}
}
