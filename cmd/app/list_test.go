package app_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
)

// lists reads a merchant's whole list, page by page, at gateways in turn. A page that
// cannot be given now is asked for again.
func lists(t *testing.T, gateways []*system) (vouchers []string) {
	t.Helper()
	after := ""
	for asked := 0; asked < 2000; asked++ {
		page, status, err := gateways[asked%len(gateways)].client.List(after, 7)
		if status == 503 {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if err != nil {
			t.Errorf("the list behind %q: %d %v", after, status, err)
			return nil
		}
		for _, p := range page.Payments {
			if slices.Contains(vouchers, p.Voucher) {
				t.Errorf("%s is listed twice", p.Voucher)
			}
			vouchers = append(vouchers, p.Voucher)
		}
		if !page.More {
			return vouchers
		}
		after = vouchers[len(vouchers)-1]
	}
	t.Error("the list has no end")
	return nil
}

// lacks names those that a list lacks.
func lacks(list, promised []string) (missing []string) {
	for _, v := range promised {
		if !slices.Contains(list, v) {
			missing = append(missing, v)
		}
	}
	return missing
}

// startLister reads lists until it is stopped, and holds that what core knew before is in
// each. stop gives how many it read.
func startLister(t *testing.T, gateways []*system, known []string) (stop func() int) {
	ended, stopped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { stopped <- n }()
		for ; ; n++ {
			select {
			case <-ended:
				return
			default:
			}
			if missing := lacks(lists(t, gateways), known); len(missing) > 0 {
				t.Errorf("a list lacks %v", missing)
				return
			}
		}
	}()
	end := sync.OnceValue(func() int { close(ended); return <-stopped })
	t.Cleanup(func() { end() })
	return end
}

// A list of one process has everything that it has taken, and goes on from page to page
// while others come.
func TestListOfOneProcess(t *testing.T) {
	s := startSystem(t, sim.Faults{AutoPayShare: 1})
	promised := pay(t, []*system{s}, 0, 30)
	s.drain(t)
	if list := lists(t, []*system{s}); len(list) != 30 || len(lacks(list, promised)) > 0 {
		t.Errorf("listed %v, promised %v", list, promised)
	}
	page, _, err := s.client.List("", 30)
	must(t, err)
	if !slices.IsSortedFunc(page.Payments, func(a, b load.View) int { return int(b.AcceptedAtMillis - a.AcceptedAtMillis) }) || page.More {
		t.Errorf("the list is not in order: %+v", page)
	}
}
