package app

import (
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/all"
	"github.com/tallystick/tallystick/channels/breaker"
	"github.com/tallystick/tallystick/channels/limit"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/coord"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/obs"
)

// ChannelSet builds the channels of the directory's accounts and keeps them in
// step with it. Around each: the limiter, then the breaker; the bulkhead is
// prepay's. Safe for concurrent use.
type ChannelSet struct {
	directory *merchant.Directory
	keys      func(keyName string) ([][]byte, error)
	limits    coord.Limits
	now       func() time.Time
	random    io.Reader
	metrics   *metrics.Set
	log       *slog.Logger

	mu       sync.RWMutex
	version  int64
	accounts map[string]*builtAccount
	names    []string
}

// builtAccount is a channel and what it was built from. One that is in the map is
// never changed: whoever holds it reads it without a lock.
type builtAccount struct {
	from    merchant.ChannelAccount
	channel *channels.Channel
	breaker *breaker.Breaker
}

// NewChannelSet builds all accounts, whose calls are limited together with those of
// other replicas. One that cannot be built, for want of a key
// or a driver, is an error here; when it comes later it is logged and left out.
func NewChannelSet(d *merchant.Directory, keys func(string) ([][]byte, error), limits coord.Limits, now func() time.Time, random io.Reader, m *metrics.Set, log *slog.Logger) (*ChannelSet, error) {
	s := &ChannelSet{directory: d, keys: keys, limits: limits, now: now, random: random, metrics: m, log: log, accounts: map[string]*builtAccount{}}
	snapshot := d.Current()
	for i := range snapshot.Accounts {
		b, err := s.build(snapshot.Accounts[i])
		if err != nil {
			return nil, fault.Wrap("channel account "+snapshot.Accounts[i].ID, err)
		}
		s.accounts[b.from.ID] = b
	}
	s.version = snapshot.Version
	s.index()
	return s, nil
}

func (s *ChannelSet) index() {
	s.names = s.names[:0:0]
	for name := range s.accounts {
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
}

func (s *ChannelSet) build(a merchant.ChannelAccount) (*builtAccount, error) {
	keys, err := s.keys(a.KeyName)
	if err != nil {
		return nil, err
	}
	c, err := all.Build(all.Args{Channel: a.Channel, Account: a.ID, Endpoint: a.Endpoint, Keys: keys, Now: s.now, Random: s.random})
	if err != nil {
		return nil, err
	}
	l := a.Limits
	c, br, err := breaker.Wrap(c, breaker.Settings{Failures: l.BreakerFailures, OpenFor: time.Duration(l.BreakerOpenMillis) * time.Millisecond,
		OnChange: func(account, which, from, to string) {
			s.log.Warn("breaker", "account", account, "which", which, "from", from, "to", to)
			s.metrics.GetOrCreateCounter(`tallystick_channel_breaker_changes_total{account="` + account + `",which="` + which + `",to="` + to + `"}`).Inc()
		}})
	if err != nil {
		return nil, err
	}
	settings := limit.Settings{CallsPerSecond: l.CallsPerSecond, Burst: l.Burst, WaitMax: l.Deadline() / 2}
	if err := settings.Validate(); err != nil {
		return nil, err
	}
	shared := coord.Rate{PerSecond: l.CallsPerSecond, Burst: l.Burst}
	bucket := s.limits.Bucket(string(RolePrepay), "account/"+a.ID, shared)
	bucket.SetRate(shared, s.now()) // that of an account whose limits changed is there already
	c, err = limit.Wrap(c, settings, bucket, s.now)
	if err != nil {
		return nil, err
	}
	s.registerBreaker(a.ID)
	return &builtAccount{from: a, channel: c, breaker: br}, nil
}

// registerBreaker makes a gauge for each state of an account's two breakers: 1 for
// the state that it is in. A second call for the same account changes nothing, as
// a gauge asks for the breaker that is in force.
func (s *ChannelSet) registerBreaker(account string) {
	for _, which := range []string{breaker.Pay, breaker.Ask} {
		for _, state := range []string{breaker.Closed, breaker.HalfOpen, breaker.Open} {
			name := obs.Name("tallystick_channel_breaker_state", "account", account, "which", which, "state", state)
			s.metrics.GetOrCreateGauge(name, func() float64 {
				if s.breakerState(account, which) == state {
					return 1
				}
				return 0
			})
		}
	}
}

// follow rebuilds what a newer directory says otherwise.
func (s *ChannelSet) follow() {
	snapshot := s.directory.Current()
	s.mu.RLock()
	current := s.version == snapshot.Version
	s.mu.RUnlock()
	if current {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.version == snapshot.Version {
		return
	}
	s.version = snapshot.Version
	for i := range snapshot.Accounts {
		a := snapshot.Accounts[i]
		if have := s.accounts[a.ID]; have != nil && sameChannel(have.from, a) {
			s.accounts[a.ID] = &builtAccount{from: a, channel: have.channel, breaker: have.breaker}
			continue
		}
		b, err := s.build(a)
		if err != nil {
			s.log.Error("channel account not built: its payments wait", "account", a.ID, "error", err)
			continue
		}
		s.accounts[a.ID] = b
	}
	s.index()
}

// sameChannel reports whether two versions of an account need the same channel.
func sameChannel(a, b merchant.ChannelAccount) bool {
	return a.Channel == b.Channel && a.Endpoint == b.Endpoint && a.KeyName == b.KeyName && a.Limits == b.Limits
}

// Accounts implements prepay.Channels. An account that left the directory keeps
// its channel: its payments are still asked after.
func (s *ChannelSet) Accounts() []string {
	s.follow()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.names
}

func (s *ChannelSet) get(account string) *builtAccount {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.accounts[account]
}

// Channel implements prepay.Channels.
func (s *ChannelSet) Channel(account string) (*channels.Channel, bool) {
	b := s.get(account)
	if b == nil {
		return nil, false
	}
	return b.channel, true
}

// Limits implements prepay.Channels.
func (s *ChannelSet) Limits(account string) merchant.AccountLimits {
	b := s.get(account)
	if b == nil {
		return merchant.AccountLimits{}
	}
	return b.from.Limits
}

// Parser gives the parser of an account's callbacks.
func (s *ChannelSet) Parser(channel, account string) (channels.CallbackParser, bool) {
	s.follow()
	b := s.get(account)
	if b == nil || b.from.Channel != channel || b.channel.Callback == nil {
		return nil, false
	}
	return b.channel.Callback, true
}

// BreakerState is the state of an account's breaker of payments; empty for an
// account that is not there.
func (s *ChannelSet) BreakerState(account string) string {
	return s.breakerState(account, breaker.Pay)
}

func (s *ChannelSet) breakerState(account, which string) string {
	b := s.get(account)
	switch {
	case b == nil:
		return ""
	case which == breaker.Ask:
		return b.breaker.AskState()
	default:
		return b.breaker.State()
	}
}
