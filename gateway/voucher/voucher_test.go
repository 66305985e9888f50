package voucher_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStatusWords(t *testing.T) {
	for status, want := range map[event.Status]voucher.Status{
		event.Created: voucher.Processing, event.Dispatched: voucher.Processing, event.Unknown: voucher.Processing,
		event.Pending: voucher.Ready, event.Succeeded: voucher.Paid, event.Declined: voucher.Declined, event.Closed: voucher.Closed,
		event.Expired: voucher.Expired, event.Rejected: voucher.Rejected, "from a newer core": voucher.Processing,
	} {
		p := payment("r", status, 1)
		if have := voucher.StatusOf(&p); have != want || have.Final() != status.Final() {
			t.Errorf("%s reads %s (final %v), want %s", status, have, have.Final(), want)
		}
	}
	p := payment("r", event.Pending, 1)
	p.Credential.Value = ""
	if have := voucher.StatusOf(&p); have != voucher.Processing {
		t.Errorf("pending without a credential reads %s", have)
	}
}

func TestWithoutARow(t *testing.T) {
	h := newHarness(t, nil)
	c, y := h.order("o1", "k")
	t.Run("an id alone is unconfirmed", func(*testing.T) { h.want(h.await(h.ask(y, 0)), voucher.Unconfirmed, 0) })
	t.Run("a token proves acceptance", func(*testing.T) {
		a := h.ask(y, 0)
		a.Token = true
		h.want(h.await(a), voucher.Accepted, 0)
	})
	t.Run("accepted here, held and confirmed", func(*testing.T) {
		h.views.Hold(c, y)
		h.want(h.await(h.ask(y, 0)), voucher.Unconfirmed, 0)
		h.views.Confirm(y, 0)
		h.want(h.await(h.ask(y, 0)), voucher.Accepted, 0)
	})
}

func TestFollowsByVersion(t *testing.T) {
	h := newHarness(t, nil)
	c, y := h.order("o1", "k")
	h.views.Hold(c, y)
	h.views.Confirm(y, 0)
	h.source.emit(c, payment(y, event.Dispatched, 2))
	h.source.emit(c, payment(y, event.Created, 1)) // late
	h.step()
	h.want(h.await(h.ask(y, 0)), voucher.Processing, 2)
	h.source.emit(c, payment(y, event.Pending, 3))
	h.source.emit(c, payment(y, event.Pending, 3)) // twice
	h.step()
	v := h.await(h.ask(y, 2))
	h.want(v, voucher.Ready, 3)
	if v.Credential.Value == "" {
		t.Error("ready without a credential")
	}
	h.source.emit(c, payment(y, event.Succeeded, 4))
	h.step()
	v = h.await(h.ask(y, 3))
	h.want(v, voucher.Paid, 4)
	if v.Credential != (channels.Credential{}) {
		t.Errorf("the credential of a paid voucher is still shown: %+v", v.Credential)
	}
	if h.core.questions() != 0 {
		t.Errorf("core was asked %d times for what was followed from the start", h.core.questions())
	}
}

// Of each voucher that is held core's first news is told, once, from wherever it came.
func TestFirstNewsIsTold(t *testing.T) {
	h := newHarness(t, nil)
	var told []string
	h.views.Decided(func(y ids.Code, s voucher.Status) { told = append(told, string(y)+" "+string(s)) })
	c, y := h.order("o1", "")
	rc, rejected := h.order("o2", "")
	ac, asked := h.order("o3", "")
	other, unheld := h.order("o4", "")
	h.views.Hold(c, y)
	h.views.Hold(rc, rejected)
	h.views.Hold(ac, asked)
	h.source.emit(c, payment(y, event.Dispatched, 1))
	h.source.emit(rc, payment(rejected, event.Rejected, 1))
	h.source.emit(other, payment(unheld, event.Dispatched, 1))
	h.step()
	h.source.emit(c, payment(y, event.Pending, 2))
	h.step()
	h.core.payments[asked], h.core.contexts[asked] = payment(asked, event.Succeeded, 5), ac
	h.await(h.ask(asked, 0))
	want := []string{string(y) + " processing", string(rejected) + " rejected", string(asked) + " paid"}
	slices.Sort(told) // groups come in any order
	slices.Sort(want)
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

func TestCoreIsAskedOnce(t *testing.T) {
	h := newHarness(t, nil)
	c, y := h.order("o1", "k")
	h.core.payments[y], h.core.contexts[y] = payment(y, event.Dispatched, 2), c
	for range 3 {
		h.want(h.await(h.ask(y, 0)), voucher.Processing, 2)
	}
	h.source.emit(c, payment(y, event.Succeeded, 3))
	h.step()
	h.want(h.await(h.ask(y, 2)), voucher.Paid, 3)
	if n := h.core.questions(); n != 1 {
		t.Errorf("core was asked %d times", n)
	}
}

// What is published while core answers must not be lost: the view follows first.
func TestFollowsBeforeItAsks(t *testing.T) {
	h := newHarness(t, nil)
	c, y := h.order("o1", "k")
	h.core.during = func() {
		h.source.emit(c, payment(y, event.Succeeded, 3))
		h.step()
	}
	h.core.payments[y], h.core.contexts[y] = payment(y, event.Dispatched, 2), c
	h.want(h.await(h.ask(y, 0)), voucher.Paid, 3)
}

func TestOthersAreSkippedUndecoded(t *testing.T) {
	h := newHarness(t, nil)
	c, y := h.order("o1", "k")
	h.views.Hold(c, y)
	for i := range 50 {
		other, _ := h.order(fmt.Sprint("other", i), "k")
		if other.BizCode.Slot() == c.BizCode.Slot() {
			continue
		}
		h.source.put(other, []byte("not JSON"))
	}
	h.source.emit(c, payment(y, event.Pending, 1))
	h.step()
	h.want(h.await(h.ask(y, 0)), voucher.Ready, 1)
	if h.log.Len() > 0 {
		t.Errorf("another's message was decoded: %s", h.log)
	}
}

// An id that nobody knows leaves nothing behind: to follow it means to decode
// everything of its slot.
func TestTheUnknownIsForgotten(t *testing.T) {
	h := newHarness(t, nil)
	_, y := h.order("o1", "k")
	h.want(h.await(h.ask(y, 0)), voucher.Unconfirmed, 0)
	var b strings.Builder
	h.set.WritePrometheus(&b)
	if !strings.Contains(b.String(), "tallystick_voucher_view_entries 0") || !strings.Contains(b.String(), "tallystick_voucher_view_bytes 0") {
		t.Error(b.String())
	}
}

// What core told before the view had found its place in the topic may be old.
func TestWhatWasAskedBeforeTheFirstStep(t *testing.T) {
	h := unplaced(t, nil)
	c, y := h.order("o1", "k")
	h.core.payments[y], h.core.contexts[y] = payment(y, event.Created, 1), c
	h.want(h.await(h.ask(y, 0)), voucher.Processing, 1)
	h.source.emit(c, payment(y, event.Pending, 2))
	h.core.payments[y] = payment(y, event.Pending, 2)
	h.step()
	h.want(h.await(h.ask(y, 1)), voucher.Ready, 2)
}

func TestReadyLatencyIsMeasured(t *testing.T) {
	h := newHarness(t, nil)
	c, y := h.order("o1", "k")
	h.views.Hold(c, y)
	h.views.Confirm(y, 0)
	p := payment(y, event.Pending, 1)
	p.AcceptedAtMillis = h.now.UnixMilli() - 250
	h.source.emit(c, p)
	h.source.emit(c, payment(y, event.Unknown, 2))
	h.step()
	var b strings.Builder
	h.set.WritePrometheus(&b)
	if !strings.Contains(b.String(), "tallystick_voucher_ready_seconds_sum 0.25") || !strings.Contains(b.String(), "tallystick_voucher_ready_seconds_count 1") {
		t.Error(b.String())
	}
}

func TestNeverOlderThanSince(t *testing.T) {
	h := newHarness(t, nil)
	c, y := h.order("o1", "k")
	h.views.Hold(c, y)
	h.source.emit(c, payment(y, event.Created, 1))
	h.step()
	t.Run("core is asked when the fold is behind the client", func(*testing.T) {
		h.core.payments[y], h.core.contexts[y] = payment(y, event.Pending, 3), c
		h.want(h.await(h.ask(y, 3)), voucher.Ready, 3)
	})
	t.Run("core down", func(t *testing.T) {
		h.core.down = true
		if v, err := h.views.Await(context.Background(), h.ask(y, 4)); !fault.Is(err, fault.Unavailable) {
			t.Errorf("have %+v, %v", v, err)
		}
	})
	t.Run("a version that does not exist", func(t *testing.T) {
		h.core.down = false
		if v, err := h.views.Await(context.Background(), h.ask(y, 99)); !fault.Is(err, fault.Invalid) {
			t.Errorf("have %+v, %v", v, err)
		}
	})
}

func TestCoreDown(t *testing.T) {
	h := newHarness(t, nil)
	h.core.down = true
	c, y := h.order("o1", "k")
	a := h.ask(y, 0)
	a.Token = true
	if v, err := h.views.Await(context.Background(), a); !fault.Is(err, fault.Unavailable) {
		t.Errorf("not held: have %+v, %v", v, err)
	}
	h.views.Hold(c, y)
	h.views.Confirm(y, 0)
	h.want(h.await(a), voucher.Accepted, 0)
	h.source.emit(c, payment(y, event.Pending, 2))
	h.step()
	h.want(h.await(a), voucher.Ready, 2)
}

func TestGapMakesItAskAgain(t *testing.T) {
	h := newHarness(t, nil)
	c, y := h.order("o1", "k")
	h.views.Hold(c, y)
	h.source.emit(c, payment(y, event.Pending, 1))
	h.step()
	h.want(h.await(h.ask(y, 0)), voucher.Ready, 1)
	h.source.emit(c, payment(y, event.Succeeded, 2))
	h.source.trim()
	h.core.payments[y], h.core.contexts[y] = payment(y, event.Succeeded, 2), c
	h.step()
	h.want(h.await(h.ask(y, 0)), voucher.Paid, 2)
}

// A database was restored from an older copy, and its groups were published anew. A view
// that kept running starts over with them: what it knew is of a past that is no more, with
// versions that come again, and what comes now has sequences that it has read. Other groups
// are not concerned.
func TestAGroupBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, nil)
		c, y := h.order("o1", "k")
		other, z := h.order("o2", "k")
		for n := 3; other.BizCode.Group(groups) == c.BizCode.Group(groups); n++ {
			other, z = h.order(fmt.Sprint("o", n), "k")
		}
		h.views.Confirm(y, h.views.Hold(c, y))
		h.views.Confirm(z, h.views.Hold(other, z))
		tell := func(c ids.Context, y ids.Code, status event.Status, version int64) {
			h.core.mu.Lock()
			h.core.payments[y], h.core.contexts[y] = payment(y, status, version), c
			h.core.mu.Unlock()
			h.source.emit(c, payment(y, status, version))
		}
		tell(c, y, event.Created, 1)
		tell(other, z, event.Created, 1)
		for v, status := range []event.Status{event.Dispatched, event.Pending, event.Unknown} {
			tell(c, y, status, int64(v+2))
		}
		h.step()
		h.want(h.await(h.ask(y, 0)), voucher.Processing, 4)
		waits := make(chan voucher.View, 1)
		go func() {
			v, _ := h.views.Await(context.Background(), voucher.Ask{Y: y, Merchant: "m1", Since: 4, Wait: 20 * time.Second})
			waits <- v
		}()
		synctest.Wait()
		if n := h.core.questions(); n != 0 {
			t.Fatalf("core was asked %d times for what was followed from the start", n)
		}

		h.source.rewind(c.BizCode.Group(groups), 1)
		h.core.mu.Lock()
		h.core.payments[y] = payment(y, event.Created, 1)
		h.core.mu.Unlock()
		h.step()
		synctest.Wait() // who waits has asked
		h.want(h.await(h.ask(y, 0)), voucher.Processing, 1)
		h.want(h.await(h.ask(z, 0)), voucher.Processing, 1)
		tell(c, y, event.Pending, 2)
		h.step()
		h.want(h.await(h.ask(y, 1)), voucher.Ready, 2)
		for v, status := range []event.Status{event.Unknown, event.Pending, event.Succeeded} {
			tell(c, y, status, int64(v+3))
		}
		h.step()
		h.want(<-waits, voucher.Paid, 5)
		if n := h.core.questions(); n != 1 {
			t.Errorf("core was asked %d times, want once: for what had begun anew", n)
		}
	})
}

func TestAliasFollowsTheFirst(t *testing.T) {
	h := newHarness(t, nil)
	c, first := h.order("o1", "k")
	second := h.secret.Intent(c.BizCode, "m1", "o1", c.Form, "k", ids.FingerprintOf([]byte("another fingerprint of an equal body")))
	h.views.Hold(c, second)
	alias := payment(second, event.Rejected, 1)
	alias.Reason, alias.AliasOf = "alias", first
	h.source.emit(c, alias)
	h.step()
	h.core.payments[first], h.core.contexts[first] = payment(first, event.Pending, 5), c
	v := h.await(h.ask(second, 0))
	h.want(v, voucher.Ready, 5)
	if v.Y != second || v.AliasOf != first {
		t.Errorf("have %s as alias of %s", v.Y, v.AliasOf)
	}
	h.source.emit(c, payment(first, event.Succeeded, 6))
	h.step()
	h.want(h.await(h.ask(second, 5)), voucher.Paid, 6)
}

func TestAnotherMerchants(t *testing.T) {
	h := newHarness(t, nil)
	c, y := h.order("o1", "k")
	h.core.payments[y], h.core.contexts[y] = payment(y, event.Pending, 3), c
	a := h.ask(y, 0)
	a.Merchant = "m2"
	if v, err := h.views.Await(context.Background(), a); !fault.Is(err, fault.NotFound) {
		t.Errorf("have %+v, %v", v, err)
	}
}

func TestWaiting(t *testing.T) {
	wait := func(h *harness, y ids.Code, since int64, d time.Duration) voucher.Ask {
		a := h.ask(y, since)
		a.Wait = d
		return a
	}
	t.Run("news end it, at the moment they come", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, nil)
			c, y := h.order("o1", "k")
			h.views.Hold(c, y)
			h.views.Confirm(y, 0)
			start := time.Now()
			go func() {
				time.Sleep(100 * time.Millisecond)
				h.source.emit(c, payment(y, event.Created, 1)) // processing: nothing that a 202 has not said
				h.step()
				time.Sleep(100 * time.Millisecond)
				h.source.emit(c, payment(y, event.Pending, 2))
				h.step()
			}()
			h.want(h.await(wait(h, y, 0, 30*time.Second)), voucher.Ready, 2)
			if took := time.Since(start); took != 200*time.Millisecond {
				t.Errorf("took %s", took)
			}
			if h.core.questions() != 0 {
				t.Error("core was asked for what was just accepted, and soon told")
			}
		})
	})
	t.Run("that core has it is news to whoever was told nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, nil)
			c, y := h.order("o1", "k")
			start := time.Now()
			go func() {
				time.Sleep(200 * time.Millisecond)
				h.source.emit(c, payment(y, event.Created, 1))
				h.step()
			}()
			h.want(h.await(wait(h, y, 0, 30*time.Second)), voucher.Processing, 1)
			if took := time.Since(start); took != 200*time.Millisecond {
				t.Errorf("took %s", took)
			}
		})
	})
	t.Run("to who has been told, what goes on is told in the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, nil)
			c, y := h.order("o1", "k")
			h.source.emit(c, payment(y, event.Created, 1))
			h.core.payments[y], h.core.contexts[y] = payment(y, event.Created, 1), c
			a := wait(h, y, 0, 5*time.Second)
			a.Token = true
			start := time.Now()
			h.want(h.await(a), voucher.Processing, 1)
			if took := time.Since(start); took != 5*time.Second {
				t.Errorf("took %s", took)
			}
			a.Wait = 0
			h.want(h.await(a), voucher.Processing, 1) // and at once to who does not wait
		})
	})
	t.Run("a version that shows nothing new does not", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, nil)
			c, y := h.order("o1", "k")
			h.views.Hold(c, y)
			h.source.emit(c, payment(y, event.Created, 1))
			h.step()
			start := time.Now()
			go func() {
				time.Sleep(time.Second)
				h.source.emit(c, payment(y, event.Dispatched, 2))
				h.step()
				time.Sleep(time.Second)
				h.source.emit(c, payment(y, event.Pending, 3))
				h.step()
			}()
			h.want(h.await(wait(h, y, 1, 30*time.Second)), voucher.Ready, 3)
			if took := time.Since(start); took != 2*time.Second {
				t.Errorf("took %s", took)
			}
		})
	})
	t.Run("news of what another replica has just accepted come without a question", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, nil)
			c, y := h.order("o1", "k")
			go func() {
				time.Sleep(voucher.DefaultConfig().AskElsewhereAfter - time.Millisecond)
				h.source.emit(c, payment(y, event.Created, 1))
				h.step()
				time.Sleep(2 * time.Second)
				h.source.emit(c, payment(y, event.Pending, 2))
				h.step()
			}()
			a := wait(h, y, 0, 30*time.Second)
			a.Token = true
			h.want(h.await(a), voucher.Ready, 2)
			if h.core.questions() != 0 {
				t.Errorf("core was asked %d times", h.core.questions())
			}
		})
	})
	t.Run("while first news take long, core is asked later, and again soon when they do not", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, nil)
			orders := 0
			news := func(n int, took time.Duration) {
				for range n {
					orders++
					c, y := h.order(fmt.Sprint(orders), "k")
					h.views.Confirm(y, h.views.Hold(c, y))
					p := payment(y, event.Created, 1)
					p.AcceptedAtMillis = h.now.Add(-took).UnixMilli()
					h.source.emit(c, p)
					h.step()
				}
			}
			asked := func(id string, want time.Duration, here bool) {
				t.Helper()
				c, y := h.order(id, "k")
				if here {
					h.views.Confirm(y, h.views.Hold(c, y))
				}
				p := payment(y, event.Pending, 2)
				p.AcceptedAtMillis = h.now.Add(-want).UnixMilli()
				h.core.payments[y], h.core.contexts[y] = p, c
				start := time.Now()
				h.want(h.await(wait(h, y, 0, 30*time.Second)), voucher.Ready, 2)
				if took := time.Since(start); (took - want).Abs() > want/10 {
					t.Errorf("%s: core was asked after %s, want about %s", id, took, want)
				}
			}
			usual := voucher.DefaultConfig()
			news(100, 10*time.Millisecond)
			asked("idle", usual.AskElsewhereAfter, false)
			asked("idle, accepted here", usual.AskAfter, true)
			for i := range 50 { // what core is asked for tells nothing, whenever it was accepted
				asked(fmt.Sprint("old", i), usual.AskElsewhereAfter, false)
				asked(fmt.Sprint("own", i), usual.AskAfter, true)
			}
			news(100, time.Second)
			asked("busy", 2*time.Second, false)
			asked("busy, accepted here", 2*time.Second, true)
			news(100, -time.Hour) // a clock that was set back
			news(100, time.Minute)
			asked("very busy", usual.AskAfterMax, false)
			news(70, 10*time.Millisecond)
			asked("idle again", usual.AskElsewhereAfter, false)
			news(100, time.Minute)
			h.now = h.now.Add(time.Minute)
			asked("for a while nothing was accepted here", usual.AskElsewhereAfter, false)
		})
	})
	t.Run("how long news take counts from the message, though core was asked before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, nil)
			for i := range 100 {
				c, y := h.order(fmt.Sprint(i), "k")
				h.views.Confirm(y, h.views.Hold(c, y))
				p := payment(y, event.Pending, 2)
				p.AcceptedAtMillis = h.now.Add(-time.Second).UnixMilli()
				h.core.payments[y], h.core.contexts[y] = p, c
				h.await(h.ask(y, 0))
				h.source.emit(c, p)
				h.step()
				h.source.emit(c, payment(y, event.Pending, 3)) // and not from a later one
				h.step()
			}
			c, y := h.order("another", "k")
			h.core.payments[y], h.core.contexts[y] = payment(y, event.Pending, 2), c
			start := time.Now()
			h.await(wait(h, y, 0, 30*time.Second))
			if took := time.Since(start); (took - 2*time.Second).Abs() > 200*time.Millisecond {
				t.Errorf("core was asked after %s", took)
			}
		})
	})
	t.Run("without news core is asked once, soon", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, nil)
			c, y := h.order("o1", "k")
			h.core.payments[y], h.core.contexts[y] = payment(y, event.Pending, 2), c
			start := time.Now()
			h.want(h.await(wait(h, y, 0, 30*time.Second)), voucher.Ready, 2)
			if took := time.Since(start); took != voucher.DefaultConfig().AskElsewhereAfter || h.core.questions() != 1 {
				t.Errorf("took %s and %d questions", took, h.core.questions())
			}
		})
	})
	t.Run("whoever has a version is answered at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, nil)
			c, y := h.order("o1", "k")
			h.core.payments[y], h.core.contexts[y] = payment(y, event.Pending, 2), c
			start := time.Now()
			h.want(h.await(wait(h, y, 1, 30*time.Second)), voucher.Ready, 2)
			if took := time.Since(start); took != 0 {
				t.Errorf("took %s", took)
			}
		})
	})
	t.Run("its end gives what is known", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, nil)
			c, y := h.order("o1", "k")
			h.views.Hold(c, y)
			h.views.Confirm(y, 0)
			start := time.Now()
			h.want(h.await(wait(h, y, 0, 5*time.Second)), voucher.Accepted, 0)
			if took := time.Since(start); took != 5*time.Second {
				t.Errorf("took %s", took)
			}
			if h.core.questions() != 1 {
				t.Errorf("core was asked %d times", h.core.questions())
			}
		})
	})
	t.Run("shutdown ends it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, nil)
			c, y := h.order("o1", "k")
			h.views.Hold(c, y)
			h.source.emit(c, payment(y, event.Created, 1))
			h.step()
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			start := time.Now()
			v, err := h.views.Await(ctx, wait(h, y, 1, 30*time.Second))
			if err != nil || v.Version != 1 || time.Since(start) != time.Second {
				t.Errorf("have %+v, %v after %s", v, err, time.Since(start))
			}
		})
	})
}

func TestWaitersAreBounded(t *testing.T) {
	for name, change := range map[string]func(*voucher.Config){
		"per voucher":  func(c *voucher.Config) { c.WaitersPerVoucherMax = 2 },
		"per merchant": func(c *voucher.Config) { c.WaitersPerMerchantMax = 2 },
		"in all":       func(c *voucher.Config) { c.WaitersMax = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t, change)
				c, y := h.order("o1", "k")
				h.views.Hold(c, y)
				h.source.emit(c, payment(y, event.Created, 1))
				h.step()
				a := h.ask(y, 1)
				a.Wait = time.Minute
				var waiting sync.WaitGroup
				for range 2 {
					waiting.Go(func() { h.want(h.await(a), voucher.Processing, 1) })
				}
				synctest.Wait()
				if _, err := h.views.Await(context.Background(), a); !fault.Is(err, fault.Limited) {
					t.Errorf("a third waiter: %v", err)
				}
				waiting.Wait()
				h.want(h.await(h.ask(y, 0)), voucher.Processing, 1) // room again
			})
		})
	}
}

func TestBytesAreBounded(t *testing.T) {
	h := newHarness(t, func(c *voucher.Config) { c.WaitersMax, c.ViewBytesMax = 10, 20_000 })
	first, y := h.order("o0", "k")
	h.views.Hold(first, y)
	h.source.emit(first, payment(y, event.Created, 1))
	h.step()
	for i := range 100 {
		c, other := h.order(fmt.Sprint("o", i+1), "k")
		h.views.Hold(c, other)
	}
	if _, held := h.views.Peek(y); held {
		t.Error("the oldest entry is still held")
	}
	h.core.payments[y], h.core.contexts[y] = payment(y, event.Pending, 2), first
	h.want(h.await(h.ask(y, 1)), voucher.Ready, 2)
}

func TestAWaitingEntryIsNotEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *voucher.Config) { c.WaitersMax, c.ViewBytesMax = 10, 20_000 })
		c, y := h.order("o0", "k")
		h.views.Hold(c, y)
		h.source.emit(c, payment(y, event.Created, 1))
		h.step()
		done := make(chan voucher.View)
		go func() {
			a := h.ask(y, 1)
			a.Wait = time.Hour
			done <- h.await(a)
		}()
		synctest.Wait()
		for i := range 100 {
			o, other := h.order(fmt.Sprint("o", i+1), "k")
			h.views.Hold(o, other)
		}
		h.source.emit(c, payment(y, event.Pending, 2))
		h.step()
		h.want(<-done, voucher.Ready, 2)
		if h.core.questions() != 0 {
			t.Error("the entry was lost and asked for")
		}
	})
}

func TestRunFollowsUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, nil)
		c, y := h.order("o1", "k")
		h.views.Hold(c, y)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- h.views.Run(ctx, time.Second, time.Second) }()
		synctest.Wait()
		h.source.emit(c, payment(y, event.Pending, 1))
		a := h.ask(y, 0)
		a.Wait = time.Minute
		h.want(h.await(a), voucher.Ready, 1)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A server that stops lets nobody wait any more, and asks core all the same for what it
// does not hold itself.
func TestWhoStopsStillAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, nil)
		c, y := h.order("o1", "k")
		h.core.payments[y], h.core.contexts[y] = payment(y, event.Pending, 1), c
		ctx, cancel := context.WithCancel(context.Background())
		a := h.ask(y, 0)
		a.Wait = time.Minute
		answered := make(chan voucher.View)
		go func() {
			v, err := h.views.Await(ctx, a)
			if err != nil {
				t.Error(err)
			}
			answered <- v
		}()
		synctest.Wait()
		if n := h.core.questions(); n != 0 {
			t.Fatalf("%d questions at once", n)
		}
		before := time.Now()
		cancel()
		if v := <-answered; v.Status != voucher.Ready || v.Version != 1 || time.Since(before) != 0 {
			t.Errorf("%s at version %d after %s", v.Status, v.Version, time.Since(before))
		}
		if v, err := h.views.Await(ctx, a); err != nil || v.Version != 1 { // one that comes afterwards
			t.Errorf("%+v, %v", v, err)
		}
	})
}

func TestConfigNamesTheField(t *testing.T) {
	c := voucher.DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range map[string]func(*voucher.Config){
		"voucher.waiters_max":    func(c *voucher.Config) { c.WaitersMax = 0 },
		"voucher.view_bytes_max": func(c *voucher.Config) { c.ViewBytesMax = 1000 },
		"voucher.ask_after_max":  func(c *voucher.Config) { c.AskAfterMax = c.AskAfter - 1 },
	} {
		c := voucher.DefaultConfig()
		spoil(&c)
		if err := c.Validate(); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// Whatever order events, questions, losses and evictions come in, a client never
// sees an older version than it has, and in the end sees the newest.
func TestVersionsNeverGoBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHarness(t, func(c *voucher.Config) { c.WaitersMax, c.ViewBytesMax = 3, 4000 })
		states := []event.Status{event.Created, event.Dispatched, event.Pending, event.Unknown, event.Succeeded}
		const orders = 6
		var version, seen [orders]int64
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			i := rapid.IntRange(0, orders-1).Draw(rt, "order")
			c, y := h.order(fmt.Sprint("o", i), "k")
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0:
				h.views.Hold(c, y)
			case 1, 2:
				version[i]++
				p := payment(y, states[min(int(version[i])-1, len(states)-1)], version[i])
				h.core.payments[y], h.core.contexts[y] = p, c
				h.source.emit(c, p)
			case 3:
				if _, err := h.views.Step(context.Background()); err != nil {
					rt.Fatal(err)
				}
			case 4:
				if rapid.IntRange(0, 9).Draw(rt, "trim") == 0 {
					h.source.trim()
				}
			case 5:
				v, err := h.views.Await(context.Background(), h.ask(y, seen[i]))
				if err != nil {
					rt.Fatal(err)
				}
				if v.Version < seen[i] || v.Version > version[i] {
					rt.Fatalf("order %d: saw %d after %d, newest is %d", i, v.Version, seen[i], version[i])
				}
				seen[i] = v.Version
			}
		}
		h.step()
		for i := range orders {
			_, y := h.order(fmt.Sprint("o", i), "k")
			if v := h.await(h.ask(y, 0)); v.Version != version[i] {
				rt.Fatalf("order %d rests at version %d, want %d", i, v.Version, version[i])
			}
		}
	})
}
