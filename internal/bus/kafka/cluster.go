package kafka

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
)

// Config says where the brokers are, and bounds what is asked of them. All
// bounds must be positive.
type Config struct {
	Brokers []string // host:port; any of them leads to the others
	Prefix  string   // of the topics' names, so that installations can share brokers
	Groups  int      // partitions of each topic; fixed for ever
	Epoch   int64    // of the places; begins when the groups are cut anew
	// Replication and MinInSync are checked: fewer copies than that are not durable.
	Replication int
	MinInSync   int
	// NoSync takes a broker's word for a record that it has in memory alone, where no
	// other copy is waited for: a machine that fails loses what was acknowledged. For
	// tests and what is shown.
	NoSync bool
	// Retention is the least that a topic must keep.
	Retention time.Duration
	// ProduceTimeout bounds one request to append; behind it nobody knows.
	ProduceTimeout time.Duration
	// FetchWait is how long a broker may hold an empty answer back, FetchBytesMax
	// what it may send at once, and BufferBytesMax what a Source holds of one group
	// that nobody has read yet.
	FetchWait      time.Duration
	FetchGather    time.Duration // between an answer that brought something and the next question; 0 for none
	RelayGather    time.Duration // the least between two requests of relays to one broker; 0 for none
	FetchBytesMax  int
	BufferBytesMax int
	// BatchBytesMax bounds one request to append. A record that is larger is sent
	// alone: a topic must take it.
	BatchBytesMax int
	TLS           TLS
	SASL          SASL
	// Points, which may be nil, are passed in tests that kill.
	Points fault.Points
}

// DefaultConfig lacks Brokers and Groups.
func DefaultConfig() Config {
	return Config{Prefix: "tallystick.", Epoch: 1, Replication: 3, MinInSync: 2, Retention: 30 * 24 * time.Hour, ProduceTimeout: 5 * time.Second,
		FetchWait: 500 * time.Millisecond, FetchGather: 10 * time.Millisecond, RelayGather: 10 * time.Millisecond, FetchBytesMax: 1 << 20, BufferBytesMax: 2 << 20, BatchBytesMax: 768 << 10}
}

// Validate names the first value that cannot be.
func (c Config) Validate() error {
	bad := func(field, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "kafka", Field: "kafka." + field, Code: "bad_value", Fix: fix}
	}
	if len(c.Brokers) == 0 {
		return bad("brokers", "name at least one broker as host:port")
	}
	for _, b := range c.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			return bad("brokers", "give "+strconv.Quote(b)+" as host:port")
		}
	}
	for _, f := range []struct {
		name string
		v    int64
	}{{"groups", int64(c.Groups)}, {"epoch", c.Epoch}, {"replication", int64(c.Replication)}, {"min_in_sync", int64(c.MinInSync)},
		{"retention", int64(c.Retention)}, {"produce_timeout", int64(c.ProduceTimeout)}, {"fetch_wait", int64(c.FetchWait)},
		{"fetch_bytes_max", int64(c.FetchBytesMax)}, {"buffer_bytes_max", int64(c.BufferBytesMax)},
		{"batch_bytes_max", int64(c.BatchBytesMax)}} {
		if f.v <= 0 {
			return bad(f.name, "set it to at least 1")
		}
	}
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"fetch_gather", c.FetchGather}, {"relay_gather", c.RelayGather}} {
		if f.d < 0 || f.d > time.Second {
			return bad(f.name, "use 0s to 1s: each hop waits for so long under load")
		}
	}
	if c.MinInSync > c.Replication {
		return bad("min_in_sync", "set it to at most replication")
	}
	if err := c.TLS.validate(bad); err != nil {
		return err
	}
	return c.SASL.validate(c.TLS.Enabled, bad)
}

// Cluster is the connection to the brokers. Safe for concurrent use.
type Cluster struct {
	cfg       Config
	client    *kafka.Client
	transport *kafka.Transport
	repeats   tally
}

// tally counts by topic. The zero value has counted nothing. Safe for concurrent use.
type tally struct {
	mu sync.Mutex
	n  map[bus.Topic]int64
}

func (t *tally) add(topic bus.Topic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[bus.Topic]int64{}
	}
	t.n[topic]++
}

// Repeated is how many records of a topic were fetched whose sequence was not behind that
// of an earlier one. Few are expected: from two relays at once, an append without an
// answer, and a group's last record before it expires.
func (c *Cluster) Repeated(topic bus.Topic) int64 {
	c.repeats.mu.Lock()
	defer c.repeats.mu.Unlock()
	return c.repeats.n[topic]
}

// Connect checks the configuration; it does not wait for a broker.
func Connect(c Config) (*Cluster, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	secured, err := c.TLS.config()
	if err != nil {
		return nil, err
	}
	who, err := c.SASL.mechanism()
	if err != nil {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "kafka", Field: "kafka.sasl.username", Code: "bad_value", Fix: "use a name and a password without control characters", Err: err}
	}
	// Leaders change within a second of a broker's end: an older map would send to
	// the wrong one.
	t := &kafka.Transport{ClientID: "tallystick", MetadataTTL: time.Second, DialTimeout: c.ProduceTimeout, Dial: dialer(secured), SASL: who}
	// A broker that is there and does not answer holds nobody for ever. Half of it is
	// what brokers are told to wait at most, for copies and for news.
	return &Cluster{cfg: c, transport: t, client: &kafka.Client{Addr: kafka.TCP(c.Brokers...), Transport: t, Timeout: c.ProduceTimeout + 2*c.FetchWait}}, nil
}

// Close closes idle connections.
func (c *Cluster) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

// ID is what the brokers' cluster was given when it was made. fault.Invalid is a key of the
// configuration with which brokers let nobody in.
func (c *Cluster) ID(ctx context.Context) (string, error) {
	res, err := c.client.Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return "", cmp.Or(c.misconfigured(err), fault.Wrap("kafka: cluster id", unavailable(err)))
	}
	if res.ClusterID == "" { // brokers that are starting may not know yet
		return "", fault.Wrap("kafka: cluster id", unavailable(errors.New("the brokers gave no cluster id")))
	}
	return res.ClusterID, nil
}

// topic is a topic's name at the brokers.
func (c *Cluster) topic(t bus.Topic) string { return c.cfg.Prefix + string(t) }

// named is the topic that has a name at the brokers.
func (c *Cluster) named(name string) bus.Topic {
	return bus.Topic(strings.TrimPrefix(name, c.cfg.Prefix))
}

// metadata waits, within ctx, until a broker knows all the topics and their partitions.
func (c *Cluster) metadata(ctx context.Context, names []string) ([]kafka.Topic, error) {
	for {
		res, err := c.client.Metadata(ctx, &kafka.MetadataRequest{Topics: names})
		if err != nil {
			return nil, unavailable(err)
		}
		i := slices.IndexFunc(res.Topics, func(t kafka.Topic) bool {
			return t.Error != nil || len(t.Partitions) == 0
		})
		if i < 0 && len(res.Topics) == len(names) {
			return res.Topics, nil
		}
		select {
		case <-ctx.Done():
			return nil, fault.New(fault.Unavailable, "metadata", "a topic is not known: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func unavailable(err error) error {
	return &fault.Error{Kind: fault.Unavailable, Op: "kafka", Code: "broker_unavailable", Fix: "see whether the brokers run, can be reached, and want what kafka.tls and kafka.sasl say", Err: err}
}
