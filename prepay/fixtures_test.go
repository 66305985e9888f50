package prepay_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
	"github.com/tallystick/tallystick/prepay"
)

const (
	groups = 4
	second = int64(1000)
	day    = 86_400 * second
)

var secret = func() *ids.Secret {
	s, err := ids.NewSecret(bytes.Repeat([]byte{9}, ids.SecretLen))
	if err != nil {
		panic(err)
	}
	return s
}()

// number makes the context and the number of an order's first attempt.
func number(order string) (ids.Context, ids.Code, string) {
	x := secret.Trade(traffic.Real, "m1", order)
	y := secret.Intent(x, "m1", order, traffic.Deposit, order, ids.Fingerprint{})
	return ids.Context{BizCode: x, Merchant: "m1", OrderType: "sale", OrderScene: "web", Institution: "sandbox",
		TraceID: "0123456789abcdef0123456789abcdef", Form: traffic.Deposit, Traffic: traffic.Real}, y, ids.OutTradeNo(y, 0)
}

func no(order string) string { _, _, n := number(order); return n }

// dispatch is core asking for op.
type dispatch struct {
	order, account string
	op             event.Op
	edit           func(*event.Dispatch)
}

func (w *world) batch(ds ...dispatch) *bus.Batch {
	b := &bus.Batch{Topic: bus.Dispatch}
	to := map[int]bus.Place{}
	for _, d := range ds {
		c, y, n := number(d.order)
		e := event.Dispatch{Op: d.op, Y: y, OutTradeNo: n, Account: d.account}
		if d.op == event.OpPay {
			e.Amount, e.Method, e.Subject = money.Of(1999, "CNY"), channels.MethodQRCode, "tea"
			e.ReturnURL, e.ExpiresAtMillis = "https://shop.example/back", w.now.UnixMilli()+900*second
		}
		if d.edit != nil {
			d.edit(&e)
		}
		g := c.BizCode.Group(groups)
		w.seq[g]++
		to[g] = bus.Place{Epoch: 1, Seq: w.seq[g]}
		b.Messages = append(b.Messages, bus.Message{Topic: bus.Dispatch, Group: g, Place: to[g], Event: bus.Event{ID: w.ids.New(ids.EventID),
			Type: event.TypeDispatch, Version: 1, Context: c, AtMillis: w.now.UnixMilli(), Payload: event.Encode(e)}})
	}
	for g := range groups {
		if to[g] != (bus.Place{}) {
			from := bus.Place{}
			if w.seq[g] > 1 {
				from = w.read[g]
			}
			b.Moves = append(b.Moves, bus.Move{Group: g, From: from, To: to[g]})
			w.read[g] = to[g]
		}
	}
	return b
}

func same(t testing.TB, what string, have, want any) {
	t.Helper()
	if h, w := fmt.Sprint(have), fmt.Sprint(want); h != w {
		t.Errorf("%s:\n have %s\n want %s", what, h, w)
	}
}

// replies answers with each outcome in turn, and with the last one for ever.
func replies(os ...channels.Outcome) func(request) channels.Outcome {
	i := -1
	return func(request) channels.Outcome {
		i = min(i+1, len(os)-1)
		return os[i]
	}
}

func done(s channels.State) channels.Outcome {
	return channels.Outcome{Result: channels.Done, State: s}
}

func withCode(r channels.Result, code string) channels.Outcome {
	return channels.Outcome{Result: r, Code: code}
}

var (
	unknown  = withCode(channels.Unknown, "timeout")
	notSent  = withCode(channels.NotSent, "breaker_open")
	declined = withCode(channels.Declined, "no_funds")
	pending  = done(channels.StatePending)
	paid     = channels.Outcome{Result: channels.Done, State: channels.StatePaid, TransactionID: "t", Paid: money.Of(1999, "CNY")}
	closed   = done(channels.StateClosed)
	notFound = done(channels.StateNotFound)
	withQR   = channels.Outcome{Result: channels.Done, State: channels.StatePending,
		Credential: channels.Credential{Method: channels.MethodQRCode, Value: "QR-SECRET"}}
)

func msec(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// brokenStore fails every Update while err is set: before it is decided, or late,
// at the commit.
type brokenStore struct {
	prepay.Store
	err  error
	late bool
}

func (s *brokenStore) Update(ctx context.Context, p prepay.Pick, fn func(prepay.Picked) (prepay.Change, error)) error {
	if s.err != nil && s.late {
		return s.Store.Update(ctx, p, func(picked prepay.Picked) (prepay.Change, error) {
			ch, _ := fn(picked)
			return ch, s.err
		})
	}
	if s.err != nil {
		return s.err
	}
	return s.Store.Update(ctx, p, fn)
}

// busyStore is one on which something else happens between a draw's commit and what
// comes after it.
type busyStore struct {
	prepay.Store
	then func()
}

func (s *busyStore) Update(ctx context.Context, p prepay.Pick, fn func(prepay.Picked) (prepay.Change, error)) error {
	err := s.Store.Update(ctx, p, fn)
	if p.Due != nil {
		s.then()
	}
	return err
}

// reopenOn puts a store between prepay and its own.
func (w *world) reopenOn(s prepay.Store) {
	w.t.Helper()
	d := w.pp.Deps
	d.Store = s
	var err error
	w.pp, err = prepay.New(d)
	w.must(err)
}

// timeless leaves the real clock out of log lines.
func timeless(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		return slog.Attr{}
	}
	return a
}
