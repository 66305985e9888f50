package accounting_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/rules"
	"github.com/tallystick/tallystick/accounting/storetest"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// typeWallet is an event of these tests: it moves money between cash and a
// guarded wallet of the event's group.
const typeWallet = "test.wallet"

type testRules struct{ rules.Payments }

func (r testRules) Draft(m *bus.Message) (*accounting.Draft, error) {
	if m.Type != typeWallet {
		return r.Payments.Draft(m)
	}
	minor := int64(binary.BigEndian.Uint64(m.Payload))
	wallet := accounting.Account{Name: walletName(m.Group), Class: accounting.Liability, Side: accounting.Credit, Kind: accounting.Homed}
	cash := accounting.Account{Name: "cash", Class: accounting.Asset, Side: accounting.Debit, Kind: accounting.Spread}
	return &accounting.Draft{Rule: "wallet", Lines: []accounting.Line{
		{Account: cash, Amount: money.Of(minor, "CNY")}, {Account: wallet, Amount: money.Of(-minor, "CNY")}}}, nil
}

func walletName(group int) string { return fmt.Sprintf("wallet:%d", group) }

// world is a stream of events and the model of what must come of it: balances as
// a bookkeeper with a pencil would have them, entry by entry.
type world struct {
	feed     *storetest.Feed
	balances map[string]int64 // positive on the normal side
	posted   int64
	rejected int64
	parked   map[string]bool // keys
	lost     int             // messages that wait, parked
	past     [storetest.Groups][]bus.Event
	n        int
}

func newWorld() *world {
	return &world{feed: &storetest.Feed{}, balances: map[string]int64{}, parked: map[string]bool{}}
}

// tell appends a random event, and books it in the model.
func (w *world) tell(t *rapid.T) {
	group := rapid.IntRange(0, storetest.Groups-1).Draw(t, "group")
	c := storetest.Context(group, rapid.IntRange(1, 6).Draw(t, "trade"))
	c.Merchant = rapid.SampledFrom([]string{"m1", "m2"}).Draw(t, "merchant")
	via := rapid.SampledFrom([]string{"cn-1", "cn-2"}).Draw(t, "via")
	minor := rapid.Int64Range(1, 50_000).Draw(t, "minor")
	w.n++
	id := fmt.Sprintf("evt_%06d", w.n)
	var e bus.Event
	var book func()
	switch rapid.SampledFrom([]string{"paid", "paid", "paid", "pending", "surplus", "wallet", "wallet", "again", "lie"}).Draw(t, "kind") {
	case "paid":
		e, book = paid(id, c, via, minor), func() {
			fee, pspFee := (minor*6_000+500_000)/1_000_000, (minor*3_800+500_000)/1_000_000
			w.add(map[string]int64{"psp_receivable:" + via: minor - pspFee, "psp_fees:" + via: pspFee,
				"merchant_payable:" + c.Merchant: minor - fee, "fee_income": fee})
		}
	case "pending":
		e, book = pending(id, c), func() {}
	case "surplus":
		s := event.Surplus{Account: via, Paid: money.Of(minor, "CNY"), PSPFee: money.Of(minor/2, "CNY"), Why: "second_success"}
		e = bus.Event{ID: id, Type: event.TypeSurplus, Version: 1, Context: c, Payload: event.Encode(s)}
		book = func() {
			w.add(map[string]int64{"psp_receivable:" + via: minor - minor/2, "psp_fees:" + via: minor / 2, "suspense:" + via: minor})
		}
	case "wallet":
		minor *= rapid.SampledFrom([]int64{1, -1}).Draw(t, "sign")
		e = bus.Event{ID: id, Type: typeWallet, Version: 1, Context: c, Payload: binary.BigEndian.AppendUint64(nil, uint64(minor))}
		book = func() {
			if minor < 0 && w.balances[walletName(group)]+minor < 0 {
				w.rejected++
				return
			}
			w.add(map[string]int64{"cash": minor, walletName(group): minor})
		}
	case "again": // an event that was told before, by a bus that tells twice
		if len(w.past[group]) == 0 {
			return
		}
		e, book = rapid.SampledFrom(w.past[group]).Draw(t, "past"), func() {}
	case "lie":
		e = lying(id, c, via)
		w.parked[string(c.BizCode)] = true
	}
	w.feed.Append(group, e)
	if w.parked[string(e.Context.BizCode)] {
		w.lost++
		return
	}
	w.past[group] = append(w.past[group], e)
	book()
}

func (w *world) add(minors map[string]int64) {
	w.posted++
	for name, minor := range minors {
		if minor != 0 {
			w.balances[name] += minor
		}
	}
}

// check compares a ledger with the model.
func (w *world) check(t *rapid.T, s accounting.Store, parked int) {
	ctx := context.Background()
	list, err := s.Balances(ctx, "main", "", accounting.Key{}, accounting.PageMax)
	if err != nil {
		t.Fatalf("balances: %v", err)
	}
	have := map[string]int64{}
	for _, b := range list {
		if have[b.Key.Name] = b.Amount.Minor; b.Amount.Minor == 0 {
			delete(have, b.Key.Name)
		}
	}
	want := maps.Clone(w.balances)
	maps.DeleteFunc(want, func(_ string, minor int64) bool { return minor == 0 })
	if !maps.Equal(have, want) {
		t.Fatalf("balances %v, want %v", have, want)
	}
	r, err := s.Verify(ctx)
	if err != nil || r.Violated != 0 || r.Entries != w.posted || r.Rejected != w.rejected {
		t.Fatalf("verify %+v %v, want %d posted, %d rejected", r, err, w.posted, w.rejected)
	}
	if parked != w.lost {
		t.Fatalf("%d messages parked, want %d", parked, w.lost)
	}
}

// TestAnyInterleaving: two posters race on one ledger, crash and come back, while
// events arrive, some of them twice. It always ends as the model does.
func TestAnyInterleaving(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		path := filepath.Join(dir, fmt.Sprintf("%d.db", newFile()))
		armed := ""
		var offices [2]*office
		start := func(i int) {
			offices[i] = openOffice(t, opening{path: path, feed: w.feed, rules: testRules{}, seed: rapid.Uint64Range(0, 255).Draw(t, "seed"),
				batch: rapid.IntRange(1, 9).Draw(t, "batch"), points: func(name string) {
					if name == armed {
						armed = ""
						panic("crash")
					}
				}})
		}
		stop := func(i int) {
			if err := offices[i].store.Close(); err != nil {
				t.Fatalf("close: %v", err)
			}
		}
		defer func() {
			stop(0)
			stop(1)
			remove(path)
		}()
		start(0)
		start(1)
		step := func(i int) {
			if crashes(func() {
				if _, err := offices[i].consumer.Step(context.Background()); err != nil && !fault.Is(err, fault.Fenced) {
					t.Fatalf("step: %v", err)
				}
			}) {
				stop(i)
				start(i)
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "actions") {
			switch rapid.SampledFrom([]string{"tell", "tell", "tell", "step", "step", "crash", "restart"}).Draw(t, "action") {
			case "tell":
				w.tell(t)
			case "step":
				step(rapid.IntRange(0, 1).Draw(t, "poster"))
			case "crash":
				armed = rapid.SampledFrom([]string{"accounting.before_commit", "accounting.after_commit"}).Draw(t, "point")
				step(rapid.IntRange(0, 1).Draw(t, "poster"))
				armed = ""
			case "restart":
				i := rapid.IntRange(0, 1).Draw(t, "poster")
				stop(i)
				start(i)
			}
		}
		offices[rapid.IntRange(0, 1).Draw(t, "last")].drain(t)
		list, err := offices[0].store.Places().List(context.Background(), "")
		if err != nil {
			t.Fatalf("parked: %v", err)
		}
		w.check(t, offices[1].store, len(list))
	})
}

// newFile numbers databases: rapid shrinks, and each try needs its own.
var newFile = func() func() int {
	n := 0
	return func() int { n++; return n }
}()

func remove(path string) {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(path + suffix)
	}
}

// TestSameSeedSameBytes: the ledger is a pure function of events, ids and clock.
func TestSameSeedSameBytes(t *testing.T) {
	run := func() uint64 {
		feed := &storetest.Feed{}
		for i := range 100 {
			c := storetest.Context(i%storetest.Groups, i/3)
			c.Merchant = fmt.Sprintf("m%d", i%7)
			feed.Append(i%storetest.Groups, paid(fmt.Sprintf("evt_%d", i), c, fmt.Sprintf("cn-%d", i%5), int64(100+i)))
		}
		o := startOffice(t, opening{feed: feed, batch: 9, seed: 7})
		o.drain(t)
		h := fnv.New64a()
		for _, table := range []string{"accounts", "entries", "postings", "balances", "log_postings", "heads", "places"} {
			read(t, o.store, `SELECT * FROM `+table+` ORDER BY 1, 2`, func(scan sqldb.Scan) error {
				for n := 1; ; n++ { // as many columns as there are
					row := make([]any, n)
					targets := make([]any, n)
					for i := range row {
						targets[i] = &row[i]
					}
					if err := scan(targets...); err == nil {
						fmt.Fprintln(h, table, row)
						return nil
					} else if n > 40 {
						return err
					}
				}
			})
		}
		return h.Sum64()
	}
	hashes := []uint64{run(), run(), run()}
	if slices.Min(hashes) != slices.Max(hashes) {
		t.Errorf("the same events gave different ledgers: %x", hashes)
	}
}
