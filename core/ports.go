package core

import (
	"context"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

// Store keeps trades, core's places and core's topics. An adapter passes
// core/storetest.
type Store interface {
	// Apply runs one transaction: it loads the trades of want, lets decide change
	// them and add events, saves what changed, moves the places of b (none for a
	// batch of timers), and emits last. Nothing is kept when decide fails. It
	// fails with fault.Fenced, and nothing is kept, when another process moved a
	// place or changed a row meanwhile.
	Apply(ctx context.Context, b *bus.Batch, want Want, decide func(*Work) error) error
	// Due gives the BizCodes of trades with a payment order whose next action is
	// due at nowMillis, most overdue first, at most max.
	Due(ctx context.Context, nowMillis int64, max int) ([]ids.Code, error)
	// Trade gives the trade of a code, which may be its X or any Y of it, with that
	// payment order and at most RejectedShownMax others that were rejected; nil if there
	// is none.
	Trade(ctx context.Context, code ids.Code) (*Trade, error)
	// List gives payment orders of a merchant, in the order of lists. It costs by what it
	// gives, whatever else there is.
	List(ctx context.Context, l event.Listing) ([]event.Listed, error)

	// Counts counts all payment orders by merchant and status, aliases apart: core's side
	// of the orders equation. It reads the whole table.
	Counts(ctx context.Context) ([]Count, error)
	// Received sums what PSPs said they received, by merchant, channel account and
	// currency: core's side of the money equation. It reads the whole table.
	Received(ctx context.Context) ([]Received, error)
	// Open counts the payment orders that are not final, by status. It reads only
	// those.
	Open(ctx context.Context) ([]Age, error)
	// Verify folds the log of topic payments, group by group, and compares it with
	// the tables. It may run beside everything else.
	Verify(ctx context.Context) (Report, error)
}

// Count is a number of payment orders.
type Count struct {
	Merchant string
	Status   event.Status
	Alias    bool
	Orders   int64
}

// Received is money, in minor units of Currency: what settled payment orders,
// and what settled none.
type Received struct {
	Merchant string
	Account  string
	Currency money.Currency
	Settled  int64
	Surplus  int64
}

// Age is a number of open payment orders in one state.
type Age struct {
	Status event.Status
	Orders int64
	// OldestMillis is when the oldest of them was accepted, in Unix milliseconds.
	OldestMillis int64
}

// Report is what Verify found.
type Report struct {
	Payments int64 // payment orders compared
	Events   int64 // events folded
	bus.Findings
}

// Want names the trades that a batch needs: by their own codes, and by the codes
// of payment orders.
//
// A trade comes with its payment orders, but for those that were rejected: there may
// be any number of them, and they decide nothing, unless an intent is theirs or has
// their natural key. Those are asked for by Keys, or by Payments.
type Want struct {
	Trades   []ids.Code
	Payments []ids.Code
	Keys     []NaturalKey
}

// NaturalKey is that of an intent, with its Y and its trade's X.
type NaturalKey struct {
	X, Y      ids.Code
	Form, Key string
}

// RejectedShownMax bounds the rejected payment orders that Store.Trade gives: the
// last ones.
const RejectedShownMax = 100

// Work is what decide works on. It is used by one goroutine.
type Work struct {
	trades   map[ids.Code]*Trade
	payments map[ids.Code]*Trade
	order    []*Trade // in order of first appearance: one order of writes for one batch

	Dispatches []bus.Event
	Payments   []bus.Event
	// Alarms are what somebody must look at, and what changes nothing: told once the
	// batch is committed.
	Alarms []Alarm
}

// Alarm is about one number of a payment order.
type Alarm struct {
	Context    ids.Context
	OutTradeNo string
	What       string
}

func (w *Work) alarm(p *Payment, outTradeNo, what string) {
	w.Alarms = append(w.Alarms, Alarm{Context: p.Context, OutTradeNo: outTradeNo, What: what})
}

// NewWork is for stores: what was loaded.
func NewWork(loaded []*Trade) *Work {
	w := &Work{trades: make(map[ids.Code]*Trade, len(loaded)), payments: make(map[ids.Code]*Trade, len(loaded))}
	for _, t := range loaded {
		w.Add(t)
	}
	return w
}

// Add makes a trade known to the batch.
func (w *Work) Add(t *Trade) {
	w.trades[t.Context.BizCode] = t
	w.order = append(w.order, t)
	for _, p := range t.Payments {
		w.payments[p.Y] = t
	}
}

// addPayment makes a new payment order of a known trade known.
func (w *Work) addPayment(t *Trade, p *Payment) {
	t.Payments = append(t.Payments, p)
	w.payments[p.Y] = t
}

// Trades gives all trades of the batch, in a stable order.
func (w *Work) Trades() []*Trade { return w.order }

// trade finds a trade by X; nil if there is none.
func (w *Work) trade(x ids.Code) *Trade { return w.trades[x] }

// payment finds a payment order by Y; nils if there is none.
func (w *Work) payment(y ids.Code) (*Trade, *Payment) {
	t := w.payments[y]
	if t == nil {
		return nil, nil
	}
	return t, t.Payment(y)
}

// Queries is what core answers to other areas.
type Queries struct{ Store Trades }

// Trades is what queries read.
type Trades interface {
	// Trade gives a trade by its X or by the Y of any of its payment orders; nil if
	// there is none.
	Trade(ctx context.Context, code ids.Code) (*Trade, error)
	// List gives payment orders of a merchant, in the order of lists: all that there are,
	// or an error.
	List(ctx context.Context, l event.Listing) ([]event.Listed, error)
}

// Payment gives a payment order by Y, and its context; ok is false if core has
// not seen it.
func (q Queries) Payment(ctx context.Context, y ids.Code) (s event.Payment, c ids.Context, ok bool, err error) {
	t, err := q.Store.Trade(ctx, y)
	if err != nil || t == nil {
		return s, c, false, err
	}
	p := t.Payment(y)
	if p == nil {
		return s, c, false, nil
	}
	return p.Snapshot(), p.Context, true, nil
}

// Trade gives a trade by its X or by the Y of any of its payment orders.
func (q Queries) Trade(ctx context.Context, code ids.Code) (event.Trade, bool, error) {
	t, err := q.Store.Trade(ctx, code)
	if err != nil || t == nil {
		return event.Trade{}, false, err
	}
	return t.Snapshot(), true, nil
}

// CredentialBytesMax bounds the credentials of a list together: what it is told with has
// an end, and a PSP's credential is as long as its driver lets it be.
const CredentialBytesMax = 512 << 10

// List gives payment orders of a merchant. Where their credentials are too long it gives
// the first ones, at least one, and cut says that others are behind them.
func (q Queries) List(ctx context.Context, l event.Listing) (list []event.Listed, cut bool, err error) {
	list, err = q.Store.List(ctx, l)
	bytes := 0
	for i := range list {
		if bytes += len(list[i].Payment.Credential.Value); bytes > CredentialBytesMax && i > 0 {
			return list[:i], true, err
		}
	}
	return list, false, err
}
