package traffic_test

import (
	"testing"

	"github.com/tallystick/tallystick/internal/traffic"
)

func TestKind(t *testing.T) {
	for kind, letter := range map[traffic.Kind]byte{traffic.Real: 'r', traffic.Shadow: 's'} {
		if kind.Letter() != letter || kind.Validate() != nil {
			t.Errorf("%s: letter %q, %v", kind, kind.Letter(), kind.Validate())
		}
		if back, ok := traffic.KindOf(letter); !ok || back != kind {
			t.Errorf("%q is of %q, %v", letter, back, ok)
		}
	}
	for _, kind := range []traffic.Kind{"", "Real", "REAL", "test", "real ", "r"} {
		if kind.Validate() == nil || kind.Letter() != 0 {
			t.Errorf("%q is a kind of traffic", kind)
		}
	}
	for i := range 256 {
		letter := byte(i)
		if k, ok := traffic.KindOf(letter); ok != (letter == 'r' || letter == 's') || !ok && k != "" {
			t.Errorf("letter %q is of %q, %v", letter, k, ok)
		}
	}
}

func TestForm(t *testing.T) {
	for form, out := range map[traffic.Form]bool{traffic.Deposit: false, traffic.Withdrawal: true, traffic.Refund: true, traffic.Transfer: true} {
		if form.MoneyOut() != out || form.Validate() != nil {
			t.Errorf("%s: money out %v, %v", form, form.MoneyOut(), form.Validate())
		}
	}
	for _, form := range []traffic.Form{"", "Deposit", "payment", "refund "} {
		if form.Validate() == nil {
			t.Errorf("%q is a form", form)
		}
		if !form.MoneyOut() {
			t.Errorf("%q is taken for harmless", form)
		}
	}
}
