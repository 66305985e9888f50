package voucher

import (
	"context"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// Ask is a question for a voucher, by its owner or whoever holds its token.
type Ask struct {
	Y        ids.Code
	Merchant string // the owner, already proven by key or token
	// Since is the version that the client has; 0 for none.
	Since int64
	// Wait is how long to wait for news; 0 answers from what is known, or core knows.
	Wait time.Duration
	// Token: the client holds a token from a 202, which proves acceptance.
	Token bool
}

// sight is what one look under the lock finds.
type sight struct {
	view    View
	visible int64
	sure    bool
	asking  bool
	fresh   bool // accepted here, and nothing heard yet
	told    bool // the client was told that it is accepted
	changed <-chan struct{}
	target  ids.Code // whose entry it is: the first, for an alias
}

// news reports whether there is something that the client cannot have seen, and
// that tells it anything: to be "processing" is nothing new to whoever has the
// 202. Most clients wait for what to pay with, and ask once.
func (s *sight) news(a *Ask) bool {
	return s.visible > a.Since && (a.Since > 0 || !s.told || s.view.Status != Processing)
}

// Await answers as soon as there is news for a client with version Since, or when
// Wait has passed, or when ctx ends (a server that stops answers its long-polls): what
// is known then, or what core says. The answer's version is never below Since.
//
// fault.Limited: too many wait. fault.Unavailable: core is not reached and what
// is held, if anything, is not enough. fault.NotFound: another merchant's.
// fault.Invalid: Since is a version that does not exist.
func (v *Views) Await(ctx context.Context, a Ask) (View, error) {
	if err := v.enter(&a); err != nil {
		return View{}, err
	}
	defer v.leave(&a)
	over := a.Wait <= 0
	var end, patience <-chan time.Time
	if !over {
		t := time.NewTimer(a.Wait)
		defer t.Stop()
		end = t.C
	}
	var askErr error
	asked := map[ids.Code]bool(nil) // what this call has asked core for: each at most once
	patient := !over
	stopped := ctx.Done()
	for {
		s := v.look(&a)
		if m := s.view.Context.Merchant; m != "" && m != a.Merchant {
			return View{}, &fault.Error{Kind: fault.NotFound, Op: "voucher", Code: "not_found"}
		}
		lacking := !s.sure || s.view.Version < a.Since
		if s.news(&a) && (!lacking || askErr != nil) {
			return s.view, nil
		}
		// The first news of what was just accepted, here or elsewhere, comes by itself,
		// and soon: core is asked only if it does not.
		if lacking && !asked[s.target] && !s.asking && (over || !patient || s.view.Version > 0 || a.Since > 0) {
			if asked == nil {
				asked = map[ids.Code]bool{}
			}
			asked[s.target] = true
			askErr = v.ask(context.WithoutCancel(ctx), s.target) // nobody who stops leaves a question without its answer
			continue
		}
		if over && !(lacking && s.asking) { // another's question is under way: its time-out bounds the wait
			return v.final(&a, &s, askErr)
		}
		if patient && patience == nil {
			t := time.NewTimer(min(a.Wait, v.askAfter(s.fresh)))
			defer t.Stop()
			patience = t.C
		}
		select {
		case <-s.changed:
		case <-end:
			over = true
		case <-patience:
			patient = false
		case <-stopped:
			over, stopped = true, nil
		}
	}
}

// Peek gives what is held of a voucher, without asking or waiting; false when
// core has told nothing of it here.
func (v *Views) Peek(y ids.Code) (View, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := v.entries[y]
	if e == nil || e.view.Version == 0 {
		return View{}, false
	}
	return e.view, true
}

// final is the answer when the time is up.
func (v *Views) final(a *Ask, s *sight, askErr error) (View, error) {
	switch {
	case s.view.Version >= a.Since && (s.sure || s.view.Version > 0 || s.fresh):
		return s.view, nil
	case askErr != nil:
		return View{}, &fault.Error{Kind: fault.Unavailable, Op: "voucher", Code: "view_unavailable", Fix: "retry after a moment", Err: askErr}
	case !s.sure:
		return View{}, &fault.Error{Kind: fault.Unavailable, Op: "voucher", Code: "view_unavailable", Fix: "retry after a moment"}
	default:
		return View{}, &fault.Error{Kind: fault.Invalid, Op: "voucher", Code: "query_invalid", Field: "since",
			Fix: "send the version of the last answer, or leave since out",
			Err: fmt.Errorf("the voucher is at version %d", s.view.Version)}
	}
}

// enter counts a waiter and pins the entry.
func (v *Views) enter(a *Ask) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	limited := func(who string, most int) error {
		return &fault.Error{Kind: fault.Limited, Op: "voucher", Code: "waiters_limited", Fix: "wait for an answer before asking again",
			Err: fmt.Errorf("%s has %d requests waiting, which is the bound", who, most)}
	}
	if v.waiters >= v.cfg.WaitersMax {
		return limited("the gateway", v.cfg.WaitersMax)
	}
	if v.merchants[a.Merchant] >= v.cfg.WaitersPerMerchantMax {
		return limited("the merchant", v.cfg.WaitersPerMerchantMax)
	}
	if e := v.entries[a.Y]; e != nil && e.waiters >= v.cfg.WaitersPerVoucherMax {
		return limited("the voucher", v.cfg.WaitersPerVoucherMax)
	}
	e := v.follow(a.Y)
	e.waiters++
	v.touch(e)
	v.waiters++
	v.merchants[a.Merchant]++
	v.evict()
	return nil
}

func (v *Views) leave(a *Ask) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waiters--
	if v.merchants[a.Merchant]--; v.merchants[a.Merchant] == 0 {
		delete(v.merchants, a.Merchant)
	}
	e := v.entries[a.Y] // pinned: it is the one that enter found
	e.waiters--
	v.touch(e)
	if e.waiters == 0 && e.x == "" {
		// Core knows nothing of it, and to follow a whole slot for it costs too much.
		v.drop(e)
	}
	v.evict()
}

// look gives what is known of the voucher, or of the first that it is an alias of.
func (v *Views) look(a *Ask) sight {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := v.entries[a.Y]
	alias := e.view.AliasOf
	if alias != "" {
		x := e.x
		accepted := e.accepted
		e = v.follow(alias)
		if e.x == "" { // one trade, one X
			v.unindex(e)
			e.x = x
			v.index(e)
		}
		e.accepted = e.accepted || accepted
		e.heard = true // it was accepted some time before, and maybe elsewhere
		v.touch(e)
	}
	if e.changed == nil {
		e.changed = make(chan struct{})
	}
	s := sight{view: e.view, visible: e.visible, sure: e.sure, asking: e.asking, fresh: e.accepted && e.view.Version == 0,
		changed: e.changed, target: e.view.Y}
	if s.view.Version == 0 {
		s.view.Status = Unconfirmed
		if a.Token || e.accepted {
			s.view.Status = Accepted
		}
	}
	s.told = a.Token || e.accepted
	s.view.Y, s.view.AliasOf = a.Y, alias
	return s
}

// ask asks core once for an entry that is followed already, so that nothing is
// missed between its answer and the fold.
func (v *Views) ask(ctx context.Context, y ids.Code) error {
	if !v.startAsking(y) {
		return nil
	}
	var err error
	defer func() { v.stopAsking(y, err == nil) }()
	ctx, cancel := context.WithTimeout(ctx, v.cfg.QueryTimeout)
	defer cancel()
	p, c, found, err := v.queries.Payment(ctx, y)
	if err == nil && found {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.fold(&p, c)
	}
	return err
}

func (v *Views) startAsking(y ids.Code) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := v.entries[y]
	if e == nil || e.asking {
		return false
	}
	e.asking = true
	return true
}

func (v *Views) stopAsking(y ids.Code, answered bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e := v.entries[y]; e != nil {
		e.asking = false
		e.sure = e.sure || answered
		e.wake()
	}
}
