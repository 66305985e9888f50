package main

import (
	"bufio"
	"context"
	"database/sql"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
)

// asTheProduct makes this binary behave as the product's, for those who start it.
const asTheProduct = "TEST_BINARY_IS_THE_PRODUCT"

func TestMain(m *testing.M) {
	if os.Getenv(asTheProduct) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// told runs a command and gives what it printed; each line is shown to watch,
// which may be nil, as it comes.
func told(t *testing.T, ctx context.Context, watch func(line string), args ...string) (code int, out string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	var b strings.Builder
	var reader sync.WaitGroup
	reader.Go(func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			b.WriteString(lines.Text() + "\n")
			if watch != nil {
				watch(lines.Text())
			}
		}
	})
	code = run(ctx, args)
	os.Stdout = stdout
	_ = w.Close()
	reader.Wait()
	t.Logf("%v: exit code %d\n%s", args, code, &b)
	return code, b.String()
}

// tamper changes a store behind everybody's back, as soon as there is something to
// change.
func tamper(t *testing.T, dir, store, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "stores", store)+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // a test
	for range 1000 {
		res, err := db.ExecContext(t.Context(), statement)
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := res.RowsAffected(); n > 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("there was never anything to tamper with")
}

// feeTampered is a payment order that says something else than its events.
const feeTampered = `UPDATE payment_orders SET fee_minor = fee_minor + 1 WHERE id = (SELECT MIN(id) FROM payment_orders WHERE status = 'succeeded')`

const explained = "Everything is explained"

// The demo explains everything that it accepted, and its folder can be verified
// afterwards by another process: as long as nobody has changed it.
func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	if code, out := told(t, t.Context(), nil, "demo", "--for", "2s", "--rate", "40", "--data", dir); code != 0 || !strings.Contains(out, explained) {
		t.Fatalf("demo: exit code %d", code)
	}
	if code, _ := told(t, t.Context(), nil, "verify", "--data", dir); code != 0 {
		t.Fatalf("verify: exit code %d", code)
	}
	if code, _ := told(t, t.Context(), nil, "demo", "--data", dir); code != 2 {
		t.Errorf("a demo in a folder that is there: exit code %d", code)
	}
	tamper(t, dir, "core.db", feeTampered)
	if code, out := told(t, t.Context(), nil, "verify", "--data", dir); code != 1 || !strings.Contains(out, "NOT EXPLAINED") {
		t.Errorf("verify after tampering: exit code %d", code)
	}
}

// A demo whose store is changed meanwhile does not explain everything.
func TestADemoThatIsTamperedWith(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	var once sync.Once
	code, out := told(t, t.Context(), func(line string) {
		if strings.HasPrefix(line, "Offering") {
			once.Do(func() { tamper(t, dir, "core.db", feeTampered) })
		}
	}, "demo", "--for", "1s", "--rate", "30", "--data", dir)
	if code != 1 || !strings.Contains(out, "NOT EXPLAINED") || strings.Contains(out, explained) {
		t.Errorf("exit code %d", code)
	}
}

// A demo that is interrupted says what was in flight. It neither claims that
// everything is explained nor finds fault with what had only just begun.
func TestADemoThatIsInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	dir := filepath.Join(t.TempDir(), "demo")
	code, out := told(t, ctx, func(line string) {
		if strings.HasPrefix(line, "Offering") {
			time.AfterFunc(700*time.Millisecond, interrupt)
		}
	}, "demo", "--for", "60s", "--rate", "150", "--data", dir)
	if code != 1 || strings.Contains(out, explained) || strings.Contains(out, "NOT EXPLAINED") || !strings.Contains(out, "payments in flight") {
		t.Errorf("exit code %d", code)
	}
}

// Whoever goes on paying by hand does not keep the demo from its end, and is told
// apart from what cannot be explained.
func TestADemoThatIsPaidByHand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	stop := make(chan struct{})
	var hand sync.WaitGroup
	command := regexp.MustCompile(`curl -s http://(\S+)/v1/payments -H 'Authorization: Bearer (\S+)'`)
	start := time.Now()
	code, out := told(t, t.Context(), func(line string) {
		if m := command.FindStringSubmatch(line); m != nil {
			client, order := load.NewClient(m[1], m[2], 4), load.Orders(99)
			hand.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					case <-time.After(10 * time.Millisecond):
						_, _, _ = client.Pay(order(n)) // refused once it has ended
					}
				}
			})
		}
	}, "demo", "--for", "500ms", "--rate", "10", "--drain", "2s", "--data", dir)
	close(stop)
	hand.Wait()
	// Between two payments nothing may have been in flight for a moment.
	claimed, inFlight := strings.Contains(out, explained), strings.Contains(out, "still in flight")
	if strings.Contains(out, "NOT EXPLAINED") || claimed == inFlight || (code == 0) != claimed {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(start); took > 40*time.Second {
		t.Errorf("it took %s to end", took)
	}
}

// One that is kept is judged when it is stopped.
func TestADemoThatIsKept(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	dir := filepath.Join(t.TempDir(), "demo")
	code, out := told(t, ctx, func(line string) {
		if strings.HasPrefix(line, "Still serving") {
			interrupt()
		}
	}, "demo", "--for", "500ms", "--rate", "20", "--keep", "--data", dir)
	if code != 0 || !strings.Contains(out, explained) {
		t.Errorf("exit code %d", code)
	}
}

// The demo of the cluster explains everything as well, with engines and processes of
// its own, and leaves none of them behind.
func TestDemoOfTheCluster(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	t.Setenv(asTheProduct, "1") // what it starts is this binary
	code, out := told(t, t.Context(), nil, "demo", "--profile", "cluster", "--for", "3s", "--rate", "10", "--data", dir)
	if code != 0 || !strings.Contains(out, explained) || strings.Count(out, "operators http://") != 8 {
		t.Errorf("exit code %d", code)
	}
	addrs := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindAllString(out, -1)
	if len(addrs) < 8+2+4 {
		t.Errorf("it tells of %v alone", addrs)
	}
	for _, addr := range addrs {
		if conn, err := net.Dial("tcp", addr); err == nil {
			_ = conn.Close()
			t.Errorf("left behind: whoever listens at %s", addr)
		}
	}
}
