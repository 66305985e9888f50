package kafka_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/kafka"
)

// Callbacks alone gather, and only until their request is half full: a full one would
// refuse the next.
func TestWhatGathers(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	for name, want := range map[string]struct {
		topic          bus.Topic
		gather         time.Duration
		records, bytes int
		does           string // of three records of a group and then the time: w wakes who sends, - does not
	}{
		"callbacks gather":        {bus.Callbacks, time.Second, 1000, 1 << 20, "---w"},
		"half of the records":     {bus.Callbacks, time.Second, 4, 1 << 20, "-www"},
		"half of the bytes":       {bus.Callbacks, time.Second, 1000, 16 << 10, "-www"},
		"callbacks do not gather": {bus.Callbacks, 0, 1000, 1 << 20, "w---"},
		"intents do not gather":   {bus.Intents, time.Second, 1000, 1 << 20, "w---"},
	} {
		synctest.Test(t, func(t *testing.T) {
			cluster, err := kafka.Connect(c) // nothing is sent
			must(t, err)
			cfg := kafka.DefaultIntakeConfig()
			cfg.CallbackGather, cfg.BatchRecordsMax, cfg.BatchBytesMax = want.gather, want.records, want.bytes
			in, err := kafka.NewIntake(cluster, cfg, nil, bus.Intents, bus.Callbacks)
			must(t, err)
			have := ""
			look := func() { have += map[bool]string{true: "w", false: "-"}[in.Stirred()] }
			for _, e := range bustest.Events("g", 3, 1) {
				e.Payload = make([]byte, 4<<10)
				_, err := in.Append(want.topic, &e)
				must(t, err)
				look()
			}
			time.Sleep(2 * time.Second)
			if look(); have != want.does {
				t.Errorf("%s: %s, want %s", name, have, want.does)
			}
		})
	}
}
