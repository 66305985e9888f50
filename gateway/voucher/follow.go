package voucher

import (
	"context"
	"time"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// Step reads one batch of payments and folds what is followed. The first step
// goes to the topic's end. worked is false when there was nothing to read.
func (v *Views) Step(ctx context.Context) (worked bool, err error) {
	if !v.placed {
		return true, v.place(ctx)
	}
	for i := range v.places {
		g := (v.first + i) % len(v.places)
		if n := bus.RewoundOf(v.source, g); n != v.rewound[g] {
			v.rewound[g], v.places[g] = n, v.source.Head(g)
			v.forget(g)
			return true, nil
		}
		head := v.source.Head(g)
		if head == v.places[g] || head.Epoch == v.places[g].Epoch && head.Seq < v.places[g].Seq {
			continue
		}
		v.first = g + 1 // another group next time, so that a busy one starves none
		return true, v.read(ctx, g, head)
	}
	return false, nil
}

func (v *Views) place(ctx context.Context) error {
	if err := v.source.Refresh(ctx); err != nil {
		return fault.Wrap("voucher view", err)
	}
	places, rewound := make([]bus.Place, v.source.Groups()), make([]int64, v.source.Groups())
	for g := range places {
		rewound[g], places[g] = bus.RewoundOf(v.source, g), v.source.Head(g)
	}
	v.places, v.rewound, v.placed = places, rewound, true
	v.doubt() // what was held before may have been told of already
	return nil
}

func (v *Views) read(ctx context.Context, g int, head bus.Place) error {
	from := v.places[g]
	if head.Epoch != from.Epoch && from.Seq > 0 { // the groups were cut anew
		v.places[g] = head
		v.doubt()
		return nil
	}
	msgs, err := v.source.Read(ctx, g, from, v.cfg.BatchMessagesMax)
	if err != nil {
		return fault.Wrap("voucher view", err)
	}
	if len(msgs) == 0 || msgs[0].Place.Seq > from.Seq+1 {
		v.doubt() // trimmed before we came
	}
	if len(msgs) == 0 {
		v.places[g] = head
		return nil
	}
	v.places[g] = msgs[len(msgs)-1].Place
	for i := range msgs {
		v.apply(&msgs[i])
	}
	return nil
}

// apply decodes a message only if its key, or its key's slot, is followed.
func (v *Views) apply(m *bus.Message) {
	x := m.Context.BizCode
	if m.Type != event.TypePaymentChanged || len(x) < slotPrefix {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys[x] == 0 && v.slots[x[:slotPrefix]] == 0 && !v.held.follows(x) {
		return
	}
	p, err := event.ReadPaymentChanged(m.Payload, m.Value)
	if err != nil {
		v.log.Error("voucher view: event not read", append([]any{"event", m.ID, "error", err}, m.Context.LogAttrs()...)...)
		return
	}
	v.fold(&p.Payment, m.Context)
	v.heard(&p.Payment)
}

// doubt makes every entry be asked for again: something may have been missed.
func (v *Views) doubt() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range v.entries {
		e.sure, e.heard = false, true // whose first message may be one of those
	}
}

// forget makes a group's entries what they are in a process that has just started: what
// was told of them is of a past that is no more, and their versions begin again. What this
// replica accepted is still accepted.
func (v *Views) forget(group int) {
	v.log.Warn("voucher view: a group has begun anew, and core is asked for what was known of it", "group", group)
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range v.entries {
		if e.view.Y.Group(len(v.places)) != group {
			continue
		}
		e.view, e.visible, e.sure = View{Y: e.view.Y, Context: e.view.Context}, 0, false
		v.measure(e)
		e.wake()
	}
}

// Run steps until ctx ends. Errors are logged and retried.
func (v *Views) Run(ctx context.Context, idle, backoffMax time.Duration) error {
	bus.Follow(ctx, v.source, "voucher view", v.log, idle, backoffMax, v.Step)
	return nil
}
