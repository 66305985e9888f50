package core_test

import (
	"context"
	"reflect"
	"testing"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
)

// What a reader in this process finds beside a payload is what the payload says,
// also after the trade that it was taken from has changed.
func TestValuesAreWhatPayloadsSay(t *testing.T) {
	h := newHarness(t)
	y := h.accept(order{id: "o1", subject: "mug \"☕\""})
	h.outcome(y, 0, event.OpPay, channels.Outcome{Result: channels.NotSent, Code: "connection_refused"})
	h.outcome(y, 1, event.OpPay, pendingOutcome())
	h.accept(order{id: "o1", key: "other"})
	h.callback(y, 1, "b", paid("tx", 10_000))
	h.callback(y, 1, "b", paid("tx2", 10_000))
	values := 0
	for _, topic := range []bus.Topic{bus.Payments, bus.Dispatch} {
		src := h.store.Log().Source(topic)
		for g := range groups {
			msgs, err := src.Read(context.Background(), g, bus.Place{}, 1000)
			h.must(err)
			for _, m := range msgs {
				var said any
				switch m.Type {
				case event.TypePaymentChanged:
					said = &event.PaymentChanged{}
				case event.TypeDispatch:
					said = &event.Dispatch{}
				default:
					continue
				}
				h.must(event.Decode(m.Payload, said))
				if m.Value == nil || !reflect.DeepEqual(m.Value, said) {
					t.Errorf("%s: the value is %+v, the payload says %+v", m.Type, m.Value, said)
				}
				values++
			}
		}
	}
	if values < 10 {
		t.Errorf("only %d events: the run shows nothing", values)
	}
}
