package app_test

import (
	"database/sql"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
)

// liesFolder is what the lies are told in: payments that succeeded, were declined, or
// wait for their payers, calls that ended unknown for a while, surplus of a
// payment that had succeeded and of one that had been declined.
type liesFolder struct {
	dir      string
	vouchers []string
	// One payment order of each kind, as it was last told, with its message.
	succeeded, declined, open told
	surplus                   bus.Message
}

type told struct {
	message bus.Message
	change  event.PaymentChanged
}

func makeLiesFolder(t *testing.T) *liesFolder {
	t.Helper()
	s := startSystem(t, sim.Faults{AutoPayShare: .8, LostReplyShare: .15, DeclineShare: .15, DuplicateCallbackShare: .2, EarlyCallbackShare: .2})
	f := &liesFolder{dir: s.app.Dir}
	order := load.Orders(7)
	for i := range 60 {
		a, status, err := s.client.Pay(order(i))
		if status != 202 {
			t.Fatalf("pay: %d %v", status, err)
		}
		f.vouchers = append(f.vouchers, a.Voucher)
	}
	s.rest(t)
	// Numbers are random, and the PSP decides by number: an unlucky run is made again.
	if n := f.find(t, s.app.Stores); n[event.Succeeded] < 2 || n[event.Declined] < 2 || n[event.Pending] < 2 || n[event.Pending] > 25 {
		s.stop()
		return makeLiesFolder(t)
	}
	f.paid(t, s, f.succeeded, "late1")
	f.paid(t, s, f.declined, "late2")
	f.paid(t, s, f.open, "") // the PSP's number of it comes afterwards, and no event tells of that alone
	s.rest(t)
	f.paid(t, s, f.open, "named")
	s.rest(t)
	f.find(t, s.app.Stores)
	if f.surplus.ID == "" {
		t.Fatal("the late payments are no surplus")
	}
	s.stop()
	return f
}

// paid is a callback that a payment order was paid, by a transaction.
func (f *liesFolder) paid(t *testing.T, s *system, o told, transaction string) {
	t.Helper()
	a := o.change.Attempts[0]
	for _, tried := range o.change.Attempts {
		if tried.Status == o.change.Status {
			a = tried
		}
	}
	e := o.message.Event
	e.ID, e.Type = "evt_paid_"+transaction, event.TypeCallback
	e.Payload = event.Encode(event.CallbackReceived{Channel: a.Channel, Account: a.Account, Event: channels.CallbackEvent{EventID: e.ID, OutTradeNo: a.OutTradeNo,
		State: channels.StatePaid, TransactionID: transaction, Paid: o.change.Amount}})
	ticket, err := s.app.Intake.Append(bus.Callbacks, &e)
	must(t, err)
	<-ticket.Done()
	must(t, ticket.Err())
}

// rest waits until whoever is not paid or declined waits for the payer alone.
func (s *system) rest(t *testing.T) {
	t.Helper()
	for quiet := 0; quiet < 30; time.Sleep(10 * time.Millisecond) {
		open, err := s.app.Stores.Core.Open(t.Context())
		must(t, err)
		busy := len(open) > 1 || len(open) == 1 && open[0].Status != event.Pending
		if quiet++; busy || !s.app.Drained() {
			quiet = 0
		}
		if t.Context().Err() != nil {
			t.Fatal("the system does not come to rest")
		}
	}
}

// find picks one payment order of each kind, and counts them.
func (f *liesFolder) find(t *testing.T, s *app.Stores) map[event.Status]int {
	t.Helper()
	last := map[ids.Code]told{}
	src := s.Core.Log().Stored(bus.Payments)
	must(t, src.Refresh(t.Context()))
	for g := range src.Groups() {
		hole, err := bus.Fold(t.Context(), src, g, src.Head(g), func(m *bus.Message) error {
			if m.Type == event.TypeSurplus {
				f.surplus = *m
				return nil
			}
			var c event.PaymentChanged
			must(t, event.Decode(m.Payload, &c))
			last[c.Y] = told{*m, c}
			return nil
		})
		if err != nil || hole != "" {
			t.Fatal(hole, err)
		}
	}
	count := map[event.Status]int{}
	for _, l := range last {
		count[l.change.Status]++
		switch l.change.Status {
		case event.Succeeded:
			f.succeeded = l
		case event.Declined:
			f.declined = l
		case event.Pending:
			f.open = l
		}
	}
	return count
}

// copied opens a copy of the folder's stores in which something was changed.
func (f *liesFolder) copied(t *testing.T, area string, statements ...string) *app.Stores {
	t.Helper()
	deps, err := app.Production(f.dir, nil, io.Discard)
	must(t, err)
	deps.Dir, deps.NoSync = t.TempDir(), true
	must(t, os.CopyFS(filepath.Join(deps.Dir, app.StoresDir), os.DirFS(filepath.Join(f.dir, app.StoresDir))))
	db, err := sql.Open("sqlite", filepath.Join(deps.Dir, app.StoresDir, area+".db"))
	must(t, err)
	for _, q := range statements {
		r, err := db.ExecContext(t.Context(), q)
		must(t, err)
		if n, _ := r.RowsAffected(); n == 0 && !strings.HasPrefix(q, "DROP") {
			t.Fatalf("%s changes nothing", q)
		}
	}
	must(t, db.Close())
	s, err := app.OpenStores(t.Context(), deps)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// lie is what somebody does to a folder, and what verify must say of it.
type lie struct {
	name string
	area string
	do   []string
	// tell adds an event to a topic of the area.
	tell bus.Topic
	what func(f *liesFolder) bus.Event
	want string
}

func TestVerifyFindsEachLie(t *testing.T) {
	f := makeLiesFolder(t)
	v, err := f.copied(t, "core").Verify(t.Context())
	must(t, err)
	if len(v.Violations) > 0 || v.Moved || len(v.Orders) != 1 || v.Orders[0].Accepted != 60 || len(v.Unread) != 5 ||
		slices.ContainsFunc(v.Unread, func(u app.Unread) bool { return u.Count != 0 }) {
		t.Fatalf("nobody lied: violations %q, %+v", v.Violations, v)
	}
	f.cleaned(t)
	for _, lies := range [][]lie{liesOfCore(), liesOfCoresLog(), liesOfPrepay(), liesOfAccounting(), liesOfMoney()} {
		for _, l := range lies {
			t.Run(l.area+"/"+l.name, func(t *testing.T) {
				s := f.copied(t, l.area, l.do...)
				if l.what != nil {
					l.emit(t, f, s)
				}
				v, err := s.Verify(t.Context())
				must(t, err)
				if found := strings.Join(v.Violations, "\n"); !strings.Contains(found, l.want) {
					t.Errorf("not found: %s\nbut\n%s", l.want, found)
				}
			})
		}
	}
}

// cleaned: calls that were cleaned away, as they were final long ago, are not missed.
func (f *liesFolder) cleaned(t *testing.T) {
	t.Helper()
	s := f.copied(t, "core")
	late := time.Now().Add(48 * time.Hour).UnixMilli()
	did, err := s.Prepay.Clean(t.Context(), prepay.Old{BeforeMillis: late, NowMillis: late, Limit: 1000})
	must(t, err)
	v, err := s.Verify(t.Context())
	must(t, err)
	if did.Rows < 30 || len(v.Violations) > 0 {
		t.Errorf("%d calls were cleaned away: %q", did.Rows, v.Violations)
	}
}

func (l *lie) emit(t *testing.T, f *liesFolder, s *app.Stores) {
	t.Helper()
	log := map[string]*embedded.Log{"core": s.Core.Log(), "prepay": s.Prepay.Log(), "accounting": s.Accounting.Log()}[l.area]
	db := map[string]*sqldb.DB{"core": s.Core.DB(), "prepay": s.Prepay.DB(), "accounting": s.Accounting.DB()}[l.area]
	must(t, db.Write(t.Context(), func(tx *sqldb.Tx) error { return log.Emit(tx, l.tell, []bus.Event{l.what(f)}) }))
}

// again is the last event of a payment order, changed.
func (o told) again(change func(*event.PaymentChanged)) bus.Event {
	c, e := o.change, o.message.Event
	c.Attempts = slices.Clone(c.Attempts)
	change(&c)
	e.ID, e.Payload = "evt_again", event.Encode(c)
	return e
}

func liesOfCore() []lie {
	const first = ` (SELECT min(id) FROM payment_orders WHERE status = 'succeeded')`
	const one, ofOne = ` WHERE id =` + first, ` WHERE payment_id =` + first
	core := func(name, want string, do ...string) lie { return lie{name: name, area: "core", want: want, do: do} }
	return []lie{
		core("open trades", "its payment orders come to", `UPDATE trade_orders SET status = 'open', paid_minor = 0`),
		core("a trade's terms", "its payment orders come to", `UPDATE trade_orders SET amount_minor = amount_minor + 1 WHERE status = 'open'`),
		core("trades gone", "the log tells of payment orders of trade", `DELETE FROM trade_orders`),
		core("a trade of nothing", "no event tells of a payment order of it", `INSERT INTO trade_orders SELECT id + 1000, version, substr(biz_code, 1, 26) || '!',
			merchant, order_type, order_scene, institution, trace_id, form, traffic, order_id, currency, amount_minor, paid_minor, status,
			accepted_at_millis, expires_at_millis FROM trade_orders LIMIT 1`),
		core("PSP fees", "attempt ", `UPDATE attempts SET psp_fee_minor = psp_fee_minor + 1`),
		core("an attempt gone", "the log tells of attempt ", `DELETE FROM attempts`),
		core("an attempt of nothing", ", and no event tells of it", `UPDATE attempts SET out_trade_no = substr(out_trade_no, 1, 27) || '!'`),
		core("nothing is next", "an open one has both", `UPDATE payment_orders SET next_action = '', next_at_millis = 0 WHERE status = 'pending'`),
		core("a time for nothing", "an open one has both", `UPDATE payment_orders SET next_action = '' WHERE status = 'pending'`),
		core("next without a time", "an open one has both", `UPDATE payment_orders SET next_at_millis = 0 WHERE status = 'pending'`),
		core("next of what is final", "a final one neither", `UPDATE payment_orders SET next_at_millis = 1`+one),
		core("a payment order gone", "the log tells of payment order ", `DELETE FROM attempts`+ofOne, `DELETE FROM payment_orders`+one),
		core("fewer payment orders", "core's log tells of 60, its tables hold 59", `DELETE FROM attempts`+ofOne, `DELETE FROM payment_orders`+one),
		core("a payment order of nothing", ", and no event tells of it", `UPDATE payment_orders SET y = substr(y, 1, 26) || '!'`+one),
		core("another version", "the log at ", `UPDATE payment_orders SET version = version + 1`+one),
		core("another state", "status:declined", `UPDATE payment_orders SET status = 'declined'`+one),
		core("another fee", "the log says", `UPDATE payment_orders SET fee_minor = fee_minor + 1`+one),
		core("another key", "has other terms", `UPDATE payment_orders SET idempotency_key = idempotency_key || 'x'`+one),
		core("another trade", ", and hangs on the row of trade", `UPDATE payment_orders SET trade_id = (SELECT max(id) FROM trade_orders) - trade_id`+one),
		core("surplus gone", "the log tells of surplus of", `DELETE FROM exceptions`),
		core("more surplus", "the log says", `UPDATE exceptions SET paid_minor = paid_minor + 1`),
		core("surplus of nothing", "is in the table, and no event tells of it", `UPDATE exceptions SET transaction_id = 'another'`),
		core("more than was told", "surplus, its log ", `UPDATE attempts SET paid_minor = paid_minor + 1`),
		core("read more intents", "batches of topic intents", `UPDATE places SET seq = seq + 1000 WHERE topic = 'intents'`),
		core("read more outcomes", "messages of topic outcomes", `UPDATE places SET seq = seq + 1000 WHERE topic = 'outcomes'`),
		core("something parked", "core has 1 parked messages, the first because: nobody knows", `INSERT INTO parked SELECT 1, 'outcomes', 0, 1, 1, 0, 'nobody knows', 1, 0,
			'evt_1', 'x', 1, 1, biz_code, merchant, order_type, order_scene, institution, trace_id, form, traffic, x'', x'00' FROM trade_orders LIMIT 1`),
		core("dispatches gone", "topic dispatch, group ", `DELETE FROM log_dispatch`),
		core("never dispatched", ", and was never dispatched", `DELETE FROM log_dispatch`),
		core("payments' log gone", "topic payments, group ", `DELETE FROM log_payments`),
	}
}

func liesOfCoresLog() []lie {
	payments := func(name, want string, change func(*event.PaymentChanged), do ...string) lie {
		return lie{name: name, area: "core", want: want, do: do, tell: bus.Payments,
			what: func(f *liesFolder) bus.Event { return f.succeeded.again(change) }}
	}
	surplus := func(name, want string, change func(*event.Surplus)) lie {
		return lie{name: name, area: "core", want: want, tell: bus.Payments, what: func(f *liesFolder) bus.Event {
			var s event.Surplus
			_ = event.Decode(f.surplus.Payload, &s)
			change(&s)
			e := f.surplus.Event
			e.ID, e.Payload = "evt_again", event.Encode(s)
			return e
		}}
	}
	dispatch := func(name, want string, change func(*event.Dispatch)) lie {
		return lie{name: name, area: "core", want: want, tell: bus.Dispatch, what: func(f *liesFolder) bus.Event {
			c, a := f.succeeded.change, f.succeeded.change.Attempts[0]
			d := event.Dispatch{Op: event.OpPay, Y: c.Y, OutTradeNo: a.OutTradeNo, Account: a.Account, Amount: c.Amount}
			change(&d)
			e := f.succeeded.message.Event
			e.ID, e.Type, e.Payload = "evt_again", event.TypeDispatch, event.Encode(d)
			return e
		}}
	}
	broken := func(name string, topic bus.Topic, typ string) lie {
		return lie{name: name, area: "core", want: "event evt_broken", tell: topic, what: func(f *liesFolder) bus.Event {
			e := f.succeeded.message.Event
			e.ID, e.Type, e.Payload = "evt_broken", typ, []byte("{")
			return e
		}}
	}
	return []lie{
		payments("after the end", "closed follows succeeded, which is final", func(c *event.PaymentChanged) { c.Version++; c.Settled = -1; c.Status = event.Closed }),
		payments("a hole in the versions", ": version ", func(c *event.PaymentChanged) { c.Version += 2; c.Settled = -1 }),
		payments("settled twice", "and 2 events settle it", func(c *event.PaymentChanged) {}),
		payments("settled by nothing", "attempt 99 settled it", func(c *event.PaymentChanged) { c.Version++; c.Settled = 99 }),
		payments("a trade paid twice", "was paid by 2 payment orders", func(c *event.PaymentChanged) { c.Y = c.Y[:26] + "!"; c.Version = 1 }),
		surplus("surplus twice", "is told as surplus twice", func(*event.Surplus) {}),
		surplus("surplus of no attempt", "no event tells of such an attempt", func(s *event.Surplus) { s.OutTradeNo = s.OutTradeNo[:27] + "!" }),
		dispatch("nothing is dispatched", "was dispatched, and there is no such attempt", func(d *event.Dispatch) { d.OutTradeNo = d.OutTradeNo[:27] + "!" }),
		dispatch("dispatched elsewhere", "was dispatched for ", func(d *event.Dispatch) { d.Account = "elsewhere" }),
		dispatch("dispatched with more", "was dispatched with ", func(d *event.Dispatch) { d.Amount.Minor++ }),
		broken("a broken change", bus.Payments, event.TypePaymentChanged),
		broken("broken surplus", bus.Payments, event.TypeSurplus),
		broken("a broken dispatch", bus.Dispatch, event.TypeDispatch),
	}
}

func liesOfPrepay() []lie {
	prepay := func(name, want string, do ...string) lie { return lie{name: name, area: "prepay", want: want, do: do} }
	return []lie{
		prepay("calls gone", "was dispatched and read, and there is no such call", `DELETE FROM calls`),
		prepay("outcomes of nothing", "was told, and there is no such call", `DELETE FROM calls WHERE id IN (SELECT id FROM progress WHERE standing = 'paid')`),
		prepay("more than can be said", "more violations of prepay", `DELETE FROM calls`),
		prepay("outcomes gone", "topic outcomes, group ", `DELETE FROM log_outcomes`),
		prepay("standings without outcomes", "its outcomes say never_sent", `DELETE FROM log_outcomes`),
		prepay("paid is closed", "is closed, its outcomes say paid", `UPDATE progress SET standing = 'closed' WHERE standing = 'paid'`),
		prepay("another account", "was told, the call is at elsewhere", `UPDATE calls SET account = 'elsewhere'`),
		prepay("another lane", "its progress says ", `UPDATE progress SET account = 'elsewhere'`),
		prepay("no progress", "its progress says ", `DELETE FROM progress`),
		prepay("dispatched to another account", ", it was dispatched with ", `UPDATE calls SET account = 'elsewhere'`),
		prepay("another amount", ", it was dispatched with ", `UPDATE calls SET amount_minor = amount_minor + 1`),
		prepay("a call of nothing", ", and its pay was never dispatched", `UPDATE calls SET out_trade_no = substr(out_trade_no, 1, 27) || '!'`),
		prepay("answered without an answer", "is answered, and no outcome was told", `UPDATE calls SET out_trade_no = substr(out_trade_no, 1, 27) || '!'
			WHERE id IN (SELECT id FROM progress WHERE standing = 'pending' AND status = 'due')`,
			`UPDATE progress SET status = 'answered', standing = 'never_sent', next_at_millis = 0, open = 0 WHERE standing = 'pending' AND status = 'due'`),
		prepay("known, and asked after", ", though its standing is paid for ever", `UPDATE progress SET status = 'due', next_at_millis = 1, open = 1 WHERE standing = 'paid'`),
		prepay("nobody asks", "nobody asks after it", `UPDATE progress SET status = 'stopped', next_at_millis = 0, open = 0 WHERE standing = 'pending' AND status = 'due'`),
		prepay("read more dispatches", "prepay has read ", `UPDATE places SET seq = seq + 1000 WHERE topic = 'dispatch'`),
		{name: "a broken outcome", area: "prepay", want: "event evt_broken", tell: bus.Outcomes, what: func(f *liesFolder) bus.Event {
			e := f.succeeded.message.Event
			e.ID, e.Type, e.Payload = "evt_broken", "outcome.recorded", []byte("{")
			return e
		}},
	}
}

func liesOfAccounting() []lie {
	const drop, one = `DROP TRIGGER entries_never_change`, ` WHERE id = 1`
	ledger := func(name, want string, do ...string) lie {
		return lie{name: name, area: "accounting", want: want, do: do}
	}
	broken := func(name, want, typ string, payload func(f *liesFolder) []byte) lie {
		return lie{name: name, area: "accounting", want: want, tell: bus.Postings, what: func(f *liesFolder) bus.Event {
			e := f.succeeded.message.Event
			e.ID, e.Type, e.Payload = "evt_broken", typ, payload(f)
			return e
		}}
	}
	return []lie{
		ledger("a trigger gone", "trigger entries_never_change is gone", drop),
		ledger("notices gone", "topic postings, group ", `DELETE FROM log_postings`),
		ledger("never told", "was told 0 times", `DELETE FROM log_postings`),
		ledger("another event", ", and was told as that of ", drop, `UPDATE entries SET event_id = event_id || 'x'`+one),
		ledger("an event without an entry", ", accounting has read it, and no entry books it", drop, `UPDATE entries SET event_id = event_id || 'x'`+one),
		ledger("an entry without an event", ", and core told of no money in such an event", drop, `UPDATE entries SET event_id = event_id || 'x'`+one),
		ledger("another rule", "and was told as entry.posted by rule", drop, `UPDATE entries SET rule = 'x'`+one),
		ledger("rejected", "was rejected: overdraft", drop, `UPDATE entries SET reason = 'overdraft'`+one),
		ledger("another group", ", its BizCode in ", drop, `UPDATE entries SET grp = (grp + 1) % 16`+one),
		ledger("one id", "have one id", drop, `UPDATE entries SET entry_id = 'ent_one'`),
		ledger("an entry gone", ", and is not in the journal", `DROP TRIGGER entries_never_go`, `DELETE FROM entries`+one),
		ledger("other postings", "has other postings than were told", `DROP TRIGGER postings_never_change`, `UPDATE postings SET minor = minor * 2 WHERE id >> 8 = 1`),
		ledger("another sum", ", its entry ", `DROP TRIGGER postings_never_change`, `UPDATE postings SET minor = minor * 2 WHERE id >> 8 = 1`),
		ledger("read more payments", "accounting has read ", `UPDATE places SET seq = seq + 1000 WHERE topic = 'payments'`),
		ledger("booked before it was read", ", which accounting has not read", `DELETE FROM places WHERE topic = 'payments'`),
		broken("a broken notice", "event evt_broken", "entry.posted", func(*liesFolder) []byte { return []byte("{") }),
		broken("a notice of nothing", "entry ent_none of event evt_none was told", "entry.posted",
			func(*liesFolder) []byte {
				return []byte(`{"entry_id":"ent_none","event_id":"evt_none","rule":"x","postings":[]}`)
			}),
	}
}

func liesOfMoney() []lie {
	const drop = `DROP TRIGGER postings_never_change`
	shift := func(from, to string) []string {
		move := func(account, by string) string {
			return `UPDATE postings SET minor = minor + ` + by + ` WHERE id IN (SELECT p.id FROM postings p JOIN entries e ON e.id = p.id >> 8
				JOIN accounts a ON a.id = p.account_id WHERE e.rule = 'payment.received' AND a.name LIKE '` + account + `%')`
		}
		return []string{drop, move(from, "-1"), move(to, "1")}
	}
	ledger := func(name, want string, do ...string) lie {
		return lie{name: name, area: "accounting", want: want, do: do}
	}
	return []lie{
		ledger("received from nowhere", ", which is not the merchant's ", shift("fee_income", "psp_receivable")[0], shift("fee_income", "psp_receivable")[2]),
		ledger("received and not settled", "and has still to read of 0", shift("fee_income", "psp_receivable")[0], shift("fee_income", "psp_receivable")[2]),
		ledger("PSP fees", "core told of PSP fees of ", shift("psp_receivable", "psp_fees")...),
		ledger("our fees", "core told of our fees of ", shift("fee_income", "merchant_payable")...),
		ledger("an account that nobody knows", "the ledger has no sums of money", `DROP TRIGGER accounts_never_change`, `UPDATE accounts SET name = 'pocket' WHERE name = 'fee_income'`),
	}
}

// A voucher that was promised is known, and what is open has a next action.
func TestCheckVouchersFindsEachLie(t *testing.T) {
	f := makeLiesFolder(t)
	for _, tc := range []struct{ name, do, want string }{
		{"nothing", `UPDATE places SET seq = seq`, ""},
		{"lost", `UPDATE payment_orders SET y = substr(y, 1, 26) || '!' WHERE id = 1`, "was promised, and core does not know it"},
		{"nothing is next", `UPDATE payment_orders SET next_action = '' WHERE status = 'pending'`, "is pending without a next action"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, wrong, err := f.copied(t, "core", tc.do).CheckVouchers(t.Context(), f.vouchers)
			must(t, err)
			if found := strings.Join(wrong, "\n"); !strings.Contains(found, tc.want) || (tc.want == "") != (found == "") {
				t.Errorf("found %q, want %q", found, tc.want)
			}
		})
	}
}
