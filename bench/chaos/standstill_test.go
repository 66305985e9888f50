package chaos

import (
	"strings"
	"testing"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/money"
)

// Lines of processes that have stood still. That one could not renew its lease shows
// nothing about what it commits.
func TestRefusals(t *testing.T) {
	const noticed = `{"level":"ERROR","msg":"off duty, will join again","cell":"core_1","error":"renew lease: lease: lease_lost (join again as another member)","backoff_millis":500}
{"level":"INFO","msg":"on duty","cell":"core_1","groups":[8,9],"members":2}
{"level":"ERROR","msg":"consumer will retry","area":"core","topic":"intents","error":"core: consume intents: core: apply intents: connection reset by peer","backoff_millis":10}
`
	if n := refusals(noticed, "core"); n != 0 {
		t.Errorf("%d refusals, want none", n)
	}
	const refused = `{"level":"ERROR","msg":"consumer will retry","area":"core","topic":"outcomes","error":"core: consume outcomes: core: apply outcomes: lease: lease_lost (join again as another member)","backoff_millis":10}
{"level":"ERROR","msg":"prepay will retry","loop":"record","error":"prepay: record: lease: lease_lost (join again as another member)","backoff_millis":10}
`
	for text, want := range map[string]int{"": 2, "consumer": 1, `"loop":"record"`: 1, "accounting": 0} {
		if n := refusals(noticed+refused, text); n != want {
			t.Errorf("%d refusals with %s, want %d", n, text, want)
		}
	}
}

// A late call must not have changed what its payment came to.
func TestHarmed(t *testing.T) {
	k := sim.Key{Account: "a", OutTradeNo: "n1"}
	for name, tc := range map[string]struct {
		change func(*event.Payment, *sim.Record)
		want   string // empty: harmless
	}{
		"paid once":       {func(*event.Payment, *sim.Record) {}, ""},
		"not paid":        {func(_ *event.Payment, r *sim.Record) { r.State = channels.StatePending }, "the PSP has it as"},
		"not settled":     {func(p *event.Payment, _ *sim.Record) { p.Status = event.Pending }, "its payment is"},
		"another number":  {func(p *event.Payment, _ *sim.Record) { p.Attempts[0].OutTradeNo = "n2" }, "other attempts"},
		"another account": {func(p *event.Payment, _ *sim.Record) { p.Attempts[0].Account = "b" }, "other attempts"},
		"one more": {func(p *event.Payment, _ *sim.Record) {
			p.Attempts = append(p.Attempts, event.Attempt{OutTradeNo: "n2"})
		}, "other attempts"},
		"none":          {func(p *event.Payment, _ *sim.Record) { p.Attempts = nil }, "other attempts"},
		"twice as much": {func(_ *event.Payment, r *sim.Record) { r.Taken.Minor = 200 }, "took 200"},
	} {
		t.Run(name, func(t *testing.T) {
			p := event.Payment{Status: event.Succeeded, Amount: money.Amount{Minor: 100}, Attempts: []event.Attempt{{OutTradeNo: "n1", Account: "a"}}}
			r := sim.Record{Key: k, State: channels.StatePaid, Taken: money.Amount{Minor: 100}}
			tc.change(&p, &r)
			if what := harmed(k, &p, &r); !strings.Contains(what, tc.want) || (what == "") != (tc.want == "") {
				t.Errorf("%q, want %q", what, tc.want)
			}
		})
	}
}
