package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/bench/load"
)

// readers is how many clients look after what was promised. Each has a request under way
// nearly all the time.
const readers = 3

// pollSeconds is for how long a long-poll waits, pageMax how long a list is, and
// readPause is between two rounds of questions.
const pollSeconds, pageMax, readPause = 2, 20, 100 * time.Millisecond

// The questions that clients have.
const (
	longPoll   = "long-poll"
	oldVoucher = "old voucher" // that no gateway which was restarted holds
	aTrade     = "trade"
	aList      = "list"
)

func questions() []string { return []string{longPoll, oldVoucher, aTrade, aList} }

// reading is one question, and what it came to.
type reading struct {
	what  string
	begun time.Time
	answer
}

// readings sums questions up.
type readings struct {
	Asked     map[string]int `json:"asked"`     // by their sort
	Refused   map[string]int `json:"refused"`   // 503 and 429
	Failed    map[string]int `json:"failed"`    // another status, or a cut, or no gateway
	Elsewhere int            `json:"elsewhere"` // to another gateway, as the first one refused the connection
	refusal   string         // one of them
	failure   string
}

// look asks about one payment after the other, whatever happens, until ctx ends.
func (s *shop) look(ctx context.Context) {
	var first, now load.Accepted // the first one is old by and by
	version := int64(0)
	for ; ctx.Err() == nil; _ = pause(ctx, readPause) {
		select {
		case now = <-s.fresh:
			version = 0
		case <-time.After(readPause): // nothing is accepted now
		}
		if now.Voucher == "" {
			continue
		}
		if first.Voucher == "" {
			first = now
		}
		var v load.View
		a := s.question(ctx, longPoll, fmt.Sprintf("/v1/vouchers/%s?wait=%d&since=%d", now.Voucher, pollSeconds, version), now.Token)
		if a.outcome == accepted {
			if err := json.Unmarshal(a.body, &v); err != nil || v.Version < version {
				a.outcome, a.err = wrong, errors.Join(fmt.Errorf("version %d of %s is known: %s", version, now.Voucher, a.body), err)
			}
			version = v.Version
		}
		s.noteReading(ctx, a)
		s.noteReading(ctx, s.question(ctx, oldVoucher, "/v1/vouchers/"+first.Voucher, s.client.apiKey))
		s.noteReading(ctx, s.question(ctx, aTrade, "/v1/trades/"+now.Voucher, s.client.apiKey))
		s.noteReading(ctx, s.question(ctx, aList, fmt.Sprintf("/v1/payments?limit=%d", pageMax), s.client.apiKey))
	}
}

// question asks one.
func (s *shop) question(ctx context.Context, what, path, bearer string) reading {
	r := reading{what: what, begun: time.Now()}
	r.answer = s.client.ask(ctx, http.MethodGet, path, http.Header{"Authorization": {"Bearer " + bearer}}, nil)
	switch r.status {
	case 0, http.StatusOK:
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		r.outcome = refused
	default:
		r.outcome = wrong
	}
	return r
}

// noteReading notes what a question came to, unless we have ended it ourselves.
func (s *shop) noteReading(ctx context.Context, r reading) {
	if r.outcome == cut && ctx.Err() != nil {
		return
	}
	if r.outcome == accepted {
		r.body = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readings = append(s.readings, r)
}

// readBetween sums up the questions that were begun from one moment to another.
func (s *shop) readBetween(from, to time.Time) readings {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := readings{Asked: map[string]int{}, Refused: map[string]int{}, Failed: map[string]int{}}
	for _, r := range s.readings {
		if r.begun.Before(from) || !r.begun.Before(to) {
			continue
		}
		sum.Asked[r.what]++
		switch r.outcome {
		case accepted:
		case refused:
			sum.Refused[r.what]++
			sum.refusal = r.what + ": " + r.String()
		default:
			sum.Failed[r.what]++
			sum.failure = r.what + ": " + r.String()
		}
		if r.elsewhere {
			sum.Elsewhere++
		}
	}
	return sum
}

// sumOf adds up what there is of each sort.
func sumOf(of map[string]int) (n int) {
	for _, m := range of {
		n += m
	}
	return n
}

// missing are the questions that nobody asked.
func (r *readings) missing() []string {
	return slices.DeleteFunc(questions(), func(what string) bool { return r.Asked[what] > 0 })
}
