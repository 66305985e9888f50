package storetest

import (
	"fmt"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/money"
)

// everyChange changes a trade in each way that the rules know, one after the
// other, and reads it back each time.
func everyChange(t TB, s Store) {
	tr := Trade("o1")
	tr.Status, tr.Context.Institution, tr.Payments[0].Attempts[0].Channel = core.TradeVoid, "", "sandbox"
	Put(t, s, tr)
	for i, step := range []func(*core.Trade, *core.Payment, *core.Attempt){
		func(tr *core.Trade, _ *core.Payment, _ *core.Attempt) { // a rejected intent fixed nothing; this one does, and expires
			tr.Status, tr.Amount, tr.Paid, tr.AcceptedAtMillis, tr.ExpiresAtMillis = core.TradeOpen, money.Of(700, "USD"), money.Of(0, "USD"), 3_000, 8_000
			tr.Context.OrderType, tr.Context.OrderScene, tr.Context.TraceID = "gift", "shop", fmt.Sprintf("%032x", 6)
		},
		func(tr *core.Trade, _ *core.Payment, _ *core.Attempt) { tr.Context.Institution = "sandbox" },
		func(_ *core.Trade, p *core.Payment, a *core.Attempt) {
			p.Status, p.Credential, a.Status = event.Pending, channels.Credential{Method: channels.MethodRedirect, Value: "https://psp.example"}, event.Pending
		},
		func(_ *core.Trade, p *core.Payment, _ *core.Attempt) {
			p.NextAction, p.NextAtMillis = core.ActionCloseAgain, 99_000
		},
		func(_ *core.Trade, p *core.Payment, a *core.Attempt) {
			p.Status, p.Reason, p.Context.Institution, a.Status, a.Reason = event.Unknown, "timeout", "other", event.Unknown, "timeout"
		},
		func(tr *core.Trade, p *core.Payment, a *core.Attempt) {
			tr.Paid, tr.Status = money.Of(700, "USD"), core.TradePaid
			p.Status, p.Reason, p.Credential, p.Fee, p.NextAction, p.NextAtMillis = event.Succeeded, "", channels.Credential{}, money.Of(4, p.Amount.Currency), "", 0
			a.Status, a.Reason, a.TransactionID, a.Paid, a.PSPFee = event.Succeeded, "", "tx", money.Of(700, "USD"), money.Of(2, "USD")
		},
		func(_ *core.Trade, _ *core.Payment, a *core.Attempt) { a.TransactionID = "tx-2" },
	} {
		var want string
		must(t, change(t, s, tr.Context.BizCode, func(tr *core.Trade, p *core.Payment) {
			step(tr, p, p.Attempts[0])
			tr.Version, p.Version, p.Attempts[0].Version = tr.Version+1, p.Version+1, p.Attempts[0].Version+1
			want = written(tr)
		}))
		if have := written(get(t, s, tr.Context.BizCode)); have != want {
			t.Fatalf("change %d\nsaved  %s\nloaded %s", i, want, have)
		}
	}
}

func written(t *core.Trade) string {
	return string(event.Encode(t.Snapshot())) + fmt.Sprint(t.Payments[0].Context)
}
