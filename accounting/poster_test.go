package accounting_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/rules"
	"github.com/tallystick/tallystick/accounting/sqlstore"
	"github.com/tallystick/tallystick/accounting/storetest"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

func TestPostsPayments(t *testing.T) {
	feed := &storetest.Feed{}
	for i := range 40 {
		c := storetest.Context(i%storetest.Groups, i)
		feed.Append(i%storetest.Groups, pending(fmt.Sprintf("evt_p%d", i), c))
		feed.Append(i%storetest.Groups, paid(fmt.Sprintf("evt_%d", i), c, "cn-1", 10_000))
	}
	o := startOffice(t, opening{feed: feed, batch: 16})
	o.drain(t)
	wantBalance(t, o.store, "psp_receivable:cn-1", 40*9_962)
	wantBalance(t, o.store, "psp_fees:cn-1", 40*38)
	wantBalance(t, o.store, "merchant_payable:m1", 40*9_940)
	wantBalance(t, o.store, "fee_income", 40*60)
	wantSound(t, o.store, 40)
	wantMetric(t, o, `tallystick_accounting_entries_total{result="posted"} 40`)
	totals, err := o.store.Totals(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sums, err := rules.MoneyOf(totals)
	want := rules.Money{Merchant: "m1", ChannelAccount: "cn-1", Currency: "CNY", Received: 400_000, PSPFees: 1_520, Payable: 397_600, FeeIncome: 2_400}
	if err != nil || len(sums) != 1 || sums[0] != want {
		t.Errorf("money %+v (%v), want %+v", sums, err, want)
	}
}

// TestHotAccount: an account that every entry of a batch touches is changed once.
func TestHotAccount(t *testing.T) {
	const entries = 256
	feed := &storetest.Feed{}
	for i := range 2 * entries {
		feed.Append(0, paid(fmt.Sprintf("evt_%04d", i), storetest.Context(0, i), "cn-1", 10_000))
	}
	o := startOffice(t, opening{feed: feed, batch: entries})
	if _, err := o.consumer.Step(t.Context()); err != nil { // makes the accounts
		t.Fatal(err)
	}
	before := o.store.DB().Statements()
	if _, err := o.consumer.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	// BEGIN, the place, the last entry's number, 4 for 256 entries, 16 for 1,024
	// postings, 1 for all 4 balances, the head, the log's last row, one more for 256 events
	// and its mark, COMMIT.
	if got, want := o.store.DB().Statements()-before, int64(1+1+1+4+16+1+1+1+1+1+1); got != want {
		t.Errorf("%d statements for a batch of %d hot entries, want %d", got, entries, want)
	}
	var versions []int64
	read(t, o.store, `SELECT version FROM balances ORDER BY id`, func(scan sqldb.Scan) error {
		var v int64
		err := scan(&v)
		versions = append(versions, v)
		return err
	})
	if fmt.Sprint(versions) != "[2 2 2 2]" {
		t.Errorf("balances were changed %v times in two batches", versions)
	}
	wantBalance(t, o.store, "fee_income", 2*entries*60)
}

// TestHotAccountOnPostgreSQL: there a batch costs round trips by the table.
func TestHotAccountOnPostgreSQL(t *testing.T) {
	const entries = 256
	feed := &storetest.Feed{}
	for i := range 2 * entries {
		feed.Append(0, paid(fmt.Sprintf("evt_%04d", i), storetest.Context(0, i), "cn-1", 10_000))
	}
	p := server.Schema(t)
	if err := sqlstore.Migrate(t.Context(), sqlstore.Options{Postgres: p, Groups: storetest.Groups, NoSync: true}, ""); err != nil {
		t.Fatal(err)
	}
	o := startOffice(t, opening{feed: feed, batch: entries, on: p})
	if _, err := o.consumer.Step(t.Context()); err != nil { // makes the accounts
		t.Fatal(err)
	}
	before := o.store.DB().RoundTrips()
	if _, err := o.consumer.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	// BEGIN with the entries' numbers; entries, postings, balances; the place and the
	// head; the log's row; COMMIT.
	if have := o.store.DB().RoundTrips() - before; have > 5 {
		t.Errorf("%d round trips for a batch of %d hot entries, want at most 5", have, entries)
	}
	wantBalance(t, o.store, "fee_income", 2*entries*60)
}

func read(t *testing.T, s *sqlstore.Store, query string, row func(sqldb.Scan) error) {
	t.Helper()
	if err := s.DB().Read(t.Context(), func(tx *sqldb.Tx) error { return tx.Query(query, nil, row) }); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, s *sqlstore.Store, statement string) error {
	t.Helper()
	return s.DB().Write(t.Context(), func(tx *sqldb.Tx) error {
		_, err := tx.Exec(statement)
		return err
	})
}

// fixable refuses nothing once mended.
type fixable struct {
	rules.Payments
	mended bool
}

func (f *fixable) Draft(m *bus.Message) (*accounting.Draft, error) {
	if f.mended {
		m2 := *m
		m2.Payload = bytes.Replace(m.Payload, []byte(`"minor":61`), []byte(`"minor":60`), 1)
		m = &m2
	}
	return f.Payments.Draft(m)
}

// TestPoisonIsParked: what no rule can book waits with its key, what belongs to
// the key waits behind it, and everything else is booked.
func TestPoisonIsParked(t *testing.T) {
	feed, r := &storetest.Feed{}, &fixable{}
	bad, good := storetest.Context(1, 1), storetest.Context(1, 2)
	feed.Append(1, lying("evt_1", bad, "cn-1"))
	feed.Append(1, paid("evt_2", bad, "cn-1", 20_000))
	feed.Append(1, paid("evt_3", good, "cn-1", 10_000))
	o := startOffice(t, opening{feed: feed, rules: r})
	o.drain(t)
	feed.Append(1, paid("evt_4", bad, "cn-1", 30_000))
	o.drain(t)
	wantBalance(t, o.store, "merchant_payable:m1", 9_940)
	wantSound(t, o.store, 1)
	parked, err := o.store.Places().List(t.Context(), "")
	if err != nil || len(parked) != 3 || parked[0].Message.ID != "evt_1" || !strings.Contains(parked[0].Reason, "6000 ppm") {
		t.Fatalf("parked: %+v %v", parked, err)
	}
	if !strings.Contains(o.log.String(), `"biz_code":"`+string(bad.BizCode)+`"`) {
		t.Errorf("no alarm with its key in the log: %s", o.log)
	}
	wantMetric(t, o, `tallystick_accounting_poison_total 1`)

	r.mended = true
	if n, err := o.store.Places().RequestReplay(t.Context(), bad.BizCode); err != nil || n != 3 {
		t.Fatalf("replay of %d messages: %v", n, err)
	}
	o.consumer.CheckReplays()
	o.drain(t)
	wantSound(t, o.store, 4)
	wantBalance(t, o.store, "merchant_payable:m1", 9_940+9_940+19_880+29_820)
}

// careless makes entries that do not balance, of one trade.
type careless struct {
	rules.Payments
	trade ids.Code
}

func (c careless) Draft(m *bus.Message) (*accounting.Draft, error) {
	d, err := c.Payments.Draft(m)
	if err == nil && m.Context.BizCode == c.trade {
		d.Lines = d.Lines[1:]
	}
	return d, err
}

// TestUnbalancedRule: an event whose rule does not balance waits; its group goes on.
func TestUnbalancedRule(t *testing.T) {
	feed := &storetest.Feed{}
	bad, good := storetest.Context(1, 1), storetest.Context(1, 2)
	feed.Append(1, paid("evt_1", bad, "cn-1", 10_000))
	feed.Append(1, paid("evt_2", good, "cn-1", 10_000))
	o := startOffice(t, opening{feed: feed, rules: careless{trade: bad.BizCode}})
	o.drain(t)
	wantSound(t, o.store, 1)
	if got := o.consumer.Stopped(); len(got) != 0 {
		t.Errorf("groups %v stopped", got)
	}
	parked, err := o.store.Places().List(t.Context(), "")
	if err != nil || len(parked) != 1 || parked[0].Message.ID != "evt_1" || !strings.Contains(parked[0].Reason, "debits and credits differ by -9962 CNY") {
		t.Errorf("parked %+v %v", parked, err)
	}
}

// TestShadowNeverEnters: shadow traffic in the real ledger went astray.
func TestShadowNeverEnters(t *testing.T) {
	feed := &storetest.Feed{}
	c := storetest.Context(0, 1)
	c.BizCode, c.Traffic = "s"+c.BizCode[1:], "shadow"
	feed.Append(0, paid("evt_1", c, "cn-1", 10_000))
	o := startOffice(t, opening{feed: feed})
	o.drain(t)
	wantSound(t, o.store, 0)
	if parked, err := o.store.Places().List(t.Context(), ""); err != nil || len(parked) != 1 {
		t.Errorf("parked %v %v, want the shadow message", parked, err)
	}
}

// TestLostPlaces: with the first fence gone, the unique key on the event still
// books each one once.
func TestLostPlaces(t *testing.T) {
	feed := &storetest.Feed{}
	for i := range 20 {
		feed.Append(i%2, paid(fmt.Sprintf("evt_%d", i), storetest.Context(i%2, i), "cn-1", 10_000))
	}
	feed.Append(0, paid("evt_0", storetest.Context(0, 0), "cn-1", 10_000)) // told twice in a batch
	o := startOffice(t, opening{feed: feed})
	o.drain(t)
	if err := write(t, o.store, `DELETE FROM places`); err != nil {
		t.Fatal(err)
	}
	again := startOffice(t, opening{path: dbPath(t, o), feed: feed, seed: 1, batch: 7})
	feed.Append(0, paid("evt_new", storetest.Context(0, 99), "cn-1", 10_000))
	again.drain(t)
	wantSound(t, again.store, 21)
	wantBalance(t, again.store, "fee_income", 21*60)
	wantMetric(t, again, `tallystick_accounting_entries_total{result="posted"} 1`)
}

func dbPath(t *testing.T, o *office) (path string) {
	t.Helper()
	read(t, o.store, `SELECT file FROM pragma_database_list WHERE name = 'main'`, func(scan sqldb.Scan) error { return scan(&path) })
	return path
}

// TestViolatedBalance: a stored balance that is not what the poster holds stops
// its group, and only that one.
func TestViolatedBalance(t *testing.T) {
	feed := &storetest.Feed{}
	for g := range storetest.Groups {
		feed.Append(g, paid(fmt.Sprintf("evt_a%d", g), storetest.Context(g, 1), "cn-1", 10_000))
	}
	o := startOffice(t, opening{feed: feed})
	o.drain(t)
	if err := write(t, o.store, `UPDATE balances SET minor = minor + 1 WHERE id = (SELECT id FROM balances WHERE id & 1023 = 2 LIMIT 1)`); err != nil {
		t.Fatal(err)
	}
	for g := range storetest.Groups {
		feed.Append(g, paid(fmt.Sprintf("evt_b%d", g), storetest.Context(g, 2), "cn-1", 10_000))
	}
	o.drain(t)
	if got := o.consumer.Stopped(); fmt.Sprint(got) != "[2]" {
		t.Errorf("stopped groups %v, want [2]", got)
	}
	for g, want := range []bool{true, true, false, true} {
		if _, ok, err := o.store.EntryByEvent(t.Context(), fmt.Sprintf("evt_b%d", g)); ok != want || err != nil {
			t.Errorf("group %d booked: %v (%v), want %v", g, ok, err, want)
		}
	}
	if !strings.Contains(o.log.String(), "an invariant is violated") {
		t.Errorf("no alarm in the log: %s", o.log)
	}
	wantMetric(t, o, `tallystick_accounting_groups_stopped_total 1`)
	if r, err := o.store.Verify(t.Context()); err != nil || r.Violated != 2 { // the fold, and the book
		t.Errorf("verify: %+v %v", r, err)
	}
	w := accounting.NewWatch(o.set, slog.New(slog.NewJSONHandler(o.log, nil)), accounting.DefaultConfig(), o.store)
	if _, err := w.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantMetric(t, o, `tallystick_accounting_imbalance_minor 1`)
}

// TestCrashes: abandoned at each point and opened again, each event is booked once.
func TestCrashes(t *testing.T) {
	for _, point := range []string{"accounting.before_commit", "accounting.after_commit"} {
		t.Run(point, func(t *testing.T) {
			feed := &storetest.Feed{}
			for i := range 30 {
				feed.Append(i%3, paid(fmt.Sprintf("evt_%d", i), storetest.Context(i%3, i), "cn-1", 10_000))
			}
			path := filepath.Join(t.TempDir(), "accounting.db")
			crashed := 0
			for crash := range 5 {
				left := crash + 1
				armed := false
				o := startOffice(t, opening{path: path, feed: feed, batch: 4, seed: uint64(crash), points: func(name string) {
					if name != point || !armed {
						return
					}
					if left--; left == 0 {
						panic("crash")
					}
				}})
				armed = true // migrations commit, too
				if crashes(func() { o.drain(t) }) {
					crashed++
				}
			}
			if crashed < 3 { // the later processes find less to do than it takes to crash
				t.Errorf("%d processes crashed", crashed)
			}
			o := startOffice(t, opening{path: path, feed: feed, seed: 99})
			o.drain(t)
			wantSound(t, o.store, 30)
			wantBalance(t, o.store, "fee_income", 30*60)
		})
	}
}

func crashes(f func()) (crashed bool) {
	defer func() {
		if r := recover(); r != nil && r != "crash" {
			panic(r)
		} else if r != nil {
			crashed = true
		}
	}()
	f()
	return false
}
