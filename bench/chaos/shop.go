package chaos

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tallystick/tallystick/bench/judge"
	"github.com/tallystick/tallystick/bench/load"
)

// second is what clients saw of the requests that they began in one second.
type second struct {
	Offered  int `json:"offered"`
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"` // 429 and 503: certainly not accepted
	Unknown  int `json:"unknown"` // 504
	Late     int `json:"late"`    // took more than a second, whatever the answer
	Settled  int `json:"settled"` // payments booked in this second
	// Elsewhere went to another gateway, as the first one refused the connection.
	Elsewhere int `json:"elsewhere"`
	slowest   time.Duration
	failures
}

// failures are what no request may come to, whatever is going on. All tries count.
type failures struct {
	Wrong     int `json:"wrong"`     // a status that is neither of those above
	Cut       int `json:"cut"`       // no answer
	Unreached int `json:"unreached"` // no gateway took a connection
	example   string
}

func (f *failures) note(a answer) {
	switch a.outcome {
	case wrong:
		f.Wrong++
	case cut:
		f.Cut++
	case unreached:
		f.Unreached++
	default:
		return
	}
	f.example = a.String()
}

func (f *failures) add(more failures) {
	f.Wrong, f.Cut, f.Unreached = f.Wrong+more.Wrong, f.Cut+more.Cut, f.Unreached+more.Unreached
	if more.example != "" {
		f.example = more.example
	}
}

func (f failures) sum() int { return f.Wrong + f.Cut + f.Unreached }

func (f failures) String() string {
	return fmt.Sprintf("%d answers with a status that must not be, %d requests cut off, %d that no gateway took; such as: %s", f.Wrong, f.Cut, f.Unreached, f.example)
}

// shop offers payments at a constant rate, whatever happens, and asks again, under
// the same key, until each of them is accepted.
type shop struct {
	client *client
	order  func(n int) load.Order
	rate   float64
	begun  time.Time

	mu      sync.Mutex
	seconds []second
	told    []*judge.Order // all that was asked for, and what was promised
	waiting int            // payments that were not accepted yet

	fresh    chan load.Accepted // what was just promised, to who looks after it
	readings []reading
}

func newShop(client *client, rate float64) *shop {
	return &shop{client: client, order: load.Orders(1), rate: rate, fresh: make(chan load.Accepted)}
}

// run offers until ctx ends, and lets some clients ask what became of it, and then waits for what is not accepted yet, at most
// patience.
func (s *shop) run(ctx context.Context, patience time.Duration) {
	s.begun = time.Now()
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() { s.look(ctx) })
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	n := 0
	for ctx.Err() == nil {
		for due := int(time.Since(s.begun).Seconds() * s.rate); n < due; n++ {
			order := n // each its own: n goes on
			wg.Go(func() { s.pay(last, order) })
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	stop := time.AfterFunc(patience, cancel)
	defer stop.Stop()
	wg.Wait()
}

// pay asks until it is told a voucher. Only the first answer counts in the figures, but
// for what must not be at all.
func (s *shop) pay(ctx context.Context, n int) {
	o := s.order(n)
	told := &judge.Order{OrderID: o.OrderID}
	s.mu.Lock()
	s.told = append(s.told, told)
	s.mu.Unlock()
	s.wait(1)
	defer s.wait(-1)
	for try := 0; ctx.Err() == nil; try++ {
		begun := time.Now()
		promised, a := s.client.pay(ctx, o)
		if a.outcome == cut && ctx.Err() != nil {
			return // by ourselves
		}
		s.note(begun, time.Since(begun), a, try == 0)
		if s.tell(told, promised.Voucher, a) {
			select {
			case s.fresh <- promised:
			default: // all have something to look after
			}
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (s *shop) wait(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting += by
}

// tell notes an answer, and says whether it is a voucher.
func (s *shop) tell(told *judge.Order, voucher string, a answer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch a.outcome {
	case accepted:
		told.Accepted(voucher)
	case refused:
		told.Refused++
	default:
		told.Unsure++
	}
	return a.outcome == accepted
}

// at is the second of a moment; s.mu is held.
func (s *shop) at(t time.Time) *second {
	i := int(t.Sub(s.begun).Seconds())
	for len(s.seconds) <= i {
		s.seconds = append(s.seconds, second{})
	}
	return &s.seconds[i]
}

func (s *shop) note(begun time.Time, took time.Duration, a answer, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.at(begun)
	at.failures.note(a)
	if !first {
		return
	}
	at.Offered++
	at.slowest = max(at.slowest, took)
	switch a.outcome {
	case accepted:
		at.Accepted++
	case refused:
		at.Refused++
	case unknown:
		at.Unknown++
	}
	if took > time.Second {
		at.Late++
	}
	if a.elsewhere {
		at.Elsewhere++
	}
}

// settled notes how many more payments were booked by now.
func (s *shop) settled(more int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at(time.Now()).Settled += more
}

// between sums up the requests that were begun from one moment to another.
func (s *shop) between(from, to time.Time) (sum second) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, last := int(from.Sub(s.begun).Seconds()), int(to.Sub(s.begun).Seconds())
	for i := max(0, first); i <= last && i < len(s.seconds); i++ {
		x := s.seconds[i]
		sum.Offered += x.Offered
		sum.Accepted += x.Accepted
		sum.Refused += x.Refused
		sum.Unknown += x.Unknown
		sum.Late += x.Late
		sum.Elsewhere += x.Elsewhere
		sum.failures.add(x.failures)
		sum.slowest = max(sum.slowest, x.slowest)
	}
	return sum
}

// acceptingSince is the first second from a moment on in which everything was
// accepted that was offered, as time after that moment.
func (s *shop) acceptingSince(from time.Time) (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := max(0, int(from.Sub(s.begun).Seconds())); i < len(s.seconds); i++ {
		if x := s.seconds[i]; x.Offered > 0 && x.Accepted == x.Offered {
			return max(0, s.begun.Add(time.Duration(i)*time.Second).Sub(from)), true
		}
	}
	return 0, false
}

// log is what was asked for and promised. Nobody may ask any more.
func (s *shop) log() []*judge.Order {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told
}

// promised counts those that have a voucher.
func (s *shop) promised() (n int) {
	for _, o := range s.log() {
		n += min(o.Acks, 1)
	}
	return n
}
