package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/ids"
)

// gateways are two of one installation. Hints go where the test carries them.
type gateways struct {
	one, two *harness
	told     []api.KeyHint // by one
}

func newGateways(t *testing.T) *gateways {
	t.Helper()
	g := &gateways{}
	g.one = newHarness(t, func(_ *harness, d *api.Deps) { d.Hint = func(h api.KeyHint) { g.told = append(g.told, h) } }).listen()
	g.one.views.Decided(g.one.server.Decided)
	g.two = newHarness(t, func(_ *harness, d *api.Deps) { d.Hint = func(api.KeyHint) {} }).listen()
	g.two.views.Decided(g.two.server.Decided)
	return g
}

// decide is core's first news of a payment that gateway one accepted.
func (g *gateways) decide(x ids.Context, i event.Intent, s event.Status) {
	g.one.core.knows(x, paymentOf(i, s, 1))
	g.one.get("/v1/vouchers/"+ids.VoucherID.With(i.Y), apiKey)
}

// opened is a payment that gateway one accepted, and core opened.
func (g *gateways) opened(t *testing.T) (event.Intent, api.KeyHint) {
	t.Helper()
	_, x, i := g.one.accepted()
	if len(g.told) > 0 {
		t.Fatal("a hint before core has decided: another gateway's may have been the first")
	}
	g.decide(x, i, event.Dispatched)
	if len(g.told) != 1 || g.told[0].Y != i.Y {
		t.Fatalf("core has opened %s, told was %+v", i.Y, g.told)
	}
	return i, g.told[0]
}

var otherBody = strings.Replace(goodBody, "1999", "2000", 1)

// Another gateway answers 409 for what this one's payment is in conflict with, and
// nothing else.
func TestHintedConflict(t *testing.T) {
	g := newGateways(t)
	i, hint := g.opened(t)
	g.two.server.Heard(hint)
	a := g.two.pay(otherBody, "")
	if a.status != 409 || a.get("code") != "idempotency_conflict" || !strings.Contains(string(a.body), ids.VoucherID.With(i.Y)) || g.two.intake.count() != 0 {
		t.Errorf("another body: %d %s, %d appended", a.status, a.body, g.two.intake.count())
	}
	if a := g.two.pay(otherBody, "another-key"); a.status != 202 {
		t.Errorf("another key: %d %s", a.status, a.body)
	}
	if a := g.two.pay(strings.Replace(otherBody, "order-1", "order-2", 1), ""); a.status != 202 {
		t.Errorf("another order: %d %s", a.status, a.body)
	}
	// The same is accepted as if nothing had been heard: it is with the log before
	// anybody is told so.
	before := g.two.intake.count()
	if a := g.two.pay(goodBody, ""); a.status != 202 || a.get("voucher") != ids.VoucherID.With(i.Y) || g.two.intake.count() != before+1 {
		t.Errorf("the same body: %d %s, %d appended", a.status, a.body, g.two.intake.count()-before)
	}
}

// A hint that is wrong in any part answers nothing.
func TestAHintProvesItself(t *testing.T) {
	for name, change := range map[string]func(*api.KeyHint){
		"another fingerprint":   func(h *api.KeyHint) { h.Fingerprint[0]++ },
		"no fingerprint":        func(h *api.KeyHint) { h.Fingerprint = ids.Fingerprint{} },
		"another Y":             func(h *api.KeyHint) { h.Y = h.Y[:5] + "0000000" + h.Y[12:] },
		"no Y":                  func(h *api.KeyHint) { h.Y = "" },
		"a longer Y":            func(h *api.KeyHint) { h.Y += "0" },
		"of a key not asked of": func(h *api.KeyHint) { h.Key++ },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateways(t)
			_, hint := g.opened(t)
			change(&hint)
			g.two.server.Heard(hint)
			if a := g.two.pay(otherBody, ""); a.status != 202 {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	t.Run("of another installation", func(t *testing.T) {
		g := newGateways(t)
		_, hint := g.opened(t)
		other := newHarness(t, func(_ *harness, d *api.Deps) {
			var err error
			if d.Secret, err = ids.NewSecret([]byte(strings.Repeat("8", ids.SecretLen))); err != nil {
				t.Fatal(err)
			}
			d.Hint = func(api.KeyHint) {}
		}).listen()
		other.server.Heard(hint)
		if a := other.pay(otherBody, ""); a.status != 202 {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}

// Two bodies under one key were accepted by two gateways, and core's first is the
// other gateway's. Here its retry is no conflict any more, and a third body is.
func TestAHintCorrectsWhatThisGatewayAccepted(t *testing.T) {
	g := newGateways(t)
	if a := g.two.pay(otherBody, ""); a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	i, hint := g.opened(t)
	g.two.server.Heard(hint)
	if a := g.two.pay(goodBody, ""); a.status != 202 || a.get("voucher") != ids.VoucherID.With(i.Y) {
		t.Errorf("the first of the key: %d %s", a.status, a.body)
	}
	if a := g.two.pay(strings.Replace(goodBody, "1999", "2001", 1), ""); a.status != 409 || !strings.Contains(string(a.body), string(i.Y)) {
		t.Errorf("a third: %d %s", a.status, a.body)
	}
}

// Beside other gateways what was committed here proves nothing until core has opened
// it: another gateway's may have been the first.
func TestCommittedBesideOthersIsNotYetTheFirst(t *testing.T) {
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Others = true }).listen()
	_, x, i := h.accepted()
	if a := h.pay(otherBody, ""); a.status != 202 {
		t.Errorf("core has not decided: %d %s", a.status, a.body)
	}
	h = newHarness(t, func(_ *harness, d *api.Deps) { d.Others = true }).listen()
	h.accepted()
	h.core.knows(x, paymentOf(i, event.Dispatched, 1))
	h.get("/v1/vouchers/"+ids.VoucherID.With(i.Y), apiKey)
	if a := h.pay(otherBody, ""); a.status != 409 {
		t.Errorf("core has opened the first: %d %s", a.status, a.body)
	}
}

// What core rejects fixes nothing, and nobody hints it.
func TestARejectedPaymentIsNotHinted(t *testing.T) {
	g := newGateways(t)
	_, x, i := g.one.accepted()
	g.decide(x, i, event.Rejected)
	if len(g.told) > 0 {
		t.Errorf("told %+v", g.told)
	}
	// Later news of what was hinted once are not told again.
	g = newGateways(t)
	i, _ = g.opened(t)
	g.one.server.Decided(i.Y, voucher.Paid)
	g.one.server.Decided("r00000000000000000000000000", voucher.Paid)
	if len(g.told) != 1 {
		t.Errorf("told %+v", g.told)
	}
}

// A merchant's limit is the bucket that was handed in, and follows the directory.
func TestSharedBuckets(t *testing.T) {
	made := map[string]*bucket{}
	h := newHarness(t, func(_ *harness, d *api.Deps) {
		d.Buckets = func(name string, perSecond float64, burst int) api.Bucket {
			b := &bucket{left: 1, perSecond: perSecond, burst: burst}
			made[name] = b
			return b
		}
	}).listen()
	for _, want := range []int{202, 429} {
		if a := h.pay(goodBody, ""); a.status != want {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	h.get("/v1/trades/o1", apiKey)
	if made["payments/m1"] == nil || made["reads/m1"] == nil || len(made) != 2 || made["reads/m1"].burst != 8e9 {
		t.Fatalf("buckets %v", made)
	}
	s := merchants()
	s.Version++
	s.Merchants[0].RequestsPerSecond, s.Merchants[0].Burst = 5, 7
	h.directory.Replace(s)
	h.pay(goodBody, "")
	if b := made["payments/m1"]; b.perSecond != 5 || b.burst != 7 {
		t.Errorf("the directory says 5 and 7, the bucket has %v and %d", b.perSecond, b.burst)
	}
}

type bucket struct {
	left, burst int
	perSecond   float64
}

func (b *bucket) Take(time.Time) bool {
	b.left--
	return b.left >= 0
}

func (b *bucket) SetRate(perSecond float64, burst int, _ time.Time) {
	b.perSecond, b.burst = perSecond, burst
}

// The hash of a natural key is a part of the messages between gateways: those of two
// builds must make the same of it.
func TestNaturalKeysNeverChange(t *testing.T) {
	var x [ids.CodeLen]byte
	copy(x[:], "rj9n8gx59vq8ye2kz7taezdntw8")
	if have := api.NaturalKey(&x, "deposit", "order-1"); have != 0xc2cf7030b71705f1 {
		t.Errorf("%#x", have)
	}
}
