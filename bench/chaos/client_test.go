package chaos

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// gateway answers as handler does; with nil it takes no connection.
func gateway(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	if handler == nil {
		s.Close()
	}
	return strings.TrimPrefix(s.URL, "http://")
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// cuts ends the connection without an answer.
func cuts(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

const promise202 = `{"voucher":"vch_1","token":"t"}`

// Whatever is none of the four answers that the API promises under trouble is seen as a
// failure, by its sort.
func TestWhatClientsSee(t *testing.T) {
	for name, tc := range map[string]struct {
		gateways []http.HandlerFunc
		want     second
	}{
		"202":          {[]http.HandlerFunc{answers(202, promise202)}, second{Offered: 1, Accepted: 1}},
		"429":          {[]http.HandlerFunc{answers(429, "")}, second{Offered: 1, Refused: 1}},
		"503":          {[]http.HandlerFunc{answers(503, "")}, second{Offered: 1, Refused: 1}},
		"504":          {[]http.HandlerFunc{answers(504, "")}, second{Offered: 1, Unknown: 1}},
		"200":          {[]http.HandlerFunc{answers(200, promise202)}, second{Offered: 1, failures: failures{Wrong: 1}}},
		"400":          {[]http.HandlerFunc{answers(400, "")}, second{Offered: 1, failures: failures{Wrong: 1}}},
		"401":          {[]http.HandlerFunc{answers(401, "")}, second{Offered: 1, failures: failures{Wrong: 1}}},
		"500":          {[]http.HandlerFunc{answers(500, "")}, second{Offered: 1, failures: failures{Wrong: 1}}},
		"no JSON":      {[]http.HandlerFunc{answers(202, "")}, second{Offered: 1, failures: failures{Wrong: 1}}},
		"cut":          {[]http.HandlerFunc{cuts}, second{Offered: 1, failures: failures{Cut: 1}}},
		"cut of two":   {[]http.HandlerFunc{cuts, cuts}, second{Offered: 1, failures: failures{Cut: 1}}},
		"none":         {[]http.HandlerFunc{nil, nil}, second{Offered: 1, failures: failures{Unreached: 1}}},
		"another":      {[]http.HandlerFunc{answers(202, promise202), nil}, second{Offered: 1, Accepted: 1, Elsewhere: 1}},
		"another, cut": {[]http.HandlerFunc{cuts, nil}, second{Offered: 1, Elsewhere: 1, failures: failures{Cut: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			addrs := make([]string, len(tc.gateways))
			for i, h := range tc.gateways {
				addrs[i] = gateway(t, h)
			}
			s := newShop(newClient(strings.Join(addrs, " "), "key"), 1)
			s.begun = time.Now()
			_, a := s.client.pay(t.Context(), s.order(0)) // the second gateway is asked first
			s.note(s.begun, 0, a, true)
			got := s.between(s.begun, s.begun)
			if sort := got.failures.sum() > 0; sort == (got.example == "") {
				t.Errorf("%d failures, such as %q", got.failures.sum(), got.example)
			}
			got.example = ""
			if got != tc.want {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
			// Asked again, only what must not be is counted.
			s.note(s.begun, 0, a, false)
			if again := s.between(s.begun, s.begun); again.Offered != 1 || again.failures.sum() != 2*tc.want.failures.sum() {
				t.Errorf("asked twice: %+v", again)
			}
		})
	}
}

// What only reads is sent again by the library when its connection ends: the first one
// was cut all the same, if something of it was sent.
func TestACutIsSeenBehindTheLibrary(t *testing.T) {
	var asked atomic.Int32
	c := newClient(gateway(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 2 {
			cuts(w, r)
		}
	}), "key")
	for i, want := range []outcome{accepted, cut, accepted} {
		if a := c.ask(t.Context(), http.MethodGet, "/", http.Header{}, nil); a.outcome != want {
			t.Errorf("request %d: %s is %d, want %d", i+1, a, a.outcome, want)
		}
	}
	if n := asked.Load(); n != 4 {
		t.Errorf("the server saw %d requests, want 4: the library does not send again any more", n)
	}
}
