package crash

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/tallystick/tallystick/bench/judge"
	"github.com/tallystick/tallystick/bench/load"
)

// shop is a merchant that offers payments whatever happens to the gateway, and
// keeps a log of what it was promised. Each order is asked for under one key with
// one body.
type shop struct {
	client *load.Client
	seed   uint64
	// bankrupt ends all asking; closed by whoever closes the bench.
	bankrupt chan struct{}

	mu     sync.Mutex
	orders []*order
	acked  int
}

// order is one, with its log.
type order struct {
	load.Order
	told judge.Order
}

// outMax bounds the orders that wait for an answer: more are not offered.
const outMax = 4_000

func newShop(c *load.Client, seed uint64) *shop {
	return &shop{client: c, seed: seed, bankrupt: make(chan struct{})}
}

// log is what was promised so far.
func (s *shop) log() (all []*judge.Order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.orders {
		told := o.told
		all = append(all, &told)
	}
	return all
}

func (s *shop) acknowledged() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// open offers payments until ctx ends. The channel is closed when every order that
// wants an answer has one.
func (s *shop) open(ctx context.Context, cfg Config) (answered <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		defer wg.Wait()
		places := make(chan struct{}, outMax)
		make1 := load.Orders(s.seed)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		begun := time.Now()
		for n := 0; ; {
			for due := int(time.Since(begun).Seconds() * cfg.Rate); n < due; n++ {
				select {
				case places <- struct{}{}:
				default:
					continue
				}
				o := s.next(make1)
				wg.Go(func() { s.buy(ctx, o); <-places })
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return done
}

func (s *shop) next(make1 func(int) load.Order) (o *order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o = &order{Order: make1(len(s.orders))}
	o.told.OrderID = o.OrderID
	s.orders = append(s.orders, o)
	return o
}

// buy asks until there is an answer, or, now and then, gives up after the first
// try; some ask again after the answer, perhaps another process by then.
func (s *shop) buy(ctx context.Context, o *order) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(o.OrderID))
	r := rand.New(rand.NewPCG(s.seed, h.Sum64())) //nolint:gosec // a bench
	patient, again := r.IntN(20) > 0, r.IntN(6) == 0
	first, acked := s.ask(o)
	if !acked && patient {
		first, acked = s.insist(o, r)
	}
	if !acked || !again {
		return
	}
	select {
	case <-time.After(time.Duration(r.IntN(4_000)) * time.Millisecond):
	case <-ctx.Done(): // the shop closes: ask at once
	}
	if _, acked = s.insist(o, r); !acked {
		return
	}
	// The promise is known to whoever shows its token: 404 would deny it.
	if _, status, _ := s.client.Await(first, 0, 0); status == http.StatusNotFound {
		o.told.Wrong = "the voucher of a 202 is 404"
	}
}

// insist asks until there is an answer; false if it is a wrong one.
func (s *shop) insist(o *order, r *rand.Rand) (load.Accepted, bool) {
	for {
		a, acked := s.ask(o)
		if acked || o.told.Wrong != "" {
			return a, acked
		}
		select {
		case <-s.bankrupt:
			return a, false
		case <-time.After(time.Duration(50+r.IntN(150)) * time.Millisecond):
		}
	}
}

// ask asks once and notes the answer.
func (s *shop) ask(o *order) (load.Accepted, bool) {
	a, status, err := s.client.Pay(o.Order)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case status == http.StatusAccepted && err == nil:
		if o.told.Acks == 0 {
			s.acked++
		}
		o.told.Accepted(a.Voucher)
		return a, true
	case status == 0 || status == http.StatusGatewayTimeout || status == http.StatusAccepted:
		o.told.Unsure++
	case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
		o.told.Refused++
	default:
		o.told.Wrong = err.Error()
	}
	return a, false
}
