// Package all is the list of drivers: a new PSP is one folder beside this one and
// one line here.
package all

import (
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox"
	"github.com/tallystick/tallystick/internal/fault"
)

// Args is what any driver can be made from.
type Args struct {
	Channel  string // the driver's name
	Account  string // the channel account's id
	Endpoint string
	// Keys are what the account's key name stands for: the first signs, all verify,
	// so that keys can be rotated. How many there may be is the driver's business.
	Keys   [][]byte
	Now    func() time.Time
	Random io.Reader // need not be safe for concurrent use
}

// drivers is the list.
func drivers() map[string]func(Args) (*channels.Channel, error) {
	return map[string]func(Args) (*channels.Channel, error){
		sandbox.Name: func(a Args) (*channels.Channel, error) {
			return sandbox.New(sandbox.Config{Account: a.Account, Endpoint: a.Endpoint, Keys: a.Keys, Now: a.Now, Random: a.Random})
		},
	}
}

// Names gives the drivers' names, sorted.
func Names() []string { return slices.Sorted(maps.Keys(drivers())) }

// Build makes the channel of one account, undecorated. It connects nowhere.
// Errors are of kind fault.Invalid and name the field.
func Build(a Args) (*channels.Channel, error) {
	build := drivers()[a.Channel]
	if build == nil {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "channels", Code: "config_invalid", Field: "channel",
			Fix: "one of: " + strings.Join(Names(), ", ")}
	}
	return build(a)
}
