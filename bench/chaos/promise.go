package chaos

import (
	"fmt"
	"time"
)

// promise is what clients are to see of a trouble. Of every trouble it is promised that a
// payment request is answered, with 202, 429, 503 or 504, and a question with 200, 429 or
// 503; and in the end judge wants that nothing
// was lost, nothing came twice, the books balance and no backlog is left.
type promise struct {
	accepted bool          // every payment is
	answered time.Duration // every payment request is, within this time
	read     bool          // every question is answered, with 200
	again    time.Duration // everything is accepted, so soon after the end
}

// goesOn is promised where the brokers live.
func goesOn() promise {
	return promise{accepted: true, answered: time.Second, again: 5 * time.Second}
}

// unseen is promised where core and its database live as well, or where others take over
// before anybody is missed: no request fails.
func unseen() promise {
	p := goesOn()
	p.read = true
	return p
}

// saysNo is promised where the brokers are gone: 503 or 504 within api.accept_deadline,
// and some time for a machine that is busy.
func saysNo() promise {
	return promise{answered: 3*time.Second + 500*time.Millisecond, again: 5 * time.Second}
}

// broken is in which ways a promise was not kept. Untimed, what is promised is held to,
// but not how soon: on a machine that does other things as well.
func (p promise) broken(r *result, timed bool) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if r.Offered == 0 {
		say("nothing was asked for: this shows nothing")
	}
	if r.failed.sum() > 0 {
		say("%s", r.failed)
	}
	if n := sumOf(r.Reads.Failed); n > 0 {
		say("%d of %d questions came to what must not be, such as %s", n, sumOf(r.Reads.Asked), r.Reads.failure)
	}
	if n := sumOf(r.Reads.Refused); p.read && n > 0 {
		say("%d of %d questions were not answered, such as %s", n, sumOf(r.Reads.Asked), r.Reads.refusal)
	}
	if missing := r.Reads.missing(); p.read && len(missing) > 0 {
		say("nobody asked for %q: this shows nothing", missing)
	}
	if p.accepted && r.Accepted != r.Offered {
		say("%d of %d requests were not accepted", r.Offered-r.Accepted, r.Offered)
	}
	if took := time.Duration(r.SlowestMillis * float64(time.Millisecond)); timed && took > p.answered {
		say("an answer took %s, and may take %s", took.Round(time.Millisecond), p.answered)
	}
	if timed && r.AcceptsAfter > p.again.Seconds() {
		say("accepting again only %.1f s after the end", r.AcceptsAfter)
	}
	return out
}
