package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/bustest/sqlreader"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// world is an area that writes, one that reads, and a bus between them.
type world struct {
	t       *testing.T
	dir     string
	cfg     kafka.Config
	cluster *kafka.Cluster
	db      *sqldb.DB
	log     *embedded.Log
	relay   *kafka.Relay
	reader  sqlreader.Reader
}

func (w *world) open() {
	w.t.Helper()
	db, err := sqldb.Open(w.t.Context(), sqldb.Options{Area: "writer", Path: filepath.Join(w.dir, "writer.db"), NoSync: true, Migrations: []string{embedded.Schema(bus.Payments)}})
	must(w.t, err)
	w.db, w.log = db, embedded.NewLog(db, groups, bus.Payments)
	w.relay = &kafka.Relay{Cluster: w.cluster, Source: w.log.Source(bus.Payments), MessagesMax: 7, Log: slog.New(slog.DiscardHandler)}
	w.reader = sqlreader.Open(w.t, w.dir, nil)
}

func (w *world) close() {
	must(w.t, w.db.Close())
	must(w.t, w.reader.DB.Close())
}

// publish emits events, and relays them.
func (w *world) publish(events []bus.Event) {
	w.t.Helper()
	must(w.t, w.relay.Open(w.t.Context()))
	must(w.t, w.db.Write(w.t.Context(), func(tx *sqldb.Tx) error { return w.log.Emit(tx, bus.Payments, slices.Clone(events)) }))
	for worked, err := true, error(nil); worked; {
		worked, err = w.relay.Step(w.t.Context())
		must(w.t, err)
	}
}

// consumer is a fresh reader.
func (w *world) consumer() *bus.Consumer {
	return &bus.Consumer{Area: "test", Source: kafka.NewSource(w.cluster, bus.Payments, slog.New(slog.DiscardHandler)), Places: embedded.Places{DB: w.reader.DB},
		Apply: w.reader.Apply, MessagesMax: 20, Log: slog.New(slog.DiscardHandler)}
}

func (w *world) consume() {
	w.t.Helper()
	c := w.consumer()
	for worked, err := true, error(nil); worked; {
		worked, err = c.Step(w.t.Context())
		must(w.t, err)
	}
	if s := c.Stopped(); len(s) > 0 {
		w.t.Fatalf("groups %v stopped", s)
	}
}

// copyTo copies the databases of the moment.
func (w *world) copyTo(dir string) {
	w.close()
	must(w.t, os.CopyFS(dir, os.DirFS(w.dir)))
	w.open()
}

// byKey are the ids of what was applied, in order, by key.
func (w *world) byKey() map[string]string {
	w.t.Helper()
	have, err := w.reader.Effects(w.t.Context())
	must(w.t, err)
	out := map[string]string{}
	for _, m := range have {
		out[string(m.Context.BizCode)] += m.ID + " "
	}
	return out
}

// A database from a backup that is older than the bus: its log would go on with
// numbers that were published for something else. That is refused, with the way
// out; after it readers have the restored past and what came of it, each once, and
// nothing of the past that is no more.
func TestADatabaseOlderThanTheBus(t *testing.T) {
	w := &world{t: t, dir: t.TempDir(), cfg: config(t.TempDir())}
	w.cluster = connect(t, w.cfg, bus.Payments)
	w.open()
	kept := bustest.Events("kept", 40, 9)
	w.publish(kept[:30])
	w.consume()
	w.publish(kept[30:]) // in the log of the backup, and not read yet
	backup := filepath.Join(t.TempDir(), "backup")
	w.copyTo(backup)
	w.publish(bustest.Events("lost", 50, 9))
	w.consume()
	w.close()
	w.dir = backup
	w.open()
	defer w.close()

	if err := w.relay.Open(t.Context()); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "older copy") || !strings.Contains(err.Error(), "tallystick rewind") {
		t.Errorf("the restored log is taken: %v", err)
	}
	if worked, err := w.relay.Step(t.Context()); worked || !fault.Is(err, fault.Conflict) {
		t.Errorf("the restored log is published: %t %v", worked, err)
	}
	no := errors.New("the wrong brokers")
	if err := kafka.Rewind(t.Context(), w.cfg, 7, slog.New(slog.DiscardHandler), func(context.Context, *kafka.Cluster) error { return no }, nil, w.log.Source(bus.Payments)); !errors.Is(err, no) {
		t.Errorf("nobody was asked: %v", err)
	}
	if n := len(all(t, w.cluster, bus.Payments)); n != 90 {
		t.Errorf("%d events are at brokers that are the wrong ones, want 90", n)
	}
	for range 2 { // a second time it finds nothing to do
		must(t, kafka.Rewind(t.Context(), w.cfg, 7, slog.New(slog.DiscardHandler), func(context.Context, *kafka.Cluster) error { return nil }, nil, w.log.Source(bus.Payments)))
	}
	w.relay = &kafka.Relay{Cluster: w.cluster, Source: w.log.Source(bus.Payments), MessagesMax: 7, Log: slog.New(slog.DiscardHandler)}
	w.consume()
	again := bustest.Events("again", 60, 9) // more than were lost, and other ones
	w.publish(again)
	w.consume()
	want := map[string]string{}
	for _, e := range append(slices.Clone(kept), again...) {
		want[string(e.Context.BizCode)] += e.ID + " "
	}
	if have := w.byKey(); fmt.Sprint(have) != fmt.Sprint(want) {
		t.Errorf("have %v\nwant %v", have, want)
	}
	if n := len(all(t, w.cluster, bus.Payments)); n != len(kept)+len(again) {
		t.Errorf("%d events are at the brokers, want %d", n, len(kept)+len(again))
	}
}

// follower reads a topic from its end on and keeps no place, as a gateway does.
type follower struct {
	source *kafka.Source
	places [groups]bus.Place
	lives  [groups]int64
	begun  map[int]bool // groups that have begun anew
	seen   map[string]int
}

func follow(t *testing.T, c *kafka.Cluster) *follower {
	t.Helper()
	f := &follower{source: kafka.NewSource(c, bus.Payments, slog.New(slog.DiscardHandler)), begun: map[int]bool{}, seen: map[string]int{}}
	must(t, f.source.Refresh(t.Context()))
	for g := range f.places {
		f.places[g] = f.source.Head(g)
	}
	return f
}

// step reads what there is.
func (f *follower) step(t *testing.T) {
	t.Helper()
	for g := range f.places {
		for {
			if n := f.source.Rewound(g); n != f.lives[g] {
				f.lives[g], f.places[g], f.begun[g] = n, f.source.Head(g), true
			}
			if head := f.source.Head(g); head.Seq <= f.places[g].Seq {
				break
			}
			msgs, err := f.source.Read(t.Context(), g, f.places[g], 7)
			must(t, err)
			for _, m := range msgs {
				f.seen[m.ID]++
				f.places[g] = m.Place
			}
		}
	}
}

// A gateway goes on while a database is restored and its topic rewound: it hears that the
// groups have begun anew, and everything that comes behind it, though that has sequences
// which it has read before, from a past that is no more. That is so as well when it was cut
// off meanwhile, and when the copy has nothing of a group. What two relays publish is a
// repetition, and begins nothing anew; nor does what expires bit by bit.
func TestWhoFollowsWhileATopicIsRewound(t *testing.T) {
	for name, kept := range map[string]int{"a copy with a part": 30, "a copy with nothing": 0} {
		for who, runs := range map[string]bool{"at its front": true, "cut off": false} {
			t.Run(name+", "+who, func(t *testing.T) {
				w := &world{t: t, dir: t.TempDir(), cfg: config(t.TempDir())}
				w.cluster = connect(t, w.cfg, bus.Payments)
				w.open()
				w.publish(bustest.Events("kept", kept, 9))
				backup := filepath.Join(t.TempDir(), "backup")
				w.copyTo(backup)
				f := follow(t, w.cluster)
				if runs {
					b := newBackground()
					b.run(func(ctx context.Context) error { return f.source.Run(ctx, 50*time.Millisecond) })
					defer b.stop() //nolint:errcheck // it has no error
				}
				hears := func(what string, events []bus.Event) {
					t.Helper()
					eventually(t, what, func() error {
						must(t, f.source.Refresh(t.Context()))
						f.step(t)
						for _, e := range events {
							if f.seen[e.ID] != 1 {
								return fmt.Errorf("%s was heard %d times", e.ID, f.seen[e.ID])
							}
						}
						return nil
					})
				}
				late := &kafka.Relay{Cluster: w.cluster, Source: w.log.Source(bus.Payments), MessagesMax: 7, Log: slog.New(slog.DiscardHandler)}
				must(t, late.Open(t.Context()))
				lost := bustest.Events("lost", 90, 9)
				w.publish(lost)
				hears("everything is heard", lost)
				_, err := late.Step(t.Context())
				must(t, err)
				end := bustest.Events("end", 9, 9)
				w.publish(end)
				hears("what comes behind a repetition is heard", end)
				want := map[int]bool{}
				for _, e := range lost {
					want[e.Context.BizCode.Group(groups)] = true
				}
				for g := range want {
					must(t, w.cluster.DeleteUpTo(t.Context(), bus.Payments, g, 1))
				}
				end = bustest.Events("last", 9, 9)
				w.publish(end)
				hears("what comes behind what has expired is heard", end)
				if len(f.begun) > 0 {
					t.Errorf("groups %v have begun anew by a repetition, or as something expired", f.begun)
				}
				if n := w.cluster.Repeated(bus.Payments); n == 0 {
					t.Error("no repetition is counted")
				}
				before := w.cluster.Repeated(bus.Payments)
				w.close()
				w.dir = backup
				w.open()
				defer w.close()
				must(t, kafka.Rewind(t.Context(), w.cfg, 7, slog.New(slog.DiscardHandler), func(context.Context, *kafka.Cluster) error { return nil }, nil, w.log.Source(bus.Payments)))
				begins := func() {
					t.Helper()
					eventually(t, "all groups that were rewound begin anew", func() error {
						must(t, f.source.Refresh(t.Context()))
						f.step(t)
						if !maps.Equal(f.begun, want) {
							return fmt.Errorf("groups %v have, want %v", f.begun, want)
						}
						return nil
					})
				}
				w.relay = &kafka.Relay{Cluster: w.cluster, Source: w.log.Source(bus.Payments), MessagesMax: 7, Log: slog.New(slog.DiscardHandler)}
				again := bustest.Events("again", 40, 9) // fewer than were lost
				if runs {
					begins()
					w.publish(again)
					hears("everything behind the rewind is heard", again)
				} else {
					w.publish(again)
					begins()
				}
				eventually(t, "it comes to the end", func() error {
					f.step(t)
					for g := range f.places {
						if head := w.log.Source(bus.Payments).Head(g); f.places[g].Seq != head.Seq {
							return fmt.Errorf("group %d: it is at %v, and the log ends at %v", g, f.places[g], head)
						}
					}
					return nil
				})
				more := bustest.Events("more", 40, 9)
				w.publish(more)
				hears("everything that comes later is heard", more)
				if n := w.cluster.Repeated(bus.Payments); n != before {
					t.Errorf("%d were taken for repetitions", n-before)
				}
			})
		}
	}
}

// A bus that is older than the database, or another one: a reader has read more than
// is there. What is published next would be skipped as known.
func TestABusOlderThanTheDatabase(t *testing.T) {
	w := &world{t: t, dir: t.TempDir(), cfg: config(t.TempDir())}
	w.cluster = connect(t, w.cfg, bus.Payments)
	w.open()
	defer w.close()
	w.publish(bustest.Events("a", 40, 9))
	w.consume()
	other := config(t.TempDir()) // with fewer records than were read
	w.cluster = connect(t, other, bus.Payments)
	if err := w.consumer().Open(t.Context()); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "the log was replaced, or restored from an older copy") {
		t.Errorf("opened: %v", err)
	}
	// What enters from outside has no log to publish it anew.
	in, err := kafka.NewIntake(connect(t, w.cfg, bus.Intents), kafka.DefaultIntakeConfig(), nil, bus.Intents)
	must(t, err)
	b := newBackground()
	b.run(in.Run)
	must(t, ask(t, in, &bustest.Events("i", 1, 1)[0]))
	must(t, b.stop())
	intents := func(c kafka.Config) *bus.Consumer {
		con := w.consumer()
		con.Source = kafka.NewSource(connect(t, c, bus.Intents), bus.Intents, slog.New(slog.DiscardHandler))
		return con
	}
	con := intents(w.cfg)
	_, err = con.Step(t.Context())
	must(t, err)
	if err := intents(other).Open(context.Background()); !fault.Is(err, fault.Conflict) {
		t.Errorf("opened: %v", err)
	}
}

// Who keeps places of its own does not begin anew when all that it has read is gone: its
// head stays where it was, so that it sees what is missing.
func TestWhoKeepsPlacesDoesNotBeginAnew(t *testing.T) {
	w := &world{t: t, dir: t.TempDir(), cfg: config(t.TempDir())}
	w.cluster = connect(t, w.cfg, bus.Payments)
	w.open()
	w.publish(bustest.Events("all", 90, 9))
	for who, asks := range map[string]bool{"who keeps places": false, "who follows": true} {
		s := kafka.NewSource(w.cluster, bus.Payments, slog.New(slog.DiscardHandler))
		must(t, s.Refresh(t.Context()))
		for g := range groups {
			if asks {
				s.Rewound(g)
			}
			head := s.Head(g)
			if head.Seq == 0 {
				continue
			}
			if msgs, err := s.Read(t.Context(), g, bus.Place{}, 1); err != nil || len(msgs) != 1 {
				t.Fatalf("%s reads %d messages, %v", who, len(msgs), err)
			}
			must(t, w.cluster.DeleteUpTo(t.Context(), bus.Payments, g, -1)) // all that there is
			must(t, s.Refresh(t.Context()))
			if now := s.Head(g); (now == head) == asks {
				t.Errorf("%s: group %d ends at %+v, and then at %+v", who, g, head, now)
			}
			break
		}
	}
}
