package app_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/engines"
)

// installation is several processes' worth of one installation: they share
// secrets and brokers, and have folders of their own.
type installation struct {
	t      *testing.T
	made   app.Initialised
	psp    *sim.Sim
	broker *engines.Kafka
	place  string // in its broker and databases
	prefix string // of its topics
	env    []string
	tweak  func(*app.Deps) // of each process that is started
}

// newInstallation makes one on the broker that tests share.
func newInstallation(t *testing.T, faults sim.Faults) *installation {
	t.Helper()
	return newInstallationOn(t, broker.get(t), faults)
}

func newInstallationOn(t *testing.T, broker *engines.Kafka, faults sim.Faults) *installation {
	t.Helper()
	in := &installation{t: t, broker: broker, place: place()}
	in.prefix = in.place + "."
	var err error
	in.made, err = app.Init(filepath.Join(t.TempDir(), "made"))
	must(t, err)
	secure := in.broker.Secure
	must(t, os.WriteFile(filepath.Join(in.made.Dir, app.SecretsDir, "kafka.password"), []byte(secure.Password+"\n"), 0o600))
	var accounts []sim.Account
	for _, name := range app.ExampleAccounts() {
		key, err := app.NewSecrets(filepath.Join(in.made.Dir, app.SecretsDir), func(string) (string, bool) { return "", false }).PSP(name)
		must(t, err)
		accounts = append(accounts, sim.Account{Name: name, Keys: [][]byte{key}, Faults: faults})
	}
	in.psp, err = sim.New(sim.Config{Desk: sim.DeskConfig{Accounts: accounts, Seed: 1}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	must(t, in.psp.Listen("127.0.0.1:0"))
	must(t, os.WriteFile(filepath.Join(in.made.Dir, app.SnapshotFile), published(1, in.directory()), 0o600))
	stop := (&system{psp: in.psp}).runPSP(t)
	t.Cleanup(stop)
	in.env = []string{"TALLYSTICK_BUS=kafka", "TALLYSTICK_KAFKA_TOPIC_PREFIX=" + in.prefix, "TALLYSTICK_KAFKA_BROKERS=" + secure.SASLAddr, "TALLYSTICK_KAFKA_TLS_ENABLED=true",
		"TALLYSTICK_KAFKA_TLS_CA_FILE=" + secure.CAFile, "TALLYSTICK_KAFKA_SASL_MECHANISM=SCRAM-SHA-512", "TALLYSTICK_KAFKA_SASL_USERNAME=" + secure.Username,
		"TALLYSTICK_KAFKA_REPLICATION=1", "TALLYSTICK_KAFKA_MIN_IN_SYNC=1", "TALLYSTICK_KAFKA_NO_SYNC=true",
		"TALLYSTICK_KAFKA_START_TIMEOUT=60s", "TALLYSTICK_KAFKA_FETCH_WAIT=100ms", "TALLYSTICK_GROUPS=4", "TALLYSTICK_LISTEN_OPERATOR=127.0.0.1:0",
		"TALLYSTICK_PREPAY_BACKOFF_ASK_FIRST_MILLIS=20", "TALLYSTICK_PREPAY_BACKOFF_POLL_FIRST_MILLIS=500",
		// What was read by everyone goes at once: nobody may miss it.
		"TALLYSTICK_RETENTION_LOG_AGE=1ms", "TALLYSTICK_RETENTION_EVERY=200ms"}
	return in
}

// directory is a directory file with the accounts at this installation's PSP.
func (in *installation) directory() []byte {
	text, err := os.ReadFile(filepath.Join(in.made.Dir, app.DirectoryFile))
	must(in.t, err)
	return bytes.ReplaceAll(text, []byte("http://127.0.0.1:9090"), []byte(in.psp.URL()))
}

// published is a directory file as it is published and kept.
func published(version int, text []byte) []byte {
	return fmt.Appendf(nil, "# tallystick directory format=1 version=%d sha256=%x\n%s", version, sha256.Sum256(text), text)
}

// folder is a data folder for one more process. It has a snapshot of the directory, and
// no directory.yaml.
func (in *installation) folder(name string) string {
	dir := filepath.Join(in.t.TempDir(), name)
	must(in.t, os.CopyFS(dir, os.DirFS(in.made.Dir)))
	must(in.t, os.Remove(filepath.Join(dir, app.DirectoryFile)))
	keys, err := filepath.Glob(filepath.Join(dir, app.SecretsDir, "*"))
	must(in.t, err)
	for _, k := range keys {
		must(in.t, os.Chmod(k, 0o600))
	}
	return dir
}

// start starts a process's worth, and waits until it is there.
func (in *installation) start(dir string, env ...string) *system {
	in.t.Helper()
	s := in.begin(dir, env...)
	until(in.t, "it has started", func() bool {
		why := s.notReady(in.t)
		return why["kafka"]+why["directory"] == ""
	})
	return s
}

// until waits for something that comes by itself.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within a minute: " + what)
		}
	}
}

// begin starts a process's worth, which listens at once.
func (in *installation) begin(dir string, env ...string) *system {
	in.t.Helper()
	return in.run(dir, func(*app.App) {}, env...)
}

// serve starts one as `tallystick serve` does: it waits for the directory first.
func (in *installation) serve(dir string, env ...string) *system {
	in.t.Helper()
	return in.run(dir, func(a *app.App) { a.Await(in.t.Context()) }, env...)
}

func (in *installation) run(dir string, first func(*app.App), env ...string) *system {
	in.t.Helper()
	deps, err := app.Production(dir, append(slices.Clone(in.env), env...), io.Discard)
	must(in.t, err)
	s := &system{psp: in.psp}
	if in.tweak != nil {
		in.tweak(&deps)
	}
	deps.NoSync = slices.Contains(in.env, "TALLYSTICK_STORES=postgres") // its server is one for tests
	s.app, err = app.New(in.t.Context(), deps)
	must(in.t, err)
	first(s.app)
	must(in.t, s.app.Listen())
	s.client = load.NewClient(s.app.Addr(), in.made.APIKey, 64)
	s.stop = s.runApp(in.t)
	return s
}

// notReady is what a process lacks, and why.
func (s *system) notReady(t *testing.T) map[string]string {
	t.Helper()
	var body struct {
		Missing map[string]string `json:"missing"`
	}
	status, text, err := fasthttp.Get(nil, "http://"+s.app.OperatorAddr()+"/readyz")
	must(t, err)
	if must(t, json.Unmarshal(text, &body)); (status == 200) != (len(body.Missing) == 0) {
		t.Errorf("%d with missing %v", status, body.Missing)
	}
	return body.Missing
}

// Two gateways take payments, and everything else runs in a third process, over a
// real broker. What works on payments is stopped for a while: gateways take them
// all the same. In the end every voucher is paid or declined, whichever gateway is
// asked, and every cent is explained.
func TestGatewaysOfTheirOwn(t *testing.T) {
	in := newInstallation(t, sim.Faults{AutoPayShare: 1, LostReplyShare: .05, DeclineShare: .1, DuplicateCallbackShare: .1, EarlyCallbackShare: .1})
	ports := make([]string, 3)
	for i := range ports {
		addr, err := app.FreeAddress()
		must(t, err)
		ports[i] = addr
	}
	work, operator := in.folder("work"), "TALLYSTICK_LISTEN_OPERATOR="+ports[2]
	public := "TALLYSTICK_PUBLIC_URL=http://" + ports[0] // PSPs call back there, whoever asked
	worker := func() *system { return in.start(work, "TALLYSTICK_ROLES=core,prepay,accounting", operator, public) }
	core := worker()
	var gateways []*system
	for i := range 2 {
		g := in.start(in.folder(fmt.Sprint("gateway", i)), "TALLYSTICK_ROLES=gateway", "TALLYSTICK_CORE_URL=http://"+ports[2], "TALLYSTICK_LISTEN="+ports[i], public)
		defer g.stop()
		gateways = append(gateways, g)
	}
	order := load.Orders(1)
	accepted := map[string]load.Accepted{}
	pay := func(from, to int) {
		t.Helper()
		for n := from; n < to; n++ {
			a, status, err := gateways[n%2].client.Pay(order(n))
			if status != 202 {
				t.Fatalf("pay: %d %v", status, err)
			}
			if n%5 == 0 { // the other gateway gives the same voucher
				if b, status, err := gateways[(n+1)%2].client.Pay(order(n)); status != 202 || b.Voucher != a.Voucher {
					t.Fatalf("the same at the other gateway: %d %v, voucher %s and %s", status, err, a.Voucher, b.Voucher)
				}
			}
			accepted[a.Voucher] = a
		}
	}
	pay(0, 20)
	core.stop()
	pay(20, 40) // nobody works on them
	core = worker()
	pay(40, 60)
	promised := make([]string, 0, len(accepted))
	for v, a := range accepted {
		promised = append(promised, v)
		view := load.View{}
		for tries := 0; !view.Final(); tries++ {
			next, status, err := gateways[len(promised)%2].client.Await(a, view.Version, 5*time.Second)
			if status != 200 && tries > 20 {
				t.Fatalf("await %s: %d %v", v, status, err)
			}
			if status == 200 {
				view = next
			}
			if tries > 60 {
				t.Fatalf("%s is still %s", v, view.Status)
			}
		}
	}
	core.drain(t)
	_, lost, err := core.app.Stores.CheckVouchers(t.Context(), promised)
	must(t, err)
	var v app.Verification
	for range 500 { // what core has told is on its way to the ledger for a moment
		v, err = core.app.Stores.Verify(t.Context())
		must(t, err)
		if len(v.Violations) == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if wrong := append(v.Violations, lost...); len(wrong) > 0 || v.Orders[0].Accepted != 60 || v.Orders[0].InFlight != 0 {
		t.Errorf("violations %q, orders %+v", wrong, v.Orders)
	}
	awaitTrimmed(t, core, 20)
	core.stop()
	// Core gone: what a gateway holds it still tells, all else is not to be had.
	some := accepted[promised[0]]
	if _, status, _ := gateways[0].client.Await(some, 0, 0); status != 200 && status != 503 {
		t.Errorf("a voucher while core is gone: %d", status)
	}
}

func TestRolesThatDoNotFitAreRefused(t *testing.T) {
	dir, _ := initialised(t)
	for env, words := range map[string]string{
		"TALLYSTICK_ROLES=gateway":                           "roles_apart",
		"TALLYSTICK_ROLES=gateway,desk":                      "unknown_role",
		"TALLYSTICK_ROLES=core,core":                         "unknown_role",
		"TALLYSTICK_BUS=rabbit":                              "unknown_bus",
		"TALLYSTICK_BUS=kafka":                               "kafka.brokers",
		"TALLYSTICK_BUS=kafka TALLYSTICK_KAFKA_BROKERS=here": "kafka.brokers",
		"TALLYSTICK_BUS=kafka TALLYSTICK_KAFKA_BROKERS=a:1 TALLYSTICK_ROLES=gateway":               "core_url",
		"TALLYSTICK_BUS=kafka TALLYSTICK_KAFKA_BROKERS=a:1 TALLYSTICK_KAFKA_TLS_CA_FILE=x":         "kafka.tls.ca_file",
		"TALLYSTICK_BUS=kafka TALLYSTICK_KAFKA_BROKERS=a:1 TALLYSTICK_KAFKA_TLS_ENABLED=perhaps":   "TALLYSTICK_KAFKA_TLS_ENABLED",
		"TALLYSTICK_BUS=kafka TALLYSTICK_KAFKA_BROKERS=a:1 TALLYSTICK_KAFKA_SASL_MECHANISM=GSSAPI": "kafka.sasl.mechanism",
		"TALLYSTICK_BUS=kafka TALLYSTICK_KAFKA_BROKERS=a:1 TALLYSTICK_KAFKA_SASL_USERNAME=u":       "kafka.sasl.mechanism",
		"TALLYSTICK_BUS=kafka TALLYSTICK_KAFKA_BROKERS=a:1 TALLYSTICK_CONSUMERS_STALL_ALARM=5s":    "consumers.stall_alarm",
	} {
		if _, err := app.LoadConfig(dir, strings.Fields(env)); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %q", env, err, words)
		}
	}
}
