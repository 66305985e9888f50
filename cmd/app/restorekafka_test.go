package app_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
)

// open opens a folder, as starting it does, and gives the reason of a refusal.
func (in *installation) open(dir string, env ...string) error {
	in.t.Helper()
	a, err := app.Open(in.t.Context(), dir, append(slices.Clone(in.env), env...), io.Discard)
	if err == nil {
		must(in.t, a.Close())
	}
	return err
}

// verified waits until what core has told has come to the ledger, and holds the
// books against each other.
func (s *system) verified(t *testing.T, vouchers []string, accepted int64) {
	t.Helper()
	var lost []string
	var v app.Verification
	var err error
	for range 500 { // who has not heard yet of what the brokers took has nothing to do
		s.drain(t)
		_, lost, err = s.app.Stores.CheckVouchers(t.Context(), vouchers)
		must(t, err)
		if len(lost) == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for range 500 {
		v, err = s.app.Stores.Verify(t.Context())
		must(t, err)
		if len(v.Violations) == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if wrong := append(v.Violations, lost...); len(wrong) > 0 || v.Orders[0].Accepted != accepted || v.Orders[0].InFlight != 0 || v.Orders[0].Succeeded != accepted {
		t.Errorf("violations %q, orders %+v, want %d succeeded", wrong, v.Orders, accepted)
	}
}

// told is how far readers have come, as the brokers know, and as their stores do.
func (in *installation) told(deps app.Deps) (told, places string) {
	t := in.t
	c, _ := in.cluster(in.prefix)
	areas, _, done, err := app.OpenParked(t.Context(), deps)
	must(t, err)
	defer done()
	for _, r := range []struct {
		area  string
		topic bus.Topic
	}{{"core", bus.Intents}, {"core", bus.Callbacks}, {"core", bus.Outcomes}, {"prepay", bus.Dispatch}, {"accounting", bus.Payments}} {
		of, err := c.Told(t.Context(), r.area, r.topic, []int{0, 1, 2, 3})
		must(t, err)
		at, err := areas[r.area].Places(t.Context(), r.topic)
		must(t, err)
		told += fmt.Sprintln(r.area, r.topic, of)
		places += fmt.Sprintln(r.area, r.topic, at)
	}
	return told, places
}

// A gateway has no store that knows the brokers: its folder does, so that it accepts
// nothing for an installation that is not its own.
func TestAGatewayBelongsToItsBrokers(t *testing.T) {
	in := newInstallation(t, sim.Faults{})
	dir, gateway := in.folder("gateway"), []string{"TALLYSTICK_ROLES=gateway", "TALLYSTICK_CORE_URL=http://127.0.0.1:1", "TALLYSTICK_LISTEN=127.0.0.1:0"}
	elsewhere := append(slices.Clone(gateway), "TALLYSTICK_KAFKA_TOPIC_PREFIX="+in.prefix+"other.")
	must(t, in.open(dir, gateway...))
	err := in.open(dir, elsewhere...)
	if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "kafka.brokers: another_bus") || !strings.Contains(err.Error(), filepath.Join(dir, app.BusFile)) {
		t.Fatalf("opened on other topics: %v", err)
	}
	other, _ := in.cluster(in.prefix + "other.")
	if err := kafka.NewSource(other, bus.Intents, slog.New(slog.DiscardHandler)).Refresh(t.Context()); err == nil {
		t.Error("topics were made where it does not belong")
	}
	must(t, in.open(dir, gateway...)) // and nothing was changed by that
	must(t, os.Remove(filepath.Join(dir, app.BusFile)))
	must(t, in.open(dir, elsewhere...))
	if err := in.open(dir, gateway...); !fault.Is(err, fault.Conflict) {
		t.Errorf("it belongs to the others now, and is opened: %v", err)
	}
}

// Stores from a backup that is older than the brokers: the brokers have what was
// accepted after it, and it is worked on again, with the same numbers at the PSP;
// what areas had told each other after it is of a past that is no more. Brokers that
// are older than the stores, and other ones, are refused with the reason; and so is
// a wrong password, at once.
func TestRestoreOnKafka(t *testing.T) {
	long(t)
	in := newInstallation(t, sim.Faults{AutoPayShare: 1})
	dir, all := in.folder("all"), "TALLYSTICK_LISTEN=127.0.0.1:0"
	order := load.Orders(1)
	var vouchers []string
	pay := func(s *system, from, to int) {
		t.Helper()
		for n := from; n < to; n++ {
			a, status, err := s.client.Pay(order(n))
			if status != 202 {
				t.Fatalf("pay: %d %v", status, err)
			}
			vouchers = append(vouchers, a.Voucher)
		}
	}
	s := in.start(dir, all)
	pay(s, 0, 12)
	s.verified(t, vouchers, 12)
	for _, want := range []string{`tallystick_relay_lag{topic="payments"} 0`, `tallystick_stalled_groups{area="relay",topic="dispatch"} 0`,
		`tallystick_stalled_groups{area="core",topic="intents"} 0`, `tallystick_consumer_lag{area="accounting",topic="payments"} 0`, "tallystick_kafka_queued_bytes 0",
		"tallystick_kafka_fetched_bytes "} {
		for tries := 0; ; tries++ {
			var figures bytes.Buffer
			s.app.Metrics.WritePrometheus(&figures)
			if strings.Contains(figures.String(), want) {
				break
			}
			if tries > 500 {
				t.Fatalf("the figures have no %s:\n%s", want, figures.String())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	s.stop()
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, os.CopyFS(backup, os.DirFS(dir)))
	s = in.start(dir, all)
	pay(s, 12, 30)
	s.verified(t, vouchers, 30)
	s.stop()

	// Other brokers, and such as have lost what they had.
	if err := in.open(dir, all, "TALLYSTICK_KAFKA_TOPIC_PREFIX="+in.prefix+"other."); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "kafka.brokers: another_bus") {
		t.Errorf("opened on other topics: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, app.DirectoryFile), in.directory(), 0o600)) // which is read there
	if err := in.open(dir, all, "TALLYSTICK_BUS=embedded"); !fault.Is(err, fault.Conflict) {
		t.Errorf("opened without brokers: %v", err)
	}
	at := func(k *engines.Kafka) []string {
		return []string{all, "TALLYSTICK_KAFKA_BROKERS=" + k.Addr, "TALLYSTICK_KAFKA_TLS_ENABLED=false", "TALLYSTICK_KAFKA_TLS_CA_FILE=", "TALLYSTICK_KAFKA_SASL_MECHANISM=", "TALLYSTICK_KAFKA_SASL_USERNAME="}
	}
	other, err := engines.StartOtherKafka(t.Context(), t.TempDir())
	must(t, err)
	defer other.Kill() //nolint:errcheck // a test
	if err := in.open(dir, at(other)...); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "kafka.brokers: another_bus") {
		t.Errorf("opened on another cluster: %v", err)
	}
	elsewhere, err := app.Production(dir, append(slices.Clone(in.env), at(other)...), io.Discard)
	must(t, err)
	if err := app.Rewind(t.Context(), elsewhere); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "kafka.brokers: another_bus") {
		t.Errorf("rewound on another cluster: %v", err)
	}
	must(t, other.Kill())
	empty, err := engines.StartKafka(t.Context(), t.TempDir())
	must(t, err)
	defer empty.Kill() //nolint:errcheck // a test
	if err := in.open(dir, at(empty)...); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "was consumed: the log was replaced, or restored from an older copy") {
		t.Errorf("opened on brokers that have less than was read: %v", err)
	}
	if err := in.open(dir, all, "TALLYSTICK_SECRET_KAFKA=guess", "TALLYSTICK_KAFKA_START_TIMEOUT=24h"); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "kafka.sasl.username: authentication_failed") {
		t.Errorf("opened with a wrong password: %v", err)
	}

	must(t, os.RemoveAll(dir))
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.CopyFS(dir, os.DirFS(backup)))
	keys, err := filepath.Glob(filepath.Join(dir, app.SecretsDir, "*"))
	must(t, err)
	for _, k := range keys {
		must(t, os.Chmod(k, 0o600))
	}
	if err := in.open(dir, all); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "tallystick rewind") {
		t.Errorf("opened, although the brokers have more than the logs: %v", err)
	}
	deps, err := app.Production(dir, append(slices.Clone(in.env), all), io.Discard)
	must(t, err)
	if told, places := in.told(deps); told == places {
		t.Error("the brokers were told of nothing behind the backup: the test shows nothing")
	}
	must(t, app.Rewind(t.Context(), deps))
	if told, places := in.told(deps); told != places {
		t.Errorf("the brokers know that readers have come to\n%s, and they are at\n%s", told, places)
	}
	s = in.start(dir, all)
	defer s.stop()
	for tries := 0; ; tries++ { // what was accepted after the backup is at the brokers
		v, err := s.app.Stores.Verify(t.Context())
		must(t, err)
		if len(v.Orders) > 0 && v.Orders[0].Accepted == 30 {
			break
		}
		if tries > 1000 {
			t.Fatalf("what was accepted after the backup is not there: %+v", v.Orders)
		}
		time.Sleep(20 * time.Millisecond)
	}
	pay(s, 30, 40)
	s.verified(t, vouchers, 40)
}
