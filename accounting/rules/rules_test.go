package rules_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/accounting/rules"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/money"
	"github.com/tallystick/tallystick/internal/traffic"
)

var rewrite = flag.Bool("rewrite", false, "write the postings into the golden files again")

// TestGolden reads testdata: a story, the event, a line of dashes, and what is
// booked. A poisonous event gives its reason.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in, want, ok := strings.Cut(string(raw), "\n----\n")
			if !ok {
				t.Fatal("no line of dashes")
			}
			got := book(t, in)
			if *rewrite {
				if err := os.WriteFile(file, []byte(in+"\n----\n"+got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("booked\n%swant\n%s", got, want)
			}
		})
	}
}

// book runs one golden file's event: "# story", "event TYPE", "merchant ID",
// "form FORM", then the payload.
func book(t *testing.T, in string) string {
	t.Helper()
	m := bus.Message{Event: bus.Event{ID: "evt_1", Version: 1, Context: ids.Context{Form: traffic.Deposit, Traffic: traffic.Real}}}
	var payload []string
	for line := range strings.Lines(in) {
		line = strings.TrimRight(line, "\n")
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case len(payload) > 0 || strings.HasPrefix(line, "{"):
			payload = append(payload, line)
		case word == "event":
			m.Type = rest
		case word == "merchant":
			m.Context.Merchant = rest
		case word == "form":
			m.Context.Form = traffic.Form(rest)
		case word != "#" && line != "":
			t.Fatalf("line %q", line)
		}
	}
	m.Payload = []byte(strings.Join(payload, "\n"))
	return show(t, &m)
}

func show(t *testing.T, m *bus.Message) string {
	t.Helper()
	d, err := rules.Payments{}.Draft(m)
	switch {
	case err != nil:
		if !fault.Is(err, fault.Poison) {
			t.Errorf("error %v is not poison", err)
		}
		return "poison: " + err.Error() + "\n"
	case d == nil:
		return "nothing\n"
	}
	if err := accounting.CheckLines(d.Lines); err != nil {
		t.Errorf("the rule makes no entry: %v", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "rule %s, over %s\n", d.Rule, d.ChannelAccount)
	for _, l := range d.Lines {
		side, minor := "debit", l.Amount.Minor
		if minor < 0 {
			side, minor = "credit", -minor
		}
		fmt.Fprintf(&b, "%-6s  %-26s %-9s  %12d %s\n", side, l.Account.Name, l.Account.Class, minor, l.Amount.Currency)
	}
	return b.String()
}

// settled is a payment of 100.00 that was just paid; change makes it a liar.
func settled(change func(*event.PaymentChanged)) *bus.Message {
	p := event.PaymentChanged{Settled: 1, Payment: event.Payment{Status: event.Succeeded, Amount: money.Of(10_000, "CNY"),
		FeeRate: 6_000, Fee: money.Of(60, "CNY"), Attempts: []event.Attempt{
			{Account: "cn-1", Status: event.Declined},
			{Account: "cn-2", Status: event.Succeeded, Paid: money.Of(10_000, "CNY"), PSPFeeRate: 3_800, PSPFee: money.Of(38, "CNY")},
		}}}
	change(&p)
	return &bus.Message{Event: bus.Event{ID: "evt_1", Type: event.TypePaymentChanged, Version: 1, Payload: event.Encode(p),
		Context: ids.Context{Merchant: "m1", Form: traffic.Deposit, Traffic: traffic.Real}}}
}

// TestPoison: an event that contradicts itself is never booked.
func TestPoison(t *testing.T) {
	if got := show(t, settled(func(*event.PaymentChanged) {})); !strings.HasPrefix(got, "rule payment.received") {
		t.Fatalf("the honest event gives %s", got)
	}
	for name, change := range map[string]func(*event.PaymentChanged){
		"no such attempt":               func(p *event.PaymentChanged) { p.Settled = 2 },
		"payment not succeeded":         func(p *event.PaymentChanged) { p.Status = event.Pending },
		"another attempt":               func(p *event.PaymentChanged) { p.Settled = 0 },
		"nothing paid":                  func(p *event.PaymentChanged) { p.Attempts[1].Paid.Minor = 0; p.Amount.Minor = 0 },
		"negative paid":                 func(p *event.PaymentChanged) { p.Attempts[1].Paid.Minor = -1; p.Amount.Minor = -1 },
		"no currency":                   func(p *event.PaymentChanged) { p.Attempts[1].Paid.Currency = ""; p.Amount.Currency = "" },
		"another amount than ordered":   func(p *event.PaymentChanged) { p.Amount.Minor = 9_999 },
		"another currency than ordered": func(p *event.PaymentChanged) { p.Amount.Currency = "USD" },
		"our fee too small":             func(p *event.PaymentChanged) { p.Fee.Minor = 59 },
		"our fee too large":             func(p *event.PaymentChanged) { p.Fee.Minor = 61 },
		"our fee left out":              func(p *event.PaymentChanged) { p.Fee = money.Amount{} },
		"our fee in another currency":   func(p *event.PaymentChanged) { p.Fee.Currency = "USD" },
		"our rate above the whole":      func(p *event.PaymentChanged) { p.FeeRate = 1_000_001; p.Fee.Minor = 10_000 },
		"PSP fee wrong":                 func(p *event.PaymentChanged) { p.Attempts[1].PSPFee.Minor = 37 },
		"PSP fee in another currency":   func(p *event.PaymentChanged) { p.Attempts[1].PSPFee.Currency = "USD" },
		"no channel account":            func(p *event.PaymentChanged) { p.Attempts[1].Account = "" },
	} {
		t.Run(name, func(t *testing.T) {
			if got := show(t, settled(change)); !strings.HasPrefix(got, "poison: ") {
				t.Errorf("booked:\n%s", got)
			}
		})
	}
}

func TestMoneyOf(t *testing.T) {
	total := func(m, via, base string, debits, credits int64) accounting.Total {
		return accounting.Total{Merchant: m, ChannelAccount: via, Base: base, Currency: "CNY", Debits: debits, Credits: credits}
	}
	got, err := rules.MoneyOf([]accounting.Total{
		total("m2", "cn-1", rules.PSPReceivable, 99, 0), total("m2", "cn-1", rules.PSPFees, 1, 0), total("m2", "cn-1", rules.Suspense, 0, 100),
		total("m1", "cn-1", rules.PSPReceivable, 9_962, 100), total("m1", "cn-1", rules.PSPFees, 38, 0),
		total("m1", "cn-1", rules.MerchantPayable, 100, 9_940), total("m1", "cn-1", rules.FeeIncome, 0, 60),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []rules.Money{
		{Merchant: "m1", ChannelAccount: "cn-1", Currency: "CNY", Received: 9_900, PSPFees: 38, Payable: 9_840, FeeIncome: 60},
		{Merchant: "m2", ChannelAccount: "cn-1", Currency: "CNY", Received: 100, PSPFees: 1, Suspense: 100},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, m := range got {
		if !m.Balanced() {
			t.Errorf("%+v is not balanced", m)
		}
	}
	if (rules.Money{Received: 1}).Balanced() {
		t.Error("a sum that does not match is balanced")
	}
	if _, err := rules.MoneyOf([]accounting.Total{total("m1", "cn-1", "mystery", 1, 0)}); !fault.Is(err, fault.Internal) {
		t.Errorf("an account outside the chart gives %v", err)
	}
}
