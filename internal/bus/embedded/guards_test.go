package embedded_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/bustest/sqlreader"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// parkMany puts n messages of one key aside, as a consumer does.
func parkMany(t *testing.T, r sqlreader.Reader, n int) []bus.Event {
	t.Helper()
	events := bustest.Events("p", n, 1)
	b := &bus.Batch{Topic: bus.Payments, Parked: map[int]string{}}
	for i := range events {
		b.Messages = append(b.Messages, bus.Message{Event: events[i], Topic: bus.Payments, Place: bus.Place{Epoch: 1, Seq: int64(i + 1)}})
		b.Parked[i] = "why"
	}
	if err := r.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return events
}

// A key with more parked messages than are taken at once is replayed to its end,
// also where a replay was asked for some of them alone.
func TestALongReplayComesToItsEnd(t *testing.T) {
	r := sqlreader.Open(t, t.TempDir(), nil)
	defer r.DB.Close() //nolint:errcheck // a test
	events := parkMany(t, r, 2_500)
	err := r.DB.Write(t.Context(), func(tx *sqldb.Tx) error {
		_, err := tx.Exec(`UPDATE parked SET replay = 1 WHERE event_id = ?`, events[0].ID) // as an area that releases what waited for an order
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqldb.Open(t.Context(), sqldb.Options{Area: "writer", Path: filepath.Join(t.TempDir(), "writer.db"), NoSync: true, Migrations: []string{embedded.Schema(bus.Payments)}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // a test
	c := &bus.Consumer{Area: "test", Source: embedded.NewLog(db, 4, bus.Payments).Source(bus.Payments), Places: embedded.Places{DB: r.DB},
		Apply: r.Apply, MessagesMax: 10, Log: slog.New(slog.DiscardHandler)}
	for range 10 {
		if _, err := c.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	have, err := r.Effects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(have) != len(events) || !slices.EqualFunc(have, events, func(m bus.Message, e bus.Event) bool { return m.ID == e.ID }) {
		t.Errorf("%d of %d parked messages were applied, in order: %t", len(have), len(events), len(have) == len(events))
	}
	if p, err := r.Parked(t.Context()); err != nil || len(p) != 0 {
		t.Errorf("%d are still parked, %v", len(p), err)
	}
}

// Two consumers that replay the same key fence each other.
func TestTwoReplaysOfOneKey(t *testing.T) {
	r := sqlreader.Open(t, t.TempDir(), nil)
	defer r.DB.Close() //nolint:errcheck // a test
	events := parkMany(t, r, 3)
	places := embedded.Places{DB: r.DB}
	if _, err := places.RequestReplay(t.Context(), events[0].Context.BizCode); err != nil {
		t.Fatal(err)
	}
	msgs, rows, err := places.TakeReplay(t.Context(), bus.Payments)
	if err != nil || len(msgs) != 3 {
		t.Fatal(len(msgs), err)
	}
	for i := range 2 {
		err := r.Apply(t.Context(), &bus.Batch{Topic: bus.Payments, Messages: msgs, Replays: rows})
		if i == 0 && err != nil || i == 1 && !fault.Is(err, fault.Fenced) {
			t.Errorf("replay %d: %v", i, err)
		}
	}
	if have, _ := r.Effects(t.Context()); len(have) != 3 {
		t.Errorf("%d effects of 3 messages", len(have))
	}
}

// stale is a source that reads messages of another epoch.
type stale struct{ bus.Source }

func (s stale) Read(ctx context.Context, group int, after bus.Place, limit int) ([]bus.Message, error) {
	msgs, err := s.Source.Read(ctx, group, after, limit)
	for i := range msgs {
		if msgs[i].Place.Seq > 2 {
			msgs[i].Place.Epoch++
		}
	}
	return msgs, err
}

// A message of another epoch is no successor, whatever its sequence: the groups
// were cut anew, and its place means something else.
func TestAnotherEpochStopsTheGroup(t *testing.T) {
	b := openLog(t, t.TempDir(), nil)
	defer b.Close() //nolint:errcheck // a test
	if err := b.Publish(t.Context(), bustest.Events("e", 2, 1)); err != nil {
		t.Fatal(err)
	}
	c := &bus.Consumer{Area: "test", Source: stale{b.Source}, Places: b.Places, Apply: b.Apply, MessagesMax: 10, Log: slog.New(slog.DiscardHandler)}
	step := func() {
		t.Helper()
		if _, err := c.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	step()
	if err := b.Publish(t.Context(), bustest.Events("f", 2, 1)); err != nil {
		t.Fatal(err)
	}
	step()
	if len(c.Stopped()) != 1 {
		t.Errorf("stopped: %v", c.Stopped())
	}
	if have, _ := b.Effects(t.Context()); len(have) != 2 {
		t.Errorf("%d effects, want the 2 of the first epoch", len(have))
	}
}

// What is known of a reader never goes back, however late it is told.
func TestPassedNeverGoesBack(t *testing.T) {
	in := newIntake(t, intakeOptions{})
	for _, e := range bustest.Events("a", 3, 1) {
		in.append(e)
		if err := in.step(); err != nil {
			t.Fatal(err)
		}
	}
	for _, reader := range []string{"core", "recon"} {
		in.Passed(reader, bus.Intents, 3)
		in.Passed(reader, bus.Intents, 1)
	}
	if err := in.Measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if unread, age := in.Backlog(bus.Intents); unread != 0 || age != 0 {
		t.Errorf("%d bytes are unread for %s, although all were read", unread, age)
	}
}
