package sqlstore_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/sqlstore"
	"github.com/tallystick/tallystick/accounting/storetest"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
)

func exec(t *testing.T, s *sqlstore.Store, statements ...string) error {
	t.Helper()
	return s.DB().Write(t.Context(), func(tx *sqldb.Tx) error {
		for _, q := range statements {
			if _, err := tx.Exec(q); err != nil {
				return err
			}
		}
		return nil
	})
}

// small is a ledger with one entry in each group, and one that was rejected.
func small(t *testing.T) *sqlstore.Store {
	t.Helper()
	s := open(t, filepath.Join(t.TempDir(), "accounting.db"), nil)
	account := func(name string, k accounting.Kind) accounting.Account {
		return accounting.Account{Name: name, Class: accounting.Liability, Side: accounting.Credit, Kind: k}
	}
	b := &accounting.Batch{Source: &bus.Batch{Topic: bus.Payments}}
	for g := range storetest.Groups {
		b.Entries = append(b.Entries, accounting.Entry{ID: "ent_" + string(rune('0'+g)), NoticeID: "evt_n" + string(rune('0'+g)),
			EventID: "evt_" + string(rune('0'+g)), Group: g, Book: "main", Rule: "test", Context: storetest.Context(g, 1), AtMillis: 1,
			Lines: []accounting.Line{{Account: account("a", accounting.Spread), Amount: money.Of(10, "CNY")},
				{Account: account("b", accounting.Homed), Amount: money.Of(-10, "CNY")}}})
	}
	over := b.Entries[0]
	over.ID, over.EventID, over.NoticeID = "ent_x", "evt_x", "evt_nx"
	over.Lines = []accounting.Line{{Account: account("a", accounting.Spread), Amount: money.Of(-99, "CNY")},
		{Account: account("b", accounting.Homed), Amount: money.Of(99, "CNY")}}
	b.Entries = append(b.Entries, over)
	results, err := s.Post(t.Context(), b)
	if err != nil || results[4].Reason != accounting.ReasonOverdraft {
		t.Fatal(results, err)
	}
	return s
}

// TestJournalNeverChanges: the database itself refuses.
func TestJournalNeverChanges(t *testing.T) {
	s := small(t)
	for _, q := range []string{`UPDATE entries SET rule = 'x'`, `UPDATE postings SET minor = minor * 2`, `UPDATE accounts SET side = 'debit'`,
		`DELETE FROM entries`, `DELETE FROM postings`, `DELETE FROM accounts`, `DELETE FROM balances`,
		`INSERT INTO entries SELECT 99, entry_id, event_id, rule, book, channel_account, grp, at_millis, reason, biz_code, merchant, order_type,
			order_scene, institution, trace_id, form, traffic FROM entries WHERE id = 1`,
		`INSERT INTO entries SELECT 99, 'ent_99', 'evt_99', rule, book, channel_account, grp, at_millis, reason, biz_code, merchant, order_type,
			order_scene, institution, trace_id, form, 'neither' FROM entries WHERE id = 1`} {
		if err := exec(t, s, q); err == nil {
			t.Errorf("%s is allowed", q)
		}
	}
	if r, err := s.Verify(t.Context()); err != nil || r.Violated != 0 || r.Entries != 4 || r.Rejected != 1 || r.Postings != 8 || r.Accounts != 2 {
		t.Errorf("verify %+v %v", r, err)
	}
}

// TestVerifyFinds: whoever gets past the triggers is found out.
func TestVerifyFinds(t *testing.T) {
	const noTriggers = `DROP TRIGGER postings_never_change`
	for name, c := range map[string]struct {
		do   []string
		want string
	}{
		"a guard that is gone":             {[]string{noTriggers}, "trigger postings_never_change is gone"},
		"a balance that was changed":       {[]string{`UPDATE balances SET minor = minor + 1 WHERE id & 1023 = 1 AND id < 2048`}, "account main/a/CNY, group 1: the balance is 11, the postings sum to 10"},
		"two balances that cancel out":     {[]string{`UPDATE balances SET minor = minor + 1 - 2 * (id & 1) WHERE id < 2048`}, "group 0: the balance is 11"},
		"a posting that was changed":       {[]string{noTriggers, `UPDATE postings SET minor = 11 WHERE id = 256`}, "entry ent_0 is out of balance by 1 CNY"},
		"two postings that were changed":   {[]string{noTriggers, `UPDATE postings SET minor = minor * 2 WHERE id >> 8 = 1`}, "group 0: the balance is 10, the postings sum to 20"},
		"a posting that was added":         {[]string{`INSERT INTO postings VALUES (258, 1, 1)`}, "entry ent_0 is out of balance by 1 CNY"},
		"a posting without an entry":       {[]string{`INSERT INTO postings VALUES (999999, 1, 1)`}, "1 postings belong to no entry"},
		"a posting to no account":          {[]string{`INSERT INTO postings VALUES (258, 77, 1)`}, "to an account that does not exist"},
		"a posting of a rejected entry":    {[]string{`INSERT INTO postings VALUES (1280, 1, 5)`, `INSERT INTO postings VALUES (1281, 2, -5)`}, "was rejected (overdraft) and has 2 postings"},
		"an entry without postings":        {[]string{`DROP TRIGGER postings_never_go`, `DELETE FROM postings WHERE id >> 8 = 2`}, "entry ent_1 has 0 postings"},
		"a balance that is gone":           {[]string{`DROP TRIGGER balances_never_go`, `DELETE FROM balances WHERE id = 1024`}, "group 0: no balance, but postings of 10"},
		"a balance of no account":          {[]string{`INSERT INTO balances VALUES (99999, 5, 5, 1)`}, "1 balances belong to no account"},
		"a balance in no group":            {[]string{`INSERT INTO balances VALUES (1024 + 9, 0, 0, 1)`}, "a balance in group 9 of 4"},
		"a book that is out of balance":    {[]string{`UPDATE balances SET minor = minor + 1 WHERE id = 1024`}, "book main is out of balance by 1 CNY"},
		"a guarded account that overdrawn": {[]string{noTriggers, `UPDATE postings SET minor = -minor`, `UPDATE balances SET minor = -minor`}, "main/b/CNY is homed and overdrawn by 40"},
	} {
		t.Run(name, func(t *testing.T) {
			s := small(t)
			if err := exec(t, s, c.do...); err != nil {
				t.Fatal(err)
			}
			r, err := s.Verify(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if r.Violated == 0 || !strings.Contains(strings.Join(r.Violations, "\n"), c.want) {
				t.Errorf("verify finds %q, want %q", r.Violations, c.want)
			}
		})
	}
}

// TestOldKnowledge: a poster whose balance is right by chance, as others have
// changed it there and back, is fenced all the same.
func TestOldKnowledge(t *testing.T) {
	s := small(t)
	if err := exec(t, s, `UPDATE balances SET version = version + 2 WHERE id = 1024`); err != nil {
		t.Fatal(err)
	}
	post := func(event string) error {
		e := accounting.Entry{ID: "ent_" + event, NoticeID: "evt_n" + event, EventID: event, Group: 0, Book: "main", Rule: "test",
			Context: storetest.Context(0, 2), Lines: []accounting.Line{
				{Account: accounting.Account{Name: "a", Class: accounting.Liability, Side: accounting.Credit, Kind: accounting.Spread}, Amount: money.Of(1, "CNY")},
				{Account: accounting.Account{Name: "b", Class: accounting.Liability, Side: accounting.Credit, Kind: accounting.Homed}, Amount: money.Of(-1, "CNY")}}}
		_, err := s.Post(t.Context(), &accounting.Batch{Source: &bus.Batch{Topic: bus.Payments}, Entries: []accounting.Entry{e}})
		return err
	}
	if err := post("evt_a"); !fault.Is(err, fault.Fenced) {
		t.Errorf("posting on old knowledge gives %v, want fenced", err)
	}
	if err := post("evt_a"); err != nil {
		t.Errorf("posting again: %v", err)
	}
}

// TestJournalView: what an auditor reads with any SQL tool.
func TestJournalView(t *testing.T) {
	s := small(t)
	rows, debits, credits := 0, int64(0), int64(0)
	err := s.DB().Read(t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT COUNT(*), SUM(debit), SUM(credit) FROM journal WHERE merchant = 'm1' AND entry_id <> '' AND biz_code <> ''`, nil,
			func(scan sqldb.Scan) error { return scan(&rows, &debits, &credits) })
	})
	if err != nil || rows != 8 || debits != 40 || credits != 40 {
		t.Errorf("%d rows, %d and %d (%v), want 8 rows of 40 and 40", rows, debits, credits, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, groups := range []int{0, -1, 1025} {
		if _, err := sqlstore.Open(t.Context(), sqlstore.Options{Path: filepath.Join(t.TempDir(), "x.db"), Groups: groups}); err == nil {
			t.Errorf("%d groups are accepted", groups)
		}
	}
}
