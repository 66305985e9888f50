package sim

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox"
	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/internal/fault"
)

var errClosed = errors.New("the simulator closed the connection")

// Channel is an account's channel with the real driver, its signatures included,
// that reaches the Desk by a function call: no HTTP, no goroutine, no waiting. A
// hang is a deadline that has passed, a lost reply a closed connection. An early
// callback is due (see Due) before the call returns.
func (d *Desk) Channel(account string, now func() time.Time, random io.Reader) (*channels.Channel, error) {
	i := -1
	for j, a := range d.cfg.Accounts {
		if a.Name == account {
			i = j
		}
	}
	if i < 0 {
		return nil, fault.New(fault.NotFound, "sandbox simulator", "no account %q", account)
	}
	return sandbox.New(sandbox.Config{
		Account: account, Keys: d.cfg.Accounts[i].Keys, Now: now, Random: random,
		Send: func(_ context.Context, r wire.Request) (wire.Response, error) {
			ans := d.Handle(r, now())
			if ans.Early != nil {
				d.again(*ans.Early, now())
			}
			switch {
			case ans.Hang > 0:
				return wire.Response{}, context.DeadlineExceeded
			case ans.Lost:
				return wire.Response{}, errClosed
			}
			ans.Response.Seal.Account, ans.Response.Seal.Nonce = r.Seal.Account, r.Seal.Nonce
			return ans.Response, nil
		},
	})
}

// again makes a delivery due now.
func (d *Desk) again(v Delivery, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.push(item{due: now, delivery: v})
}
