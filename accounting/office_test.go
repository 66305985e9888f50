package accounting_test

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/rules"
	"github.com/tallystick/tallystick/accounting/sqlstore"
	"github.com/tallystick/tallystick/accounting/storetest"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/engines/pgtest"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// TestMain fixes the property tests' seed, unless one is asked for.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.seed"); f.Value.String() == f.DefValue {
		if err := flag.Set("rapid.seed", "20261124"); err != nil {
			panic(err)
		}
	}
	server.Main(m)
}

var server pgtest.Server

// office is one process's poster: its store, its consumer and what it logs.
type office struct {
	store    *sqlstore.Store
	consumer *bus.Consumer
	set      *metrics.Set
	log      *bytes.Buffer
}

type opening struct {
	path   string
	on     *sqldb.Postgres // in place of the file
	feed   bus.Source
	rules  accounting.Rules
	points fault.Points
	seed   uint64
	batch  int
}

func openOffice(t tb, o opening) *office {
	t.Helper()
	ctx := context.Background()
	store, err := sqlstore.Open(ctx, sqlstore.Options{Path: o.path, Postgres: o.on, Groups: storetest.Groups, NoSync: true, Points: o.points, HeldMax: 16})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	if o.rules == nil {
		o.rules = rules.Payments{}
	}
	if o.batch == 0 {
		o.batch = 64
	}
	var seed [32]byte
	seed[0] = byte(o.seed)
	now := func() time.Time { return time.UnixMilli(1_700_000_000_000) }
	out := &office{store: store, set: metrics.NewSet(), log: &bytes.Buffer{}}
	log := slog.New(slog.NewJSONHandler(out.log, nil))
	p, err := accounting.NewPoster(accounting.Deps{Store: store, Rules: o.rules, IDs: ids.NewSource(now, rand.NewChaCha8(seed)), Now: now,
		Groups: storetest.Groups, Metrics: out.set, Log: log, Config: accounting.DefaultConfig()})
	if err != nil {
		t.Fatalf("poster: %v", err)
	}
	out.consumer = &bus.Consumer{Area: "accounting", Source: o.feed, Places: store.Places(), Apply: p.Apply, MessagesMax: o.batch, Log: log}
	return out
}

// tb is what *testing.T and *rapid.T share.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

func (o *office) drain(t tb) {
	t.Helper()
	for range 10_000 {
		worked, err := o.consumer.Step(context.Background())
		if err != nil && !fault.Is(err, fault.Fenced) {
			t.Fatalf("step: %v", err)
		}
		if !worked && err == nil {
			return
		}
	}
	t.Fatalf("it never comes to an end")
}

func (o *office) metrics() string {
	var b bytes.Buffer
	o.set.WritePrometheus(&b)
	return b.String()
}

func startOffice(t *testing.T, o opening) *office {
	t.Helper()
	if o.path == "" {
		o.path = filepath.Join(t.TempDir(), "accounting.db")
	}
	out := openOffice(t, o)
	t.Cleanup(func() {
		if err := out.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return out
}

// paid is the event of a payment of minor, at rates of 0.6 % and 0.38 %.
func paid(id string, c ids.Context, via string, minor int64) bus.Event {
	amount := money.Of(minor, "CNY")
	fee, _ := amount.Share(6_000)
	pspFee, _ := amount.Share(3_800)
	p := event.PaymentChanged{Payment: event.Payment{Status: event.Succeeded, Amount: amount, FeeRate: 6_000, Fee: fee,
		Attempts: []event.Attempt{{Account: via, Status: event.Succeeded, Paid: amount, PSPFeeRate: 3_800, PSPFee: pspFee}}}}
	return bus.Event{ID: id, Type: event.TypePaymentChanged, Version: 1, Context: c, Payload: event.Encode(p)}
}

// pending is a change that books nothing.
func pending(id string, c ids.Context) bus.Event {
	p := event.PaymentChanged{Payment: event.Payment{Status: event.Pending, Amount: money.Of(5, "CNY")}, Settled: -1}
	return bus.Event{ID: id, Type: event.TypePaymentChanged, Version: 1, Context: c, Payload: event.Encode(p)}
}

// lying is a payment whose fee is wrong.
func lying(id string, c ids.Context, via string) bus.Event {
	e := paid(id, c, via, 10_000)
	e.Payload = bytes.Replace(e.Payload, []byte(`"minor":60`), []byte(`"minor":61`), 1)
	return e
}

func wantBalance(t *testing.T, s accounting.Store, name string, minor int64) {
	t.Helper()
	b, err := s.Balance(t.Context(), accounting.Key{Book: "main", Name: name, Currency: "CNY"})
	if err != nil || b.Amount.Minor != minor {
		t.Errorf("%s has %d (%v), want %d", name, b.Amount.Minor, err, minor)
	}
}

func wantSound(t *testing.T, s accounting.Store, entries int64) {
	t.Helper()
	r, err := s.Verify(t.Context())
	if err != nil || r.Violated != 0 || r.Entries != entries {
		t.Errorf("verify: %+v (%v), want %d sound entries", r, err, entries)
	}
}

func wantMetric(t *testing.T, o *office, line string) {
	t.Helper()
	if !strings.Contains(o.metrics(), line+"\n") {
		t.Errorf("no metric %q in\n%s", line, o.metrics())
	}
}
