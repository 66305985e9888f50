package embedded_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// fill appends and commits until commits are refused, makes room, and goes on.
// Exactly what was acknowledged must be there.
func (in *intake) fill(t *testing.T, makeRoom func()) {
	t.Helper()
	var acknowledged []string
	accepted := func(e bus.Event) bool {
		t.Helper()
		e.Payload = make([]byte, 900)
		ticket := in.append(e)
		stepErr := in.step()
		<-ticket.Done()
		if ticket.Err() == nil && stepErr == nil {
			acknowledged = append(acknowledged, e.ID)
			return true
		}
		if kind(ticket.Err()) != "unavailable" || kind(stepErr) != "unavailable" {
			t.Fatalf("%s ends as %v, the step as %v", e.ID, ticket.Err(), stepErr)
		}
		return false
	}
	refused := 0
	for _, e := range bustest.Events("before", 4000, 7) {
		if !accepted(e) {
			refused++
		}
		if refused == 20 {
			break
		}
	}
	if refused < 20 || len(acknowledged) < 10 {
		t.Fatalf("the disk was never full: %d refused, %d acknowledged", refused, len(acknowledged))
	}
	makeRoom()
	for _, e := range bustest.Events("after", 100, 7) {
		if !accepted(e) {
			t.Fatalf("%s: there is room again, and it is refused", e.ID)
		}
	}
	if have := in.ids(); fmt.Sprint(have) != fmt.Sprint(acknowledged) {
		t.Errorf("%d records are there, %d were acknowledged", len(have), len(acknowledged))
	}
}

func roomy(c *embedded.IntakeConfig) { c.UnreadBytesMax = 1 << 30 }

// TestNoMorePages: the engine itself is out of space.
func TestNoMorePages(t *testing.T) {
	in := newIntake(t, intakeOptions{config: roomy})
	pages := func(n int) {
		t.Helper()
		err := in.db.Write(t.Context(), func(tx *sqldb.Tx) error {
			return tx.Query(fmt.Sprintf("PRAGMA max_page_count(%d)", n), nil, func(sqldb.Scan) error { return nil })
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	pages(60)
	in.fill(t, func() { pages(1 << 20) })
}

// TestDiskFull: a file system without room for another page, at the commit.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("NOT TESTED here: mounting a small tmpfs needs root (%v); covered by TestNoMorePages, with the engine's own limit", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	in := newIntake(t, intakeOptions{path: filepath.Join(dir, "intake.db"), config: roomy, sync: true})
	in.fill(t, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	})
	if err := in.db.Close(); err != nil {
		t.Error(err)
	}
}

// TestUnknownCommit: those in the batch are told that nobody knows, those behind
// it that theirs is certainly not kept, and nothing is taken any more.
func TestUnknownCommit(t *testing.T) {
	in := newIntake(t, intakeOptions{})
	var sealed, queued []bus.Ticket
	for i, e := range bustest.Events("a", 15, 3) { // a batch of 10, and 5 behind it
		ticket := in.append(e)
		if i < 10 {
			sealed = append(sealed, ticket)
		} else {
			queued = append(queued, ticket)
		}
	}
	in.commit = errors.New("input/output error")
	if worked, err := in.Step(t.Context()); worked || kind(err) != "unknown" {
		t.Fatalf("step: %v, %v", worked, err)
	}
	for _, ticket := range sealed {
		<-ticket.Done()
		if kind(ticket.Err()) != "unknown" || ticket.Withdraw() {
			t.Errorf("in the batch: %v", ticket.Err())
		}
	}
	for _, ticket := range queued {
		select {
		case <-ticket.Done():
		default:
			t.Fatal("who waits behind a failed commit is never answered")
		}
		if kind(ticket.Err()) != "unavailable" || ticket.Withdraw() {
			t.Errorf("behind the batch: %v", ticket.Err())
		}
	}
	in.commit = nil // a later fsync would succeed, and prove nothing
	e := bustest.Events("b", 1, 1)[0]
	for _, topic := range []bus.Topic{bus.Intents, bus.Callbacks} {
		if _, err := in.Append(topic, &e); kind(err) != "unavailable" {
			t.Errorf("%s taken after a commit of unknown outcome: %v", topic, err)
		}
	}
	if worked, err := in.Step(t.Context()); worked || err != nil {
		t.Errorf("step after the failure: %v, %v", worked, err)
	}
}

func TestRunEndsAtAnUnknownCommit(t *testing.T) {
	in := newIntake(t, intakeOptions{})
	in.append(bustest.Events("a", 1, 1)[0])
	in.commit = errors.New("input/output error")
	if err := in.Run(t.Context(), 1e9); kind(err) != "unknown" {
		t.Errorf("Run ends with %v", err)
	}
}

// TestRefusedCommit: a batch that the store rolled back is not kept, and the
// next one takes its place.
func TestRefusedCommit(t *testing.T) {
	in := newIntake(t, intakeOptions{})
	events := bustest.Events("a", 3, 3)
	in.append(events[0])
	if err := in.step(); err != nil {
		t.Fatal(err)
	}
	in.commit = errFull
	ticket := in.append(events[1])
	if err := in.step(); kind(err) != "unavailable" || kind(ticket.Err()) != "unavailable" {
		t.Errorf("step %v, ticket %v", err, ticket.Err())
	}
	in.commit = nil
	in.append(events[2])
	if err := in.step(); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(in.ids()); got != fmt.Sprint([]string{events[0].ID, events[2].ID}) {
		t.Errorf("kept %s", got)
	}
	if seqs, _ := in.rows(bus.Intents); fmt.Sprint(seqs) != "[1 2]" {
		t.Errorf("sequences %v: a refused batch left a gap", seqs)
	}
	if bytes, _ := in.Backlog(bus.Intents); bytes != int64(len(bus.AppendRecord(bus.AppendRecord(nil, &events[0]), &events[2]))) {
		t.Errorf("%d bytes unread: a refused batch is counted", bytes)
	}
}
