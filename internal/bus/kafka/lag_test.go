package kafka_test

import (
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/fault"
)

// A gateway knows what nobody has read: how much, and for how long.
func TestBacklog(t *testing.T) {
	cluster := connect(t, config(t.TempDir()), bus.Intents)
	now := time.UnixMilli(1_700_000_000_000)
	b := kafka.NewBacklog(cluster, kafka.BacklogConfig{Reader: "core", UnreadBytesMax: 700, UnreadAgeMax: time.Minute, RecordBytes: 100},
		func() time.Time { return now }, bus.Intents)
	in, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), b.Admit, bus.Intents)
	must(t, err)
	run := newBackground()
	run.run(in.Run)
	defer run.stop() //nolint:errcheck // it has no error
	want := func(what string, bytes int64, age time.Duration) {
		t.Helper()
		eventually(t, what, func() error { return b.Step(t.Context()) }) // the first question finds the group's coordinator
		if haveBytes, haveAge := b.Of(bus.Intents); haveBytes != bytes || haveAge != age {
			t.Errorf("%s: %d bytes for %s, want %d for %s", what, haveBytes, haveAge, bytes, age)
		}
	}
	tell := func(upTo int64) {
		t.Helper()
		events := bustest.Events("t", 1, 1)
		must(t, cluster.Tell(t.Context(), "core", bus.Intents, map[int]bus.Place{events[0].Context.BizCode.Group(groups): {Epoch: 1, Seq: upTo}}))
	}
	want("an empty topic", 0, 0)
	events := bustest.Events("k", 10, 1) // of one group
	for i := range 4 {
		must(t, ask(t, in, &events[i]))
	}
	want("four records", 400, 0)
	now = now.Add(10 * time.Second)
	for i := 4; i < 6; i++ {
		must(t, ask(t, in, &events[i]))
	}
	want("two more, later", 600, 10*time.Second)
	tell(3)
	want("three were read, the fourth waits", 300, 10*time.Second)
	tell(4)
	want("what waited first was read", 200, 0)
	now = now.Add(61 * time.Second)
	if err := ask(t, in, &events[6]); !fault.Is(err, fault.Unavailable) {
		t.Errorf("taken, although the oldest has waited for 61 s: %v", err)
	}
	tell(6)
	want("all was read", 0, 0)
	for i := 0; i < 8; i++ {
		must(t, ask(t, in, &events[6]))
	}
	want("eight records", 800, 0)
	if err := ask(t, in, &events[7]); !fault.Is(err, fault.Unavailable) {
		t.Errorf("taken over the bound of bytes: %v", err)
	}
}
