package app_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// coordinated is two gateways and a process for all the rest, over Kafka and Redis.
type coordinated struct {
	t        *testing.T
	redis    *engines.Redis
	work     *system
	gateways []*system
	payments int // that core must have opened
}

func newCoordinated(t *testing.T) *coordinated {
	t.Helper()
	in := newInstallation(t, sim.Faults{AutoPayShare: 1})
	c := &coordinated{t: t}
	var err error
	c.redis, err = engines.StartRedis(t.Context(), t.TempDir(), "--requirepass", "of-the-house")
	must(t, err)
	t.Cleanup(func() { _ = c.redis.Kill() })
	in.env = append(in.env, "TALLYSTICK_COORDINATION=redis", "TALLYSTICK_REDIS_ADDRESSES="+c.redis.Addr, "TALLYSTICK_SECRET_REDIS=of-the-house",
		"TALLYSTICK_REDIS_BREAKER_OPEN=100ms", "TALLYSTICK_REDIS_HEARTBEAT_EVERY=100ms")
	ports := make([]string, 3)
	for i := range ports {
		ports[i], err = app.FreeAddress()
		must(t, err)
	}
	public := "TALLYSTICK_PUBLIC_URL=http://" + ports[0]
	c.work = in.start(in.folder("work"), "TALLYSTICK_ROLES=core,prepay,accounting", "TALLYSTICK_LISTEN_OPERATOR="+ports[2], public)
	t.Cleanup(c.work.stop)
	for i := range 2 {
		g := in.start(in.folder(fmt.Sprint("gateway", i)), "TALLYSTICK_ROLES=gateway", "TALLYSTICK_CORE_URL=http://"+ports[2], "TALLYSTICK_LISTEN="+ports[i], public)
		t.Cleanup(g.stop)
		c.gateways = append(c.gateways, g)
	}
	return c
}

// body is one of the bodies under the key of an order.
func body(order string, amount int) load.Order {
	return load.Order{OrderID: order, Amount: int64(amount), Currency: "CNY", Subject: "mug", Key: "k"}
}

// figure reads one line of a gateway's metrics.
func (s *system) figure(name string) (n float64) {
	var text strings.Builder
	s.app.Metrics.WritePrometheus(&text)
	for line := range strings.Lines(text.String()) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, _ = fmt.Sscan(rest, &n)
		}
	}
	return n
}

// until waits for something that comes by itself.
func (c *coordinated) until(what string, ok func() bool) {
	c.t.Helper()
	until(c.t, what, ok)
}

// settled gives what core made of a voucher.
func (c *coordinated) settled(voucher string) event.Payment {
	c.t.Helper()
	_, y, err := ids.ParseID(voucher)
	must(c.t, err)
	var p event.Payment
	c.until("core has decided about "+voucher, func() bool {
		var known bool
		p, _, known, err = core.Queries{Store: c.work.app.Stores.Core}.Payment(c.t.Context(), y)
		must(c.t, err)
		return known
	})
	return p
}

// race sends two bodies under one key to two gateways, at once, again and again.
func (c *coordinated) race(phase string, rounds int) {
	c.t.Helper()
	for i := range rounds {
		order := fmt.Sprintf("%s-%d", phase, i)
		var accepted [2]load.Accepted
		var status [2]int
		var errs [2]error
		var wg sync.WaitGroup
		for g := range c.gateways {
			wg.Go(func() { accepted[g], status[g], errs[g] = c.gateways[g].client.Pay(body(order, 100+g)) })
		}
		wg.Wait()
		opened := 0
		for g := range c.gateways {
			switch status[g] {
			case 202:
				if p := c.settled(accepted[g].Voucher); p.Status != event.Rejected {
					opened++
				} else if p.Reason != core.ReasonConflict {
					c.t.Fatalf("%s: rejected: %s", order, p.Reason)
				}
			case 409:
			default:
				c.t.Fatalf("%s: %d %v", order, status[g], errs[g])
			}
		}
		if opened != 1 {
			c.t.Fatalf("%s: %d payments, answers %v", order, opened, status)
		}
	}
	c.payments += rounds
}

// behind sends other bodies to the other gateway once core has opened the first. With
// hints one of them is a conflict at once; each that is accepted is one later.
func (c *coordinated) behind(phase string, hinted bool) {
	c.t.Helper()
	first, status, err := c.gateways[0].client.Pay(body(phase, 100))
	if status != 202 {
		c.t.Fatalf("%s: %d %v", phase, status, err)
	}
	if p := c.settled(first.Voucher); p.Status == event.Rejected {
		c.t.Fatalf("%s: %s", phase, p.Reason)
	}
	c.payments++
	conflict := false
	for n := 1; n <= 100 && !conflict; n++ {
		other, status, err := c.gateways[1].client.Pay(body(phase, 100+n))
		switch {
		case status == 409 && (!strings.Contains(err.Error(), first.Voucher) || !hinted && n == 1):
			c.t.Fatalf("%s: %v, the first is %s", phase, err, first.Voucher)
		case status == 409:
			conflict = true
		case status != 202:
			c.t.Fatalf("%s: %d %v", phase, status, err)
		default:
			if p := c.settled(other.Voucher); p.Status != event.Rejected || p.Reason != core.ReasonConflict {
				c.t.Fatalf("%s: another body of the key: %s %s", phase, p.Status, p.Reason)
			}
			if !hinted && n == 3 {
				return
			}
		}
		// The same is the same everywhere, also where a hint was heard.
		if again, status, err := c.gateways[1].client.Pay(body(phase, 100)); status != 202 || again.Voucher != first.Voucher {
			c.t.Fatalf("%s: the first again: %d %v, %s and %s", phase, status, err, again.Voucher, first.Voucher)
		}
	}
	if hinted && !conflict {
		c.t.Errorf("%s: 100 other bodies under a settled key, and none was a conflict at once", phase)
	}
}

// ready reports whether a gateway says that it may be sent traffic.
func (c *coordinated) ready(g *system) {
	c.t.Helper()
	status, text, err := fasthttp.Get(nil, "http://"+g.app.Addr()+"/readyz")
	if must(c.t, err); status != 200 {
		c.t.Errorf("readyz: %d %s", status, text)
	}
}

// One key with two bodies, at two gateways over Kafka: exactly one payment, with
// Redis there, gone, and back. What Redis adds is the early answer.
func TestTwoGatewaysOneKeyOverKafkaAndRedis(t *testing.T) {
	c := newCoordinated(t)
	up := func() {
		t.Helper()
		for _, g := range c.gateways {
			c.until("gateways hear each other", func() bool {
				return g.figure(`tallystick_coord_listening`) == 1 && g.figure(`tallystick_coord_breaker_state{state="closed"}`) == 1 &&
					g.figure(`tallystick_coord_replicas{role="gateway"}`) == 2
			})
		}
	}
	up()
	c.race("up", 25)
	c.behind("hinted", true)
	must(t, c.redis.Kill())
	c.race("going", 25) // calls fail, and then the breaker opens
	for _, g := range c.gateways {
		c.until("the breaker is open", func() bool { return g.figure(`tallystick_coord_breaker_state{state="closed"}`) == 0 })
		c.ready(g)
	}
	c.behind("unhinted", false)
	must(t, c.redis.Start(t.Context()))
	up()
	c.race("back", 25)
	c.behind("hinted-again", true)

	c.work.drain(t)
	if n := len(c.work.psp.Payments()); n != c.payments {
		t.Errorf("the PSP was asked for %d payments, core has opened %d", n, c.payments)
	}
}

func TestCoordinationIsChecked(t *testing.T) {
	dir, _ := initialised(t)
	for env, words := range map[string]string{
		"TALLYSTICK_COORDINATION=etcd":                                                                                    "coordination: unknown_coordination",
		"TALLYSTICK_COORDINATION=redis":                                                                                   "redis.addresses",
		"TALLYSTICK_COORDINATION=redis TALLYSTICK_REDIS_ADDRESSES=here":                                                   "redis.addresses",
		"TALLYSTICK_COORDINATION=redis TALLYSTICK_REDIS_ADDRESSES=a:1 TALLYSTICK_REDIS_CALL_TIMEOUT=0s":                   "redis.call_timeout",
		"TALLYSTICK_COORDINATION=redis TALLYSTICK_REDIS_ADDRESSES=a:1 TALLYSTICK_REDIS_PORTION_MAX=0":                     "redis.portion_max",
		"TALLYSTICK_COORDINATION=redis TALLYSTICK_REDIS_ADDRESSES=a:1 TALLYSTICK_REDIS_REPLICA_TTL=1s":                    "redis.replica_ttl",
		"TALLYSTICK_COORDINATION=redis TALLYSTICK_REDIS_ADDRESSES=a:1,b:1 TALLYSTICK_REDIS_DB=3":                          "redis.db",
		"TALLYSTICK_COORDINATION=redis TALLYSTICK_REDIS_ADDRESSES=a:1 TALLYSTICK_API_HINTS_MAX=0":                         "api.hints_max",
		"TALLYSTICK_COORDINATION=redis TALLYSTICK_REDIS_ADDRESSES=a:1 TALLYSTICK_REDIS_TLS=true TALLYSTICK_REDIS_DB=many": "whole number",
	} {
		if _, err := app.LoadConfig(dir, strings.Fields(env)); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %q", env, err, words)
		}
	}
	secret := filepath.Join(dir, app.SecretsDir, "redis.password")
	must(t, os.WriteFile(secret, []byte("a password\n"), 0o644))
	env := []string{"TALLYSTICK_COORDINATION=redis", "TALLYSTICK_REDIS_ADDRESSES=127.0.0.1:1"}
	_, err := app.Production(dir, env, os.Stderr)
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "readable_by_others") {
		t.Errorf("a password that all can read: %v", err)
	}
	must(t, os.Chmod(secret, 0o600))
	if _, err := app.Production(dir, env, os.Stderr); err != nil {
		t.Errorf("with a password: %v", err)
	}
	_, err = app.Production(dir, append(env, "TALLYSTICK_REDIS_TLS=true", "TALLYSTICK_REDIS_TLS_CA_FILE="+secret), os.Stderr)
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "redis.tls_ca_file") {
		t.Errorf("a password in the place of certificates: %v", err)
	}
}
