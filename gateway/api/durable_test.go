package api_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/internal/traffic"
)

// everySecond lets every second acceptance believe that its commit takes for ever.
type everySecond struct {
	inner bus.Intake
	mu    sync.Mutex
	n     int
}

func (e *everySecond) Append(topic bus.Topic, ev *bus.Event) (bus.Ticket, error) {
	t, err := e.inner.Append(topic, ev)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.n++; err == nil && e.n%2 == 0 {
		return late{}, nil
	}
	return t, err
}

type late struct{}

func (late) Done() <-chan struct{} { return make(chan struct{}) }
func (late) Err() error            { return nil }
func (late) Withdraw() bool        { return false }

func openIntake(t *testing.T) *embedded.Intake {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Options{Area: "intake", Path: filepath.Join(t.TempDir(), "intake.db"),
		Migrations: []string{embedded.IntakeSchema(bus.Intents)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	in, err := embedded.OpenIntake(t.Context(), embedded.IntakeConfig{Topics: []bus.Topic{bus.Intents}, BatchRecordsMax: 64, BatchBytesMax: 1 << 20,
		QueueBatchesMax: 100, UnreadBytesMax: 1 << 30, UnreadAgeMax: time.Hour, Readers: []string{"core"}, TrimEveryBatches: 1 << 20},
		db, time.Now, nil, slog.New(slog.NewTextHandler(io.Discard, nil)), func(string, bus.Topic) (int64, error) { return 0, nil })
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// The server reuses a request's memory as soon as its handler returns. When every
// second handler gives up while its intent is still being committed, no record may
// carry bytes of another request, and every 202 must be in the log.
func TestTimedOutRequestsMixNoBytes(t *testing.T) {
	const clients, each = 64, 4
	in := openIntake(t)
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- in.Run(ctx, time.Second) }()
	h := newHarness(t, func(_ *harness, d *api.Deps) {
		d.Intake, d.Points = &everySecond{inner: in}, nil
		d.Config.AcceptTimeout, d.Config.AcceptDeadline = time.Second, 1001*time.Millisecond
	}).listen()
	var mu sync.Mutex
	kept := map[string]int{} // voucher of a 202, by the number of its request
	unknown := 0
	var load sync.WaitGroup
	for c := range clients {
		load.Go(func() {
			for i := range each {
				n := c*each + i
				// Bodies of different lengths, so that mixed bytes would show.
				pad := strings.Repeat(strconv.Itoa(n%10), n%97)
				a := h.do(request{method: "POST", path: "/v1/payments", key: apiKey, headers: [][2]string{{"Idempotency-Key", fmt.Sprint("key-", n)},
					{"traceparent", fmt.Sprintf("00-%032x-00000000000000ff-01", n+1)}},
					body: fmt.Appendf(nil, `{"subject":"subject-%d","order_id":"order-%d","metadata":{"n":"%d","pad":"x%s"},"amount":%d,"currency":"CNY"}`, n, n, n, pad, n+1)})
				mu.Lock()
				switch a.status {
				case 202:
					kept[a.get("voucher")] = n
				case 504:
					unknown++
				default:
					t.Errorf("%d %s", a.status, a.body)
				}
				mu.Unlock()
			}
		})
	}
	load.Wait()
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	if total := clients * each; unknown != total/2 || len(kept) != total/2 {
		t.Errorf("%d kept and %d unknown of %d", len(kept), unknown, total)
	}
	msgs, err := in.Source(bus.Intents).Read(context.Background(), 0, bus.Place{}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i := range msgs {
		checkRecord(t, h, &msgs[i], kept)
	}
	if len(kept) != 0 {
		t.Errorf("%d acknowledged vouchers are not in the log: %v", len(kept), kept)
	}
}

// checkRecord holds every part of a record against the number of its request.
func checkRecord(t *testing.T, h *harness, m *bus.Message, kept map[string]int) {
	t.Helper()
	var i event.Intent
	if err := event.Decode(m.Payload, &i); err != nil {
		t.Fatalf("%v: %s", err, m.Payload)
	}
	n := int(i.Amount.Minor) - 1
	pad := "x" + strings.Repeat(strconv.Itoa(n%10), n%97)
	x := h.secret.Trade(traffic.Real, "m1", i.OrderID)
	y := h.secret.Intent(x, "m1", i.OrderID, traffic.Deposit, i.IdempotencyKey, ids.FingerprintOf(i.Canonical))
	if i.OrderID != fmt.Sprint("order-", n) || i.Subject != fmt.Sprint("subject-", n) || i.IdempotencyKey != fmt.Sprint("key-", n) ||
		i.Metadata["n"] != strconv.Itoa(n) || i.Metadata["pad"] != pad || m.Context.TraceID != fmt.Sprintf("%032x", n+1) ||
		m.Context.BizCode != x || i.Y != y || m.ID != ids.VoucherID.With(y) || m.Context.Merchant != "m1" {
		t.Errorf("request %d: mixed record %+v %s", n, m.Event, m.Payload)
	}
	if want, acknowledged := kept[m.ID]; acknowledged {
		if want != n {
			t.Errorf("voucher of request %d belongs to %d", n, want)
		}
		delete(kept, m.ID)
	}
}
