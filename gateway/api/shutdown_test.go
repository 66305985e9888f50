package api_test

import (
	"context"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway/api"
)

// A gateway that is stopped, beside others, goes on answering for a while: over
// connections that are there and over new ones, and each answer ends its own. Nobody
// meets an end that he could not see.
func TestLinger(t *testing.T) {
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Others, d.Config.Linger = true, 10*time.Second }).listen()
	if a := h.pay(goodBody, "k1"); a.status != 202 || a.header["Connection"] == "close" {
		t.Fatalf("before: %d, connection %q", a.status, a.header["Connection"])
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- h.server.Shutdown(ctx) }()
	for h.get("/readyz", "").status != 503 {
		time.Sleep(time.Millisecond)
	}
	for range 5 {
		if a := h.pay(goodBody, "k1"); a.status != 202 || a.header["Connection"] != "close" {
			t.Errorf("while it lingers: %d, connection %q", a.status, a.header["Connection"])
		}
	}
	stop()
	<-stopped
}

// One that is alone has nobody to leave its clients to, and stops at once.
func TestNoLingerAlone(t *testing.T) {
	h := newHarness(t, func(_ *harness, d *api.Deps) { d.Config.Linger = 10 * time.Second }).listen()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := h.server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}
