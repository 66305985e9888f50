package cardguard_test

import (
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/cardguard"
)

// luhnDigit completes a number with its check digit.
func luhnDigit(prefix string) string {
	for d := byte('0'); d <= '9'; d++ {
		sum := 0
		n := prefix + string(d)
		for i := range len(n) {
			v := int(n[len(n)-1-i] - '0')
			if i%2 == 1 {
				v *= 2
				v = v/10 + v%10
			}
			sum += v
		}
		if sum%10 == 0 {
			return n
		}
	}
	panic("every number has a check digit")
}

// number is a valid number of n digits that begins with prefix.
func number(prefix string, n int) string {
	return luhnDigit(prefix + strings.Repeat("7", n-1-len(prefix)))
}

func TestIssuersAndLengths(t *testing.T) {
	tests := map[string]struct {
		prefixes []string
		lengths  []int
	}{
		"visa":       {[]string{"4", "40", "49999"}, []int{13, 16, 18, 19}},
		"mastercard": {[]string{"51", "55", "2221", "2500", "2720"}, []int{16}},
		"amex":       {[]string{"34", "37"}, []int{15}},
		"discover":   {[]string{"6011", "644", "649", "65"}, []int{16, 17, 18, 19}},
		"jcb":        {[]string{"3528", "3589"}, []int{16, 17, 18, 19}},
		"unionpay":   {[]string{"62", "622126", "8100", "8171"}, []int{16, 17, 18, 19}},
		"diners":     {[]string{"300", "305", "3095", "36", "38", "39"}, []int{14, 15, 16, 17, 18, 19}},
		"maestro":    {[]string{"50", "56", "58", "6304", "6759", "6762"}, []int{13, 14, 15, 16, 17, 18, 19}},
		"mir":        {[]string{"2200", "2204"}, []int{16, 17, 18, 19}},
		"nobody":     {[]string{"0", "1", "20", "2205", "2220", "2721", "306", "31", "3527", "3590", "60", "63", "66", "7", "8099", "8172", "9"}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, p := range tt.prefixes {
				for n := 12; n <= 20; n++ {
					want := false
					for _, l := range tt.lengths {
						want = want || l == n
					}
					s := number(p, n)
					if got := cardguard.Contains(s); got != want {
						t.Errorf("%s, %d digits: Contains = %v, want %v", s, n, got, want)
					}
					last := s[:n-1] + string('0'+(s[n-1]-'0'+1)%10)
					if cardguard.Contains(last) {
						t.Errorf("%s has a wrong check digit, and was taken for a card number", last)
					}
				}
			}
		})
	}
}

func TestText(t *testing.T) {
	const m = cardguard.Mask
	tests := map[string]struct{ in, want string }{
		"empty":                 {"", ""},
		"plain":                 {"two pairs of socks, 4111", "two pairs of socks, 4111"},
		"alone":                 {"4111111111111111", m},
		"in a sentence":         {"my card is 4111111111111111, thanks", "my card is " + m + ", thanks"},
		"spaces":                {"4111 1111 1111 1111", m},
		"dashes":                {"4111-1111-1111-1111", m},
		"mixed separators":      {"4111-1111 1111-1111", m},
		"odd blocks":            {"41 11111-111111 111", m},
		"digit by digit":        {"4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", m},
		"amex blocks":           {"3782 822463 10005", m},
		"two spaces":            {"4111  1111 1111 1111", m},
		"three spaces":          {"4111   1111 1111 1111", "4111   1111 1111 1111"},
		"dots":                  {"4111.1111.1111.1111", m},
		"other separator":       {"4111,1111,1111,1111", "4111,1111,1111,1111"},
		"full width":            {"卡号４１１１　１１１１　１１１１　１１１１。", "卡号" + m + "。"},
		"full width, glued":     {"９4111111111111111", "９4111111111111111"},
		"no-break spaces":       {"4111\u00a01111\u00a01111\u00a01111", m},
		"then its check value":  {"4111 1111 1111 1111 123", m + " 123"},
		"after a number":        {"item 12 4111 1111 1111 1111", "item 12 " + m},
		"two":                   {"4111111111111111/5555555555554444", m + "/" + m},
		"three, one space":      {"4111111111111111 5555555555554444 x 378282246310005", m + " " + m + " x " + m},
		"word before":           {"card4111111111111111", "card" + m},
		"word after":            {"4111111111111111visa", m + "visa"},
		"underscore":            {"card_4111111111111111_x", "card_" + m + "_x"},
		"not latin":             {"卡号4111111111111111。", "卡号" + m + "。"},
		"in JSON":               {`{"pan":"4111111111111111"}`, `{"pan":"` + m + `"}`},
		"decimal":               {"4111111111111111.05", m + ".05"},
		"two more that pass":    {"4111111111111111.00", m},
		"longer run":            {"94111111111111111", "94111111111111111"},
		"longer run after":      {"41111111111111112345", "41111111111111112345"},
		"hash before":           {"9f4111111111111111", "9f4111111111111111"},
		"hash after":            {"4111111111111111f9", "4111111111111111f9"},
		"block glued to a hash": {"4111 1111 1111 1111a1", "4111 1111 1111 1111a1"},
		"timestamp that passes": {luhnDigit("173241234567"), luhnDigit("173241234567")},
		"snowflake that passes": {luhnDigit("178901234567890123"), luhnDigit("178901234567890123")},
		"trailing separator":    {"4111111111111111- ", m + "- "},
		"one digit short":       {"4111 1111 1111 111", "4111 1111 1111 111"},
		"longest wins":          {number("4", 16) + " " + longer(), m},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := cardguard.Redact(tt.in); got != tt.want {
				t.Errorf("Redact(%q) = %q, want %q", tt.in, got, tt.want)
			}
			if got := cardguard.Contains(tt.in); got != (tt.want != tt.in) {
				t.Errorf("Contains(%q) = %v", tt.in, got)
			}
		})
	}
}

// longer gives three digits that make the 16 digits of number("4", 16) a valid
// number of 19.
func longer() string {
	return luhnDigit(number("4", 16) + "33")[16:]
}

func TestNoAllocationWhenClean(t *testing.T) {
	text := strings.Repeat("order 20241124-1732412345678 for 12 socks at 4111 each; ", 8)
	allocs := testing.AllocsPerRun(100, func() {
		if cardguard.Contains(text) || cardguard.Redact(text) != text {
			t.Fatal("a clean text was taken for a card number")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations on a clean text, want 0", allocs)
	}
}

// slow is Contains written from the package comment, without regard to cost.
func slow(s string) bool {
	plain := []string{"-", " ", ".", " ", "\u00a0", " ", "\u3000", " "}
	for d := range 10 {
		plain = append(plain, string(rune(0xff10+d)), string(rune('0'+d)))
	}
	s = strings.NewReplacer(plain...).Replace(s)
	digit := func(i int) bool { return i >= 0 && i < len(s) && s[i] >= '0' && s[i] <= '9' }
	letter := func(i int) bool {
		return i >= 0 && i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z')
	}
	glued := func(i, step int) bool {
		for letter(i) {
			i += step
		}
		return digit(i)
	}
	for i := range s {
		for j := i + 13; j <= len(s); j++ {
			part := s[i:j]
			digits := strings.ReplaceAll(part, " ", "")
			if len(digits) > 19 || strings.Trim(digits, "0123456789") != "" || !digit(i) || !digit(j-1) || digit(i-1) || digit(j) {
				continue
			}
			if strings.Contains(part, "   ") || glued(i-1, -1) || glued(j, 1) {
				continue
			}
			if len(digits) >= 13 && luhnDigit(digits[:len(digits)-1]) == digits && cardguard.Contains(digits) {
				return true
			}
		}
	}
	return false
}

func FuzzRedact(f *testing.F) {
	for _, s := range []string{"4111 1111 1111 1111", "x4111111111111111y5555555555554444", "4111-1111-1111-1111-2", "\xff4111", "1 2 3", "４１11..1111--1111 . 1111", "4111.1111.1111.1111"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 200 {
			return
		}
		has, out := cardguard.Contains(s), cardguard.Redact(s)
		if has != slow(s) {
			t.Fatalf("Contains(%q) = %v, the slow way says otherwise", s, has)
		}
		if cardguard.Contains(out) {
			t.Fatalf("Redact(%q) = %q still holds a card number", s, out)
		}
		if has == (out == s) {
			t.Fatalf("Contains(%q) = %v, but Redact gives %q", s, has, out)
		}
	})
}

func BenchmarkContains(b *testing.B) {
	text := "Two pairs of woollen socks, size 42, order 2024-11-24 1732412345678"
	b.ReportAllocs()
	for b.Loop() {
		if cardguard.Contains(text) {
			b.Fatal("clean")
		}
	}
}
