package engines

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Kafka is one broker that is its own controller (KRaft).
type Kafka struct {
	Addr string
	// Secure is nil unless it was started by StartSecureKafka.
	Secure *Security
	flags  []string
	libs   string
	dir    string
	p      *process
}

// kafkaProperties suit tests: one node, little memory, a short broker session so
// that it is back soon after kill -9, and a retention that is looked after at once.
const kafkaProperties = `process.roles=broker,controller
node.id=1
controller.listener.names=CTRL
controller.quorum.bootstrap.servers=127.0.0.1:@CTRL@
listeners=PLAIN://127.0.0.1:@PORT@,CTRL://127.0.0.1:@CTRL@
advertised.listeners=PLAIN://127.0.0.1:@PORT@
listener.security.protocol.map=PLAIN:PLAINTEXT,CTRL:PLAINTEXT
inter.broker.listener.name=PLAIN
log.dirs=@DIR@/data
auto.create.topics.enable=false
num.partitions=1
num.network.threads=1
num.io.threads=2
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=10485760
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
group.min.session.timeout.ms=1000
`

// clusterID is what brokers are formatted with.
const clusterID = "TallystickTestBroker0A"

// javaFlags keep the broker small.
var javaFlags = []string{"-Xmx256m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"}

// soon makes a start short, and what runs for long slow: nothing is optimised.
const soon = "-XX:TieredStopAtLevel=1"

// StartKafka starts a fresh broker in a folder of its own, for a test.
func StartKafka(ctx context.Context, dir string) (*Kafka, error) {
	return startPlainKafka(ctx, dir, clusterID, soon)
}

// StartOtherKafka is StartKafka for brokers of another cluster id: all others have the
// same one, as brokers have that lost what they had.
func StartOtherKafka(ctx context.Context, dir string) (*Kafka, error) {
	return startPlainKafka(ctx, dir, "TallystickOtherBrokerA", soon)
}

// StartSteadyKafka is StartKafka for what runs for minutes, and for what is measured.
func StartSteadyKafka(ctx context.Context, dir string) (*Kafka, error) {
	return startPlainKafka(ctx, dir, clusterID, "-XX:-UseDynamicNumberOfCompilerThreads") // one that ends takes its CPU's account with it
}

func startPlainKafka(ctx context.Context, dir, id string, flags ...string) (*Kafka, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	return startKafka(ctx, dir, id, ports, nil, kafkaProperties, flags...)
}

// startKafka starts a broker at a port for clients and one for itself.
func startKafka(ctx context.Context, dir, id string, ports []int, secure *Security, properties string, flags ...string) (*Kafka, error) {
	libs, err := install(ctx, "kafka")
	if err != nil {
		return nil, err
	}
	k := &Kafka{Addr: "127.0.0.1:" + itoa(ports[0]), Secure: secure, flags: flags, libs: libs, dir: dir}
	text := strings.NewReplacer("@PORT@", itoa(ports[0]), "@CTRL@", itoa(ports[1]), "@DIR@", dir).Replace(properties)
	if err := os.WriteFile(k.config(), []byte(text), 0o600); err != nil {
		return nil, err
	}
	format := append(k.java("kafka.tools.StorageTool"), "format", "--standalone", "-t", id, "-c", k.config())
	if secure != nil {
		format = append(format, "--add-scram", "SCRAM-SHA-512=[name="+secure.Username+",password="+secure.Password+"]")
	}
	if out, err := exec.CommandContext(ctx, "java", format...).CombinedOutput(); err != nil { //nolint:gosec // our own arguments
		return nil, fmt.Errorf("format Kafka's storage: %w: %s", err, out)
	}
	return k, k.Start(ctx)
}

func (k *Kafka) config() string { return filepath.Join(k.dir, "server.properties") }

// PartitionDir is where the broker has the records of a partition.
func (k *Kafka) PartitionDir(topic string, partition int) string {
	return filepath.Join(k.dir, "data", topic+"-"+itoa(partition))
}

func (k *Kafka) java(class string) []string {
	flags := slices.Concat(javaFlags, k.flags)
	if classes := filepath.Join(k.libs, "classes.jsa"); exists(classes) { // which install has kept
		flags = append(flags, "-XX:SharedArchiveFile="+classes)
	}
	return append(flags, "-cp", filepath.Join(k.libs, "*"), class)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Start starts the broker again, with the data that it has, and waits for it.
func (k *Kafka) Start(ctx context.Context) (err error) {
	if k.p, err = start(filepath.Join(k.dir, "kafka.log"), nil, "java", append(k.java("kafka.Kafka"), k.config())...); err != nil {
		return err
	}
	return k.p.ready(ctx, k.Addr) // it answers some milliseconds later
}

// Stop asks it to end; Kill does not ask.
func (k *Kafka) Stop() error { return k.p.signal(syscall.SIGTERM, 30*time.Second) }

// Kill is kill -9.
func (k *Kafka) Kill() error { return k.p.signal(syscall.SIGKILL, 30*time.Second) }

// Freeze stops the process where it stands (SIGSTOP), Thaw lets it go on.
func (k *Kafka) Freeze() error { return k.p.freeze() }

// Thaw is SIGCONT.
func (k *Kafka) Thaw() error { return k.p.signal(syscall.SIGCONT, 0) }
