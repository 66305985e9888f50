package coordtest

import "testing"

// awake reports whether a wake-up waits, and takes it.
func awake(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func wakes(tb testing.TB, a Adapter) {
	rs := open(tb, a, 3)
	var here, there []<-chan struct{}
	for _, r := range rs {
		c, cancel := r.Subscribe("here")
		defer cancel()
		o, cancelOther := r.Subscribe("there")
		defer cancelOther()
		awake(c) // a replica that was deaf wakes all its own
		awake(o)
		here, there = append(here, c), append(there, o)
	}
	for _, r := range rs {
		r.Notify("here")
		for _, c := range here {
			eventually(tb, "a wake-up", func() bool { return awake(c) })
		}
	}
	// What was said of another name came behind it, and woke nobody here.
	for _, c := range here {
		awake(c)
	}
	rs[0].Notify("there")
	for _, c := range there {
		eventually(tb, "a wake-up of the other name", func() bool { return awake(c) })
	}
	for i, c := range here {
		if awake(c) {
			tb.Errorf("replica %d was woken by another name", i)
		}
	}
}

func coalesce(tb testing.TB, a Adapter) {
	rs := open(tb, a, 2)
	c, cancel := rs[1].Subscribe("many")
	defer cancel()
	awake(c)
	for range 5000 { // nobody takes them meanwhile
		rs[0].Notify("many")
	}
	eventually(tb, "one wake-up", func() bool { return awake(c) })
	last, cancelLast := rs[1].Subscribe("last")
	defer cancelLast()
	rs[0].Notify("last")
	eventually(tb, "the wake-up behind them", func() bool { return awake(last) })
	n := 0
	for awake(c) {
		n++
	}
	if n > 1 {
		tb.Errorf("%d wake-ups wait at once", n)
	}
}

func cancelled(tb testing.TB, a Adapter) {
	rs := open(tb, a, 2)
	gone, cancel := rs[1].Subscribe("name")
	stays, cancelStays := rs[1].Subscribe("name")
	defer cancelStays()
	awake(gone)
	awake(stays)
	cancel()
	rs[0].Notify("name")
	eventually(tb, "the other subscription is woken", func() bool { return awake(stays) })
	if awake(gone) {
		tb.Error("woken after the end of the subscription")
	}
}
