// Package breaker stops calling a channel account that fails, for a while. It
// sits inside limit; the bulkhead, prepay's slots, is around both.
//
// Payments have one breaker, queries and closes another: asking what became of a
// payment must go on while new payments fail, and must not be what reopens them.
package breaker

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/internal/fault"
)

// Code is the code of the NotSent that a call ends with while the breaker is open.
const Code = "breaker_open"

// The two breakers of an account.
const (
	Pay = "pay" // Prepay
	Ask = "ask" // Query and Close
)

// The states of a breaker.
const (
	Closed   = "closed" // calls go through
	HalfOpen = "half-open"
	Open     = "open"
)

// Settings of one channel account. OnChange is called with a lock held, so it must
// be quick and must not ask the Breaker.
type Settings struct {
	Failures    int           // so many in a row open it; 1 to 10,000
	OpenFor     time.Duration // how long before one call tries again; 1 ms to 1 h
	TrialsMax   int           // calls let through while half-open, and successes that close it; 1 if 0
	OnChange    func(account, which, from, to string)
	DialFailure func(channels.Outcome) bool // which NotSent are the PSP's failure; DialFailed if nil
}

// Validate names the first field that is wrong.
func (s *Settings) Validate() error {
	bad := func(field, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "breaker", Code: "config_invalid", Field: field, Fix: fix}
	}
	switch {
	case s.Failures < 1 || s.Failures > 10_000:
		return bad("breaker_failures", "1 to 10,000")
	case s.OpenFor < time.Millisecond || s.OpenFor > time.Hour:
		return bad("breaker_open_millis", "1 to 3,600,000")
	case s.TrialsMax < 0 || s.TrialsMax > 1_000:
		return bad("breaker_trials_max", "1 to 1,000, or 0 for 1")
	}
	return nil
}

// DialFailed reports whether a NotSent says that the PSP could not be reached, as
// against our own limiter, bulkhead or deadline.
func DialFailed(o channels.Outcome) bool { return o.Code == "dial_failed" }

// Breaker is the pair of an account, for health and metrics. It is safe for
// concurrent use.
type Breaker struct {
	pay, ask *gobreaker.CircuitBreaker[channels.Outcome]
}

// State is Closed, HalfOpen or Open, of the breaker of payments.
func (b *Breaker) State() string { return b.pay.State().String() }

// AskState is the same of the breaker of queries and closes.
func (b *Breaker) AskState() string { return b.ask.State().String() }

// errFailed and errExcluded tell gobreaker what an Outcome means to it; neither
// leaves this package.
var (
	errFailed   = errors.New("failed")
	errExcluded = errors.New("excluded")
)

// Wrap gives a channel that calls through a new pair of breakers, and the pair.
// An open breaker answers NotSent with Code, without a call; c is not changed.
// gobreaker keeps time by the runtime's clock: a simulation with a clock of its
// own leaves this decorator out, or runs in a testing/synctest bubble.
func Wrap(c *channels.Channel, s Settings) (*channels.Channel, *Breaker, error) {
	if err := s.Validate(); err != nil {
		return nil, nil, err
	}
	if s.DialFailure == nil {
		s.DialFailure = DialFailed
	}
	b := &Breaker{pay: s.make(c.Account, Pay), ask: s.make(c.Account, Ask)}
	w := *c
	w.Pay = &payer{next: c.Pay, b: b, dialFailure: s.DialFailure}
	return &w, b, nil
}

func (s *Settings) make(account, which string) *gobreaker.CircuitBreaker[channels.Outcome] {
	st := gobreaker.Settings{
		Name:         account + "/" + which,
		MaxRequests:  uint32(max(1, s.TrialsMax)), //nolint:gosec // validated
		Timeout:      s.OpenFor,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= uint32(s.Failures) }, //nolint:gosec // validated
		IsSuccessful: func(err error) bool { return err == nil },
		IsExcluded:   func(err error) bool { return errors.Is(err, errExcluded) },
	}
	if s.OnChange != nil {
		st.OnStateChange = func(_ string, from, to gobreaker.State) { s.OnChange(account, which, from.String(), to.String()) }
	}
	return gobreaker.NewCircuitBreaker[channels.Outcome](st)
}

type payer struct {
	next        channels.Payer
	b           *Breaker
	dialFailure func(channels.Outcome) bool
}

func (p *payer) Prepay(ctx context.Context, r channels.PayRequest) channels.Outcome {
	return p.through(ctx, p.b.pay, func() channels.Outcome { return p.next.Prepay(ctx, r) })
}

func (p *payer) Query(ctx context.Context, r channels.QueryRequest) channels.Outcome {
	return p.through(ctx, p.b.ask, func() channels.Outcome { return p.next.Query(ctx, r) })
}

func (p *payer) Close(ctx context.Context, r channels.QueryRequest) channels.Outcome {
	return p.through(ctx, p.b.ask, func() channels.Outcome { return p.next.Close(ctx, r) })
}

func (p *payer) through(ctx context.Context, cb *gobreaker.CircuitBreaker[channels.Outcome],
	call func() channels.Outcome,
) channels.Outcome {
	o, err := cb.Execute(func() (channels.Outcome, error) {
		o := call()
		return o, p.judge(ctx, o)
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return channels.Outcome{Result: channels.NotSent, Code: Code, Message: err.Error()}
	}
	return o
}

// judge says what an outcome tells about the PSP's health. That it declines is
// healthy. What we ourselves broke off or held back says nothing.
func (p *payer) judge(ctx context.Context, o channels.Outcome) error {
	switch o.Result {
	case channels.Done, channels.Declined:
		return nil
	case channels.NotSent:
		if p.dialFailure(o) {
			return errFailed
		}
		return errExcluded
	default:
		if errors.Is(ctx.Err(), context.Canceled) {
			return errExcluded
		}
		return errFailed
	}
}
