package app_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// lockedBuffer is a log that goroutines write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// system is the whole product on loopback, with its PSP.
type system struct {
	app    *app.App
	psp    *sim.Sim
	client *load.Client
	log    *lockedBuffer
	stop   func()
}

func startSystem(t *testing.T, faults sim.Faults, env ...string) *system {
	t.Helper()
	return startSystemIn(t, t.TempDir(), faults, env...)
}

func startSystemIn(t *testing.T, dir string, faults sim.Faults, env ...string) *system {
	t.Helper()
	made, err := app.Init(dir)
	must(t, err)
	s := &system{log: &lockedBuffer{}}
	ln, err := app.FreeAddress()
	must(t, err)
	deps, err := app.Production(dir, append([]string{"TALLYSTICK_LISTEN=" + ln, "TALLYSTICK_PUBLIC_URL=http://" + ln, "TALLYSTICK_LISTEN_OPERATOR=127.0.0.1:0",
		"TALLYSTICK_LOG_LEVEL=debug", "TALLYSTICK_PREPAY_BACKOFF_ASK_FIRST_MILLIS=20",
		// No test is to fail because the machine is slow, under the race detector say.
		"TALLYSTICK_API_ACCEPT_TIMEOUT=15s", "TALLYSTICK_API_ACCEPT_DEADLINE=20s"}, env...), s.log)
	must(t, err)
	var accounts []sim.Account
	for _, name := range app.ExampleAccounts() {
		key, err := app.NewSecrets(filepath.Join(dir, app.SecretsDir), func(string) (string, bool) { return "", false }).PSP(name)
		must(t, err)
		accounts = append(accounts, sim.Account{Name: name, Keys: [][]byte{key}, Faults: faults})
	}
	s.psp, err = sim.New(sim.Config{Desk: sim.DeskConfig{Accounts: accounts, Seed: 1}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	must(t, s.psp.Listen("127.0.0.1:0"))
	snapshot := *deps.Directory.Current()
	snapshot.Version++
	snapshot.Accounts = slices.Clone(snapshot.Accounts)
	for i := range snapshot.Accounts {
		snapshot.Accounts[i].Endpoint = s.psp.URL()
	}
	deps.Directory.Replace(&snapshot)
	deps.CommitFault = commitFault
	s.app, err = app.New(t.Context(), deps)
	must(t, err)
	must(t, s.app.Listen())
	s.client = load.NewClient(s.app.Addr(), made.APIKey, 64)
	s.run(t)
	return s
}

// run starts everything; stop, also at the test's end, stops it and closes the stores.
func (s *system) run(t *testing.T) {
	stopApp, stopPSP := s.runApp(t), s.runPSP(t)
	s.stop = sync.OnceFunc(func() {
		stopApp()
		stopPSP()
	})
	t.Cleanup(s.stop)
}

func (s *system) runPSP(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.psp.Run(ctx) }()
	return func() {
		cancel()
		must(t, <-done)
	}
}

// runApp starts the product alone; stop stops it and closes the stores.
func (s *system) runApp(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.app.Run(ctx) }()
	return func() {
		cancel()
		must(t, <-done)
		must(t, s.app.Close())
	}
}

// drain waits until nothing is on its way.
func (s *system) drain(t *testing.T) {
	t.Helper()
	for range 3000 {
		open, err := s.app.Stores.Core.Open(t.Context())
		must(t, err)
		if len(open) == 0 && s.app.Drained() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("payments are still on their way")
}

// A payment goes from HTTP to the ledger and back, with a PSP that misbehaves;
// afterwards every voucher and every cent is explained.
func TestPaymentsEndToEnd(t *testing.T) {
	s := startSystem(t, sim.Faults{AutoPayShare: 1, LostReplyShare: .1, ServerErrorShare: .1, DeclineShare: .1, DuplicateCallbackShare: .2, EarlyCallbackShare: .2,
		ForgedCallbackShare: .1, PayerDeclinedShare: .1})
	const n = 60
	order := load.Orders(1)
	vouchers := map[string]string{}
	for i := range n {
		a, status, err := s.client.Pay(order(i))
		if status != 202 {
			t.Fatalf("pay: %d %v", status, err)
		}
		vouchers[a.Voucher] = a.Token
	}
	for v, token := range vouchers {
		view := load.View{}
		for !view.Final() {
			var status int
			var err error
			if view, status, err = s.client.Await(load.Accepted{Voucher: v, Token: token}, view.Version, 5*time.Second); status != 200 {
				t.Fatalf("await: %d %v", status, err)
			}
		}
	}
	s.drain(t)
	promised := make([]string, 0, n)
	for v := range vouchers {
		promised = append(promised, v)
	}
	_, lost, err := s.app.Stores.CheckVouchers(t.Context(), promised)
	must(t, err)
	v, err := s.app.Stores.Verify(t.Context())
	must(t, err)
	if wrong := append(v.Violations, lost...); len(wrong) > 0 || len(v.Orders) != 1 || v.Orders[0].Accepted != n || v.Orders[0].InFlight != 0 {
		t.Fatalf("violations %q, orders %+v", wrong, v.Orders)
	}
	s.stop()
	checkContexts(t, s)
}

// rowsOfTheirOwn are the tables whose rows do not belong to one trade: why.
var rowsOfTheirOwn = map[string]string{
	"goose_db_version": "the schema's version", "schema_version": "the schema's version", "leases": "a group's", "members": "a process's", "moves": "a group's", "stamp": "the installation's constants", "places": "a consumer's", "heads": "a topic's", "marks": "a topic's",
	"trimmed": "a topic's", "trimmed_sums": "sums over many payments",
	"intake_intents": "a batch of records, each with its own context", "intake_callbacks": "a batch of records, each with its own context",
	"log_dispatch": "a batch of records", "log_payments": "a batch of records", "log_outcomes": "a batch of records", "log_postings": "a batch of records",
	"progress": "how far a call is, which has the context", "cleaned": "a moment",
	"accounts": "an account of the ledger", "balances": "an account's", "postings": "lines of an entry, which has the context",
}

// checkContexts reads every table, message and log line of a run, and fails on
// one without the whole context.
func checkContexts(t *testing.T, s *system) {
	t.Helper()
	seen := 0
	for _, area := range []string{"intake", "core", "prepay", "accounting"} {
		db, err := sqldb.Open(t.Context(), sqldb.Options{Area: area, Path: filepath.Join(s.app.Dir, app.StoresDir, area+".db")})
		must(t, err)
		seen += checkTables(t, db, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`)
		must(t, db.Close())
	}
	lines := checkLines(t, s.log)
	if seen < 500 {
		t.Errorf("only %d rows and records were read: the run shows nothing", seen)
	}
	t.Logf("%d rows and records, %d log lines about payments", seen, lines)
}

// checkTables reads the tables that a query names, and gives how many rows and records had
// a context.
func checkTables(t *testing.T, db *sqldb.DB, names string) (seen int) {
	t.Helper()
	each := func(query string, row func(sqldb.Scan) error) error {
		return db.Read(t.Context(), func(tx *sqldb.Tx) error { return tx.Query(query, nil, row) })
	}
	var tables []string
	must(t, each(names, func(scan sqldb.Scan) error {
		var name string
		err := scan(&name)
		tables = append(tables, name)
		return err
	}))
	for _, table := range tables {
		if strings.HasPrefix(table, "intake_") || strings.HasPrefix(table, "log_") {
			must(t, each(`SELECT body FROM `+table, func(scan sqldb.Scan) error {
				var body []byte
				if err := scan(&body); err != nil {
					return err
				}
				events, err := bus.ParseRecords(body)
				for _, e := range events {
					checkContext(t, "a record of "+table, e.Context)
				}
				seen += len(events)
				return err
			}))
		}
		if rowsOfTheirOwn[table] != "" {
			continue
		}
		if err := each(`SELECT `+strings.Join(ids.Columns, ", ")+` FROM `+table, func(scan sqldb.Scan) error {
			var c ids.Context
			err := scan(c.Targets()...)
			checkContext(t, "a row of "+table, c)
			seen++
			return err
		}); err != nil {
			t.Errorf("table %s lacks the context's columns: %v", table, err)
		}
	}
	return seen
}

// checkLines reads a log, and gives how many of its lines are about a payment.
func checkLines(t *testing.T, log *lockedBuffer) (lines int) {
	t.Helper()
	for line := range strings.Lines(log.String()) {
		var m map[string]any
		must(t, json.Unmarshal([]byte(line), &m))
		if about := slices.ContainsFunc([]string{"biz_code", "voucher", "out_trade_no", "event", "y"}, func(k string) bool { return m[k] != nil }); !about {
			continue
		}
		lines++
		for _, k := range ids.Columns {
			if v, there := m[k]; !there || v == "" && k != "institution" {
				t.Errorf("log line without %s: %s", k, line)
			}
		}
	}
	return lines
}

func checkContext(t *testing.T, what string, c ids.Context) {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if routed := !strings.Contains(what, "intents") && !strings.Contains(what, "trade_orders"); routed && c.Institution == "" {
		t.Errorf("%s has no institution: %+v", what, c)
	}
}

// What runs is what was configured: a second process on the same folder is
// refused, and so is another secret or another number of groups.
func TestOneFolderOneProcessOneSecret(t *testing.T) {
	dir, _ := initialised(t)
	a, err := app.Open(t.Context(), dir, nil, io.Discard)
	must(t, err)
	if _, err := app.Open(t.Context(), dir, nil, io.Discard); err == nil || !strings.Contains(err.Error(), "folder_in_use") {
		t.Errorf("a second process: %v", err)
	}
	must(t, a.Close())
	for _, tc := range []struct{ variable, want string }{
		{"TALLYSTICK_SECRET_CODE=" + strings.Repeat("ab", 32), "code_secret"},
		{"TALLYSTICK_GROUPS=8", "groups"},
	} {
		if _, err := app.Open(t.Context(), dir, []string{tc.variable}, io.Discard); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("with %s: %v", tc.variable, err)
		}
	}
	again, err := app.Open(t.Context(), dir, nil, io.Discard)
	must(t, err)
	must(t, again.Close())
}

// A key that is taken out of the directory is dead after one look at the file.
func TestARevokedKeyIsDead(t *testing.T) {
	dir, made := initialised(t)
	a, err := app.Open(t.Context(), dir, nil, io.Discard)
	must(t, err)
	defer a.Close() //nolint:errcheck // a test
	path := filepath.Join(dir, app.DirectoryFile)
	text, err := os.ReadFile(path)
	must(t, err)
	changed := strings.Replace(strings.Replace(string(text), "version: 1", "version: 2", 1), merchant.HashKey(made.APIKey), strings.Repeat("ab", 32), 1)
	must(t, os.WriteFile(path, []byte(changed), 0o600))
	if a.Directory.Current().Authenticate([]byte(made.APIKey)) == nil {
		t.Fatal("the key was dead before")
	}
	if worked, err := merchant.NewWatcher(path, a.Directory, a.Log).Step(t.Context()); !worked || err != nil {
		t.Fatalf("watch: %v %v", worked, err)
	}
	if m := a.Directory.Current().Authenticate([]byte(made.APIKey)); m != nil {
		t.Errorf("the revoked key is %s", m.ID)
	}
	must(t, os.WriteFile(path, []byte("version: 3\nmerchantz: []\n"), 0o600))
	if _, err := merchant.NewWatcher(path, a.Directory, a.Log).Step(t.Context()); err == nil || !strings.Contains(fmt.Sprint(err), "merchantz") {
		t.Errorf("a bad file: %v", err)
	}
	if a.Directory.Current().Version != 2 {
		t.Error("a bad file replaced the last good one")
	}
}

// What core has read is no backlog, and goes: the intake keeps little more than
// what nobody has read, however long it runs.
func TestWhatIsReadLeavesTheIntake(t *testing.T) {
	dir, _ := initialised(t)
	a, err := app.Open(t.Context(), dir, []string{"TALLYSTICK_INTAKE_TRIM_EVERY_BATCHES=4"}, io.Discard)
	must(t, err)
	defer a.Close() //nolint:errcheck // a test
	const n = 20
	for range n {
		unread(t, a, bus.Intents)
	}
	if bytes, age := a.Intake.Backlog(bus.Intents); bytes == 0 || age == 0 {
		t.Fatalf("before it is read: %d bytes, %s", bytes, age)
	}
	stepAll(t, a, "core.intents")
	if bytes, age := a.Intake.Backlog(bus.Intents); bytes != 0 || age != 0 {
		t.Errorf("everything is read, and the backlog is %d bytes, the oldest %s", bytes, age)
	}
	unread(t, a, bus.Intents)
	stepAll(t, a, "intake.trim")
	rows := 0
	must(t, a.Stores.Intake.Read(t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT COUNT(*) FROM intake_intents`, nil, func(scan sqldb.Scan) error { return scan(&rows) })
	}))
	if rows == 0 || rows > n/2 {
		t.Errorf("%d of %d batches are still there: those that were read do not go", rows, n+1)
	}
}
