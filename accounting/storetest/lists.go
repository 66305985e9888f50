package storetest

import (
	"context"
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
)

func paged(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	var want []int64
	for i := range 25 {
		a := owed
		a.Name = fmt.Sprintf("owed:m%02d", i)
		minor := int64(i + 1)
		entry := d.entry(i%Groups, line(cash, minor), line(a, -minor),
			accounting.Line{Account: cash, Amount: money.Of(7, "USD")}, accounting.Line{Account: a, Amount: money.Of(-7, "USD")})
		if err := d.post(ctx, l, entry); err != nil {
			return err
		}
		want = append(want, minor)
	}
	var got []int64
	for after := int64(0); ; {
		page, err := l.Statement(ctx, key(cash), after, 10)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		for _, s := range page {
			got = append(got, s.Amount.Minor)
			after = s.Cursor
			if s.Context.Merchant != "m1" || s.EntryID == "" || s.EventID == "" || s.Rule != "test" || s.Amount.Currency != "CNY" || s.AtMillis == 0 {
				return fmt.Errorf("statement line %+v is not complete", s)
			}
		}
		if len(got) > len(want) {
			break
		}
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("statement of %v, want %v", got, want)
	}
	if err := pagedBalances(ctx, l); err != nil {
		return err
	}
	for _, limit := range []int{0, -1, accounting.PageMax + 1} {
		if _, err := l.Statement(ctx, key(cash), 0, limit); !fault.Is(err, fault.Invalid) {
			return fmt.Errorf("statement with limit %d gives %w, want invalid", limit, err)
		}
		if _, err := l.Balances(ctx, "main", "", accounting.Key{}, limit); !fault.Is(err, fault.Invalid) {
			return fmt.Errorf("balances with limit %d gives %w, want invalid", limit, err)
		}
	}
	return nil
}

func pagedBalances(ctx context.Context, l Ledger) error {
	var names []string
	var cny, usd int64
	for after := (accounting.Key{}); ; {
		page, err := l.Balances(ctx, "main", "owed:", after, 7)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		for _, b := range page {
			names = append(names, b.Key.String())
			after = b.Key
			if b.Key.Currency == "CNY" {
				cny += b.Amount.Minor
			} else {
				usd += b.Amount.Minor
			}
		}
		if len(names) > 50 {
			break
		}
	}
	if !slices.IsSorted(names) || len(slices.Compact(names)) != 50 || cny != 325 || usd != 175 {
		return fmt.Errorf("balances %v, %d CNY, %d USD: want 50, sorted, 325 CNY, 175 USD", names, cny, usd)
	}
	if other, err := l.Balances(ctx, "other", "", accounting.Key{}, 10); err != nil || len(other) != 0 {
		return fmt.Errorf("another book has %v %w", other, err)
	}
	return nil
}

func totals(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	var d desk
	entry := func(merchant, via string, minor int64) accounting.Entry {
		e := d.entry(d.n%Groups, line(cash, minor), line(owed, -minor+1), line(income, -1))
		e.Context.Merchant, e.ChannelAccount = merchant, via
		return e
	}
	if err := d.post(ctx, l, entry("m1", "a1", 10), entry("m1", "a2", 20), entry("m2", "a1", 30), entry("m1", "a1", 40)); err != nil {
		return err
	}
	got, err := l.Totals(ctx)
	if err != nil {
		return err
	}
	total := func(m, via, base string, debits, credits int64) accounting.Total {
		return accounting.Total{Merchant: m, ChannelAccount: via, Base: base, Currency: "CNY", Debits: debits, Credits: credits}
	}
	want := []accounting.Total{
		total("m1", "a1", "cash", 50, 0), total("m1", "a1", "income", 0, 2), total("m1", "a1", "owed", 0, 48),
		total("m1", "a2", "cash", 20, 0), total("m1", "a2", "income", 0, 1), total("m1", "a2", "owed", 0, 19),
		total("m2", "a1", "cash", 30, 0), total("m2", "a1", "income", 0, 1), total("m2", "a1", "owed", 0, 29),
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("totals %+v, want %+v", got, want)
	}
	return nil
}

func unknown(ctx context.Context, open Open) error {
	l, err := open()
	if err != nil {
		return err
	}
	if _, err := l.Balance(ctx, key(cash)); !fault.Is(err, fault.NotFound) {
		return fmt.Errorf("balance of an unknown account gives %w, want not found", err)
	}
	if _, ok, err := l.EntryByEvent(ctx, "evt_none"); ok || err != nil {
		return fmt.Errorf("an unknown event is found: %v %w", ok, err)
	}
	if s, err := l.Statement(ctx, key(cash), 0, 10); err != nil || len(s) != 0 {
		return fmt.Errorf("an unknown account has a statement: %v %w", s, err)
	}
	if c, err := l.EntriesByBizCode(ctx, Code(0, 1)); err != nil || len(c) != 0 {
		return fmt.Errorf("an unknown trade has entries: %v %w", c, err)
	}
	return wantSound(ctx, l, 0, 0)
}
