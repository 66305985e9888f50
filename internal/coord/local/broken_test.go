package local_test

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/coord"
	"github.com/tallystick/tallystick/internal/coord/coordtest"
)

// recorder is a testing.TB that notes failures instead of failing.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) Error(...any)          { r.failed = true }
func (r *recorder) Fatalf(string, ...any) { r.failed = true; runtime.Goexit() }
func (r *recorder) Fatal(...any)          { r.failed = true; runtime.Goexit() }

// fails reports whether an adapter fails the case of this name.
func fails(t *testing.T, name string, a coordtest.Adapter) bool {
	t.Helper()
	cases := coordtest.Cases()
	i := slices.IndexFunc(cases, func(c coordtest.Case) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("there is no case %q", name)
	}
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		cases[i].Run(r, a)
	}()
	<-done
	return r.failed
}

// broken is a replica with some methods replaced. others are all of its adapter.
type broken struct {
	coordtest.Replica
	others    []coordtest.Replica
	bucket    func(b *broken, role, name string, r coord.Rate) coord.Bucket
	tell      func(b *broken, h coord.Hint)
	notify    func(b *broken, name string)
	subscribe func(b *broken, name string) (<-chan struct{}, func())
}

func (b *broken) Bucket(role, name string, r coord.Rate) coord.Bucket {
	if b.bucket == nil {
		return b.Replica.Bucket(role, name, r)
	}
	return b.bucket(b, role, name, r)
}

func (b *broken) Tell(h coord.Hint) {
	if b.tell == nil {
		b.Replica.Tell(h)
		return
	}
	b.tell(b, h)
}

func (b *broken) Notify(name string) {
	if b.notify == nil {
		b.Replica.Notify(name)
		return
	}
	b.notify(b, name)
}

func (b *broken) Subscribe(name string) (<-chan struct{}, func()) {
	if b.subscribe == nil {
		return b.Replica.Subscribe(name)
	}
	return b.subscribe(b, name)
}

// with is the adapter with every replica broken in the same way.
func with(how broken) coordtest.Adapter {
	a := adapter()
	open := a.Open
	a.Open = func(tb testing.TB, n int, hear []func(coord.Hint)) []coordtest.Replica {
		rs := open(tb, n, hear)
		out := make([]coordtest.Replica, n)
		for i, r := range rs {
			b := how
			b.Replica, b.others = r, rs
			out[i] = &b
		}
		return out
	}
	return a
}

// bucket is a bucket with some methods replaced.
type bucket struct {
	coord.Bucket
	take    func(b coord.Bucket, now time.Time) bool
	reserve func(b coord.Bucket, now time.Time) (time.Duration, func(time.Time))
	setRate func(b coord.Bucket, r coord.Rate, now time.Time)
}

func (b *bucket) Take(now time.Time) bool {
	if b.take == nil {
		return b.Bucket.Take(now)
	}
	return b.take(b.Bucket, now)
}

func (b *bucket) Reserve(now time.Time) (time.Duration, func(time.Time)) {
	if b.reserve == nil {
		return b.Bucket.Reserve(now)
	}
	return b.reserve(b.Bucket, now)
}

func (b *bucket) SetRate(r coord.Rate, now time.Time) {
	if b.setRate == nil {
		b.Bucket.SetRate(r, now)
		return
	}
	b.setRate(b.Bucket, r, now)
}

func buckets(how bucket) coordtest.Adapter {
	return with(broken{bucket: func(b *broken, role, name string, r coord.Rate) coord.Bucket {
		one := how
		one.Bucket = b.Replica.Bucket(role, name, r)
		return &one
	}})
}

// own gives every replica a bucket of its own, of a part of the rate.
func own(parts int) coordtest.Adapter {
	return with(broken{bucket: func(b *broken, role, name string, r coord.Rate) coord.Bucket {
		r.Burst /= parts
		for i, other := range b.others {
			if other == b.Replica {
				name += string(rune('0' + i))
			}
		}
		return b.Replica.Bucket(role, name, r)
	}})
}

// Each case finds the adapter that it is there for.
func TestTheSuiteFindsBrokenAdapters(t *testing.T) {
	fresh := 0
	for name, tc := range map[string]struct {
		fails   string
		adapter coordtest.Adapter
	}{
		"each replica has the whole burst": {"limits: replicas together get the burst, and little more", own(1)},
		"each replica has its part alone":  {"limits: a busy replica gets what the others leave", own(3)},
		"nothing is ever given":            {"limits: time brings tokens", buckets(bucket{take: func(coord.Bucket, time.Time) bool { return false }})},
		"everything is always given": {"limits: replicas together get the burst, and little more", buckets(bucket{take: func(b coord.Bucket, now time.Time) bool {
			fresh++
			return b.Take(now) || fresh < 1000
		}})},
		"a new bucket each time": {"limits: asking for a bucket again does not fill it", with(broken{bucket: func(b *broken, role, name string, r coord.Rate) coord.Bucket {
			fresh++
			return b.Replica.Bucket(role, name+string(rune(fresh)), r)
		}})},
		"names are mixed up": {"limits: names and roles are apart", with(broken{bucket: func(b *broken, role, _ string, r coord.Rate) coord.Bucket {
			return b.Replica.Bucket(role, "one", r)
		}})},
		"roles are mixed up": {"limits: names and roles are apart", with(broken{bucket: func(b *broken, _, name string, r coord.Rate) coord.Bucket {
			return b.Replica.Bucket(coordtest.Role, name, r)
		}})},
		"nothing is given back": {"limits: a token that is reserved and given back is there again", buckets(bucket{
			reserve: func(b coord.Bucket, now time.Time) (time.Duration, func(time.Time)) {
				wait, _ := b.Reserve(now)
				return wait, func(time.Time) {}
			}})},
		"rates never change": {"limits: a changed rate is in force at once", buckets(bucket{setRate: func(coord.Bucket, coord.Rate, time.Time) {}})},
		"who tells hears himself": {"hints: all others hear, exactly what was told", with(broken{tell: func(b *broken, h coord.Hint) {
			for _, r := range b.others {
				r.Tell(h)
			}
		}})},
		"a hint with another's fingerprint": {"hints: all others hear, exactly what was told", with(broken{tell: func(b *broken, h coord.Hint) {
			h.Fingerprint[24]++
			b.Replica.Tell(h)
		}})},
		"hints come twice": {"hints: all others hear, exactly what was told", with(broken{tell: func(b *broken, h coord.Hint) {
			b.Replica.Tell(h)
			b.Replica.Tell(h)
		}})},
		"another name is woken": {"wakes: everywhere, and of that name alone", with(broken{notify: func(b *broken, name string) {
			b.Replica.Notify(name)
			b.Replica.Notify("here")
		}})},
		"every notification waits": {"wakes: many become one, and nobody is waited for", with(broken{
			subscribe: func(b *broken, name string) (<-chan struct{}, func()) {
				wake, cancel := b.Replica.Subscribe(name)
				many := make(chan struct{}, 100)
				go func() {
					<-wake
					for range 10 {
						many <- struct{}{}
					}
				}()
				return many, cancel
			}})},
		"subscriptions never end": {"wakes: not after the end of a subscription", with(broken{subscribe: func(b *broken, name string) (<-chan struct{}, func()) {
			wake, _ := b.Replica.Subscribe(name)
			return wake, func() {}
		}})},
	} {
		t.Run(name, func(t *testing.T) {
			if !fails(t, tc.fails, tc.adapter) {
				t.Errorf("passes %q", tc.fails)
			}
		})
	}
}
