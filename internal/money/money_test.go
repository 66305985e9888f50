package money_test

import (
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/internal/money"
)

// edges are whole numbers near the ends of the range, and all others.
func edges() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.Int64(), rapid.Int64Range(-3, 3), rapid.Int64Range(math.MaxInt64-3, math.MaxInt64),
		rapid.Int64Range(math.MinInt64, math.MinInt64+3))
}

// same checks a result against the exact one: equal where that fits, an error
// where it does not.
func same(t *rapid.T, got money.Amount, err error, want *big.Int) {
	t.Helper()
	if !want.IsInt64() {
		if !errors.Is(err, money.ErrOverflow) {
			t.Fatalf("%s does not fit: %v, %v", want, got, err)
		}
		return
	}
	if err != nil || got != money.Of(want.Int64(), "CNY") {
		t.Fatalf("have %v, %v, want %s", got, err, want)
	}
}

func TestArithmetic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := edges().Draw(t, "a"), edges().Draw(t, "b")
		x, y := money.Of(a, "CNY"), money.Of(b, "CNY")
		sum, err := x.Add(y)
		same(t, sum, err, new(big.Int).Add(big.NewInt(a), big.NewInt(b)))
		neg, err := x.Neg()
		same(t, neg, err, new(big.Int).Neg(big.NewInt(a)))
		diff, err := x.Sub(y)
		same(t, diff, err, new(big.Int).Sub(big.NewInt(a), big.NewInt(b)))
	})
}

func TestShare(t *testing.T) {
	half := big.NewInt(int64(money.RateMax) / 2)
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.OneOf(rapid.Int64Range(0, math.MaxInt64), rapid.Int64Range(0, 1000), rapid.Int64Range(math.MaxInt64-3, math.MaxInt64)).Draw(t, "a")
		rate := rapid.OneOf(rapid.Int64Range(0, int64(money.RateMax)), rapid.SampledFrom([]int64{0, 1, 499_999, 500_000, 500_001, 999_999, 1_000_000})).Draw(t, "rate")
		exact := new(big.Int).Mul(big.NewInt(a), big.NewInt(rate))
		exact.Div(exact.Add(exact, half), big.NewInt(int64(money.RateMax)))
		got, err := money.Of(a, "CNY").Share(money.Rate(rate))
		same(t, got, err, exact)
		if rest, err := money.Of(a, "CNY").Sub(got); err != nil || rest.Minor < 0 {
			t.Fatalf("a share of %d is more than the whole: rest %v, %v", a, rest, err)
		}
	})
	for _, tt := range []struct{ minor, rate, want int64 }{
		{1, 499_999, 0}, {1, 500_000, 1}, {3, 500_000, 2}, {100, 6_000, 1}, {83, 6_000, 0}, {84, 6_000, 1}, {250, 6_000, 2},
		{math.MaxInt64, 1_000_000, math.MaxInt64}, {0, 1_000_000, 0}, {12_345, 0, 0},
	} {
		if got, err := money.Of(tt.minor, "CNY").Share(money.Rate(tt.rate)); err != nil || got.Minor != tt.want {
			t.Errorf("%d ppm of %d is %v, %v, want %d", tt.rate, tt.minor, got, err, tt.want)
		}
	}
	for _, tt := range []struct{ minor, rate int64 }{{-1, 0}, {1, -1}, {1, 1_000_001}, {math.MinInt64, 1}, {1, math.MaxInt64}} {
		if got, err := money.Of(tt.minor, "CNY").Share(money.Rate(tt.rate)); !errors.Is(err, money.ErrRate) {
			t.Errorf("%d ppm of %d is %v, %v", tt.rate, tt.minor, got, err)
		}
	}
}

func TestCurrenciesDoNotMix(t *testing.T) {
	cny, usd, none := money.Of(math.MinInt64, "CNY"), money.Of(math.MinInt64, "USD"), money.Amount{}
	for _, p := range [][2]money.Amount{{cny, usd}, {usd, cny}, {cny, none}, {none, cny}, {none, none}} {
		if got, err := p[0].Add(p[1]); !errors.Is(err, money.ErrCurrency) {
			t.Errorf("%v + %v = %v, %v", p[0], p[1], got, err)
		}
		if got, err := p[0].Sub(p[1]); !errors.Is(err, money.ErrCurrency) {
			t.Errorf("%v - %v = %v, %v", p[0], p[1], got, err)
		}
	}
}

func TestCurrency(t *testing.T) {
	for _, c := range []money.Currency{"CNY", "USD", "XXX"} {
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, c := range []money.Currency{"", "CN", "CNYY", "cny", "CN1", "C Y", "人"} {
		if c.Validate() == nil {
			t.Errorf("%q is a currency", c)
		}
	}
	if got := money.Of(-5, "CNY").String(); got != "-5 CNY" {
		t.Errorf("String: %s", got)
	}
}
