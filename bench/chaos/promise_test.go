package chaos

import (
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Each way in which a promise can be broken is found: whatever is promised of a trouble,
// and on a slow machine unless it is about time.
func TestBrokenPromises(t *testing.T) {
	asked := map[string]int{longPoll: 9, oldVoucher: 9, aTrade: 9, aList: 9}
	good := result{Offered: 100, Accepted: 100, SlowestMillis: 900, AcceptsAfter: 4.9, Reads: readings{Asked: asked}}
	down := result{Offered: 100, Accepted: 10, Refused: 60, Unknown: 30, SlowestMillis: 3400, AcceptsAfter: 4.9, Reads: readings{Asked: asked}}
	for name, tc := range map[string]struct {
		promise promise
		of      result
		change  func(*result)
		want    string // none
		timed   bool   // only looked at where times are
	}{
		"goes on":              {promise: goesOn(), of: good},
		"says no":              {promise: saysNo(), of: down},
		"unseen":               {promise: unseen(), of: good},
		"a question refused":   {unseen(), good, func(r *result) { r.Reads.Refused = map[string]int{aList: 1} }, "1 of 36 questions were not answered", false},
		"one that may be":      {goesOn(), good, func(r *result) { r.Reads.Refused = map[string]int{aList: 1} }, "", false},
		"a question failed":    {saysNo(), down, func(r *result) { r.Reads.Failed = map[string]int{longPoll: 2} }, "2 of 36 questions came to what must not be", false},
		"nobody asks":          {unseen(), good, func(r *result) { r.Reads.Asked = map[string]int{longPoll: 1} }, `nobody asked for ["old voucher" "trade" "list"]`, false},
		"unseen, one refused":  {unseen(), good, func(r *result) { r.Accepted--; r.Refused++ }, "1 of 100 requests were not accepted", false},
		"one is refused":       {goesOn(), good, func(r *result) { r.Accepted--; r.Refused++ }, "1 of 100 requests were not accepted", false},
		"one is unknown":       {goesOn(), good, func(r *result) { r.Accepted--; r.Unknown++ }, "1 of 100 requests were not accepted", false},
		"a wrong status":       {saysNo(), down, func(r *result) { r.failed.Wrong++ }, "1 answers with a status that must not be", false},
		"a cut":                {saysNo(), down, func(r *result) { r.failed.Cut++ }, "1 requests cut off", false},
		"no gateway":           {saysNo(), down, func(r *result) { r.failed.Unreached++ }, "1 that no gateway took", false},
		"a wrong one to a try": {goesOn(), good, func(r *result) { r.failed.Wrong++ }, "1 answers with a status that must not be", false},
		"nothing is asked for": {saysNo(), down, func(r *result) { r.Offered = 0 }, "nothing was asked for", false},
		"slow":                 {goesOn(), good, func(r *result) { r.SlowestMillis = 1001 }, "an answer took 1.001s", true},
		"slow while down":      {saysNo(), down, func(r *result) { r.SlowestMillis = 3501 }, "an answer took 3.501s", true},
		"late":                 {goesOn(), good, func(r *result) { r.AcceptsAfter = 5.1 }, "accepting again only 5.1 s after", true},
		"late when back":       {saysNo(), down, func(r *result) { r.AcceptsAfter = 5.1 }, "accepting again only 5.1 s after", true},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.change != nil {
				tc.change(&tc.of)
			}
			for _, timed := range []bool{true, false} {
				broken := strings.Join(tc.promise.broken(&tc.of, timed), "\n")
				want := tc.want != "" && (timed || !tc.timed)
				if (broken != "") != want || want && !strings.Contains(broken, tc.want) {
					t.Errorf("timed %v: %q, want %q", timed, broken, tc.want)
				}
			}
		})
	}
}

// What a shop saw of a trouble, and after it, is what its promise is held against.
func TestMeasure(t *testing.T) {
	begun := time.Now().Add(-20 * time.Second)
	calm := second{Offered: 10, Accepted: 10}
	seconds := []second{calm, calm, {Offered: 10, Accepted: 9, Refused: 1, slowest: 30 * time.Millisecond}, calm, calm, calm, calm}
	measure := func(change func(seconds []second), reads ...reading) *bench {
		b := &bench{out: io.Discard, shop: &shop{begun: begun, seconds: append([]second{}, seconds...), readings: reads}}
		change(b.shop.seconds)
		at := func(s float64) time.Time { return begun.Add(time.Duration(s * float64(time.Second))) }
		r := result{from: at(1), to: at(3.5), calm: at(4.5)}
		b.measure(trouble{name: "T", promise: saysNo()}, &r, r.to)
		b.results = append(b.results, r)
		b.measureRest()
		return b
	}
	b := measure(func([]second) {})
	if r := b.results[0]; len(b.failed) != 0 || r.Offered != 30 || r.Accepted != 29 || r.Refused != 1 || r.SlowestMillis != 30 || r.Failed() != 0 {
		t.Errorf("%v %+v", b.failed, b.results)
	}
	for at, want := range map[int]string{0: "between the troubles: ", 2: "T: ", 4: "T: ", 6: "between the troubles: "} { // in 4 it is over, and not yet calm
		b := measure(func(seconds []second) { seconds[at].failures.note(answer{outcome: cut, status: 7}) })
		if len(b.failed) != 1 || !strings.HasPrefix(b.failed[0], want) {
			t.Errorf("a cut in second %d: %q, want %s", at, b.failed, want)
		}
		b = measure(func([]second) {}, reading{aList, begun.Add(time.Duration(at) * time.Second), answer{outcome: wrong, status: 7}})
		if len(b.failed) != 1 || !strings.HasPrefix(b.failed[0], want) {
			t.Errorf("a wrong list in second %d: %q, want %s", at, b.failed, want)
		}
	}
}

// What this machine does not allow is left out only by who says so, and never in silence.
func TestLeftOut(t *testing.T) {
	for name, tc := range map[string]struct {
		allow, chosen, fails bool
		leftOut              int
	}{
		"not allowed": {false, true, true, 1},
		"allowed":     {true, true, false, 1},
		"not chosen":  {false, false, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			b := &bench{out: &out, allowLeftOut: tc.allow, chosen: func(string) bool { return tc.chosen }}
			_, why := b.mount(filepath.Join(t.TempDir(), "no", "such", "folder"))
			if why == nil || b.disk != "" {
				t.Fatal("it was mounted")
			}
			if err := b.leaveOut(diskFull, why); (err != nil) != tc.fails {
				t.Error(err)
			}
			if left, _ := b.figures()["left_out"].([]string); len(left) != tc.leftOut || len(left) == 1 && left[0] != diskFull {
				t.Errorf("the figures say %q", left)
			}
			if said := strings.Contains(out.String(), "LEFT OUT: "+diskFull); said != (tc.allow && tc.chosen) {
				t.Errorf("it says %q", out.String())
			}
		})
	}
}
