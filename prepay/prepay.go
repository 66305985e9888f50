package prepay

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// Channels is where prepay finds the channel accounts that it may call. Safe for
// concurrent use.
type Channels interface {
	// Accounts are the accounts with a channel, sorted. It may grow and shrink while
	// running; calls of an account that is gone wait for its return.
	Accounts() []string
	// Channel is the account's channel, with its decorators. An account that takes
	// no new payments still has one, as its old ones are asked after.
	Channel(account string) (*channels.Channel, bool)
	// Limits are the account's bounds. ConcurrentMax and DeadlineMillis count here.
	Limits(account string) merchant.AccountLimits
}

// Executor runs calls: in production each on a goroutine, in a simulation when
// it is their turn. Go must not run f itself.
type Executor interface{ Go(f func()) }

// Goroutines is the Executor of production.
type Goroutines struct{}

// Go starts a goroutine.
func (Goroutines) Go(f func()) { go f() }

// Config bounds the work. See Defaults.
type Config struct {
	Backoff Backoff `yaml:"backoff"`
	// LanesMax bounds the number of channel accounts, and SlotsMax the calls that
	// one of them may have in flight, whatever its limits say: together they bound
	// calls and answers in memory.
	LanesMax int `yaml:"lanes_max"`
	SlotsMax int `yaml:"slots_max"`
	// AnswersMax bounds the answers recorded in one transaction.
	AnswersMax int `yaml:"answers_max"`
	// LookMillis is how often a lane looks for calls that it was not told of.
	LookMillis int64 `yaml:"look_millis"`
	// SweepMillis is how often expired calls, the desk and the figures are looked
	// after, and SweepMax how many calls one look handles.
	SweepMillis int64 `yaml:"sweep_millis"`
	SweepMax    int   `yaml:"sweep_max"`
	// DeskMillis is the age from which an open call is on the operators' desk.
	DeskMillis int64 `yaml:"desk_millis"`
	// KeepMillis is the age to which a call that is final or stopped is kept, and
	// longer if its number has not expired by then.
	KeepMillis int64 `yaml:"keep_millis"`
	// DrainMillis bounds how long Run waits at its end for running calls.
	DrainMillis int64 `yaml:"drain_millis"`
	// ListMax bounds a page of List.
	ListMax int `yaml:"list_max"`
}

// Defaults are the bounds that a deployment starts from.
func Defaults() Config {
	return Config{
		Backoff:  Backoff{PollFirstMillis: 10_000, AskFirstMillis: 1_000, MaxMillis: 6 * 3_600_000},
		LanesMax: 256, SlotsMax: 1024, AnswersMax: 256, LookMillis: 2_000, SweepMillis: 5_000, SweepMax: 256,
		DeskMillis: 24 * 3_600_000, KeepMillis: 30 * 24 * 3_600_000, DrainMillis: 25_000, ListMax: 200,
	}
}

// Validate names the first bound that makes no sense.
func (c Config) Validate() error {
	for _, f := range []struct {
		name string
		v    int64
	}{
		{"backoff.poll_first_millis", c.Backoff.PollFirstMillis}, {"backoff.ask_first_millis", c.Backoff.AskFirstMillis},
		{"backoff.max_millis", c.Backoff.MaxMillis}, {"lanes_max", int64(c.LanesMax)}, {"slots_max", int64(c.SlotsMax)},
		{"answers_max", int64(c.AnswersMax)}, {"look_millis", c.LookMillis}, {"sweep_millis", c.SweepMillis},
		{"sweep_max", int64(c.SweepMax)}, {"desk_millis", c.DeskMillis}, {"keep_millis", c.KeepMillis}, {"drain_millis", c.DrainMillis},
		{"list_max", int64(c.ListMax)},
	} {
		if f.v < 1 {
			return &fault.Error{Kind: fault.Invalid, Op: "prepay: config", Code: "bound_invalid", Field: "prepay." + f.name, Fix: "use at least 1"}
		}
	}
	if c.Backoff.MaxMillis < max(c.Backoff.PollFirstMillis, c.Backoff.AskFirstMillis) {
		return &fault.Error{Kind: fault.Invalid, Op: "prepay: config", Code: "bound_invalid", Field: "prepay.backoff.max_millis",
			Fix: "use at least the first waits"}
	}
	return nil
}

// Deps is what prepay is made of. All but Points are needed.
type Deps struct {
	Store    Store
	Channels Channels
	Executor Executor
	IDs      *ids.Source
	Now      func() time.Time
	Rand     *rand.Rand // for jitter; used by prepay alone
	// NotifyURL is where the PSP of a channel account calls back. It is fixed with
	// a number's first call and should never change, as PSPs register it.
	NotifyURL func(channel, account string) string
	// PauseMax bounds the pause after a transaction that took all there was: as long as
	// it took itself, so that more comes into the next one. 0 is no pause.
	PauseMax time.Duration
	Points   fault.Points
	Metrics  *metrics.Set
	Log      *slog.Logger
	Config   Config
}

// Prepay makes the calls. Apply, StepLanes, StepRecord, StepSweep, AskNow and
// List may run at the same time, but none of the Steps beside itself.
type Prepay struct {
	Deps
	owner string // this process's incarnation
	// wakeLanes and wakeRecord hold a token when there may be work.
	wakeLanes, wakeRecord chan struct{}

	mu        sync.Mutex // guards what follows; never held around a store or a PSP
	recovered bool
	closed    bool  // nothing is sent any more
	sweepAt   int64 // when StepSweep has work again
	// cleaned is the last call that was looked at for cleaning; from cleanAt on all
	// are looked at again, as some were not final then.
	cleaned, cleanAt int64
	lanes            map[string]*lane
	drawnFull        bool     // the last draw gave a lane as many calls as it had free slots
	answers          []answer // what calls came to, not recorded yet: at most one per slot
}

// lane is one channel account's part of this process.
type lane struct {
	inFlight int              // slots taken: from the draw until the answer is recorded
	drawing  bool             // a draw for slots that are free is under way
	started  map[string]int64 // the calls that are out: number and start, Unix milliseconds
	// lookAtMillis is when the store may have calls that are due.
	lookAtMillis int64
	metrics      laneMetrics
}

// New checks the bounds; it fails with fault.Invalid, naming the field.
func New(d Deps) (*Prepay, error) {
	if err := d.Config.Validate(); err != nil {
		return nil, err
	}
	return &Prepay{Deps: d, owner: d.IDs.New("inc_"), wakeLanes: make(chan struct{}, 1), wakeRecord: make(chan struct{}, 1),
		lanes: map[string]*lane{}}, nil
}

func (p *Prepay) nowMillis() int64 { return p.Now().UnixMilli() }

// lane gives the account's lane, made on demand; nil when there are too many. The
// caller holds p.mu.
func (p *Prepay) lane(account string) *lane {
	l := p.lanes[account]
	if l == nil && len(p.lanes) < p.Config.LanesMax {
		l = &lane{started: map[string]int64{}, metrics: newLaneMetrics(p.Metrics, account)}
		p.lanes[account] = l
	}
	return l
}

// expect tells the lanes of calls that are now due. It is called inside the
// transaction that makes them due, so that it cannot be overtaken by a draw that
// did not see them.
func (p *Prepay) expect(calls []Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range calls {
		if c := &calls[i]; c.Status == Due {
			if l := p.lanes[c.Account]; l != nil {
				l.lookAtMillis = min(l.lookAtMillis, c.NextAtMillis)
			}
		}
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Recover takes up what an earlier process left in sending: nobody knows whether
// those calls arrived, so they are Unknown and are asked after first. It is done
// once, before the first draw; later calls do nothing.
func (p *Prepay) Recover(ctx context.Context) error {
	p.mu.Lock()
	done := p.recovered
	p.mu.Unlock()
	for !done {
		err := p.Store.Update(ctx, Pick{Sending: true, Limit: p.Config.SweepMax}, func(picked Picked) (Change, error) {
			done = len(picked.Calls) < p.Config.SweepMax
			ch := Change{Update: picked.Calls}
			for i := range ch.Update {
				if e, tell := p.interrupted(&ch.Update[i]); tell {
					ch.Events = append(ch.Events, e)
				}
			}
			return ch, nil
		})
		if err != nil {
			return fault.Wrap("prepay: recover", err)
		}
	}
	p.mu.Lock()
	p.recovered = true
	p.mu.Unlock()
	return nil
}
