package kafka_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/fault"
)

const boardTopic bus.Topic = "directory"

// read reads a board to its end.
func read(t *testing.T, b *kafka.Board) (out []string) {
	t.Helper()
	eventually(t, "the board is read", func() error {
		records, all, err := b.Next(t.Context(), time.Millisecond)
		for _, r := range records {
			out = append(out, string(r))
		}
		if err == nil && !all {
			err = fmt.Errorf("%d records, and there are more", len(out))
		}
		return err
	})
	return out
}

// What is put is read by everyone, in order, also what is larger than a fetch; who
// starts, and who begins anew, reads what is there. One that is put is heard at once.
func TestBoard(t *testing.T) {
	c := config(t.TempDir())
	cluster := connect(t, c)
	const most = 3 << 20
	one, other := kafka.NewBoard(cluster, boardTopic, most), kafka.NewBoard(cluster, boardTopic, most)
	eventually(t, "it is made", func() error { return one.Ensure(t.Context()) })
	must(t, other.Ensure(t.Context())) // it is there
	if got := read(t, one); len(got) != 0 {
		t.Fatalf("a new one has %d records", len(got))
	}
	large := strings.Repeat("x", most)
	for _, r := range []string{"a", large, "c"} {
		must(t, other.Put(t.Context(), []byte(r)))
	}
	want := []string{"a", large, "c"}
	if got := read(t, one); !slices.Equal(got, want) {
		t.Errorf("read %d records", len(got))
	}
	if got := read(t, one); len(got) != 0 {
		t.Errorf("read %d records again", len(got))
	}
	one.Rewind()
	if got := read(t, one); !slices.Equal(got, want) {
		t.Errorf("anew: %d records", len(got))
	}
	if err := other.Put(t.Context(), []byte(large+"x")); !fault.Is(err, fault.TooLarge) || !strings.Contains(err.Error(), "kafka.directory_bytes_max") {
		t.Errorf("one byte too many: %v", err)
	}
	if got := read(t, kafka.NewBoard(cluster, boardTopic, most)); !slices.Equal(got, want) {
		t.Errorf("what was refused is there: %d records", len(got))
	}

	c.FetchWait = 10 * time.Second
	patient := kafka.NewBoard(connect(t, c), boardTopic, most)
	patient.Rewind()
	read(t, patient)
	begun := time.Now()
	go func() { _ = other.Put(t.Context(), []byte("d")) }()
	if records, _, err := patient.Next(t.Context(), time.Minute); err != nil || len(records) != 1 || time.Since(begun) > 5*time.Second {
		t.Errorf("%d records after %s: %v", len(records), time.Since(begun), err)
	}
}

// A topic that was lost and made anew is another one for who reads on.
func TestALostBoard(t *testing.T) {
	c := config(t.TempDir())
	b := kafka.NewBoard(connect(t, c), boardTopic, 1<<10)
	eventually(t, "it is made", func() error { return b.Ensure(t.Context()) })
	must(t, b.Put(t.Context(), []byte("a")))
	must(t, b.Put(t.Context(), []byte("b")))
	read(t, b)
	admin := &kafkago.Client{Addr: kafkago.TCP(broker.Addr)}
	_, err := admin.DeleteTopics(t.Context(), &kafkago.DeleteTopicsRequest{Topics: []string{c.Prefix + string(boardTopic)}})
	must(t, err)
	eventually(t, "it is made anew", func() error { return kafka.NewBoard(connect(t, c), boardTopic, 1<<10).Ensure(t.Context()) })
	eventually(t, "it is another one", func() error {
		if _, _, err := b.Next(t.Context(), time.Millisecond); !fault.Is(err, fault.Conflict) {
			return fmt.Errorf("read on: %w", err)
		}
		return nil
	})
	b.Rewind()
	must(t, b.Put(t.Context(), []byte("c")))
	if got := read(t, b); !slices.Equal(got, []string{"c"}) {
		t.Errorf("read %q", got)
	}
}

// What is there and does not fit is refused; what has only the last record is read.
func TestBoardsThatDoNotFit(t *testing.T) {
	for name, tc := range map[string]struct {
		topic kafkago.TopicConfig
		words string
	}{
		"two partitions": {kafkago.TopicConfig{NumPartitions: 2}, "it has 2 partitions"},
		"it deletes":     {kafkago.TopicConfig{ConfigEntries: []kafkago.ConfigEntry{{ConfigName: "cleanup.policy", ConfigValue: "compact,delete"}}}, "set cleanup.policy to compact"},
		"too small": {kafkago.TopicConfig{ConfigEntries: []kafkago.ConfigEntry{{ConfigName: "cleanup.policy", ConfigValue: "compact"},
			{ConfigName: "max.message.bytes", ConfigValue: "1000"}}}, "kafka.directory_bytes_max"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t.TempDir())
			cluster := connect(t, c)
			tc.topic.Topic, tc.topic.ReplicationFactor = c.Prefix+string(boardTopic), 1
			tc.topic.NumPartitions = max(1, tc.topic.NumPartitions)
			res, err := (&kafkago.Client{Addr: kafkago.TCP(broker.Addr)}).CreateTopics(t.Context(), &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{tc.topic}})
			must(t, err)
			must(t, res.Errors[tc.topic.Topic])
			if err := kafka.NewBoard(cluster, boardTopic, 1<<10).Ensure(t.Context()); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("%v, want %q", err, tc.words)
			}
		})
	}
}

// What has been compacted is read: offsets are missing in it, and the last one is there.
func TestACompactedBoard(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the broker's cleaner")
	}
	c := config(t.TempDir())
	name := c.Prefix + string(boardTopic)
	cluster := connect(t, c)
	b := kafka.NewBoard(cluster, boardTopic, 1<<10)
	eventually(t, "it is made", func() error { return b.Ensure(t.Context()) })
	admin := &kafkago.Client{Addr: kafkago.TCP(broker.Addr)}
	res, err := admin.IncrementalAlterConfigs(t.Context(), &kafkago.IncrementalAlterConfigsRequest{Resources: []kafkago.IncrementalAlterConfigsRequestResource{{
		ResourceType: kafkago.ResourceTypeTopic, ResourceName: name, Configs: []kafkago.IncrementalAlterConfigsRequestConfig{
			{Name: "segment.ms", Value: "100"}, {Name: "max.compaction.lag.ms", Value: "100"}}}}})
	must(t, err)
	must(t, res.Resources[0].Error)
	n := 0
	var got []string
	eventually(t, "it is compacted", func() error {
		n++
		must(t, b.Put(t.Context(), fmt.Append(nil, n)))
		b.Rewind()
		if got = read(t, b); len(got) >= n {
			time.Sleep(150 * time.Millisecond)
			return fmt.Errorf("%d records of %d", len(got), n)
		}
		return nil
	})
	if got[len(got)-1] != fmt.Sprint(n) {
		t.Errorf("the last of %q is not %d", got, n)
	}
}
