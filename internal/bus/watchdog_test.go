package bus_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
)

// A group that is behind and does not move is an alarm, once; one that moves, or
// has nothing to read, is none, however long it takes.
func TestWatchdog(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	var at, head [3]int64
	var log bytes.Buffer
	w := &bus.Watchdog{Who: "core", Topic: bus.Intents, After: 30 * time.Second, Now: func() time.Time { return now }, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Standings: func() (out []bus.Standing) {
			for g := range at {
				out = append(out, bus.Standing{Group: g, At: bus.Place{Epoch: 1, Seq: at[g]}, Head: bus.Place{Epoch: 1, Seq: head[g]}})
			}
			return out
		}}
	step := func(what string, later time.Duration, want ...int) {
		t.Helper()
		now = now.Add(later)
		w.Step()
		if have := w.Stalled(); !slices.Equal(have, want) {
			t.Errorf("%s: groups %v stand still, want %v", what, have, want)
		}
	}
	step("nothing to read", 0)
	step("for an hour", time.Hour)
	head[1], head[2] = 5, 5
	step("news", time.Second)
	head[1], at[2] = 6, 1
	step("the head moves, the place does not", 29*time.Second)
	at[2] = 2
	step("for as long as the alarm", time.Second, 1)
	step("and longer", time.Hour, 1, 2)
	at[1] = 1
	step("one moves", 0, 2)
	at[1], at[2] = 6, 5
	step("all is read", time.Hour)
	at[1], head[1] = 0, 1 // from a new start
	step("again behind", time.Second)
	step("the time counts anew", 29*time.Second)
	step("again an alarm", time.Second, 1)
	head[0] = 1
	step("another", 0, 1)
	at[0], head[0] = 1, 1
	step("that was read in time", time.Hour, 1)
	text := log.String()
	if alarms, ends := strings.Count(text, "group stands still"), strings.Count(text, "group moves again"); alarms != 3 || ends != 2 {
		t.Errorf("%d alarms, %d ends, want 3 and 2:\n%s", alarms, ends, text)
	}
	for _, w := range []string{"level=ERROR", "who=core", "topic=intents", "group=1", "at_seq=0", "head_seq=6", "for_seconds=30"} {
		if !strings.Contains(text, w) {
			t.Errorf("the log does not say %s:\n%s", w, text)
		}
	}
}

// Another epoch is ahead of any place of the one before.
func TestWatchdogAtACut(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	s := bus.Standing{At: bus.Place{Epoch: 1, Seq: 9}, Head: bus.Place{Epoch: 2, Seq: 1}}
	w := &bus.Watchdog{After: time.Second, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler), Standings: func() []bus.Standing { return []bus.Standing{s} }}
	w.Step()
	now = now.Add(time.Second)
	w.Step()
	if len(w.Stalled()) != 1 {
		t.Error("no alarm")
	}
}
