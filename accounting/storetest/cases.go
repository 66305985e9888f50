package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
)

// Cases are all promises of the port.
func Cases() []Case {
	return []Case{
		{"an entry is found again, with its balances", posted},
		{"an empty batch moves the place only", empty},
		{"a balance is the sum of its shards", shards},
		{"each entry is told once, and rejections say why", notices},
		{"a guard rejects one entry and not its batch", guard},
		{"a guard sees what came before it in the batch", guardInOrder},
		{"a guard counts all lines of an entry", guardNet},
		{"an overflow rejects one entry and not its batch", overflow},
		{"an event booked again gives its first result", repeated},
		{"a repeated event does not hide a new one", repeatedAmongNew},
		{"a moved place fences the slower poster", fenced},
		{"two posters never overdraw a guarded account", homedRace},
		{"an unbalanced entry stops its group and writes nothing", unbalanced},
		{"an account cannot change its nature", redefined},
		{"everything is there after reopening", reopened},
		{"lists are paged without gaps", paged},
		{"totals are by merchant, channel account and base", totals},
		{"unknown things are not found", unknown},
	}
}

func posted(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	e := d.entry(1, line(cash, 100), line(owed, -94), line(income, -6))
	if err := d.post(ctx, l, e); err != nil {
		return err
	}
	got, ok, err := l.EntryByEvent(ctx, e.EventID)
	if err != nil || !ok {
		return fmt.Errorf("entry by event: %v %w", ok, err)
	}
	if err := sameEntry(got, e); err != nil {
		return err
	}
	chain, err := l.EntriesByBizCode(ctx, e.Context.BizCode)
	if err != nil || len(chain) != 1 {
		return fmt.Errorf("%d entries of the trade, want 1: %w", len(chain), err)
	}
	if err := sameEntry(chain[0], e); err != nil {
		return err
	}
	return errors.Join(wantBalance(ctx, l, cash, 100), wantBalance(ctx, l, owed, 94), wantBalance(ctx, l, income, 6), wantSound(ctx, l, 1, 0))
}

func sameEntry(got accounting.Booked, want accounting.Entry) error {
	want.NoticeID = "" // is the log's
	if got.Reason != "" || !slices.Equal(got.Lines, want.Lines) {
		return fmt.Errorf("entry %+v, want %+v", got, want)
	}
	got.Lines, want.Lines = nil, nil
	if fmt.Sprintf("%+v", got.Entry) != fmt.Sprintf("%+v", want) {
		return fmt.Errorf("entry %+v, want %+v", got.Entry, want)
	}
	return nil
}

func empty(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	b := d.batch(d.entry(0, line(cash, 1), line(owed, -1)))
	b.Entries = nil // the event books nothing
	if r, err := l.Post(ctx, b); err != nil || len(r) != 0 {
		return fmt.Errorf("empty batch: %v %w", r, err)
	}
	if _, err := l.Post(ctx, b); !fault.Is(err, fault.Fenced) {
		return fmt.Errorf("the place was not moved: the same batch again gives %w", err)
	}
	return errors.Join(d.post(ctx, l, d.entry(0, line(cash, 5), line(owed, -5))), wantSound(ctx, l, 1, 0))
}

func shards(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	for range 3 {
		var entries []accounting.Entry
		for i := range 40 {
			entries = append(entries, d.entry(i%Groups, line(cash, int64(i+1)), line(owed, -int64(i+1))))
		}
		if err := d.post(ctx, l, entries...); err != nil {
			return err
		}
	}
	return errors.Join(wantBalance(ctx, l, cash, 3*820), wantBalance(ctx, l, owed, 3*820), wantSound(ctx, l, 120, 0))
}

func notices(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	good, bad := d.entry(2, line(cash, 7), line(owed, -7)), d.entry(2, line(wallet, 1), line(owed, -1))
	if _, err := l.Post(ctx, d.batch(good, bad)); err != nil {
		return err
	}
	msgs, err := l.Source().Read(ctx, 2, bus.Place{}, 10)
	if err != nil || len(msgs) != 2 {
		return fmt.Errorf("%d events, want 2: %w", len(msgs), err)
	}
	for i, want := range []struct {
		entry     accounting.Entry
		typ, told string
	}{{good, event.TypePosted, ""}, {bad, event.TypeRejected, accounting.ReasonOverdraft}} {
		m := msgs[i]
		told, err := event.Decode(m.Payload)
		if err != nil {
			return err
		}
		if m.Type != want.typ || m.Context != want.entry.Context || m.ID != want.entry.NoticeID || told.EntryID != want.entry.ID ||
			told.EventID != want.entry.EventID || told.Reason != want.told || len(told.Postings) != len(want.entry.Lines) {
			return fmt.Errorf("event %+v %+v for entry %+v", m, told, want.entry)
		}
		for j, p := range told.Postings {
			if p.Account != want.entry.Lines[j].Account.Name || p.Amount != want.entry.Lines[j].Amount {
				return fmt.Errorf("posting %+v, want %+v", p, want.entry.Lines[j])
			}
		}
	}
	return nil
}

func reasons(results []accounting.Result) (out []string) {
	for _, r := range results {
		out = append(out, r.Reason)
	}
	return out
}

func wantReasons(ctx context.Context, l Ledger, b *accounting.Batch, want ...string) error {
	results, err := l.Post(ctx, b)
	if err != nil {
		return err
	}
	if got := reasons(results); !slices.Equal(got, want) {
		return fmt.Errorf("reasons %q, want %q", got, want)
	}
	return nil
}

func guard(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	b := d.batch(d.entry(0, line(cash, 50), line(wallet, -50)), d.entry(1, line(wallet, 51), line(cash, -51)),
		d.entry(2, line(wallet, 50), line(cash, -50)), d.entry(3, line(wallet, 1), line(cash, -1)), d.entry(3, line(cash, 9), line(wallet, -9)))
	over := accounting.ReasonOverdraft
	return errors.Join(wantReasons(ctx, l, b, "", over, "", over, ""), wantBalance(ctx, l, wallet, 9), wantBalance(ctx, l, cash, 9), wantSound(ctx, l, 3, 2))
}

func guardInOrder(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	out, in := d.entry(0, line(wallet, 10), line(cash, -10)), d.entry(0, line(cash, 10), line(wallet, -10))
	again := d.entry(0, line(wallet, 10), line(cash, -10))
	return errors.Join(wantReasons(ctx, l, d.batch(out, in, again), accounting.ReasonOverdraft, "", ""),
		wantBalance(ctx, l, wallet, 0), wantSound(ctx, l, 2, 1))
}

func guardNet(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	through := d.entry(1, line(wallet, 30), line(wallet, -40), line(cash, 10))
	split := d.entry(1, line(wallet, 6), line(wallet, 6), line(cash, -12))
	return errors.Join(wantReasons(ctx, l, d.batch(through, split), "", accounting.ReasonOverdraft),
		wantBalance(ctx, l, wallet, 10), wantSound(ctx, l, 1, 1))
}

func overflow(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	b := d.batch(d.entry(0, line(cash, math.MaxInt64-1), line(owed, 1-math.MaxInt64)), d.entry(0, line(cash, 2), line(owed, -2)),
		d.entry(0, line(cash, 1), line(owed, -1)))
	return errors.Join(wantReasons(ctx, l, b, "", accounting.ReasonOverflow, ""), wantBalance(ctx, l, cash, math.MaxInt64), wantSound(ctx, l, 2, 1))
}

func repeated(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	good, bad := d.entry(0, line(cash, 3), line(owed, -3)), d.entry(1, line(wallet, 3), line(cash, -3))
	if err := wantReasons(ctx, l, d.batch(good, bad), "", accounting.ReasonOverdraft); err != nil {
		return err
	}
	// Now the guarded account could pay: the first result stands all the same.
	if err := d.post(ctx, l, d.entry(0, line(cash, 9), line(wallet, -9))); err != nil {
		return err
	}
	againGood, againBad := good, bad
	againGood.ID, againBad.ID = "ent_other1", "ent_other2"
	results, err := l.Post(ctx, d.batch(againGood, againBad))
	if err != nil {
		return err
	}
	want := []accounting.Result{{EntryID: good.ID, Repeated: true}, {EntryID: bad.ID, Reason: accounting.ReasonOverdraft, Repeated: true}}
	if !slices.Equal(results, want) {
		return fmt.Errorf("results %+v, want the first: %+v", results, want)
	}
	return errors.Join(wantBalance(ctx, l, cash, 12), wantBalance(ctx, l, wallet, 9), wantSound(ctx, l, 2, 1))
}

func repeatedAmongNew(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	first := d.entry(0, line(cash, 1), line(owed, -1))
	if err := d.post(ctx, l, first); err != nil {
		return err
	}
	b := d.batch(d.entry(0, line(cash, 10), line(owed, -10)), first, d.entry(2, line(cash, 100), line(owed, -100)))
	results, err := l.Post(ctx, b)
	if err != nil {
		return err
	}
	if results[0].Repeated || !results[1].Repeated || results[2].Repeated {
		return fmt.Errorf("results %+v: only the second is a repeat", results)
	}
	return errors.Join(wantBalance(ctx, l, cash, 111), wantSound(ctx, l, 3, 0))
}

func fenced(ctx context.Context, open Open) error {
	a, err := open()
	if err != nil {
		return err
	}
	b, err := open()
	if err != nil {
		return err
	}
	var d desk
	if err := d.post(ctx, a, d.entry(0, line(cash, 1), line(owed, -1))); err != nil {
		return err
	}
	slow := d // reads where the faster one reads
	slow.n = 1000
	if err := d.post(ctx, b, d.entry(0, line(cash, 10), line(owed, -10)), d.entry(1, line(cash, 20), line(owed, -20))); err != nil {
		return err
	}
	_, err = a.Post(ctx, slow.batch(slow.entry(2, line(cash, 500), line(owed, -500)), slow.entry(0, line(cash, 500), line(owed, -500))))
	if !fault.Is(err, fault.Fenced) {
		return fmt.Errorf("the slower poster got %w, want fenced", err)
	}
	if err := errors.Join(wantBalance(ctx, a, cash, 31), wantSound(ctx, a, 3, 0)); err != nil {
		return err
	}
	// From the stored places it goes on, with the balances as they are now.
	return errors.Join(d.post(ctx, a, d.entry(0, line(cash, 100), line(owed, -100))), wantBalance(ctx, b, cash, 131), wantSound(ctx, b, 4, 0))
}

// homedRace: two posters of different groups meet on one guarded account. The
// one whose knowledge is old is fenced and comes again; none overdraws.
func homedRace(ctx context.Context, open Open) error {
	a, err := open()
	if err != nil {
		return err
	}
	b, err := open()
	if err != nil {
		return err
	}
	var d desk
	if err := d.post(ctx, a, d.entry(0, line(cash, 10), line(wallet, -10))); err != nil {
		return err
	}
	if err := wantReasons(ctx, b, d.batch(d.entry(1, line(wallet, 8), line(cash, -8))), ""); err != nil {
		return err
	}
	stale := d.batch(d.entry(0, line(wallet, 5), line(cash, -5)))
	for range 2 {
		results, err := a.Post(ctx, stale)
		if fault.Is(err, fault.Fenced) {
			continue
		}
		if err != nil {
			return err
		}
		if !slices.Equal(reasons(results), []string{accounting.ReasonOverdraft}) {
			return fmt.Errorf("results %+v, want an overdraft", results)
		}
		return errors.Join(wantBalance(ctx, a, wallet, 2), wantSound(ctx, a, 2, 1))
	}
	return errors.New("fenced twice")
}

func unbalanced(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	for _, lines := range [][]accounting.Line{
		{line(cash, 5), line(owed, -4)},
		{line(cash, 5)},
		{line(cash, 5), {Account: owed, Amount: money.Of(-5, "USD")}},
		{line(cash, 0), line(owed, 0)},
	} {
		var d desk
		_, err := l.Post(ctx, d.batch(d.entry(0, line(cash, 1), line(owed, -1)), d.entry(3, lines...)))
		var stop *bus.StopError
		if !errors.As(err, &stop) || stop.Group != 3 || !fault.Is(err, fault.Internal) {
			return fmt.Errorf("posting %v gives %w, want that group 3 stops", lines, err)
		}
	}
	var d desk // from the beginning: no place was moved
	return errors.Join(wantSound(ctx, l, 0, 0), d.post(ctx, l, d.entry(3, line(cash, 1), line(owed, -1))), wantSound(ctx, l, 1, 0))
}

func redefined(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	if err := d.post(ctx, l, d.entry(0, line(cash, 1), line(owed, -1))); err != nil {
		return err
	}
	before := d
	other := owed
	other.Side, other.Class = accounting.Debit, accounting.Asset
	var stop *bus.StopError
	if _, err := l.Post(ctx, d.batch(d.entry(2, line(cash, 1), line(other, -1)))); !errors.As(err, &stop) || stop.Group != 2 {
		return fmt.Errorf("an account with another nature gives %w, want that group 2 stops", err)
	}
	return errors.Join(before.post(ctx, l, before.entry(2, line(cash, 1), line(owed, -1))), wantSound(ctx, l, 2, 0))
}

func reopened(ctx context.Context, open Open) error {
	a, err := open()
	if err != nil {
		return err
	}
	var d desk
	first := d.entry(0, line(cash, 1), line(owed, -1))
	if err := d.post(ctx, a, first); err != nil {
		return err
	}
	b, err := open()
	if err != nil {
		return err
	}
	if err := d.post(ctx, b, d.entry(0, line(cash, 2), line(owed, -2))); err != nil {
		return err
	}
	results, err := b.Post(ctx, d.batch(first))
	if err != nil || !results[0].Repeated {
		return fmt.Errorf("an event booked before reopening gives %+v %w", results, err)
	}
	return errors.Join(wantBalance(ctx, b, cash, 3), wantSound(ctx, b, 2, 0))
}
