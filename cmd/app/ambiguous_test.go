package app_test

import (
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/bus"
)

// A broker that stands still for longer than an append may take: nobody knows
// whether it will write what it was sent. It does, when it goes on. Who was told 504
// finds his payment by the id; who asks again has the same voucher, two copies of
// his intent are at the broker, and one payment comes of them.
func TestABrokerThatStandsStill(t *testing.T) {
	long(t)
	in := newInstallationOn(t, ownBroker(t), sim.Faults{AutoPayShare: 1})
	core, err := app.FreeAddress()
	must(t, err)
	s := in.start(in.folder("gateway"), "TALLYSTICK_ROLES=gateway", "TALLYSTICK_CORE_URL=http://"+core, "TALLYSTICK_LISTEN=127.0.0.1:0", "TALLYSTICK_KAFKA_PRODUCE_TIMEOUT=500ms")
	defer s.stop()
	order := load.Orders(1)
	const n = 8
	var vouchers []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n { // at once: there are connections to append by
		wg.Go(func() {
			a, status, err := s.client.Pay(order(100 + i))
			if status != 202 {
				t.Errorf("pay: %d %v", status, err)
			}
			mu.Lock()
			defer mu.Unlock()
			vouchers = append(vouchers, a.Voucher)
		})
	}
	wg.Wait()

	unknown := map[string]int{} // orders, by voucher
	freeze := func(from int) {
		must(t, in.broker.Freeze())
		for i := range n {
			wg.Go(func() {
				a, status, err := s.client.Pay(order(from + i))
				mu.Lock()
				defer mu.Unlock()
				if status == 202 { // it stood still a moment later
					vouchers = append(vouchers, a.Voucher)
					return
				}
				switch id := regexp.MustCompile(`vch_[0-9a-z]{27}`).FindString(err.Error()); {
				case status == 504 && id != "" && strings.Contains(err.Error(), "acceptance_unknown") && !strings.Contains(err.Error(), `"token"`):
					unknown[id] = from + i
				case status != 503:
					t.Errorf("a broker that stands still: %d %v", status, err)
				}
			})
		}
		wg.Wait()
		must(t, in.broker.Thaw())
	}
	// What was sent by then is written; it depends on the moment how many that are.
	written := map[string]bool{}
	for round := 0; len(written) < 2; round++ {
		if round == 10 {
			t.Fatalf("of %d that nobody knew of, %d were written", len(unknown), len(written))
		}
		freeze(round * n)
		for range 20 {
			for _, m := range in.messages(in.prefix, bus.Intents) {
				if _, ours := unknown[m.ID]; ours {
					written[m.ID] = true
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	asked := map[string]bool{}
	for voucher := range written {
		if len(asked) >= len(written)/2 {
			break
		}
		asked[voucher] = true
		for tries := 0; ; tries++ {
			a, status, err := s.client.Pay(order(unknown[voucher]))
			if status == 202 && a.Voucher == voucher {
				break
			}
			if status == 202 || tries > 500 {
				t.Fatalf("the same again: %d %v, voucher %s, want %s", status, err, a.Voucher, voucher)
			}
			time.Sleep(20 * time.Millisecond)
		}
		vouchers = append(vouchers, voucher)
	}
	// Nobody has worked on them so far, or the gateway would know them.
	worker := in.start(in.folder("work"), "TALLYSTICK_ROLES=core,prepay,accounting", "TALLYSTICK_LISTEN_OPERATOR="+core)
	defer worker.stop()
	worker.drain(t)
	copies, twice, found := map[string]int{}, 0, 0
	for _, m := range in.messages(in.prefix, bus.Intents) {
		copies[m.ID]++
	}
	for voucher := range unknown {
		switch {
		case asked[voucher] && copies[voucher] == 2:
			twice++
		case !asked[voucher] && copies[voucher] > 0:
			found++
			vouchers = append(vouchers, voucher)
		case asked[voucher] && copies[voucher] == 0:
			t.Errorf("%s was told 202 and is not there", voucher)
		}
	}
	if twice == 0 || found == 0 {
		t.Errorf("of %d that nobody knew of, %d are there twice and %d were written although it was not asked again", len(unknown), twice, found)
	}
	if len(copies) != len(vouchers) {
		t.Errorf("%d are there, and %d were told 202 or 504: who was told 503 is not there", len(copies), len(vouchers))
	}
	for _, voucher := range vouchers {
		for tries := 0; ; tries++ {
			view, status, err := s.client.Await(load.Accepted{Voucher: voucher, Token: in.made.APIKey}, 0, 0)
			if status == 200 && view.Final() {
				break
			}
			if tries > 500 {
				t.Fatalf("it is not found by its id: %+v, %d %v", view, status, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	worker.verified(t, vouchers, int64(len(vouchers)))
}
