package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/bojanz/currency"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
)

type verifyCmd struct {
	Data string `help:"Data folder. With SQLite stores nothing may be serving it." required:"" placeholder:"DIR" type:"path"`
}

// verifier is what can be verified: the stores of a folder, or all databases.
type verifier interface {
	Verify(ctx context.Context) (app.Verification, error)
	Close() error
}

func openVerifier(ctx context.Context, d app.Deps) (verifier, error) {
	if d.Config.Stores == app.StoresPostgres {
		return app.OpenDatabases(ctx, d)
	}
	return app.OpenStores(ctx, d)
}

// Run verifies and prints; exit code 1 when something is not as it must be.
func (c *verifyCmd) Run(ctx context.Context) error {
	d, err := app.Outside(c.Data, os.Environ(), io.Discard)
	if err != nil {
		return err
	}
	s, err := openVerifier(ctx, d)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // nothing was written
	v, err := s.Verify(ctx)
	if err != nil {
		return err
	}
	printVerification(os.Stdout, v)
	if len(v.Violations) > 0 || v.Moved {
		return errUnexplained
	}
	return nil
}

// printVerification prints the equations with their terms.
func printVerification(w io.Writer, v app.Verification) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	for _, o := range v.Orders {
		p("orders of %s: accepted %d (core's log) = rejected %d + declined %d + expired %d + closed %d + succeeded %d + in flight %d + aliases %d (its tables)",
			o.Merchant, o.Accepted, o.Rejected, o.Declined, o.Expired, o.Closed, o.Succeeded, o.InFlight, o.Aliases)
	}
	for _, m := range v.Money {
		p("money of %s over %s: core %s settled + %s surplus = ledger %s (merchant %s + our fee %s + suspense %s; of it the PSP keeps %s) + not read yet %s", m.Merchant,
			m.Account, amount(m.Settled, m.Currency), amount(m.Surplus, m.Currency), amount(m.Ledger.Received, m.Currency), amount(m.Ledger.Payable, m.Currency),
			amount(m.Ledger.FeeIncome, m.Currency), amount(m.Ledger.Suspense, m.Currency), amount(m.Ledger.PSPFees, m.Currency), amount(m.Told.Unread, m.Currency))
	}
	p("core: %d payment orders held against %d events and %d dispatches", v.Core.Payments, v.Core.Events, v.Dispatches)
	p("prepay: %d calls held against %d dispatches and %d outcomes", v.Prepay.Calls, v.Prepay.Dispatches, v.Prepay.Outcomes)
	p("ledger: %d entries, %d postings, %d rejected, held against %d notices", v.Ledger.Entries, v.Ledger.Postings, v.Ledger.Rejected, v.Notices)
	unread := make([]string, len(v.Unread))
	for i, u := range v.Unread {
		unread[i] = fmt.Sprintf("%s %d (%s)", u.Topic, u.Count, u.Reader)
	}
	p("not read yet: %s", strings.Join(unread, ", "))
	if len(v.Trimmed) > 0 {
		gone := make([]string, len(v.Trimmed))
		for i, t := range v.Trimmed {
			gone[i] = fmt.Sprintf("%s %d", t.Topic, t.Messages)
		}
		p("older than the logs, and held against the tables as counts and sums alone: %s messages", strings.Join(gone, ", "))
	}
	for _, r := range v.Missing {
		p("%s is not in this folder: nothing is said of it", r)
	}
	if v.Moved {
		p("the areas were at work meanwhile: whole sums were not compared")
	}
	for _, s := range v.Violations {
		p("NOT EXPLAINED: %s", s)
	}
}

// amount shows minor units as people write them: 19.99 CNY.
func amount(minor int64, c money.Currency) string {
	a, err := currency.NewAmountFromInt64(minor, string(c))
	if err != nil {
		return fmt.Sprintf("%d minor units of %s", minor, c)
	}
	return a.String()
}

type parkedCmd struct {
	List   parkedListCmd   `cmd:"" help:"List parked messages, oldest first."`
	Replay parkedReplayCmd `cmd:"" help:"Ask for the replay of a trade's parked messages; the process that serves the folder does it within seconds."`
}

type parkedListCmd struct {
	Data string `help:"Data folder." required:"" placeholder:"DIR" type:"path"`
}

// Run lists.
func (c *parkedListCmd) Run(ctx context.Context) error {
	total := 0
	err := eachParked(ctx, c.Data, func(area string, p embedded.Places) error {
		rows, err := p.List(ctx, "")
		total += len(rows)
		for _, r := range rows {
			fmt.Printf("%s\t%s\t%s\t%s\t%s\treplay asked: %t\t%s\n", area, r.Message.Topic, ids.TradeID.With(r.Message.Context.BizCode), r.Message.ID,
				r.Message.Type, r.Replay, r.Reason)
		}
		return err
	})
	if err == nil && total == 0 {
		fmt.Println("nothing is parked")
	}
	return err
}

type parkedReplayCmd struct {
	Data  string `help:"Data folder." required:"" placeholder:"DIR" type:"path"`
	Trade string `arg:"" help:"Trade whose messages are to be replayed (trd_...)."`
}

// Run asks.
func (c *parkedReplayCmd) Run(ctx context.Context) error {
	kind, x, err := ids.ParseID(c.Trade)
	if err != nil || kind != ids.TradeID {
		return &fault.Error{Kind: fault.Invalid, Op: "parked replay", Field: c.Trade, Code: "no_trade_id", Fix: "give a trade as `parked list` shows it (trd_...)", Err: err}
	}
	total := int64(0)
	err = eachParked(ctx, c.Data, func(_ string, p embedded.Places) error {
		n, err := p.RequestReplay(ctx, x)
		total += n
		return err
	})
	if err == nil && total == 0 {
		err = fmt.Errorf("%s has no parked messages", c.Trade)
	}
	if total > 0 {
		fmt.Printf("replay of %d messages asked for\n", total)
	}
	return err
}

// eachParked opens each area's parked messages beside whoever serves the folder. What
// cannot be reached is an error behind all that can.
func eachParked(ctx context.Context, dir string, f func(area string, p embedded.Places) error) error {
	d, err := app.Outside(dir, os.Environ(), io.Discard)
	if err != nil {
		return err
	}
	areas, unreachable, closeAll, err := app.OpenParked(ctx, d)
	if err != nil {
		return err
	}
	defer closeAll()
	names := make([]string, 0, len(areas))
	for a := range areas {
		names = append(names, a)
	}
	slices.Sort(names)
	var errs []error
	for _, a := range names {
		errs = append(errs, fault.Wrap(a, f(a, areas[a])))
	}
	for _, u := range unreachable {
		errs = append(errs, fault.New(fault.Unavailable, "parked", "%s", u))
	}
	return errors.Join(errs...)
}
