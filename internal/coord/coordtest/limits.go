package coordtest

import (
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/coord"
)

// seldom is a rate that gives nothing while a test runs.
const seldom = 1e-6

// rounds is how often a bucket is asked before it counts as empty: what is drawn from
// elsewhere comes a moment later.
const rounds = 60

// drain takes from buckets in turn until none gives any more, and counts.
func drain(buckets ...coord.Bucket) (all int, each []int) {
	each = make([]int, len(buckets))
	for idle := 0; idle < rounds; {
		got := false
		for i, b := range buckets {
			if b.Take(time.Now()) {
				got = true
				each[i]++
				all++
			}
		}
		if idle++; got {
			idle = 0
		} else {
			time.Sleep(5 * time.Millisecond)
		}
	}
	return all, each
}

func open(tb testing.TB, a Adapter, n int) []Replica {
	return a.Open(tb, n, make([]func(coord.Hint), n))
}

func together(tb testing.TB, a Adapter) {
	const n, burst = 3, 60
	var buckets []coord.Bucket
	for _, r := range open(tb, a, n) {
		buckets = append(buckets, r.Bucket(Role, "together", coord.Rate{PerSecond: seldom, Burst: burst}))
	}
	if all, each := drain(buckets...); all < burst || all > burst+a.MoreMax(n, burst) {
		tb.Errorf("%d tokens of a burst of %d, by replica %v", all, burst, each)
	}
}

func busy(tb testing.TB, a Adapter) {
	const n, burst = 3, 60
	rs := open(tb, a, n)
	r := coord.Rate{PerSecond: seldom, Burst: burst}
	b := rs[0].Bucket(Role, "busy", r)
	for _, other := range rs[1:] {
		other.Bucket(Role, "busy", r)
	}
	if all, _ := drain(b); all < burst || all > burst+a.MoreMax(1, burst) {
		tb.Errorf("one of %d replicas, alone: %d tokens of a burst of %d", n, all, burst)
	}
}

func sameName(tb testing.TB, a Adapter) {
	r := open(tb, a, 1)[0]
	rate := coord.Rate{PerSecond: seldom, Burst: 5}
	drain(r.Bucket(Role, "same", rate))
	if all, _ := drain(r.Bucket(Role, "same", rate)); all > 0 {
		tb.Errorf("%d tokens by asking for the bucket again", all)
	}
}

func apart(tb testing.TB, a Adapter) {
	r := open(tb, a, 1)[0]
	rate := coord.Rate{PerSecond: seldom, Burst: 5}
	for i, role := range []string{Role, "other"} {
		for _, name := range []string{"one", "two"} {
			b := r.Bucket(role, name, rate)
			if i > 0 { // nobody has said how many replicas of it there are
				if !b.Take(time.Now()) {
					tb.Errorf("%s of %s: nothing, after others were emptied", name, role)
				}
			} else if all, _ := drain(b); all < 5 {
				tb.Errorf("%s of %s: %d tokens of a burst of 5", name, role, all)
			}
		}
	}
}

func giveBack(tb testing.TB, a Adapter) {
	b := open(tb, a, 1)[0].Bucket(Role, "back", coord.Rate{PerSecond: .01, Burst: 1})
	now := time.Now()
	wait, _ := b.Reserve(now)
	if wait != 0 {
		tb.Fatalf("the first token has to be waited for: %v", wait)
	}
	first, undo := b.Reserve(now)
	if first < time.Minute || first > 200*time.Second {
		tb.Fatalf("the second token is there in %v, one comes every 100 s", first)
	}
	undo(now)
	if again, _ := b.Reserve(now); again != first {
		tb.Errorf("the second token was given back, and the next one is there in %v, not in %v", again, first)
	}
	if b.Take(now) {
		tb.Error("a token too many")
	}
}

func changedRate(tb testing.TB, a Adapter) {
	b := open(tb, a, 1)[0].Bucket(Role, "changed", coord.Rate{PerSecond: seldom, Burst: 2})
	drain(b)
	if b.Take(time.Now()) {
		tb.Fatal("a token of an empty bucket")
	}
	b.SetRate(coord.Rate{PerSecond: 1e6, Burst: 1000}, time.Now())
	for range 2000 { // a thousand times as much time as the old rate needs for none
		if b.Take(time.Now()) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	tb.Error("still nothing, at a million a second")
}

func refill(tb testing.TB, a Adapter) {
	for i, r := range open(tb, a, 2) {
		b := r.Bucket(Role, "refill", coord.Rate{PerSecond: 200, Burst: 4})
		n, tries := 0, 0
		for ; n < 40 && tries < 2000; tries++ { // ten times the burst
			if b.Take(time.Now()) {
				n++
			} else {
				time.Sleep(time.Millisecond)
			}
		}
		if n < 40 {
			tb.Fatalf("replica %d: %d tokens, at 200 a second", i, n)
		}
	}
}
