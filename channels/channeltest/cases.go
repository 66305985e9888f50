package channeltest

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
)

// number is as long as our real ones, 28 characters: a driver must not cut it.
const number = "r0a1b2c3d4e5f6g7h8j9k0m1n2p0"

func (h Harness) request() channels.PayRequest {
	return channels.PayRequest{
		OutTradeNo: number, Amount: money.Of(12_345, h.Currency), Method: channels.MethodQRCode,
		Subject: `Tea, "green" 绿茶`, NotifyURL: h.NotifyURL, ExpiresAt: h.Now().Add(15 * time.Minute), Attach: "a|b|c",
	}
}

func (h Harness) query() channels.Outcome {
	return h.Channel.Pay.Query(context.Background(), channels.QueryRequest{OutTradeNo: number})
}

func (h Harness) close() channels.Outcome {
	return h.Channel.Pay.Close(context.Background(), channels.QueryRequest{OutTradeNo: number})
}

func (h Harness) prepay(t T, r channels.PayRequest) {
	t.Helper()
	o := h.Channel.Pay.Prepay(context.Background(), r)
	want(t, "prepay", o, channels.Done, channels.StatePending)
	if o.Credential.Value == "" || o.Credential.Method != r.Method {
		t.Errorf("prepay: credential %+v, want one for %s", o.Credential, r.Method)
	}
}

func want(t T, what string, o channels.Outcome, result channels.Result, state channels.State) {
	t.Helper()
	if o.Result != result || o.State != state {
		t.Fatalf("%s: %s %q (%s: %s), want %s %q", what, o.Result, o.State, o.Code, o.Message, result, state)
	}
}

func wantResult(t T, what string, o channels.Outcome, result channels.Result) {
	t.Helper()
	if o.Result != result {
		t.Fatalf("%s: %s %q (%s: %s), want %s", what, o.Result, o.State, o.Code, o.Message, result)
	}
}

func wantTaken(t T, h Harness, taken money.Amount, payments int) {
	t.Helper()
	if a, n := h.PSP.Taken(number); a != taken || n != payments {
		t.Errorf("the PSP took %v in %d payments, want %v in %d", a, n, taken, payments)
	}
}

func (h Harness) with(t T, f Fault, call func()) {
	t.Helper()
	if !h.PSP.With(f, call) {
		t.Skipf("the simulator has no fault %s", f)
	}
}

// pays makes the payer pay, and gives the genuine callback of it.
func (h Harness) pays(t T, a money.Amount) channels.CallbackRequest {
	t.Helper()
	if !h.PSP.Pays(number, a) {
		t.Fatalf("the payer could not pay")
	}
	r, ok := h.PSP.Callback(number)
	if !ok {
		t.Fatalf("no callback came")
	}
	return r
}

func (h Harness) parse(t T, r channels.CallbackRequest) channels.CallbackEvent {
	t.Helper()
	e, err := h.Channel.Callback.Parse(r)
	if err != nil {
		t.Fatalf("genuine callback refused: %v", err)
	}
	return e
}

func pendingThenPaid(t T, h Harness) {
	r := h.request()
	h.prepay(t, r)
	want(t, "query", h.query(), channels.Done, channels.StatePending)
	e := h.parse(t, h.pays(t, r.Amount))
	if e.OutTradeNo != number || e.State != channels.StatePaid || e.Paid != r.Amount || e.TransactionID == "" {
		t.Errorf("callback: %+v", e)
	}
	o := h.query()
	want(t, "query", o, channels.Done, channels.StatePaid)
	if o.Paid != r.Amount || o.TransactionID != e.TransactionID {
		t.Errorf("query: %v as %q, the callback says %v as %q", o.Paid, o.TransactionID, e.Paid, e.TransactionID)
	}
	wantTaken(t, h, r.Amount, 1)
}

func duplicatePrepay(t T, h Harness) {
	if !h.Channel.Features.PayRepeatable {
		t.Skipf("this PSP does not promise it")
	}
	r := h.request()
	h.prepay(t, r)
	h.prepay(t, r)
	wantTaken(t, h, money.Amount{}, 1)
	h.pays(t, r.Amount)
	want(t, "prepay of a paid payment", h.Channel.Pay.Prepay(context.Background(), r), channels.Done, channels.StatePaid)
	wantTaken(t, h, r.Amount, 1)
}

func otherBody(t T, h Harness) {
	r := h.request()
	h.prepay(t, r)
	r.Amount = money.Of(r.Amount.Minor+1, h.Currency)
	o := h.Channel.Pay.Prepay(context.Background(), r)
	// Declined would be taken for the end of a number that can still be paid.
	wantResult(t, "prepay with another amount", o, channels.Unknown)
	h.pays(t, h.request().Amount)
	wantTaken(t, h, h.request().Amount, 1)
}

func declined(t T, h Harness) {
	h.with(t, Decline, func() {
		o := h.Channel.Pay.Prepay(context.Background(), h.request())
		want(t, "prepay", o, channels.Declined, channels.StateDeclined)
		if o.Code == "" {
			t.Errorf("declined without the PSP's code")
		}
	})
	want(t, "query", h.query(), channels.Done, channels.StateDeclined)
}

func lostReply(t T, h Harness) {
	r := h.request()
	h.with(t, LostReply, func() {
		wantResult(t, "prepay", h.Channel.Pay.Prepay(context.Background(), r), channels.Unknown)
	})
	want(t, "query", h.query(), channels.Done, channels.StatePending)
	wantTaken(t, h, money.Amount{}, 1)
}

func hang(t T, h Harness) {
	h.with(t, Hang, func() {
		ctx, cancel := context.WithTimeout(context.Background(), h.HangMax)
		defer cancel()
		wantResult(t, "prepay", h.Channel.Pay.Prepay(ctx, h.request()), channels.Unknown)
	})
}

func serverError(t T, h Harness) {
	h.with(t, ServerError, func() {
		wantResult(t, "prepay", h.Channel.Pay.Prepay(context.Background(), h.request()), channels.Unknown)
	})
	h.prepay(t, h.request())
}

func refused(t T, h Harness) {
	h.with(t, Refuse, func() {
		wantResult(t, "prepay", h.Channel.Pay.Prepay(context.Background(), h.request()), channels.NotSent)
		wantResult(t, "query", h.query(), channels.NotSent)
	})
	want(t, "query", h.query(), channels.Done, channels.StateNotFound)
}

func contextOver(t T, h Harness) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	wantResult(t, "prepay", h.Channel.Pay.Prepay(ctx, h.request()), channels.NotSent)
	wantTaken(t, h, money.Amount{}, 0)
}

func unanswered(t T, h Harness) {
	h.prepay(t, h.request())
	for _, f := range []Fault{LostReply, Hang, ServerError} {
		h.with(t, f, func() {
			ctx, cancel := context.WithTimeout(context.Background(), h.HangMax)
			defer cancel()
			wantResult(t, "query, "+string(f), h.Channel.Pay.Query(ctx, channels.QueryRequest{OutTradeNo: number}), channels.Unknown)
		})
	}
	h.with(t, LostReply, func() { wantResult(t, "close", h.close(), channels.Unknown) })
	want(t, "query after a close whose answer was lost", h.query(), channels.Done, channels.StateClosed)
}

func tampered(t T, h Harness) {
	r := h.request()
	h.prepay(t, r)
	cb := h.pays(t, r.Amount)
	h.parse(t, cb)
	for i := range cb.Body {
		forged := cb
		forged.Body = bytes.Clone(cb.Body)
		forged.Body[i] ^= 1
		wantForged(t, h, "one bit of the body changed", forged)
	}
	forged := cb
	forged.Body = append(bytes.Clone(cb.Body), ' ')
	wantForged(t, h, "a blank added", forged)
}

func wantForged(t T, h Harness, what string, r channels.CallbackRequest) {
	t.Helper()
	if e, err := h.Channel.Callback.Parse(r); !fault.Is(err, fault.Unauthorized) || e != (channels.CallbackEvent{}) {
		t.Fatalf("%s: %+v, %v; want an error of kind unauthorized", what, e, err)
	}
}

func unsigned(t T, h Harness) {
	r := h.request()
	h.prepay(t, r)
	cb := h.pays(t, r.Amount)
	header := cb.Header
	cb.Header = func(string) string { return "" }
	wantForged(t, h, "without headers", cb)
	cb.Header = func(n string) string {
		v := header(n)
		return strings.Map(func(c rune) rune {
			if c == 'a' {
				return 'b'
			}
			return c
		}, v) + "0"
	}
	wantForged(t, h, "with other headers", cb)
}

func outOfWindow(t T, h Harness) {
	if h.Window == 0 {
		t.Skipf("this PSP signs no time")
	}
	r := h.request()
	h.prepay(t, r)
	cb := h.pays(t, r.Amount)
	now := cb.Now
	for _, c := range []struct {
		what string
		off  time.Duration
		ok   bool
	}{
		{"just inside, old", h.Window - 2*time.Second, true},
		{"just inside, future", -h.Window + 2*time.Second, true},
		{"old", h.Window + 2*time.Second, false},
		{"future", -h.Window - 2*time.Second, false},
	} {
		cb.Now = now.Add(c.off)
		if c.ok {
			h.parse(t, cb)
		} else {
			wantForged(t, h, c.what, cb)
		}
	}
}

func early(t T, h Harness) {
	r := h.request()
	h.with(t, Early, func() {
		o := h.Channel.Pay.Prepay(context.Background(), r)
		want(t, "prepay", o, channels.Done, channels.StatePaid)
		if o.Paid != r.Amount {
			t.Errorf("prepay: paid %v, want %v", o.Paid, r.Amount)
		}
	})
	cb, ok := h.PSP.Callback(number)
	if !ok {
		t.Fatalf("no callback came")
	}
	if e := h.parse(t, cb); e.Paid != r.Amount || e.OutTradeNo != number {
		t.Errorf("callback: %+v", e)
	}
	wantTaken(t, h, r.Amount, 1)
}

func wrongAmount(t T, h Harness) {
	r := h.request()
	h.prepay(t, r)
	paid := money.Of(r.Amount.Minor-45, h.Currency)
	if e := h.parse(t, h.pays(t, paid)); e.Paid != paid || e.State != channels.StatePaid {
		t.Errorf("callback: %s %v, want paid %v", e.State, e.Paid, paid)
	}
	o := h.query()
	want(t, "query", o, channels.Done, channels.StatePaid)
	if o.Paid != paid {
		t.Errorf("query: %v, want %v", o.Paid, paid)
	}
}

func amounts(t T, h Harness) {
	for i, minor := range []int64{1, 9, 10, 99, 100, 101, 1_010, 999_999_99, 123_456_789_01} {
		r := h.request()
		r.OutTradeNo = number[:27] + string(rune('a'+i))
		r.Amount = money.Of(minor, h.Currency)
		h.prepay(t, r)
		if !h.PSP.Pays(r.OutTradeNo, r.Amount) {
			t.Fatalf("the payer could not pay %v", r.Amount)
		}
		if taken, _ := h.PSP.Taken(r.OutTradeNo); taken != r.Amount {
			t.Errorf("the PSP took %v, want %v", taken, r.Amount)
		}
		if o := h.Channel.Pay.Query(context.Background(), channels.QueryRequest{OutTradeNo: r.OutTradeNo}); o.Paid != r.Amount {
			t.Errorf("query: %v, want %v", o.Paid, r.Amount)
		}
	}
}

func closeThenPay(t T, h Harness) {
	r := h.request()
	h.prepay(t, r)
	want(t, "close", h.close(), channels.Done, channels.StateClosed)
	if h.PSP.Pays(number, r.Amount) {
		t.Errorf("the payer paid a closed payment")
	}
	wantResult(t, "prepay of a closed number", h.Channel.Pay.Prepay(context.Background(), r), channels.Declined)
	want(t, "query", h.query(), channels.Done, channels.StateClosed)
	want(t, "close again", h.close(), channels.Done, channels.StateClosed)
	wantTaken(t, h, money.Amount{}, 1)
}

func payThenClose(t T, h Harness) {
	r := h.request()
	h.prepay(t, r)
	h.pays(t, r.Amount)
	o := h.close()
	want(t, "close", o, channels.Done, channels.StatePaid)
	if o.Paid != r.Amount {
		t.Errorf("close: paid %v, want %v", o.Paid, r.Amount)
	}
	want(t, "query", h.query(), channels.Done, channels.StatePaid)
}

func expired(t T, h Harness) {
	r := h.request()
	r.ExpiresAt = h.Now().Add(-time.Second)
	wantResult(t, "prepay", h.Channel.Pay.Prepay(context.Background(), r), channels.Declined)
	if h.PSP.Pays(number, r.Amount) {
		t.Errorf("the payer paid an expired payment")
	}
}

func notFound(t T, h Harness) {
	want(t, "query", h.query(), channels.Done, channels.StateNotFound)
	want(t, "close", h.close(), channels.Done, channels.StateNotFound)
}

func attach(t T, h Harness) {
	if !h.Channel.Features.Attach {
		t.Skipf("this PSP has none")
	}
	r := h.request()
	r.Attach = strings.Repeat("x|", channels.AttachBytesMax/2)
	h.prepay(t, r)
	if e := h.parse(t, h.pays(t, r.Amount)); e.Attach != r.Attach {
		t.Errorf("callback: attach %q, want %q", e.Attach, r.Attach)
	}
}

func eventID(t T, h Harness) {
	r := h.request()
	h.prepay(t, r)
	cb := h.pays(t, r.Amount)
	first, again := h.parse(t, cb), h.parse(t, cb)
	if first.EventID == "" || first != again {
		t.Errorf("the same callback is %+v, then %+v", first, again)
	}
}

func acks(t T, h Harness) {
	yes, no := h.Channel.Callback.Accepted(), h.Channel.Callback.Refused(`not "now"`)
	if yes.Status/100 != 2 {
		t.Errorf("accepted: status %d", yes.Status)
	}
	if yes.Status == no.Status && bytes.Equal(yes.Body, no.Body) {
		t.Errorf("accepted and refused are the same answer")
	}
}
