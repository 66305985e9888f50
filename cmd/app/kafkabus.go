package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/fault"
)

// KafkaConfig is for bus: kafka. See kafka.Config and kafka.IntakeConfig.
type KafkaConfig struct {
	Brokers           string        `yaml:"brokers"` // host:port, with commas between them
	TopicPrefix       string        `yaml:"topic_prefix"`
	Replication       int           `yaml:"replication"`
	MinInSync         int           `yaml:"min_in_sync"`
	NoSync            bool          `yaml:"no_sync"` // what was acknowledged may be lost: for tests and demos
	Retention         time.Duration `yaml:"retention"`
	StartTimeout      time.Duration `yaml:"start_timeout"` // how long a start waits for the brokers
	ProduceTimeout    time.Duration `yaml:"produce_timeout"`
	FetchWait         time.Duration `yaml:"fetch_wait"`
	FetchGather       time.Duration `yaml:"fetch_gather"`
	RelayGather       time.Duration `yaml:"relay_gather"`
	CallbackGather    time.Duration `yaml:"callback_gather"`
	FetchBytesMax     int           `yaml:"fetch_bytes_max"`
	BufferBytesMax    int           `yaml:"buffer_bytes_max"`
	QueueBytesMax     int64         `yaml:"queue_bytes_max"`
	BatchRecordsMax   int           `yaml:"batch_records_max"`
	BatchBytesMax     int           `yaml:"batch_bytes_max"`
	DirectoryBytesMax int           `yaml:"directory_bytes_max"` // of a published directory
	RecordBytes       int64         `yaml:"record_bytes"`        // about what an intent takes, to tell bytes from records
	TLS               kafka.TLS     `yaml:"tls"`
	SASL              kafka.SASL    `yaml:"sasl"` // the password is the secret of KafkaPassword
}

func defaultKafka() KafkaConfig {
	c, i := kafka.DefaultConfig(), kafka.DefaultIntakeConfig()
	return KafkaConfig{TopicPrefix: c.Prefix, Replication: c.Replication, MinInSync: c.MinInSync, Retention: c.Retention, StartTimeout: 30 * time.Second,
		ProduceTimeout: c.ProduceTimeout, FetchWait: c.FetchWait, FetchGather: c.FetchGather, RelayGather: c.RelayGather, FetchBytesMax: c.FetchBytesMax, BufferBytesMax: c.BufferBytesMax,
		CallbackGather: i.CallbackGather, QueueBytesMax: i.QueueBytesMax, BatchRecordsMax: i.BatchRecordsMax, BatchBytesMax: i.BatchBytesMax, DirectoryBytesMax: 4 << 20, RecordBytes: 800}
}

// validateDirectory checks the bound of what is published.
func (c KafkaConfig) validateDirectory() error {
	if c.DirectoryBytesMax < 1 || c.DirectoryBytesMax > merchant.FileBytesMax {
		return &fault.Error{Kind: fault.Invalid, Op: "configuration", Field: "kafka.directory_bytes_max", Code: "out_of_range", Fix: fmt.Sprintf("use 1 to %d", merchant.FileBytesMax)}
	}
	return nil
}

func (c Config) kafka() kafka.Config {
	k := c.Kafka
	out := kafka.Config{Prefix: k.TopicPrefix, Groups: c.Groups, Epoch: 1, Replication: k.Replication, MinInSync: k.MinInSync, NoSync: k.NoSync, Retention: k.Retention,
		ProduceTimeout: k.ProduceTimeout, FetchWait: k.FetchWait, FetchGather: k.FetchGather, RelayGather: k.RelayGather, FetchBytesMax: k.FetchBytesMax, BufferBytesMax: k.BufferBytesMax,
		BatchBytesMax: k.BatchBytesMax, TLS: k.TLS, SASL: k.SASL}
	for b := range strings.SplitSeq(k.Brokers, ",") {
		if b = strings.TrimSpace(b); b != "" {
			out.Brokers = append(out.Brokers, b)
		}
	}
	return out
}

func (c Config) kafkaIntake() kafka.IntakeConfig {
	return kafka.IntakeConfig{BatchRecordsMax: c.Kafka.BatchRecordsMax, BatchBytesMax: c.Kafka.BatchBytesMax, QueueBytesMax: c.Kafka.QueueBytesMax, CallbackGather: c.Kafka.CallbackGather}
}

// kafkaBus is Apache Kafka.
type kafkaBus struct {
	app     *App
	cluster *kafka.Cluster
	board   *kafka.Board // the directory
	follows *merchant.Follower
	in      *kafka.Intake
	unread  *kafka.Backlog

	near map[bus.Topic]bool // an alarm was raised; for lookUnread alone

	checked chan struct{} // closed once the topics are there and fit

	mu    sync.Mutex
	unfit error                           // why checked is not closed
	told  map[bus.Topic]map[int]bus.Place // core's places that the brokers do not know yet
}

// entering are the topics that are written from outside.
func entering() []bus.Topic { return []bus.Topic{bus.Intents, bus.Callbacks} }

// openKafka connects, and checks the topics where brokers answer.
func (a *App) openKafka(ctx context.Context) (transport, error) {
	cfg := a.Config.kafka()
	cfg.SASL.Password, cfg.Points = a.KafkaPassword, a.Points
	if cfg.NoSync {
		a.Log.Warn("kafka.no_sync is set: a broker's machine that fails may lose payments that were accepted")
	}
	c, err := kafka.Connect(cfg)
	if err != nil {
		return nil, err
	}
	k := &kafkaBus{app: a, cluster: c, board: kafka.NewBoard(c, directoryTopic, a.Config.Kafka.DirectoryBytesMax), told: map[bus.Topic]map[int]bus.Place{}, near: map[bus.Topic]bool{},
		checked: make(chan struct{}), unfit: fault.New(fault.Unavailable, "kafka", "the topics are not checked yet")}
	if err := k.firstTry(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	k.unread = kafka.NewBacklog(c, kafka.BacklogConfig{Reader: string(RoleCore), UnreadBytesMax: a.Config.Intake.UnreadBytesMax,
		UnreadAgeMax: a.Config.Intake.UnreadAgeMax, RecordBytes: a.Config.Kafka.RecordBytes}, a.Now, entering()...)
	k.in, err = kafka.NewIntake(c, a.Config.kafkaIntake(), k.admit, entering()...)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	a.Metrics.GetOrCreateGauge(`tallystick_kafka_queued_bytes`, func() float64 { return float64(k.in.Queued()) })
	a.Metrics.GetOrCreateGauge(`tallystick_kafka_fetched_bytes`, func() (held float64) {
		for _, c := range a.consumers() {
			if s, ok := c.Source.(*kafka.Source); ok {
				held += float64(s.Held())
			}
		}
		return held
	})
	return k, nil
}

func (k *kafkaBus) intake() bus.Intake { return k.in }

// sources are fetched together.
func (k *kafkaBus) sources(topics []bus.Topic, groups []int) (out []bus.Source, run []runner) {
	var all []*kafka.Source
	for _, t := range topics {
		k.app.Metrics.GetOrCreateGauge(`tallystick_kafka_repeated_total{topic="`+string(t)+`"}`, func() float64 { return float64(k.cluster.Repeated(t)) })
		s := kafka.NewSource(k.cluster, t, k.app.Log, groups...)
		all, out = append(all, s), append(out, s)
	}
	return out, []runner{{"fetch", func(ctx context.Context) error {
		return kafka.FetchAhead(ctx, k.app.Config.Consumers.BackoffMax, all...)
	}}}
}

func (k *kafkaBus) relays(logs []bus.Source, groups []int) (relays []*kafka.Relay, run []runner) {
	c := k.app.Config.Consumers
	for _, log := range logs {
		relays = append(relays, &kafka.Relay{Cluster: k.cluster, Source: log, Groups: groups, MessagesMax: c.MessagesMax,
			Now: k.app.Now, AgainAfter: k.keeps() / 2, Log: k.app.Log})
	}
	return relays, []runner{{"relays", func(ctx context.Context) error { return kafka.RunRelays(ctx, c.Idle, c.BackoffMax, relays...) }}}
}

func (k *kafkaBus) bind(ctx context.Context, s *Stores) error {
	return bindStores(ctx, s, k.cluster, k.app.Config.Kafka.TopicPrefix)
}

// tellers tell the brokers, now and then, how far an area has come: whoever writes the
// topic trims its log by that. They are told again and again, as they forget.
func (k *kafkaBus) tellers(role Role, topic bus.Topic, places embedded.Places, groups []int) []runner {
	every := k.app.Config.Retention.Every
	tell := func(ctx context.Context) error {
		all, err := toTell(ctx, places, topic)
		if err != nil {
			return err
		}
		if groups != nil {
			maps.DeleteFunc(all, func(g int, _ bus.Place) bool { return !slices.Contains(groups, g) })
		}
		if len(all) == 0 {
			return nil
		}
		return k.cluster.Tell(ctx, string(role), topic, all)
	}
	return []runner{k.every("places of "+string(topic), every, tell)}
}

// toTell is how far an area has come in a topic: in that of another one, up to what it
// will not need again.
func toTell(ctx context.Context, places embedded.Places, topic bus.Topic) (map[int]bus.Place, error) {
	if topic.Entering() {
		return places.Places(ctx, topic)
	}
	return places.Committed(ctx, topic)
}

// committed is what the readers have told the brokers, and the brokers have, of the
// groups that the relay publishes. What nobody has told of stays.
func (k *kafkaBus) committed(ctx context.Context, log bus.Source, relay *kafka.Relay) (map[int]bus.Place, error) {
	all := map[int]bus.Place{}
	for _, s := range relay.Standings() {
		all[s.Group] = s.At
	}
	for _, role := range readersOf(log.Topic()) {
		told, err := k.cluster.Told(ctx, string(role), log.Topic(), slices.Collect(maps.Keys(all)))
		if err != nil {
			return nil, err
		}
		all = earlier(all, told)
	}
	return all, nil
}

func (k *kafkaBus) keeps() time.Duration { return k.app.Config.Kafka.Retention }

// passed keeps what the brokers are told once in a while.
func (k *kafkaBus) passed(topic bus.Topic, moves []bus.Move) {
	if !slices.Contains(entering(), topic) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.told[topic] == nil {
		k.told[topic] = map[int]bus.Place{}
	}
	for _, m := range moves {
		k.told[topic][m.Group] = m.To
	}
}

// tell tells the brokers how far core has come: gateways ask them.
func (k *kafkaBus) tell(ctx context.Context) error {
	k.mu.Lock()
	news := k.told
	k.told = map[bus.Topic]map[int]bus.Place{}
	k.mu.Unlock()
	var errs []error
	for topic, places := range news {
		// What has gone to another process is told by that one: an older place of ours
		// would take back what it told.
		maps.DeleteFunc(places, func(g int, _ bus.Place) bool { return !k.app.holds(RoleCore, g) })
		if len(places) == 0 {
			continue
		}
		if err := k.cluster.Tell(ctx, string(RoleCore), topic, places); err != nil {
			errs = append(errs, err)
			k.mu.Lock()
			for g, p := range places { // again the next time, unless it has moved on
				if k.told[topic] == nil {
					k.told[topic] = map[int]bus.Place{}
				}
				if k.told[topic][g].Seq < p.Seq {
					k.told[topic][g] = p
				}
			}
			k.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

func (k *kafkaBus) backlog(t bus.Topic) (int64, time.Duration) { return k.unread.Of(t) }

func (k *kafkaBus) full(t bus.Topic) error { return k.unread.Full(t) }

func (k *kafkaBus) first() (out []runner) {
	c := k.app.Config
	out = append(out, runner{"topics", k.runTopics})
	if c.has(RoleGateway) {
		out = append(out, runner{"intake", k.in.Run}, after(k.checked, k.every("backlog", c.Intake.MeasureEvery, k.lookUnread)))
	}
	if c.has(RoleCore) {
		out = append(out, after(k.checked, k.every("places", c.Intake.MeasureEvery, k.tell)))
	}
	return out
}

// every does something now and then. What fails again and again is told once.
func (k *kafkaBus) every(name string, d time.Duration, f func(context.Context) error) runner {
	return runner{name, func(ctx context.Context) error {
		tick := time.NewTicker(d)
		defer tick.Stop()
		for failing := false; ; {
			err := f(ctx)
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil && !failing:
				k.app.Log.Error("kafka: "+name+" failed, tried again", "error", err)
			case err == nil && failing:
				k.app.Log.Info("kafka: " + name + " well again")
			}
			failing = err != nil
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}}
}

// lookUnread asks for the backlog, and raises an alarm when the brokers will soon
// delete what core has not read.
func (k *kafkaBus) lookUnread(ctx context.Context) error {
	err := k.unread.Step(ctx)
	for _, t := range entering() {
		_, age := k.unread.Of(t)
		near := float64(age) > nearShare*float64(k.keeps())
		if near && !k.near[t] {
			k.app.Log.Error("core is behind by nearly as long as its topic is kept", "topic", string(t), "unread_for", age.String(), "kept", k.keeps().String())
		}
		k.near[t] = near
	}
	return err
}

// steps are for simulations, which have no brokers.
func (k *kafkaBus) steps() []Step { return nil }

func (k *kafkaBus) close() error { return k.cluster.Close() }
