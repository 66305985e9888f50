package chaos

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
)

// Clients that look after a payment ask all questions, and see what each comes to.
func TestQuestions(t *testing.T) {
	ok := map[string]http.HandlerFunc{longPoll: answers(200, `{"version":3}`), oldVoucher: answers(200, "{}"), aTrade: answers(200, "{}"), aList: answers(200, "{}")}
	none := map[string]int{}
	for name, tc := range map[string]struct {
		what            string
		answer          http.HandlerFunc
		refused, failed map[string]int
		round           int // of questions, in which it comes: in the second one a version is known
	}{
		"all answered":   {"", nil, none, none, 2},
		"list 503":       {aList, answers(503, ""), map[string]int{aList: 1}, none, 2},
		"trade 429":      {aTrade, answers(429, ""), map[string]int{aTrade: 1}, none, 2},
		"poll 503":       {longPoll, answers(503, ""), map[string]int{longPoll: 1}, none, 2},
		"trade 404":      {aTrade, answers(404, ""), none, map[string]int{aTrade: 1}, 2},
		"list 500":       {aList, answers(500, ""), none, map[string]int{aList: 1}, 2},
		"voucher 504":    {oldVoucher, answers(504, ""), none, map[string]int{oldVoucher: 1}, 2},
		"poll cut":       {longPoll, cuts, none, map[string]int{longPoll: 1}, 2},
		"poll older":     {longPoll, answers(200, `{"version":1}`), none, map[string]int{longPoll: 1}, 2},
		"poll not JSON":  {longPoll, answers(200, ""), none, map[string]int{longPoll: 1}, 1},
		"poll 502":       {longPoll, answers(502, ""), none, map[string]int{longPoll: 1}, 2},
		"voucher is cut": {oldVoucher, cuts, none, map[string]int{oldVoucher: 1}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, stop := context.WithCancel(t.Context())
			polls, lists, bad := 0, 0, false
			handle := func(w http.ResponseWriter, r *http.Request) {
				what := aTrade
				switch {
				case strings.HasPrefix(r.URL.Path, "/v1/payments"):
					what = aList
					if lists++; lists == 3 {
						defer stop()
					}
				case r.URL.Query().Has("wait"):
					what = longPoll
					if polls++; polls == 2 && tc.round == 2 && r.URL.Query().Get("since") != "3" {
						t.Errorf("the second poll is %s", r.URL)
					}
				case strings.HasPrefix(r.URL.Path, "/v1/vouchers/"):
					what = oldVoucher
				}
				if want := map[bool]string{true: "Bearer token", false: "Bearer key"}[what == longPoll]; r.Header.Get("Authorization") != want {
					t.Errorf("%s goes with %s", what, r.Header.Get("Authorization"))
				}
				if what == tc.what && polls == tc.round && !bad {
					bad = true
					tc.answer(w, r)
					return
				}
				ok[what](w, r)
			}
			s := newShop(newClient(gateway(t, handle), "key"), 1)
			go func() {
				s.fresh <- load.Accepted{Voucher: "vch_1", Token: "token"}
			}()
			begun := time.Now()
			s.look(ctx)
			got := s.readBetween(begun, time.Now())
			// What was under way when we ended is no news.
			if !maps.Equal(got.Refused, tc.refused) || !maps.Equal(got.Failed, tc.failed) || len(got.missing()) > 0 {
				t.Errorf("%+v", got)
			}
			if (got.failure == "") != (len(tc.failed) == 0) || (got.refusal == "") != (len(tc.refused) == 0) {
				t.Errorf("such as %q and %q", got.failure, got.refusal)
			}
			if early := s.readBetween(begun.Add(-time.Hour), begun); sumOf(early.Asked) != 0 || !slices.Equal(early.missing(), questions()) {
				t.Errorf("before it began: %+v", early)
			}
		})
	}
}
