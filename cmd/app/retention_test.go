package app_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
)

// makeTrimmedFolder is a folder of 40 payments from before a cut and 30 from behind it,
// where one of the first was paid as well. trim deletes what was told before the cut.
func makeTrimmedFolder(t *testing.T) (f *liesFolder, cut time.Time) {
	t.Helper()
	env := []string{"TALLYSTICK_GROUPS=2", "TALLYSTICK_CONSUMERS_MESSAGES_MAX=2"} // many rows of each group
	s := startSystem(t, sim.Faults{AutoPayShare: .7, LostReplyShare: .15, DeclineShare: .15, DuplicateCallbackShare: .2, EarlyCallbackShare: .2}, env...)
	f = &liesFolder{dir: s.app.Dir, env: env}
	order := load.Orders(7)
	pay := func(from, to int) {
		for i := from; i < to; i++ {
			if _, status, err := s.client.Pay(order(i)); status != 202 {
				t.Fatalf("pay: %d %v", status, err)
			}
		}
		s.rest(t)
	}
	pay(0, 40)
	n := f.find(t, s.app.Stores)
	if n[event.Succeeded] < 2 || n[event.Pending] < 2 { // numbers are random, and the PSP decides by number
		s.stop()
		return makeTrimmedFolder(t)
	}
	time.Sleep(5 * time.Millisecond)
	cut = time.Now()
	f.paid(t, s, f.open, "late")
	f.paid(t, s, f.succeeded, "surplus")
	pay(40, 70)
	s.stop()
	return f, cut
}

// trim deletes what was told before a moment from all logs of a folder.
func (f *liesFolder) trim(t *testing.T, before int64) {
	t.Helper()
	deps, err := app.Production(f.dir, f.env, io.Discard)
	must(t, err)
	deps.NoSync = true
	s, err := app.OpenStores(t.Context(), deps)
	must(t, err)
	defer func() { must(t, s.Close()) }()
	for _, l := range []struct {
		topic  bus.Topic
		log    *embedded.Log
		reader string
	}{
		{bus.Dispatch, s.Core.Log(), "prepay"}, {bus.Payments, s.Core.Log(), "accounting"},
		{bus.Outcomes, s.Prepay.Log(), "core"}, {bus.Postings, s.Accounting.Log(), ""},
	} {
		src := l.log.Stored(l.topic)
		must(t, src.Refresh(t.Context()))
		upTo := map[int]bus.Place{}
		for g := range src.Groups() {
			upTo[g] = src.Head(g)
		}
		if l.reader != "" {
			upTo, err = s.Parked()[l.reader].Committed(t.Context(), l.topic)
			must(t, err)
		}
		deleted, more, err := l.log.Trimmer(l.topic, nil).Step(t.Context(), embedded.Trim{UpTo: upTo, BeforeMillis: before, RowsMax: 10_000})
		must(t, err)
		if deleted == 0 && before < embedded.Everything || more {
			t.Fatalf("%d rows of topic %s were trimmed, more: %t", deleted, l.topic, more)
		}
	}
}

// What is gone is explained by what is left of it, however much that is; and who
// lies about old orders or recent ones is found.
func TestVerifyOfTrimmedLogs(t *testing.T) {
	f, cut := makeTrimmedFolder(t)
	for _, before := range []int64{cut.UnixMilli(), embedded.Everything} {
		f.trim(t, before)
		v, err := f.copied(t, "core").Verify(t.Context())
		must(t, err)
		if len(v.Violations) > 0 || v.Moved || v.Orders[0].Accepted != 70 || len(v.Trimmed) != 4 {
			t.Fatalf("nobody lied: violations %q, %+v", v.Violations, v)
		}
		lies := liesOfTrimmed()
		if before < embedded.Everything {
			lies = append(lies, liesOfRecent()...)
		}
		for _, l := range lies {
			t.Run(fmt.Sprintf("all gone %t/%s/%s", before == embedded.Everything, l.area, l.name), func(t *testing.T) {
				v, err := f.copied(t, l.area, l.do...).Verify(t.Context())
				must(t, err)
				if found := strings.Join(v.Violations, "\n"); !strings.Contains(found, l.want) {
					t.Errorf("not found: %s\nbut\n%s", l.want, found)
				}
			})
		}
	}
}

func liesOfTrimmed() []lie {
	const oldest = ` (SELECT min(id) FROM payment_orders WHERE status = 'succeeded')`
	return []lie{
		{name: "an order gone", area: "core", want: "payment orders that began before the log does", do: []string{`DELETE FROM attempts WHERE payment_id =` + oldest, `DELETE FROM payment_orders WHERE id =` + oldest}},
		{name: "an order of nothing", area: "core", want: "payment orders that began before the log does", do: []string{
			`INSERT INTO payment_orders SELECT id + 1000, version, trade_id, substr(y, 1, 26) || '!', biz_code, merchant, order_type, order_scene, institution, trace_id, form, traffic,
			 'other', canonical, 'declined', reason, alias_of, currency, amount_minor, method, subject, return_url, metadata, credential_method, credential_value, fee_rate_ppm,
			 0, accepted_at_millis, expires_at_millis, '', 0, beside FROM payment_orders WHERE id =` + oldest}},
		{name: "another version", area: "core", want: "changes of payment orders", do: []string{`UPDATE payment_orders SET version = version + 1 WHERE id =` + oldest}},
		{name: "another state", area: "core", want: "payment orders that succeeded", do: []string{`UPDATE payment_orders SET status = 'declined' WHERE id =` + oldest}},
		{name: "more paid", area: "core", want: "surplus, its log ", do: []string{`UPDATE attempts SET paid_minor = paid_minor + 1 WHERE payment_id =` + oldest}},
		{name: "trades open", area: "core", want: "its ", do: []string{`UPDATE trade_orders SET status = 'open', paid_minor = 0 WHERE status = 'paid'`}},
		{name: "nothing accepted", area: "core", want: "orders of ", do: []string{`DELETE FROM trimmed_sums WHERE what = 'accepted'`}},
		{name: "other money", area: "core", want: "surplus, its log ", do: []string{`UPDATE trimmed_sums SET n = n + 1 WHERE what = 'settled'`}},
		{name: "other PSP fees", area: "core", want: "core told of PSP fees of ", do: []string{`UPDATE trimmed_sums SET n = n + 1 WHERE what = 'psp_fees'`}},
		{name: "other fees", area: "core", want: "core told of our fees of ", do: []string{`UPDATE trimmed_sums SET n = n + 1 WHERE what = 'fees'`}},
		{name: "more settled", area: "core", want: "entries of ", do: []string{`UPDATE trimmed_sums SET n = n + 1 WHERE what = 'settlements'`}},
		{name: "more gone than was said", area: "core", want: "messages are missing, the first behind", do: []string{
			`UPDATE trimmed SET seq = seq - 1 WHERE topic = 'payments'`}},
		{name: "more gone than was read", area: "accounting", want: "and accounting has read ", do: []string{`UPDATE places SET seq = 1 WHERE topic = 'payments'`}},
		{name: "an amount of a call", area: "prepay", want: "its pay was never dispatched: no attempt", do: []string{`UPDATE calls SET amount_minor = amount_minor + 1`}},
		{name: "a call of nothing", area: "prepay", want: "its pay was never dispatched: no attempt", do: []string{`UPDATE calls SET out_trade_no = substr(out_trade_no, 1, 27) || '!'`}},
		{name: "an old entry of another sum", area: "accounting", want: "the ledger", do: []string{`DROP TRIGGER postings_never_change`, `UPDATE postings SET minor = minor * 2 WHERE id >> 8 = 1`}},
		{name: "an old entry gone", area: "accounting", want: "entries are not told of in topic postings", do: []string{`DROP TRIGGER entries_never_go`, `DELETE FROM entries WHERE id = 1`}},
		{name: "an old entry of another event", area: "accounting", want: "balance", do: []string{`UPDATE balances SET minor = minor + 1`}},
	}
}

func liesOfRecent() []lie {
	some := func(table string) string {
		return `DELETE FROM ` + table + ` WHERE id = (SELECT max(id) - 8 FROM ` + table + `)`
	}
	return []lie{
		{name: "a hole in payments", area: "core", want: "messages are missing, the first behind", do: []string{some("log_payments")}},
		{name: "a hole in dispatch", area: "core", want: "messages are missing, the first behind", do: []string{some("log_dispatch")}},
		{name: "a hole in outcomes", area: "prepay", want: "messages are missing, the first behind", do: []string{some("log_outcomes")}},
		{name: "a hole in postings", area: "accounting", want: "messages are missing, the first behind", do: []string{some("log_postings")}},
		{name: "a recent order of another fee", area: "core", want: "the log says", do: []string{
			`UPDATE payment_orders SET fee_minor = fee_minor + 1 WHERE id = (SELECT max(id) FROM payment_orders WHERE status = 'succeeded')`}},
		{name: "a recent order never dispatched", area: "core", want: ", and was never dispatched", do: []string{`DELETE FROM log_dispatch WHERE id > (SELECT min(id) FROM log_dispatch)`}},
		{name: "a recent call without an outcome", area: "prepay", want: "its outcomes say never_sent", do: []string{`UPDATE trimmed SET at_millis = at_millis - 60000`,
			`DELETE FROM log_outcomes WHERE id > (SELECT min(id) FROM log_outcomes)`}},
	}
}

// A store that is older than what its readers' logs still have is refused, with the
// reason; one that is not replays what it has missed, and comes to the same.
func TestAnOlderCopyOfAReaderOfATrimmedLog(t *testing.T) {
	for _, tc := range []struct {
		name string
		age  string
		ok   bool
	}{{"within what is kept", "720h", true}, {"behind what is kept", "1ms", false}} {
		t.Run(tc.name, func(t *testing.T) {
			s := startSystem(t, sim.Faults{AutoPayShare: 1}, "TALLYSTICK_RETENTION_LOG_AGE="+tc.age, "TALLYSTICK_RETENTION_EVERY=20ms")
			dir, order := s.app.Dir, load.Orders(3)
			pay := func(from, to int) {
				for i := from; i < to; i++ {
					if _, status, err := s.client.Pay(order(i)); status != 202 {
						t.Fatal(status, err)
					}
				}
			}
			pay(0, 40)
			copyTo := filepath.Join(t.TempDir(), "copy")
			_, err := app.Backup(t.Context(), dir, copyTo, false)
			must(t, err)
			pay(40, 200)
			s.drain(t)
			before := map[string]int64{}
			if !tc.ok {
				awaitTrimmed(t, s, 100)
			}
			before["entries"] = s.entries(t)
			s.stop()
			replaceStore(t, dir, copyTo, "accounting.db")
			a, err := app.Open(t.Context(), dir, nil, io.Discard)
			if !tc.ok {
				if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "what lies between was deleted") {
					t.Errorf("accounting is from before what core's log has: %v", err)
				}
				if err == nil {
					must(t, a.Close())
				}
				return
			}
			must(t, err)
			must(t, a.CatchUp(t.Context()))
			v, err := a.Stores.Verify(t.Context())
			must(t, err)
			if len(v.Violations) > 0 || v.Ledger.Entries != before["entries"] {
				t.Errorf("%d entries, before %d; violations %q", v.Ledger.Entries, before["entries"], v.Violations)
			}
			must(t, a.Close())
		})
	}
}

// awaitTrimmed waits until so much of topic payments is gone.
func awaitTrimmed(t *testing.T, s *system, messages int64) {
	t.Helper()
	for range 1000 {
		src := s.app.Stores.Core.Log().Source(bus.Payments)
		must(t, src.Refresh(t.Context()))
		var n int64
		for g := range src.Groups() {
			n += bus.BeginOf(src, g).Seq
		}
		if n >= messages {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("nothing is trimmed")
}

func (s *system) entries(t *testing.T) int64 {
	t.Helper()
	v, err := s.app.Stores.Accounting.Verify(t.Context())
	must(t, err)
	return v.Entries
}

// replaceStore puts a store's copy in the place of the store.
func replaceStore(t *testing.T, dir, from, name string) {
	t.Helper()
	for _, ext := range []string{"", "-wal", "-shm"} {
		must(t, os.RemoveAll(filepath.Join(dir, app.StoresDir, name+ext)))
	}
	text, err := os.ReadFile(filepath.Join(from, app.StoresDir, name))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, app.StoresDir, name), text, 0o600))
}

// Above the bound of bytes what was read goes before its time, and before that there
// is an alarm. Below it everything stays.
func TestTheBoundOfBytes(t *testing.T) {
	for _, tc := range []struct {
		bytes   string
		trimmed bool
	}{{"20000", true}, {"10000000", false}} {
		t.Run(tc.bytes, func(t *testing.T) {
			s := startSystem(t, sim.Faults{AutoPayShare: 1}, "TALLYSTICK_RETENTION_LOG_BYTES_MAX="+tc.bytes, "TALLYSTICK_RETENTION_EVERY=20ms", "TALLYSTICK_GROUPS=2")
			order := load.Orders(3)
			for i := range 60 {
				if _, status, err := s.client.Pay(order(i)); status != 202 {
					t.Fatal(status, err)
				}
			}
			s.drain(t)
			if tc.trimmed {
				awaitTrimmed(t, s, 30)
			}
			s.stop()
			if alarm := strings.Contains(s.log.String(), "a log comes near its bound"); alarm != tc.trimmed {
				t.Errorf("alarm: %t", alarm)
			}
			deps, err := app.Production(s.app.Dir, []string{"TALLYSTICK_GROUPS=2"}, io.Discard)
			must(t, err)
			stores, err := app.OpenStores(t.Context(), deps)
			must(t, err)
			v, err := stores.Verify(t.Context())
			must(t, errors.Join(err, stores.Close()))
			if len(v.Violations) > 0 || (len(v.Trimmed) > 0) != tc.trimmed {
				t.Errorf("trimmed %+v; violations %q", v.Trimmed, v.Violations)
			}
		})
	}
}

func TestRetentionIsChecked(t *testing.T) {
	dir, _ := initialised(t)
	cases := map[string]string{
		"TALLYSTICK_RETENTION_LOG_AGE=0s":      "retention.log_age",
		"TALLYSTICK_RETENTION_LOG_BYTES_MAX=0": "retention.log_bytes_max",
		"TALLYSTICK_RETENTION_EVERY=2h":        "retention.every",
		"TALLYSTICK_RETENTION_ROWS_MAX=0":      "retention.rows_max",
		"TALLYSTICK_BUS=kafka TALLYSTICK_KAFKA_BROKERS=a:1 TALLYSTICK_INTAKE_UNREAD_AGE_MAX=200h": "intake.unread_age_max",
	}
	for _, env := range slices.Sorted(maps.Keys(cases)) {
		if _, err := app.LoadConfig(dir, strings.Fields(env)); err == nil || !strings.Contains(err.Error(), cases[env]) {
			t.Errorf("%s: %v, want %q", env, err, cases[env])
		}
	}
}
