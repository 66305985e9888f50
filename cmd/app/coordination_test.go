package app_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/limit"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/coord/local"
	"github.com/tallystick/tallystick/internal/fault"
)

// replica is a coordinator in this process.
type replica struct{ *local.Replica }

func (replica) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (replica) Close() error { return nil }

// One account in two processes: together they call as often as it allows, also
// after the directory has changed that.
func TestAccountsAreLimitedTogether(t *testing.T) {
	hub := local.New()
	a := account("a")
	a.Limits.CallsPerSecond, a.Limits.Burst, a.Limits.BreakerFailures = 1e-6, 2, 1000
	var sets []*app.ChannelSet
	var directories []*merchant.Directory
	for range 2 {
		d := merchant.NewDirectory(&merchant.Snapshot{Version: 1, Accounts: []merchant.ChannelAccount{a}})
		directories = append(directories, d)
		sets = append(sets, channelSet(t, d, hub.Replica(), metrics.NewSet()))
	}
	called := func() (n int) {
		for range 5 {
			for _, s := range sets {
				s.Accounts() // follows the directory
				c, _ := s.Channel("a")
				if o := c.Pay.Query(t.Context(), channels.QueryRequest{OutTradeNo: strings.Repeat("a", 28)}); o.Code != limit.Code {
					n++
				}
			}
		}
		return n
	}
	if n := called(); n != 2 {
		t.Errorf("%d calls, both together may make 2", n)
	}
	a.Limits.CallsPerSecond = 1e9
	for _, d := range directories {
		d.Replace(&merchant.Snapshot{Version: 2, Accounts: []merchant.ChannelAccount{a}})
	}
	if n := called(); n != 10 {
		t.Errorf("%d of 10 calls, at a billion a second", n)
	}
}

// One merchant at two gateways: together they take as many requests as it may send.
func TestMerchantsAreLimitedTogether(t *testing.T) {
	hub := local.New()
	taken := 0
	var gateways []*app.App
	for range 2 {
		dir, _ := initialised(t)
		d, err := app.Production(dir, nil, io.Discard)
		must(t, err)
		snapshot := *d.Directory.Current()
		snapshot.Version++
		snapshot.Merchants[0].RequestsPerSecond, snapshot.Merchants[0].Burst = 1e-6, 3
		d.Directory.Replace(&snapshot)
		d.Coord = replica{hub.Replica()}
		a, err := app.New(t.Context(), d)
		must(t, err)
		defer a.Close() //nolint:errcheck // a test
		gateways = append(gateways, a)
	}
	for i := range 5 {
		for _, a := range gateways {
			body := fmt.Sprintf(`{"order_id":"o%d","amount":100,"currency":"CNY","subject":"mug"}`, i)
			_, err := a.API.Begin(a.Directory.Current().Merchant(app.ExampleMerchant), api.Call{Body: []byte(body)})
			if err == nil {
				taken++
			} else if !fault.Is(err, fault.Limited) {
				t.Fatal(err)
			}
		}
	}
	if taken != 3 {
		t.Errorf("%d requests, both together may take 3", taken)
	}
}
