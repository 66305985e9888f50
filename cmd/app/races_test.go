package app_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/prepay"
)

// One key with two bodies, at the same moment, through two gateways on one
// intake: both may be told 202, but exactly one becomes a payment, and the other
// ends as a conflict that no PSP ever hears of.
func TestTwoGatewaysOneKeyTwoBodies(t *testing.T) {
	dir, _ := initialised(t)
	a, err := app.Open(t.Context(), dir, nil, io.Discard)
	must(t, err)
	defer a.Close() //nolint:errcheck // a test
	queries := core.Queries{Store: a.Stores.Core}
	second, err := api.NewService(api.Deps{Directory: a.Directory, Intake: a.Intake, Secret: a.Secret, Tokens: a.Tokens, Views: a.Views, Queries: queries,
		Now: a.Now, Random: a.Random, Config: a.Config.API})
	must(t, err)
	m := a.Directory.Current().Merchant(app.ExampleMerchant)
	const rounds = 150 // fewer than one page of calls
	for i := range rounds {
		gateways := []*api.Service{a.API.Service, second}
		begun := make([]*api.Acceptance, 2)
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for g := range gateways {
			wg.Go(func() {
				body := fmt.Sprintf(`{"order_id":"o%d","amount":%d,"currency":"CNY","subject":"mug"}`, i, 100+g)
				begun[g], errs[g] = gateways[g].Begin(m, api.Call{Body: []byte(body), IdempotencyKey: "k"})
			})
		}
		wg.Wait()
		_, err := a.Intake.Step(t.Context())
		must(t, err)
		var ys []ids.Code
		for g := range gateways {
			must(t, errs[g])
			must(t, gateways[g].Finish(begun[g]))
			ys = append(ys, begun[g].Y)
		}
		stepAll(t, a, "core.intents")
		byStatus := map[event.Status]int{}
		for _, y := range ys {
			p, _, ok, err := queries.Payment(t.Context(), y)
			must(t, err)
			if !ok || p.Status == event.Rejected && p.Reason != core.ReasonConflict {
				t.Fatalf("round %d: %s: known %t, %s %s", i, y, ok, p.Status, p.Reason)
			}
			byStatus[p.Status]++
		}
		if byStatus[event.Dispatched] != 1 || byStatus[event.Rejected] != 1 {
			t.Fatalf("round %d: %v", i, byStatus)
		}
	}
	stepAll(t, a, "prepay.dispatch")
	calls, _, err := a.Prepay.List(t.Context(), prepay.Filter{}, 0, 200)
	must(t, err)
	if len(calls) != rounds {
		t.Errorf("prepay has %d calls for %d orders", len(calls), rounds)
	}
}

// stepAll runs one part of the app until it has nothing to do.
func stepAll(t *testing.T, a *app.App, name string) {
	t.Helper()
	for _, s := range a.Steps() {
		if s.Name != name {
			continue
		}
		for worked := true; worked; {
			var err error
			worked, err = s.Run(t.Context())
			must(t, err)
		}
	}
}

// A disk that fills up during load: 503 while it is full, nothing corrupt, and
// everything goes on when there is space again.
func TestADiskThatFillsUp(t *testing.T) {
	dir, fill, free := smallDisk(t)
	s := startSystemIn(t, dir, sim.Faults{AutoPayShare: 1})
	order, n := load.Orders(2), 0
	vouchers := []string{}
	pay := func() int {
		a, status, err := s.client.Pay(order(n))
		n++
		if status == 202 {
			vouchers = append(vouchers, a.Voucher)
		}
		if status == 0 {
			t.Fatalf("no answer: %v", err)
		}
		return status
	}
	for range 50 {
		if status := pay(); status != 202 {
			t.Fatalf("before the disk is full: %d", status)
		}
	}
	fill()
	refused := 0
	for range 20_000 {
		status := pay()
		if status == 503 {
			refused++
		} else if status != 202 {
			t.Fatalf("on a full disk: %d", status)
		}
		if refused == 20 {
			break
		}
	}
	if refused < 20 {
		t.Fatalf("the disk never filled up: %d refusals", refused)
	}
	free()
	recovered := false
	for range 500 {
		if recovered = pay() == 202; recovered {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !recovered {
		t.Fatal("still refused with space again")
	}
	s.drain(t)
	_, lost, err := s.app.Stores.CheckVouchers(t.Context(), vouchers)
	must(t, err)
	v, err := s.app.Stores.Verify(t.Context())
	must(t, err)
	if wrong := append(v.Violations, lost...); len(wrong) > 0 {
		t.Fatalf("after the disk was full: %q", wrong)
	}
}

// smallDisk is a folder on a file system of 24 MiB, with what fills it up and
// what gives its space back. Where none may be mounted, it is a folder whose
// commits fail as they do on a full disk.
func smallDisk(t *testing.T) (dir string, fill, free func()) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Logf("NOT A REAL DISK: one needs the right to mount (%v); commits are made to fail instead", err)
		var full atomic.Bool
		commitFault = func() error {
			if full.Load() {
				return &fault.Error{Kind: fault.Unavailable, Op: "test", Code: "disk_full"}
			}
			return nil
		}
		t.Cleanup(func() { commitFault = nil })
		return dir, func() { full.Store(true) }, func() { full.Store(false) }
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	ballast := filepath.Join(dir, "ballast")
	return dir, func() { fillUp(t, ballast) }, func() { must(t, os.Remove(ballast)) }
}

// commitFault is what systems that are started from now on ask at each commit.
var commitFault func() error

// fillUp writes a file until the disk is full.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close() //nolint:errcheck // full on purpose
	block := make([]byte, 4096)
	for {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
