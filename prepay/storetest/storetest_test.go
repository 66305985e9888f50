package storetest_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/engines/pgtest"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
	"github.com/tallystick/tallystick/prepay/sqlstore"
	"github.com/tallystick/tallystick/prepay/storetest"
)

const groups = 4

var server pgtest.Server

func TestMain(m *testing.M) { server.Main(m) }

func open(t testing.TB) storetest.Harness {
	return openWith(t, sqldb.Options{Path: t.TempDir() + "/prepay.db", NoSync: true})
}

func openPostgres(t testing.TB) storetest.Harness {
	o := sqldb.Options{Postgres: server.Schema(t), NoSync: true}
	if err := sqlstore.Migrate(t.Context(), o, ""); err != nil {
		t.Fatal(err)
	}
	h := openWith(t, o)
	h.Leased = true
	h.RoundTrips = h.Store.(*sqlstore.Store).DB().RoundTrips
	return h
}

func openWith(t testing.TB, o sqldb.Options) storetest.Harness {
	opened := func() *sqlstore.Store {
		s, err := sqlstore.Open(context.Background(), sqlstore.Config{Groups: groups, NowMillis: func() int64 { return 1 }, Options: o})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	s := opened()
	return storetest.Harness{Store: s, Groups: groups, Statements: s.DB().Statements,
		Second: func() prepay.Store { return opened() },
		Places: func() map[int]bus.Place {
			p, err := s.Places().Places(context.Background(), bus.Dispatch)
			if err != nil {
				t.Fatal(err)
			}
			return p
		},
		Outcomes: func() (out []bus.Message) {
			for g := range groups {
				m, err := s.Log().Stored(bus.Outcomes).Read(context.Background(), g, bus.Place{}, 10_000)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, m...)
			}
			return out
		}}
}

func TestSQLite(t *testing.T) { storetest.Run(t, open) }

func TestPostgreSQL(t *testing.T) { storetest.Run(t, openPostgres) }

// broken is a store that does one thing wrong.
type broken struct {
	prepay.Store
	pick    func(*prepay.Pick)
	picked  func(*prepay.Picked)
	change  func(s prepay.Store, ch *prepay.Change)
	swallow bool  // the decision's error
	split   bool  // moves places in a transaction of their own
	before  int64 // is added to the age of what is cleaned
	now     int64 // and this to the time of its expiry
}

func (b broken) Clean(ctx context.Context, o prepay.Old) (prepay.Cleaned, error) {
	o.BeforeMillis += b.before
	o.NowMillis += b.now
	return b.Store.Clean(ctx, o)
}

func (b broken) Update(ctx context.Context, p prepay.Pick, fn func(prepay.Picked) (prepay.Change, error)) error {
	if b.pick != nil {
		b.pick(&p)
	}
	if b.split {
		return b.updateSplit(ctx, p, fn)
	}
	var ch prepay.Change
	var err error
	inner := b.Store.Update(ctx, p, func(picked prepay.Picked) (prepay.Change, error) {
		if b.picked != nil {
			b.picked(&picked)
		}
		ch, err = fn(picked)
		if err != nil && !b.swallow {
			return ch, err
		}
		if b.change != nil {
			b.change(b.Store, &ch)
		}
		return ch, nil
	})
	if inner == nil {
		return err
	}
	return inner
}

func (b broken) updateSplit(ctx context.Context, p prepay.Pick, fn func(prepay.Picked) (prepay.Change, error)) (err error) {
	var ch prepay.Change
	err = b.Store.Update(ctx, p, func(picked prepay.Picked) (prepay.Change, error) {
		ch, err = fn(picked)
		return prepay.Change{}, err
	})
	for _, part := range []prepay.Change{{Batch: ch.Batch}, {Insert: ch.Insert, Update: ch.Update, Events: ch.Events}} {
		if err == nil {
			err = b.Store.Update(ctx, prepay.Pick{Numbers: []string{}}, func(prepay.Picked) (prepay.Change, error) { return part, nil })
		}
	}
	return err
}

// keeps gives calls as it first gave them, but for their versions.
func keeps() broken {
	kept := map[string]prepay.Call{}
	return broken{picked: func(p *prepay.Picked) {
		for i := range p.Calls {
			c := &p.Calls[i]
			if k, there := kept[c.OutTradeNo]; there {
				k.Version = c.Version
				*c = k
			}
			kept[c.OutTradeNo] = *c
		}
	}}
}

// The suite is worth what it finds: each of these stores must fail the case named.
func TestSuiteFindsBrokenStores(t *testing.T) {
	for _, c := range []struct {
		name, fails string
		with        broken
	}{
		{"forgets events", "a change is whole or nothing", broken{change: func(_ prepay.Store, ch *prepay.Change) { ch.Events = nil }}},
		{"forgets places", "a place is a fence", broken{change: func(_ prepay.Store, ch *prepay.Change) { ch.Batch = nil }}},
		{"stores the place outside the transaction", "a change is whole or nothing", broken{split: true}},
		{"lets two apply a batch", "of two that apply one batch, one does", broken{change: func(_ prepay.Store, ch *prepay.Change) { ch.Batch = nil }}},
		{"overwrites a stale call", "a stale call is fenced", broken{change: func(s prepay.Store, ch *prepay.Change) {
			for i := range ch.Update {
				c, _, _ := s.Find(context.Background(), ch.Update[i].OutTradeNo)
				ch.Update[i].Version = c.Version
			}
		}}},
		{"keeps calls for ever", "what another store wrote is seen", keeps()},
		{"believes that what is called new is new", "a call taken for new is found", broken{pick: func(p *prepay.Pick) {
			p.Numbers = slices.DeleteFunc(slices.Clone(p.Numbers), func(n string) bool { return slices.Contains(p.New, n) })
			p.New = nil
		}}},
		{"skips a second row of a number", "a number is unique", broken{change: func(s prepay.Store, ch *prepay.Change) {
			ch.Insert = slices.DeleteFunc(ch.Insert, func(c prepay.Call) bool {
				_, there, _ := s.Find(context.Background(), c.OutTradeNo)
				return there
			})
		}}},
		{"writes what a failed decision left", "an error of the decision changes nothing", broken{swallow: true}},
		{"gives due calls backwards", "due calls come in order", broken{picked: func(p *prepay.Picked) { slices.Reverse(p.Calls) }}},
		{"gives calls that are not due", "due calls come in order", broken{pick: func(p *prepay.Pick) { p.NowMillis += 1000 }}},
		{"gives too many", "due calls are limited per account", broken{pick: func(p *prepay.Pick) {
			for i := range p.Due {
				p.Due[i].Limit++
			}
		}}},
		{"does not tell what is due next", "the next due time is told", broken{picked: func(p *prepay.Picked) { clear(p.NextAtMillis) }}},
		{"misses what is in sending", "calls in sending", broken{pick: func(p *prepay.Pick) { p.Limit = 1 }}},
		{"forgets a flag", "every field is kept", broken{change: func(_ prepay.Store, ch *prepay.Change) {
			for i := range ch.Update {
				ch.Update[i].StopWanted = false
			}
		}}},
		{"forgets when it was put on the desk", "any change is kept", broken{change: func(_ prepay.Store, ch *prepay.Change) {
			for i := range ch.Update {
				ch.Update[i].DeskAtMillis = 0
			}
		}}},
		{"cleans what is young", "what is old and final is cleaned", broken{before: 5}},
		{"cleans what has not expired", "what is old and final is cleaned", broken{now: 5}},
		{"mixes up events", "events are in order and without gaps", broken{change: func(_ prepay.Store, ch *prepay.Change) { slices.Reverse(ch.Events) }}},
		{"reads row by row", "statements do not grow with rows", broken{change: func(s prepay.Store, ch *prepay.Change) {
			for i := range ch.Update {
				_, _, _ = s.Find(context.Background(), ch.Update[i].OutTradeNo)
			}
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := slices.IndexFunc(storetest.Cases(), func(k storetest.Case) bool { return k.Name == c.fails })
			h := open(t)
			with := func(s prepay.Store) prepay.Store { b := c.with; b.Store = s; return b }
			second := h.Second
			h.Store, h.Second = with(h.Store), func() prepay.Store { return with(second()) }
			if r := record(t, func(t testing.TB) { storetest.Cases()[i].Run(t, h) }); !r.failed {
				t.Errorf("%q passed", c.fails)
			}
		})
	}
}

// recorder is a test that may fail without failing the one it runs in.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) Error(...any)          { r.failed = true }
func (r *recorder) Fatalf(f string, a ...any) {
	r.Fatal(fmt.Sprintf(f, a...))
}
func (r *recorder) Fatal(...any) { r.failed = true; runtime.Goexit() }

func record(t testing.TB, f func(testing.TB)) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}
