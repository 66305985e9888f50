package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/bustest/sqlreader"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// intake is an intake with its database and a clock that can be moved.
type intake struct {
	*embedded.Intake
	tb     testing.TB
	db     *sqldb.DB
	now    time.Time
	commit error // what the store answers to COMMIT
}

type intakeOptions struct {
	path   string
	config func(c *embedded.IntakeConfig)
	passed int64
	sync   bool
	points fault.Points
}

func newIntake(tb testing.TB, o intakeOptions) *intake {
	tb.Helper()
	in := &intake{tb: tb, now: sqlreader.Clock()}
	if o.path == "" {
		o.path = filepath.Join(tb.TempDir(), "intake.db")
	}
	var err error
	in.db, err = sqldb.Open(tb.Context(), sqldb.Options{Area: "intake", Path: o.path, NoSync: !o.sync,
		Migrations: []string{embedded.IntakeSchema(bus.Intents, bus.Callbacks)}, CommitFault: func() error { return in.commit }})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = in.db.Close() })
	c := embedded.IntakeConfig{Topics: []bus.Topic{bus.Intents, bus.Callbacks}, BatchRecordsMax: 10, BatchBytesMax: 10_000, QueueBatchesMax: 3,
		UnreadBytesMax: 1 << 20, UnreadAgeMax: time.Minute, Readers: []string{"core", "recon"}, TrimEveryBatches: 2}
	if o.config != nil {
		o.config(&c)
	}
	in.Intake, err = embedded.OpenIntake(tb.Context(), c, in.db, func() time.Time { return in.now }, o.points, slog.New(slog.DiscardHandler),
		func(string, bus.Topic) (int64, error) { return o.passed, nil })
	if err != nil {
		tb.Fatal(err)
	}
	return in
}

func (in *intake) append(e bus.Event) bus.Ticket {
	in.tb.Helper()
	t, err := in.Append(bus.Intents, &e)
	if err != nil {
		in.tb.Fatalf("append: %v", err)
	}
	return t
}

func (in *intake) step() error {
	in.tb.Helper()
	_, err := in.Step(in.tb.Context())
	return err
}

// rows gives the sequences in the store, and how many records they say they hold.
func (in *intake) rows(topic bus.Topic) (seqs []int64, records int) {
	in.tb.Helper()
	err := in.db.Read(in.tb.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT seq, records FROM intake_`+string(topic)+` ORDER BY seq`, nil, func(scan sqldb.Scan) error {
			var seq int64
			var n int
			err := scan(&seq, &n)
			seqs, records = append(seqs, seq), records+n
			return err
		})
	})
	if err != nil {
		in.tb.Fatal(err)
	}
	return seqs, records
}

// ids gives the ids of all records in the store, in order.
func (in *intake) ids() []string {
	in.tb.Helper()
	var out []string
	msgs, err := in.Source(bus.Intents).Read(in.tb.Context(), 0, bus.Place{}, 1_000_000)
	if err != nil {
		in.tb.Fatal(err)
	}
	for i := range msgs {
		out = append(out, msgs[i].ID)
	}
	return out
}

func kind(err error) string {
	if err == nil {
		return "ok"
	}
	return fault.KindOf(err).String()
}

func TestOneRowPerBatchAndCommit(t *testing.T) {
	in := newIntake(t, intakeOptions{})
	commits := in.db.Commits()
	var tickets []bus.Ticket
	for _, e := range bustest.Events("a", 10, 3) {
		tickets = append(tickets, in.append(e))
	}
	cb := bustest.Events("cb", 1, 1)[0]
	other, err := in.Append(bus.Callbacks, &cb)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-tickets[0].Done():
		t.Fatal("answered before the commit")
	default:
	}
	if err := in.step(); err != nil {
		t.Fatal(err)
	}
	for _, ticket := range append(tickets, other) {
		<-ticket.Done()
		if ticket.Err() != nil || ticket.Withdraw() {
			t.Error("a committed record was refused, or taken back")
		}
	}
	if n := in.db.Commits() - commits; n != 1 {
		t.Errorf("%d commits for one step, want 1", n)
	}
	if seqs, records := in.rows(bus.Intents); fmt.Sprint(seqs) != "[1]" || records != 10 {
		t.Errorf("rows %v with %d records, want one of 10", seqs, records)
	}
	if seqs, records := in.rows(bus.Callbacks); fmt.Sprint(seqs) != "[1]" || records != 1 {
		t.Errorf("callbacks: rows %v with %d records", seqs, records)
	}
	if worked, err := in.Step(t.Context()); worked || err != nil {
		t.Errorf("nothing waits, and the step did something: %v", err)
	}
}

func TestCommitsAreSynced(t *testing.T) {
	in := newIntake(t, intakeOptions{sync: true})
	got := map[string]string{}
	err := in.db.Write(t.Context(), func(tx *sqldb.Tx) error {
		for _, p := range []string{"synchronous", "journal_mode"} {
			err := tx.Query("PRAGMA "+p, nil, func(scan sqldb.Scan) error {
				var v string
				err := scan(&v)
				got[p] = v
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || got["synchronous"] != "2" || got["journal_mode"] != "wal" {
		t.Errorf("the writing connection has %v, want synchronous=2 (FULL) and wal; %v", got, err)
	}
}

func TestAppendCopies(t *testing.T) {
	in := newIntake(t, intakeOptions{})
	e := bustest.Events("a", 1, 1)[0]
	want := string(e.Payload)
	in.append(e)
	for i := range e.Payload {
		e.Payload[i] = 'x' // the next request in the same memory
	}
	if err := in.step(); err != nil {
		t.Fatal(err)
	}
	msgs, err := in.Source(bus.Intents).Read(t.Context(), 0, bus.Place{}, 1)
	if err != nil || len(msgs) != 1 || string(msgs[0].Payload) != want {
		t.Errorf("committed %v, want %q; %v", msgs, want, err)
	}
}

func TestWithdraw(t *testing.T) {
	in := newIntake(t, intakeOptions{})
	events := bustest.Events("a", 6, 2)
	var tickets []bus.Ticket
	for _, e := range events {
		tickets = append(tickets, in.append(e))
	}
	for _, i := range []int{0, 3, 3, 5} { // twice is the same as once
		if !tickets[i].Withdraw() {
			t.Errorf("%d could not be withdrawn before the commit", i)
		}
	}
	if err := in.step(); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(in.ids()), fmt.Sprint([]string{events[1].ID, events[2].ID, events[4].ID}); got != want {
		t.Errorf("kept %s, want %s", got, want)
	}
	for i, ticket := range tickets {
		want := "ok"
		if i == 0 || i == 3 || i == 5 {
			want = "unavailable"
		}
		if kind(ticket.Err()) != want {
			t.Errorf("%d ends as %s, want %s", i, kind(ticket.Err()), want)
		}
	}
	only := in.append(bustest.Events("b", 1, 1)[0]) // a batch of which nothing is left takes no sequence
	only.Withdraw()
	commits := in.db.Commits()
	if err := in.step(); err != nil || in.db.Commits() != commits {
		t.Errorf("an empty batch was committed: %v", err)
	}
	<-only.Done()
	in.append(bustest.Events("c", 1, 1)[0])
	if err := in.step(); err != nil {
		t.Fatal(err)
	}
	if seqs, records := in.rows(bus.Intents); fmt.Sprint(seqs) != "[1 2]" || records != 4 {
		t.Errorf("rows %v with %d records, want [1 2] with 4", seqs, records)
	}
}

// TestWithdrawRace: whoever withdraws is told so and absent, or not and present.
func TestWithdrawRace(t *testing.T) {
	in := newIntake(t, intakeOptions{config: func(c *embedded.IntakeConfig) { c.QueueBatchesMax = 1000 }})
	const workers, each = 8, 60
	fates := make([]map[string]bool, workers)
	var wg, committer sync.WaitGroup
	stop := make(chan struct{})
	committer.Go(func() {
		for {
			worked, err := in.Step(context.Background())
			if err != nil {
				t.Errorf("step: %v", err)
			}
			select {
			case <-stop:
				if !worked {
					return
				}
			default:
			}
		}
	})
	for w := range workers {
		fates[w] = map[string]bool{}
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for _, e := range bustest.Events(fmt.Sprint("w", w), each, 3) {
				ticket, err := in.Append(bus.Intents, &e)
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				if r.IntN(2) == 0 && ticket.Withdraw() {
					fates[w][e.ID] = false
					continue
				}
				<-ticket.Done()
				if ticket.Err() != nil {
					t.Errorf("not withdrawn, and not committed: %v", ticket.Err())
				}
				fates[w][e.ID] = true
			}
		})
	}
	wg.Wait()
	close(stop)
	committer.Wait()
	have := map[string]int{}
	for _, id := range in.ids() {
		have[id]++
	}
	withdrawn := 0
	for w := range workers {
		for id, kept := range fates[w] {
			if kept && have[id] != 1 || !kept && have[id] != 0 {
				t.Errorf("%s was kept: %v, and is there %d times", id, kept, have[id])
			}
			if !kept {
				withdrawn++
			}
		}
	}
	if withdrawn == 0 {
		t.Error("nothing was withdrawn: nothing was tested")
	}
}

func TestQueueIsBounded(t *testing.T) {
	in := newIntake(t, intakeOptions{}) // 3 batches of 10
	events := bustest.Events("a", 40, 3)
	taken := 0
	for i := range events {
		if _, err := in.Append(bus.Intents, &events[i]); err != nil {
			if kind(err) != "unavailable" {
				t.Fatalf("append %d: %v", i, err)
			}
			continue
		}
		taken++
	}
	if taken != 30 {
		t.Errorf("%d records taken while the disk stands still, want 30", taken)
	}
	for range 3 {
		if err := in.step(); err != nil {
			t.Fatal(err)
		}
	}
	in.append(events[39])
	if err := in.step(); err != nil {
		t.Fatal(err)
	}
	if seqs, records := in.rows(bus.Intents); fmt.Sprint(seqs) != "[1 2 3 4]" || records != 31 {
		t.Errorf("rows %v with %d records", seqs, records)
	}
}

func TestBytesOfARecordAndABatchAreBounded(t *testing.T) {
	in := newIntake(t, intakeOptions{config: func(c *embedded.IntakeConfig) { c.BatchBytesMax = 1000 }})
	events := bustest.Events("a", 3, 1)
	events[0].Payload = make([]byte, 1000)
	if _, err := in.Append(bus.Intents, &events[0]); kind(err) != "too_large" {
		t.Errorf("a record over the bound: %v", err)
	}
	if err := in.step(); err != nil {
		t.Fatal(err)
	}
	events[1].Payload, events[2].Payload = make([]byte, 500), make([]byte, 500)
	in.append(events[1])
	in.append(events[2]) // both are over the bound together
	for range 2 {
		if err := in.step(); err != nil {
			t.Fatal(err)
		}
	}
	if seqs, records := in.rows(bus.Intents); fmt.Sprint(seqs) != "[1 2]" || records != 2 {
		t.Errorf("rows %v with %d records, want two batches of one", seqs, records)
	}
}

func TestWhatNobodyCouldReadIsRefused(t *testing.T) {
	in := newIntake(t, intakeOptions{})
	for name, change := range map[string]func(*bus.Event){
		"version": func(e *bus.Event) { e.Version = 0 }, "newer version": func(e *bus.Event) { e.Version = bus.EnvelopeVersion + 1 },
		"no code": func(e *bus.Event) { e.Context.BizCode = "r" }, "no merchant": func(e *bus.Event) { e.Context.Merchant = "" },
		"traffic": func(e *bus.Event) { e.Context.Traffic = "shadow" }, "no trace": func(e *bus.Event) { e.Context.TraceID = "" }} {
		e := bustest.Events("a", 1, 1)[0]
		change(&e)
		if _, err := in.Append(bus.Intents, &e); kind(err) != "internal" {
			t.Errorf("%s: %v", name, err)
		}
	}
	e := bustest.Events("a", 1, 1)[0]
	if _, err := in.Append(bus.Payments, &e); kind(err) != "internal" {
		t.Errorf("a topic that it has not: %v", err)
	}
}

func TestUnreadBytesShed(t *testing.T) {
	in := newIntake(t, intakeOptions{config: func(c *embedded.IntakeConfig) { c.UnreadBytesMax = 2000 }})
	events := bustest.Events("a", 40, 3)
	n := 0
	for ; n < len(events); n++ {
		if _, err := in.Append(bus.Intents, &events[n]); err != nil {
			if kind(err) != "unavailable" {
				t.Fatal(err)
			}
			break
		}
		if err := in.step(); err != nil {
			t.Fatal(err)
		}
	}
	bytes, _ := in.Backlog(bus.Intents)
	if n == len(events) || bytes < 2000 || bytes > 2500 {
		t.Fatalf("%d taken, %d bytes unread", n, bytes)
	}
	if _, err := in.Append(bus.Callbacks, &events[n]); err != nil {
		t.Errorf("the other topic is not full: %v", err)
	}
	try := func() string { _, err := in.Append(bus.Intents, &events[n]); return kind(err) }
	in.Passed("core", bus.Intents, int64(n))
	if err := in.Measure(t.Context()); err != nil || try() != "unavailable" {
		t.Errorf("one of two readers has passed, and it takes again (%v)", err)
	}
	in.Passed("recon", bus.Intents, int64(n)-1)
	if err := in.Measure(t.Context()); err != nil || try() != "ok" {
		t.Errorf("all but one batch is read, and it does not take (%v)", err)
	}
	in.Passed("recon", bus.Intents, int64(n))
	if bytes, age := in.Backlog(bus.Intents); bytes != 0 || age != 0 || try() != "ok" {
		t.Errorf("all is read, and %d bytes count as unread", bytes)
	}
	in.Passed("nobody", bus.Intents, 1_000) // not a reader: tells nothing
}

func TestUnreadAgeSheds(t *testing.T) {
	in := newIntake(t, intakeOptions{})
	events := bustest.Events("a", 5, 3)
	in.append(events[0])
	if err := in.step(); err != nil {
		t.Fatal(err)
	}
	in.now = in.now.Add(time.Minute)
	in.append(events[1])
	if err := in.step(); err != nil {
		t.Fatal(err)
	}
	in.now = in.now.Add(time.Millisecond)
	if _, err := in.Append(bus.Intents, &events[2]); kind(err) != "unavailable" {
		t.Errorf("the oldest is unread for more than a minute: %v", err)
	}
	for _, r := range []string{"core", "recon"} {
		in.Passed(r, bus.Intents, 1) // the second is a millisecond old
	}
	if err := in.Measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, age := in.Backlog(bus.Intents); age != time.Millisecond {
		t.Errorf("age %s, want 1ms", age)
	}
	in.append(events[3])
}

// TestSteadyLoadIsNotShed: readers that are always one batch behind, for longer
// than the bound, are not a backlog, though the committer is never idle.
func TestSteadyLoadIsNotShed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "intake.db")
	synctest.Test(t, func(t *testing.T) {
		db, err := sqldb.Open(t.Context(), sqldb.Options{Area: "intake", Path: path, NoSync: true, Migrations: []string{embedded.IntakeSchema(bus.Intents)}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		events := bustest.Events("a", 300, 3)
		var in *embedded.Intake
		i := 0
		next := func(string) { // while a batch is on its way, the next comes in
			time.Sleep(time.Second)
			if i == len(events) {
				cancel()
				return
			}
			if _, err := in.Append(bus.Intents, &events[i]); err != nil {
				t.Errorf("after %d seconds: %v", i, err)
				cancel()
				return
			}
			in.Passed("core", bus.Intents, int64(i)-2)
			i++
		}
		in, err = embedded.OpenIntake(t.Context(), intakeConfig, db, time.Now, next, slog.New(slog.DiscardHandler),
			func(string, bus.Topic) (int64, error) { return 0, nil })
		if err != nil {
			t.Fatal(err)
		}
		next("")
		if err := errors.Join(in.Run(ctx, time.Second), db.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestNoWithdrawalFromASealedBatch: between the seal and the commit it is too late.
func TestNoWithdrawalFromASealedBatch(t *testing.T) {
	var ticket bus.Ticket
	in := newIntake(t, intakeOptions{points: func(string) {
		if ticket.Withdraw() {
			t.Error("withdrawn from a batch that is on its way")
		}
	}})
	ticket = in.append(bustest.Events("a", 1, 1)[0])
	if err := in.step(); err != nil || ticket.Err() != nil || len(in.ids()) != 1 {
		t.Errorf("step %v, ticket %v, %d records", err, ticket.Err(), len(in.ids()))
	}
}

func TestTrimKeepsWhatIsUnread(t *testing.T) {
	path := filepath.Join(t.TempDir(), "intake.db")
	in := newIntake(t, intakeOptions{path: path})
	events := bustest.Events("a", 30, 3)
	commit := func(n int) {
		t.Helper()
		for range n {
			in.append(events[0])
			events = events[1:]
			if err := in.step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	trim := func(want string) {
		t.Helper()
		if _, err := in.Trim(t.Context()); err != nil {
			t.Fatal(err)
		}
		if seqs, _ := in.rows(bus.Intents); fmt.Sprint(seqs) != want {
			t.Errorf("after trimming %v, want %s", seqs, want)
		}
	}
	commit(4)
	in.Passed("core", bus.Intents, 4)
	trim("[1 2 3 4]") // recon has read nothing
	commit(2)
	in.Passed("recon", bus.Intents, 2)
	trim("[3 4 5 6]")
	commit(1)
	trim("[3 4 5 6 7]") // not yet time
	commit(1)
	for _, r := range []string{"core", "recon"} {
		in.Passed(r, bus.Intents, 8)
	}
	trim("[8]") // the last stays, to go on from

	before := events
	if err := in.db.Close(); err != nil {
		t.Fatal(err)
	}
	in = newIntake(t, intakeOptions{path: path, passed: 7})
	if bytes, _ := in.Backlog(bus.Intents); bytes == 0 {
		t.Error("the unread batch is not counted after a restart")
	}
	events = before
	commit(2)
	trim("[8 9 10]") // 8 is unread still
	for _, r := range []string{"core", "recon"} {
		in.Passed(r, bus.Intents, 9)
	}
	if err := in.Measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	one, _ := in.Backlog(bus.Intents)
	if want := int64(len(bus.AppendRecord(nil, &before[1]))); one != want {
		t.Errorf("%d bytes unread after a restart, want the one record of %d", one, want)
	}
	commit(2)
	trim("[10 11 12]")
}

func TestTrimIsBounded(t *testing.T) {
	in := newIntake(t, intakeOptions{config: func(c *embedded.IntakeConfig) { c.TrimEveryBatches = 1 }})
	for _, e := range bustest.Events("a", 20, 3) {
		in.append(e)
		if err := in.step(); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []string{"core", "recon"} {
		in.Passed(r, bus.Intents, 20)
	}
	if worked, err := in.Trim(t.Context()); !worked || err != nil {
		t.Fatal(err)
	}
	if seqs, _ := in.rows(bus.Intents); len(seqs) != 16 {
		t.Errorf("one trim left %d of 20 batches, want 16", len(seqs))
	}
}

func TestConfigIsChecked(t *testing.T) {
	for field, change := range map[string]func(*embedded.IntakeConfig){
		"intake.batch_records_max":  func(c *embedded.IntakeConfig) { c.BatchRecordsMax = 0 },
		"intake.batch_bytes_max":    func(c *embedded.IntakeConfig) { c.BatchBytesMax = -1 },
		"intake.queue_batches_max":  func(c *embedded.IntakeConfig) { c.QueueBatchesMax = 0 },
		"intake.unread_bytes_max":   func(c *embedded.IntakeConfig) { c.UnreadBytesMax = 0 },
		"intake.unread_age_max":     func(c *embedded.IntakeConfig) { c.UnreadAgeMax = 0 },
		"intake.trim_every_batches": func(c *embedded.IntakeConfig) { c.TrimEveryBatches = 0 },
		"intake.readers":            func(c *embedded.IntakeConfig) { c.Readers = nil },
	} {
		c := intakeConfig
		change(&c)
		var e *fault.Error
		if err := c.Validate(); !errors.As(err, &e) || e.Kind != fault.Invalid || e.Field != field || e.Fix == "" {
			t.Errorf("%s: %v", field, err)
		}
	}
}
