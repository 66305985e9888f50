package app_test

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/fault"
)

// reads waits until a figure of a process has a value, for as long as is given.
func (s *system) reads(t *testing.T, name string, want float64, within time.Duration) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		have := s.figure(name)
		if have == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is %v after %s, want %v", name, have, within, want)
		}
	}
}

// edit changes a directory file as operators do.
func edit(t *testing.T, dir string, version int, oldNew ...string) []byte {
	t.Helper()
	path := filepath.Join(dir, app.DirectoryFile)
	text, err := os.ReadFile(path)
	must(t, err)
	lines := strings.SplitN(string(text), "\n", -1)
	at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "version: ") })
	lines[at] = "version: " + strconv.Itoa(version)
	changed := strings.NewReplacer(oldNew...).Replace(strings.Join(lines, "\n"))
	must(t, os.WriteFile(path+".new", []byte(changed), 0o600))
	must(t, os.Rename(path+".new", path))
	return []byte(changed)
}

// withFile is a folder with directory.yaml and no snapshot, and bare one with neither.
func (in *installation) withFile(name string) string {
	dir := in.bare(name)
	must(in.t, os.WriteFile(filepath.Join(dir, app.DirectoryFile), in.directory(), 0o600))
	return dir
}

func (in *installation) bare(name string) string {
	dir := in.folder(name)
	must(in.t, os.Remove(filepath.Join(dir, app.SnapshotFile)))
	return dir
}

// A gateway has no directory.yaml. Without a snapshot it says what it waits for, and
// refuses nobody for good; once core has published it takes payments; a key that is
// revoked at core is dead at the gateway within 5 s. What core must not publish changes
// nothing there. All say when the brokers are gone, and the gateway starts with what it
// knows then.
func TestTheDirectoryIsPublished(t *testing.T) {
	in := newInstallationOn(t, ownBroker(t), sim.Faults{AutoPayShare: 1})
	ports := make([]string, 2)
	for i := range ports {
		addr, err := app.FreeAddress()
		must(t, err)
		ports[i] = addr
	}
	gatewayDir, workDir := in.bare("gateway"), in.withFile("work")
	begin := func(dir string, env ...string) *system {
		t.Helper()
		return in.begin(dir, append([]string{"TALLYSTICK_ROLES=gateway", "TALLYSTICK_CORE_URL=http://" + ports[0], "TALLYSTICK_LISTEN=" + ports[1]}, env...)...)
	}
	log := &lockedBuffer{}
	in.tweak = func(d *app.Deps) { d.Log = slog.New(slog.NewTextHandler(log, nil)) }
	gateway := begin(gatewayDir)
	in.tweak = nil
	order := load.Orders(1)
	until(t, "the gateway says what is missing", func() bool {
		why := gateway.notReady(t)
		return why["kafka"] == "" && strings.Contains(why["directory"], "nothing is published") && strings.Contains(why["directory"], "directory.yaml")
	})
	if _, status, err := gateway.client.Pay(order(0)); status != 503 || !strings.Contains(err.Error(), "not_ready") {
		t.Errorf("a payment without a directory: %d %v", status, err)
	}
	if status := gateway.callBack(t); status != 503 {
		t.Errorf("a callback without a directory: %d", status)
	}

	core := in.start(workDir, "TALLYSTICK_ROLES=core,prepay,accounting", "TALLYSTICK_LISTEN_OPERATOR="+ports[0], "TALLYSTICK_PUBLIC_URL=http://"+ports[1])
	until(t, "the gateway is ready", func() bool { return len(gateway.notReady(t)) == 0 })
	if _, status, err := gateway.client.Pay(order(0)); status != 202 {
		t.Fatalf("pay: %d %v", status, err)
	}
	if status := gateway.callBack(t); status == 503 || status == 404 {
		t.Errorf("a callback that is forged: %d", status)
	}

	other, hash := strings.Repeat("k", 40), merchant.HashKey(in.made.APIKey)
	edit(t, workDir, 2, hash, merchant.HashKey(other))
	begun := time.Now()
	for gateway.status(order(1)) != 401 {
		if time.Since(begun) > 5*time.Second {
			t.Fatal("the revoked key is alive after 5 s")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("dead after %s", time.Since(begun).Round(time.Millisecond))
	successor := load.NewClient(gateway.app.Addr(), other, 4)
	if _, status, err := successor.Pay(order(1)); status != 202 {
		t.Errorf("its successor: %d %v", status, err)
	}

	edit(t, workDir, 2, merchant.HashKey(other), hash) // the same version, and another directory
	core.reads(t, "tallystick_directory_refused_total", 1, 5*time.Second)
	edit(t, workDir, 3, "merchants:", "merchantz:")
	core.reads(t, "tallystick_directory_refused_total", 2, 5*time.Second)
	if status := gateway.status(order(2)); status != 401 || gateway.figure("tallystick_directory_version") != 2 {
		t.Errorf("%d for the revoked key, version %v", status, gateway.figure("tallystick_directory_version"))
	}

	must(t, in.broker.Freeze())
	for _, s := range []*system{gateway, core} {
		until(t, "it says that the brokers are gone", func() bool { return strings.Contains(s.notReady(t)["kafka"], "do not answer") })
	}
	must(t, in.broker.Thaw())
	for _, s := range []*system{gateway, core} {
		until(t, "it is ready again", func() bool { return len(s.notReady(t)) == 0 })
	}
	core.stop()
	must(t, in.broker.Kill())
	until(t, "it says that the brokers are gone", func() bool { return gateway.notReady(t)["kafka"] != "" })
	gateway.stop()
	if failed, well := strings.Count(log.String(), "backlog failed"), strings.Count(log.String(), "backlog well again"); well == 0 || failed != well+1 {
		t.Errorf("told %d times that the backlog fails, and %d times that it is well again", failed, well)
	}

	gateway = begin(gatewayDir)
	until(t, "it has started without brokers", func() bool {
		why := gateway.notReady(t)
		return why["kafka"] != "" && why["directory"] == ""
	})
	gone := load.NewClient(gateway.app.Addr(), other, 4)
	if _, status, err := gone.Pay(order(3)); status != 503 || !strings.Contains(err.Error(), "not_accepted") {
		t.Errorf("a payment without brokers: %d %v", status, err)
	}
	if status := gateway.status(order(3)); status != 401 {
		t.Errorf("the revoked key without brokers: %d", status)
	}
	gateway.stop()

	path := filepath.Join(gatewayDir, app.SnapshotFile)
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, text[:len(text)-10], 0o600))
	gateway = begin(gatewayDir)
	if n := gateway.figure("tallystick_directory_refused_total"); n != 1 {
		t.Errorf("%v refused, the snapshot is torn", n)
	}
	until(t, "it says what is missing", func() bool {
		why := gateway.notReady(t)
		return strings.Contains(why["kafka"], "broker_unavailable") && strings.Contains(why["directory"], "no snapshot")
	})
	if status := gateway.status(order(3)); status != 503 {
		t.Errorf("without a directory: %d", status)
	}
	gateway.stop()
}

// callBack is the status of a callback that is forged.
func (s *system) callBack(t *testing.T) int {
	t.Helper()
	var req fasthttp.Request
	var res fasthttp.Response
	req.SetRequestURI("http://" + s.app.Addr() + "/v1/callbacks/sandbox/" + app.ExampleAccounts()[0])
	req.Header.SetMethod("POST")
	req.SetBodyString("{}")
	must(t, fasthttp.Do(&req, &res))
	return res.StatusCode()
}

// status is that of a payment with the first key.
func (s *system) status(o load.Order) int {
	_, status, _ := s.client.Pay(o)
	return status
}

// A directory that is too large is not published, and said to be: the bound is that of
// the configuration.
func TestTheDirectoryIsBounded(t *testing.T) {
	dir, _ := initialised(t)
	base := "TALLYSTICK_BUS=kafka TALLYSTICK_KAFKA_BROKERS=a:1 "
	for env, bad := range map[string]bool{"TALLYSTICK_KAFKA_DIRECTORY_BYTES_MAX=0": true, "TALLYSTICK_KAFKA_DIRECTORY_BYTES_MAX=16777217": true, "TALLYSTICK_KAFKA_DIRECTORY_BYTES_MAX=16777216": false} {
		_, err := app.LoadConfig(dir, strings.Fields(base+env))
		if refused := err != nil && strings.Contains(err.Error(), "kafka.directory_bytes_max"); refused != bad {
			t.Errorf("%s: %v", env, err)
		}
	}
	in := newInstallation(t, sim.Faults{})
	work := in.withFile("work")
	s := in.begin(work, "TALLYSTICK_LISTEN=127.0.0.1:0", "TALLYSTICK_KAFKA_DIRECTORY_BYTES_MAX=100")
	s.reads(t, "tallystick_directory_refused_total", 1, 20*time.Second)
	if why := s.notReady(t)["directory"]; !strings.Contains(why, "kafka.directory_bytes_max") {
		t.Errorf("missing %q", why)
	}
	s.stop()
}

// The embedded profile needs no topic: what it has is its file.
func TestTheEmbeddedProfileReadsItsFile(t *testing.T) {
	dir, _ := initialised(t)
	must(t, os.Remove(filepath.Join(dir, app.DirectoryFile)))
	if _, err := app.Production(dir, nil, io.Discard); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("without a directory.yaml: %v", err)
	}
	_, err := app.Production(dir, []string{"TALLYSTICK_BUS=kafka", "TALLYSTICK_KAFKA_BROKERS=a:1"}, io.Discard)
	must(t, err)
}

// Core without a directory would reject what it does not know, for good: it works on
// nothing before it has one.
func TestNobodyIsOnDutyWithoutADirectory(t *testing.T) {
	in := newInstallation(t, sim.Faults{AutoPayShare: 1})
	ports := make([]string, 2)
	for i := range ports {
		addr, err := app.FreeAddress()
		must(t, err)
		ports[i] = addr
	}
	dir := in.bare("work")
	core := in.begin(dir, "TALLYSTICK_ROLES=core,prepay,accounting", "TALLYSTICK_LISTEN_OPERATOR="+ports[0], "TALLYSTICK_PUBLIC_URL=http://"+ports[1])
	defer core.stop()
	gateway := in.start(in.folder("gateway"), "TALLYSTICK_ROLES=gateway", "TALLYSTICK_CORE_URL=http://"+ports[0], "TALLYSTICK_LISTEN="+ports[1])
	defer gateway.stop()
	a, status, err := gateway.client.Pay(load.Orders(1)(0))
	if status != 202 {
		t.Fatalf("pay: %d %v", status, err)
	}
	time.Sleep(time.Second) // enough to reject it
	must(t, os.WriteFile(filepath.Join(dir, app.DirectoryFile), in.directory(), 0o600))
	var view load.View
	until(t, "it is final", func() bool {
		view, _, _ = gateway.client.Await(a, 0, 0)
		return view.Final()
	})
	if view.Status != "paid" {
		t.Errorf("it is %s", view.Status)
	}
}

// Topics that do not fit are refused where brokers answer, and nothing is appended to
// those that were not checked yet; a process that has started without brokers is ended
// by them.
func TestTopicsThatDoNotFitAreRefused(t *testing.T) {
	in := newInstallationOn(t, ownBroker(t), sim.Faults{})
	env := append(slices.Clone(in.env), "TALLYSTICK_ROLES=gateway", "TALLYSTICK_CORE_URL=http://127.0.0.1:1", "TALLYSTICK_LISTEN=127.0.0.1:0")
	in.start(in.folder("first"), env...).stop() // makes them
	if err := in.open(in.folder("durable"), append(env, "TALLYSTICK_KAFKA_NO_SYNC=false")...); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "flush.messages") {
		t.Errorf("opened on topics that flush nothing: %v", err)
	}
	env = append(env, "TALLYSTICK_GROUPS=8")
	if err := in.open(in.folder("second"), env...); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "topic_unfit") {
		t.Errorf("opened: %v", err)
	}
	must(t, in.broker.Freeze())
	a, err := app.Open(t.Context(), in.folder("third"), append(env, "TALLYSTICK_KAFKA_PRODUCE_TIMEOUT=300ms"), io.Discard)
	must(t, err)
	defer a.Close() //nolint:errcheck // a test
	must(t, in.broker.Thaw())
	if _, err := a.API.Begin(a.Directory.Current().Merchant(app.ExampleMerchant), api.Call{Body: []byte(`{"order_id":"o","amount":100,"currency":"CNY","subject":"mug"}`)}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a payment before the topics are checked: %v", err)
	}
	must(t, a.Listen())
	if err := a.Run(t.Context()); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "topic_unfit") {
		t.Errorf("ended with %v", err)
	}
}

// A gateway that was off while a key was revoked, and whose snapshot has it, does not take
// it when it comes back.
func TestARevokedKeyDoesNotComeBack(t *testing.T) {
	in := newInstallation(t, sim.Faults{AutoPayShare: 1})
	ports, err := app.FreeAddresses(2)
	must(t, err)
	gatewayDir, workDir := in.bare("gateway"), in.withFile("work")
	gw := []string{"TALLYSTICK_ROLES=gateway", "TALLYSTICK_CORE_URL=http://" + ports[0], "TALLYSTICK_LISTEN=" + ports[1]}
	core := in.start(workDir, "TALLYSTICK_ROLES=core,prepay,accounting", "TALLYSTICK_LISTEN_OPERATOR="+ports[0], "TALLYSTICK_PUBLIC_URL=http://"+ports[1])
	defer core.stop()
	gateway := in.start(gatewayDir, gw...)
	order := load.Orders(1)
	if s := gateway.status(order(0)); s != 202 {
		t.Fatalf("pay %d", s)
	}
	gateway.stop()
	edit(t, workDir, 2, merchant.HashKey(in.made.APIKey), merchant.HashKey(strings.Repeat("k", 40)))
	core.reads(t, "tallystick_directory_version", 2, 5*time.Second)

	gateway = in.serve(gatewayDir, gw...)
	defer gateway.stop()
	if s := gateway.status(order(1)); s != 401 {
		t.Errorf("%d for a key that was revoked before the start", s)
	}
}

// Core's own file is newer than its snapshot: what it does first follows the file.
func TestCoreBeginsWithItsFile(t *testing.T) {
	in := newInstallation(t, sim.Faults{AutoPayShare: 1})
	ports, err := app.FreeAddresses(2)
	must(t, err)
	workDir := in.withFile("work")
	work := func() *system {
		return in.begin(workDir, "TALLYSTICK_ROLES=core,prepay,accounting", "TALLYSTICK_LISTEN_OPERATOR="+ports[0], "TALLYSTICK_PUBLIC_URL=http://"+ports[1])
	}
	core := work()
	gateway := in.start(in.bare("gateway"), "TALLYSTICK_ROLES=gateway", "TALLYSTICK_CORE_URL=http://"+ports[0], "TALLYSTICK_LISTEN="+ports[1])
	defer gateway.stop()
	core.stop()
	order := load.Orders(1)
	var all []load.Accepted
	for n := range 40 {
		a, status, err := gateway.client.Pay(order(n))
		if status != 202 {
			t.Fatalf("pay: %d %v", status, err)
		}
		all = append(all, a)
	}
	edit(t, workDir, 2, "name: Demo Shop\n    enabled: true", "name: Demo Shop\n    enabled: false")
	core = work()
	defer func() { core.stop() }()
	statuses := map[string]int{}
	for _, a := range all {
		var view load.View
		until(t, "it is final", func() bool {
			view, _, _ = gateway.client.Await(a, 0, 0)
			return view.Final()
		})
		statuses[view.Status]++
	}
	if statuses["rejected"] != len(all) {
		t.Errorf("the merchant was disabled before core started: %v", statuses)
	}
}
