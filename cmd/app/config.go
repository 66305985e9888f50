package app

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/gateway/callback"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/strictyaml"
	"github.com/tallystick/tallystick/prepay"
)

// The names of what is in a data folder.
const (
	ConfigFile    = "tallystick.yaml"
	DirectoryFile = "directory.yaml"
	SnapshotFile  = "directory.snapshot" // of bus: kafka: what a process knows of the directory
	SecretsDir    = "secrets"
	StoresDir     = "stores"
)

// Config is the whole configuration: tallystick.yaml, with environment variables
// in the place of single keys. Everything written in a file or on the wire is in
// snake case; durations have their unit ("1.5s").
type Config struct {
	Listen         string `yaml:"listen"`          // the public API and callbacks
	ListenOperator string `yaml:"listen_operator"` // metrics, profiles: never public
	// PublicURL is where PSPs reach Listen. It is registered at PSPs: it does not change.
	PublicURL string `yaml:"public_url"`
	LogLevel  string `yaml:"log_level"` // debug, info, warn or error
	// Groups divides the slots; fixed by the first start on a data folder.
	Groups           int           `yaml:"groups"`
	DirectoryPoll    time.Duration `yaml:"directory_poll"`
	ShutdownTimeout  time.Duration `yaml:"shutdown_timeout"`
	StoreCacheKiBMax int           `yaml:"store_cache_kib_max"` // of each connection to a store
	DiskFreeBytesMin int64         `yaml:"disk_free_bytes_min"` // with less this process is not ready

	// Roles are those that this process plays, with commas between them; Bus is how
	// they hear of each other, and CoreURL where a gateway asks core that is elsewhere.
	Roles   string `yaml:"roles"`
	Bus     string `yaml:"bus"`
	CoreURL string `yaml:"core_url"`
	// Coordination is how replicas of a role share limits and hear of each other.
	Coordination string `yaml:"coordination"`

	// Stores is where areas keep their rows.
	Stores   string         `yaml:"stores"`
	Postgres PostgresConfig `yaml:"postgres"`
	Lease    LeaseConfig    `yaml:"lease"`
	Move     MoveConfig     `yaml:"move"`

	Kafka      KafkaConfig       `yaml:"kafka"`
	Redis      RedisConfig       `yaml:"redis"`
	Intake     IntakeConfig      `yaml:"intake"`
	Consumers  ConsumersConfig   `yaml:"consumers"`
	Retention  RetentionConfig   `yaml:"retention"`
	API        api.Config        `yaml:"api"`
	Callback   callback.Config   `yaml:"callback"`
	Voucher    voucher.Config    `yaml:"voucher"`
	Core       core.Config       `yaml:"core"`
	Prepay     prepay.Config     `yaml:"prepay"`
	Accounting accounting.Config `yaml:"accounting"`
}

// IntakeConfig bounds what is taken and not yet read.
type IntakeConfig struct {
	BatchRecordsMax  int           `yaml:"batch_records_max"`
	BatchBytesMax    int           `yaml:"batch_bytes_max"`
	QueueBatchesMax  int           `yaml:"queue_batches_max"`
	UnreadBytesMax   int64         `yaml:"unread_bytes_max"`
	UnreadAgeMax     time.Duration `yaml:"unread_age_max"`
	TrimEveryBatches int           `yaml:"trim_every_batches"`
	MeasureEvery     time.Duration `yaml:"measure_every"`
}

// ConsumersConfig is for every consumer of a topic.
type ConsumersConfig struct {
	MessagesMax int           `yaml:"messages_max"` // of one batch, in one transaction
	PauseMax    time.Duration `yaml:"pause_max"`    // after a batch that was not full, for as long as it took
	LedgerPause time.Duration `yaml:"ledger_pause"` // after one of accounting's, for which nobody waits
	ParkedMax   int           `yaml:"parked_max"`   // messages of one topic that may be put aside
	Idle        time.Duration `yaml:"idle"`         // between two looks without being woken
	BackoffMax  time.Duration `yaml:"backoff_max"`  // between two tries after an error
	TimersEvery time.Duration `yaml:"timers_every"` // between two looks at what is due
	StallAlarm  time.Duration `yaml:"stall_alarm"`  // how long a group may stand still that has something to read
}

// DefaultConfig is what an installation starts with.
func DefaultConfig() Config {
	return Config{
		Listen: "127.0.0.1:8080", ListenOperator: "127.0.0.1:8081", PublicURL: "http://127.0.0.1:8080", LogLevel: "info",
		Groups: 16, DirectoryPoll: time.Second, ShutdownTimeout: 30 * time.Second, StoreCacheKiBMax: 16_384,
		DiskFreeBytesMin: 64 << 20,
		Roles:            "gateway,core,prepay,accounting", Bus: BusEmbedded, Coordination: CoordinationLocal, Kafka: defaultKafka(), Redis: defaultRedis(),
		Stores: StoresSQLite, Postgres: defaultPostgres(), Lease: defaultLease(), Move: defaultMove(),
		Intake: IntakeConfig{BatchRecordsMax: 1024, BatchBytesMax: 1 << 20, QueueBatchesMax: 8, UnreadBytesMax: 64 << 20,
			UnreadAgeMax: 5 * time.Minute, TrimEveryBatches: 256, MeasureEvery: 250 * time.Millisecond},
		Consumers: ConsumersConfig{MessagesMax: 512, PauseMax: 20 * time.Millisecond, LedgerPause: 50 * time.Millisecond, ParkedMax: 100_000,
			Idle: time.Second, BackoffMax: 5 * time.Second, TimersEvery: time.Second, StallAlarm: 30 * time.Second},
		Retention: defaultRetention(),
		API:       api.DefaultConfig(), Callback: callback.DefaultConfig(), Voucher: voucher.DefaultConfig(),
		Core: core.DefaultConfig(), Prepay: prepay.Defaults(), Accounting: accounting.DefaultConfig(),
	}
}

// LoadConfig reads a folder's tallystick.yaml over the defaults, puts the
// environment over that, and checks it all. Every error is fault.Invalid and
// names the key and the fix.
func LoadConfig(dir string, environ []string) (Config, error) {
	c := DefaultConfig()
	path := filepath.Join(dir, ConfigFile)
	text, err := os.ReadFile(path) //nolint:gosec // the operator's own folder
	if err != nil {
		return c, &fault.Error{Kind: fault.Invalid, Op: "configuration", Code: "missing", Fix: "run `tallystick init --data " + dir + "`", Err: err}
	}
	if err := strictyaml.Decode(path, text, &c); err != nil && !errors.Is(err, io.EOF) {
		return c, err
	}
	if c == (Config{}) { // a file without any key: the decoder empties what it decodes into
		c = DefaultConfig()
	}
	if err := override(&c, environ); err != nil {
		return c, err
	}
	return c, c.Validate()
}

// Validate names the first key that cannot be.
func (c Config) Validate() error { return inDurations(c.validate()) }

// inDurations puts a fix that counts in whole numbers into the words of a key that
// is a duration: areas check their bounds alike, whatever they are bounds of.
func inDurations(err error) error {
	var e *fault.Error
	if !errors.As(err, &e) || e.Code != "not_positive" || e.Fix != "set it to at least 1" {
		return err
	}
	if f, ok := keys(&Config{})[variable(e.Field)]; ok && f.Type() == reflect.TypeFor[time.Duration]() {
		e.Fix = "give a duration above 0, such as 5s"
	}
	return err
}

func (c Config) validate() error {
	bad := func(field, code, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "configuration", Field: field, Code: code, Fix: fix}
	}
	var level slog.Level
	u, err := url.Parse(c.PublicURL)
	switch {
	case c.Listen == "" || c.ListenOperator == "":
		return bad("listen", "empty", "give an address such as 127.0.0.1:8080")
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return bad("public_url", "not_a_url", "give the URL at which PSPs reach this server, such as https://pay.example.com")
	case level.UnmarshalText([]byte(c.LogLevel)) != nil:
		return bad("log_level", "unknown", "use debug, info, warn or error")
	case c.Groups < 1 || c.Groups > ids.Slots:
		return bad("groups", "out_of_range", fmt.Sprintf("use 1 to %d; it never changes afterwards", ids.Slots))
	case c.DirectoryPoll < 10*time.Millisecond || c.DirectoryPoll > 5*time.Second:
		return bad("directory_poll", "out_of_range", "use 10ms to 5s: a revoked key is dead within it")
	case c.ShutdownTimeout <= 0:
		return bad("shutdown_timeout", "not_positive", "give a duration such as 30s")
	case c.Prepay.DrainMillis >= c.ShutdownTimeout.Milliseconds():
		return bad("prepay.drain_millis", "too_large", "keep it below shutdown_timeout, or calls that are out are left behind")
	case c.Bus == BusKafka && 2*c.Kafka.CallbackGather > c.Callback.CommitTimeout:
		return bad("kafka.callback_gather", "too_large", "set it to at most half of callback.commit_timeout, which would take the callback back")
	case c.API.Linger+c.API.LastRequest >= c.ShutdownTimeout:
		return bad("api.linger", "too_large", "keep it and api.last_request together below shutdown_timeout, or what is under way is cut off")
	case c.StoreCacheKiBMax < 64:
		return bad("store_cache_kib_max", "too_small", "use at least 64")
	case c.DiskFreeBytesMin < 0:
		return bad("disk_free_bytes_min", "negative", "give a number of bytes; 0 does not look")
	case c.Consumers.MessagesMax < 1:
		return bad("consumers.messages_max", "not_positive", "set it to at least 1")
	case c.Consumers.ParkedMax < 1:
		return bad("consumers.parked_max", "not_positive", "set it to at least 1")
	case c.Consumers.PauseMax < 0 || c.Consumers.PauseMax > time.Second || c.Consumers.LedgerPause < 0 || c.Consumers.LedgerPause > time.Second:
		return bad("consumers.pause_max", "out_of_range", "use 0s to 1s for pause_max and ledger_pause")
	case c.Consumers.Idle <= 0 || c.Consumers.BackoffMax <= 0 || c.Consumers.TimersEvery <= 0:
		return bad("consumers.idle", "not_positive", "give durations such as 1s for idle, backoff_max and timers_every")
	case c.Consumers.StallAlarm <= c.Consumers.BackoffMax || c.Consumers.StallAlarm <= c.Consumers.Idle:
		return bad("consumers.stall_alarm", "too_small", "give a duration above backoff_max and idle, such as 30s: a group that is tried again stands still for so long")
	case c.Intake.MeasureEvery <= 0 || c.Intake.MeasureEvery > 500*time.Millisecond:
		return bad("intake.measure_every", "out_of_range", "use at most 500ms, such as 250ms: so often core tells what it has read, and gateways ask")
	}
	if c.Bus == BusKafka {
		for _, err := range []error{c.kafka().Validate(), c.kafkaIntake().Validate(), c.Kafka.validateDirectory()} {
			if err != nil {
				return err
			}
		}
	}
	for _, err := range []error{c.validateRoles(), c.validatePostgres(), c.validateCoordination(), c.validateRetention(), c.intake().Validate(), c.API.Validate(), c.Callback.Validate(), c.Voucher.Validate(), c.Core.Validate(),
		c.Prepay.Validate(), c.Accounting.Validate()} {
		if err != nil {
			return err
		}
	}
	return nil
}

// intakeReader is the name of core's consumers, the only ones of the intake yet.
const intakeReader = "core"

func (c Config) intake() embedded.IntakeConfig {
	i := c.Intake
	return embedded.IntakeConfig{Topics: []bus.Topic{bus.Intents, bus.Callbacks}, BatchRecordsMax: i.BatchRecordsMax, BatchBytesMax: i.BatchBytesMax,
		QueueBatchesMax: i.QueueBatchesMax, UnreadBytesMax: i.UnreadBytesMax, UnreadAgeMax: i.UnreadAgeMax,
		TrimEveryBatches: i.TrimEveryBatches, Readers: []string{intakeReader}}
}
