package sim

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
)

// Account is one account at the PSP.
type Account struct {
	Name   string
	Keys   [][]byte // as in sandbox.Config: the first signs, all verify
	Faults Faults
}

// DeskConfig is what a Desk needs. Zero bounds mean the defaults beside them.
type DeskConfig struct {
	Accounts  []Account
	Seed      uint64
	PublicURL string // where payers find the PSP, without a slash at the end
	// CallbackAllowed says whether a notify_url may be called; nil allows all.
	CallbackAllowed func(url string) bool
	PaymentsMax     int // 1,000,000, about 1 KiB each
	// A callback that isn't accepted is sent again after CallbackBackoffMillis (500),
	// then twice as long each time up to a minute, CallbackAttemptsMax (30) times in all.
	CallbackBackoffMillis int64
	CallbackAttemptsMax   int
	Metrics               *metrics.Set // may be nil
}

// Validate names the first field that is wrong.
func (c *DeskConfig) Validate() error {
	bad := func(field, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "sandbox simulator", Code: "config_invalid", Field: field, Fix: fix}
	}
	if len(c.Accounts) == 0 {
		return bad("accounts", "at least one")
	}
	for i, a := range c.Accounts {
		if !wire.ValidAccount(a.Name) {
			return bad("accounts", fmt.Sprintf("%q: 1 to 64 letters, digits, dots, hyphens or underscores", a.Name))
		}
		if slices.ContainsFunc(c.Accounts[:i], func(b Account) bool { return b.Name == a.Name }) {
			return bad("accounts", a.Name+" comes twice")
		}
		if err := a.Faults.Validate(); err != nil {
			return fmt.Errorf("account %s: %w", a.Name, err)
		}
	}
	if c.PaymentsMax < 0 || c.CallbackBackoffMillis < 0 || c.CallbackAttemptsMax < 0 {
		return bad("payments_max, callback_backoff_millis, callback_attempts_max", "positive, or 0 for the default")
	}
	return nil
}

const backoffMillisMax = 60_000

// Desk is the PSP without clock and HTTP; see the package comment. It is safe for
// concurrent use.
type Desk struct {
	cfg      DeskConfig
	accounts map[string]*account
	forger   *wire.Ring

	mu    sync.Mutex // guards what follows, and the accounts' faults
	state *State
	asked map[Key]Requests // also of numbers that no payment has come of
	queue queue
	seq   uint64
}

type account struct {
	name     string
	ring     *wire.Ring
	faults   Faults
	injected map[string]*metrics.Counter
	accepted *metrics.Counter
	refused  *metrics.Counter
	gaveUp   *metrics.Counter
}

// Answer is what shall happen to a request.
type Answer struct {
	Response wire.Response
	After    time.Duration // wait so long before answering
	Lost     bool          // close the connection instead of answering
	Hang     time.Duration // if not 0: neither answer nor close until then
	Early    *Delivery     // to be made before anything is answered; then Delivered
}

// Delivery is one sending of a callback.
type Delivery struct {
	Notice
	Attempt int  // from 1
	Forged  bool // signed by someone who doesn't have the key
}

// NewDesk makes an empty one. Errors are of kind fault.Invalid.
func NewDesk(c DeskConfig) (*Desk, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.PaymentsMax == 0 {
		c.PaymentsMax = 1_000_000
	}
	if c.CallbackBackoffMillis == 0 {
		c.CallbackBackoffMillis = 500
	}
	if c.CallbackAttemptsMax == 0 {
		c.CallbackAttemptsMax = 30
	}
	if c.Metrics == nil {
		c.Metrics = metrics.NewSet()
	}
	secret := roll(c.Seed, Key{}, "forger", 0)
	forger, err := wire.NewRing(secret[:])
	if err != nil {
		return nil, err
	}
	d := &Desk{cfg: c, accounts: map[string]*account{}, forger: forger, asked: map[Key]Requests{},
		state: NewState(c.Seed, c.PublicURL, c.PaymentsMax)}
	for _, a := range c.Accounts {
		ring, err := wire.NewRing(a.Keys...)
		if err != nil {
			return nil, &fault.Error{Kind: fault.Invalid, Op: "sandbox simulator", Code: "config_invalid", Field: "keys of " + a.Name, Err: err}
		}
		counter := func(name, label, value string) *metrics.Counter {
			return c.Metrics.GetOrCreateCounter(fmt.Sprintf(`sandbox_sim_%s_total{account=%q,%s=%q}`, name, a.Name, label, value))
		}
		acc := &account{name: a.Name, ring: ring, faults: a.Faults, injected: map[string]*metrics.Counter{},
			accepted: counter("callbacks", "result", "accepted"), refused: counter("callbacks", "result", "refused"),
			gaveUp: counter("callbacks", "result", "given_up")}
		for _, f := range faultNames() {
			acc.injected[f] = counter("faults", "fault", f)
		}
		d.accounts[a.Name] = acc
	}
	return d, nil
}

// setPublicURL is for a Sim that learns its address late; one that was configured
// stays.
func (d *Desk) setPublicURL(url string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state.publicURL == "" {
		d.state.publicURL = url
	}
}

// SetFaults changes an account's faults from the next request on.
func (d *Desk) SetFaults(name string, f Faults) error {
	if err := f.Validate(); err != nil {
		return err
	}
	a := d.accounts[name]
	if a == nil {
		return fault.New(fault.NotFound, "faults", "no account %q", name)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	a.faults = f
	return nil
}

// Faults gives the faults in force, by account.
func (d *Desk) Faults() map[string]Faults {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string]Faults, len(d.accounts))
	for n, a := range d.accounts {
		all[n] = a.faults
	}
	return all
}

// Injected counts the faults that an account's requests have met, by name.
func (d *Desk) Injected(account string) map[string]uint64 {
	all := map[string]uint64{}
	if a := d.accounts[account]; a != nil {
		for n, c := range a.injected {
			all[n] = c.Get()
		}
	}
	return all
}

// Find gives the record of a payment; false if there is none, and then only the
// requests that came for the number.
func (d *Desk) Find(account, outTradeNo string) (Record, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := Key{account, outTradeNo}
	r, ok := d.state.Find(k)
	r.Requests = d.asked[k]
	return r, ok
}

// Payments gives all records, in the order of account and number.
func (d *Desk) Payments() []Record {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.state.Payments()
	for i := range all {
		all[i].Requests = d.asked[all[i].Key]
	}
	return all
}

// count counts a request, and gives how many of its sort came before.
func (d *Desk) count(k Key, path string) (had int) {
	q, known := d.asked[k]
	if !known && len(d.asked) >= 2*d.cfg.PaymentsMax {
		return 0 // bounded, even against a client that asks for numbers it makes up
	}
	n := &q.Pay
	switch path {
	case wire.PathQuery:
		n = &q.Query
	case wire.PathClose:
		n = &q.Close
	}
	*n++
	d.asked[k] = q
	return *n - 1
}

// Handle takes one request. Body and headers are the caller's again afterwards.
func (d *Desk) Handle(r wire.Request, now time.Time) Answer {
	a := d.accounts[r.Seal.Account]
	if a == nil || !a.ring.Verify(wire.KindRequest, r.Path, r.Seal.Account, r.Seal, r.Body) || !r.Seal.Fresh(now) {
		// Never signed: whoever cannot sign a request must not get a signature for one.
		return Answer{Response: wire.Response{Status: 401, Body: wire.Marshal(wire.Reply{Code: wire.CodeSignature,
			Message: "wrong account, key or signature, or a timestamp more than 300 s off"})}}
	}
	if r.Path == wire.PathPay {
		var p wire.Pay
		if err := wire.ParseRequest(r.Body, &p); err != nil {
			return invalid(a, r, err, now)
		}
		if d.cfg.CallbackAllowed != nil && !d.cfg.CallbackAllowed(p.NotifyURL) {
			return invalid(a, r, errors.New("notify_url: not among the addresses that this simulator may call"), now)
		}
		return d.pay(a, r, p, now)
	}
	var q wire.Ask
	if err := wire.ParseRequest(r.Body, &q); err != nil {
		return invalid(a, r, err, now)
	}
	return d.about(a, r, q.OutTradeNo, now)
}

func invalid(a *account, r wire.Request, err error, now time.Time) Answer {
	return Answer{Response: signed(a, r, 400, wire.Reply{Code: wire.CodeInvalid, Message: err.Error()}, now)}
}

func signed(a *account, r wire.Request, status int, reply wire.Reply, now time.Time) wire.Response {
	body := wire.Marshal(reply)
	return wire.Response{Status: status, Body: body,
		Seal: a.ring.Sign(wire.KindReply, wire.ReplySubject(status, r.Path), a.name, r.Seal.Nonce, now, body)}
}

// fate draws what befalls the n-th request of a sort. do says whether it has its
// effect.
func (d *Desk) fate(a *account, k Key, path string, n int) (ans Answer, do bool) {
	chance := roll(d.cfg.Seed, k, path, n)
	f := &a.faults
	ans.After = f.latency(&chance, 1)
	switch at := chance.share(0); {
	case at < f.ServerErrorShare:
		a.injected[faultServerError].Inc()
		ans.Response = wire.Response{Status: 503, Body: []byte("upstream is out of order\n")}
		return ans, false
	case at < f.ServerErrorShare+f.LostReplyShare:
		a.injected[faultLostReply].Inc()
		ans.Lost = true
	case at < f.ServerErrorShare+f.LostReplyShare+f.HangShare:
		a.injected[faultHang].Inc()
		ans.Hang = millis(f.HangMaxMillis)
		return ans, chance.share(2) < 0.5
	}
	return ans, true
}

func (d *Desk) pay(a *account, r wire.Request, p wire.Pay, now time.Time) Answer {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := Key{a.name, p.OutTradeNo}
	ans, do := d.fate(a, k, r.Path, d.count(k, r.Path))
	if !do {
		return ans
	}
	_, known := d.state.payments[k]
	status, reply := d.state.Pay(a.name, p, now)
	if !known && reply.State == channels.StatePending {
		ans.Early = d.begin(a, k, p, now)
		status, reply = d.state.tell(k)
	}
	if ans.Hang == 0 && !ans.Lost {
		ans.Response = signed(a, r, status, reply, now)
	}
	return ans
}

// begin settles what a new payment's payer will do.
func (d *Desk) begin(a *account, k Key, p wire.Pay, now time.Time) *Delivery {
	chance, f := roll(d.cfg.Seed, k, "payer", 0), &a.faults
	psp := roll(d.cfg.Seed, k, "psp", 0)
	if psp.share(0) < f.DeclineShare {
		a.injected[faultDecline].Inc()
		d.state.Decline(k, wire.ReasonRisk, now) // told in the answer, so without a callback
		return nil
	}
	if psp.share(1) < f.ForgedCallbackShare {
		a.injected[faultForged].Inc()
		d.push(item{due: now, delivery: Delivery{Forged: true, Attempt: 1, Notice: Notice{Key: k, URL: p.NotifyURL,
			Event: wire.Event{EventID: "sbf" + hex.EncodeToString(psp[24:]), OutTradeNo: k.OutTradeNo, State: channels.StatePaid,
				TransactionID: "forged", Paid: p.Amount, OccurredAtMillis: now.UnixMilli(), Attach: p.Attach}}}})
	}
	if psp.share(2) < f.EarlyCallbackShare {
		if n, ok := d.state.UserPays(k, money.Amount{}, now); ok {
			a.injected[faultEarly].Inc()
			d.maybeTwice(a, n, now)
			return &Delivery{Notice: n, Attempt: 1}
		}
	}
	if chance.share(0) < f.AutoPayShare {
		d.push(item{due: now.Add(millis(f.AutoPayDelayMillis) + chance.tail(1, f.AutoPayTailMillis)), payer: true,
			delivery: Delivery{Notice: Notice{Key: k}}})
	}
	return nil
}

func (d *Desk) about(a *account, r wire.Request, outTradeNo string, now time.Time) Answer {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := Key{a.name, outTradeNo}
	ans, do := d.fate(a, k, r.Path, d.count(k, r.Path))
	if !do {
		return ans
	}
	ask := d.state.Query
	if r.Path == wire.PathClose {
		ask = d.state.Close
	}
	status, reply := ask(a.name, outTradeNo, now)
	if ans.Hang == 0 && !ans.Lost {
		ans.Response = signed(a, r, status, reply, now)
	}
	return ans
}
