package prepay_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/prepay"
)

var backoff = prepay.Backoff{PollFirstMillis: 10 * second, AskFirstMillis: second, MaxMillis: 6 * 3600 * second}

func TestDecide(t *testing.T) {
	const (
		pay, query, cls = event.OpPay, event.OpQuery, event.OpClose
		yes, never      = true, false
		now             = 1000 * second
	)
	type call = prepay.Call
	final := func(s prepay.Standing) prepay.Verdict {
		return prepay.Verdict{Status: prepay.Answered, Standing: s, Tell: true}
	}
	next := func(op event.Op, s prepay.Standing, asks int, wait int64, tell bool) prepay.Verdict {
		return prepay.Verdict{Status: prepay.Due, Op: op, Standing: s, Asks: asks, WaitMillis: wait, Tell: tell}
	}
	nf := channels.StateNotFound
	for _, c := range []struct {
		name       string
		call       call
		answer     channels.Outcome
		repeatable bool
		want       prepay.Verdict
	}{
		{"first pay pending", call{Op: pay, Standing: prepay.NeverSent}, withQR, yes, next(query, prepay.Pending, 0, 10*second, true)},
		{"first pay paid", call{Op: pay, Standing: prepay.NeverSent}, paid, yes, final(prepay.Paid)},
		{"first pay declined", call{Op: pay, Standing: prepay.NeverSent}, declined, yes, final(prepay.Declined)},
		{"first pay not sent waits for core", call{Op: pay, Standing: prepay.NeverSent}, notSent, yes,
			prepay.Verdict{Status: prepay.Answered, Standing: prepay.NeverSent, Tell: true}},
		{"first pay not sent, close wanted", call{Op: pay, Standing: prepay.NeverSent, CloseWanted: true}, notSent, yes, final(prepay.Closed)},
		{"first pay unknown is asked after", call{Op: pay, Standing: prepay.NeverSent}, unknown, yes, next(query, prepay.Unknown, 0, second, true)},
		{"first pay unknown, close wanted", call{Op: pay, Standing: prepay.NeverSent, CloseWanted: true, AskWanted: true}, unknown, yes,
			next(cls, prepay.Unknown, 0, 0, true)},
		{"first pay pending, close wanted", call{Op: pay, Standing: prepay.NeverSent, CloseWanted: true, AskWanted: true}, withQR, yes,
			next(cls, prepay.Pending, 0, 0, true)},

		{"repeated pay not sent is no NotSent", call{Op: pay, Standing: prepay.Unknown, Asks: 2}, notSent, yes, next(query, prepay.Unknown, 3, 8*second, false)},
		{"repeated pay unknown is no news", call{Op: pay, Standing: prepay.Unknown, Asks: 2}, unknown, yes, next(query, prepay.Unknown, 3, 8*second, false)},
		{"repeated pay declined is definite", call{Op: pay, Standing: prepay.Unknown, LastState: nf}, declined, yes, final(prepay.Declined)},
		{"repeated pay pending", call{Op: pay, Standing: prepay.Unknown, Asks: 5}, withQR, yes, next(query, prepay.Pending, 0, 10*second, true)},
		{"pay to fetch a credential, declined", call{Op: pay, Standing: prepay.Pending}, declined, yes, next(query, prepay.Pending, 1, 20*second, false)},
		{"pay after a close found nothing, declined", call{Op: pay, Standing: prepay.Pending, LastState: nf}, declined, yes, final(prepay.Declined)},
		{"pay to fetch a credential, fetched", call{Op: pay, Standing: prepay.Pending, Asks: 1}, withQR, yes, next(query, prepay.Pending, 2, 40*second, true)},

		{"query paid", call{Op: query, Standing: prepay.Unknown}, paid, never, final(prepay.Paid)},
		{"query closed", call{Op: query, Standing: prepay.Pending}, closed, never, final(prepay.Closed)},
		{"query declined", call{Op: query, Standing: prepay.Unknown}, done(channels.StateDeclined), never, final(prepay.Declined)},
		{"a refused query is no decline", call{Op: query, Standing: prepay.Unknown}, declined, yes, next(query, prepay.Unknown, 1, 2*second, false)},
		{"query unknown", call{Op: query, Standing: prepay.Unknown, Asks: 3}, unknown, yes, next(query, prepay.Unknown, 4, 16*second, false)},
		{"query not sent", call{Op: query, Standing: prepay.Unknown}, notSent, yes, next(query, prepay.Unknown, 1, 2*second, false)},
		{"query finds nothing, repeatable", call{Op: query, Standing: prepay.Unknown}, notFound, yes, next(pay, prepay.Unknown, 0, second, false)},
		{"query finds nothing, repeatable, expired", call{Op: query, Standing: prepay.Unknown, ExpiresAtMillis: now}, notFound, yes, next(pay, prepay.Unknown, 0, second, false)},
		{"query finds nothing after many questions: the repetition does not wait as long as a question", call{Op: query, Standing: prepay.Unknown, Asks: 9}, notFound, yes, next(pay, prepay.Unknown, 9, second, false)},
		{"repeated pay unknown: silence makes the wait grow", call{Op: pay, Standing: prepay.Unknown, Asks: 9, LastState: nf}, unknown, yes, next(query, prepay.Unknown, 10, 1024*second, false)},
		{"query finds nothing, not repeatable", call{Op: query, Standing: prepay.Unknown}, notFound, never, next(query, prepay.Unknown, 1, 2*second, false)},
		{"query finds nothing of what is pending", call{Op: query, Standing: prepay.Pending}, notFound, yes, next(query, prepay.Pending, 1, 20*second, false)},
		{"query pending is no news", call{Op: query, Standing: prepay.Pending, Asks: 1, HasCredential: true}, pending, yes, next(query, prepay.Pending, 2, 40*second, false)},
		{"query pending after unknown, with credential", call{Op: query, Standing: prepay.Unknown}, withQR, yes, next(query, prepay.Pending, 0, 10*second, true)},
		{"query pending after unknown, credential lost", call{Op: query, Standing: prepay.Unknown, Asks: 4}, pending, yes, next(pay, prepay.Pending, 0, second, true)},
		{"credential lost, not repeatable", call{Op: query, Standing: prepay.Unknown}, pending, never, next(query, prepay.Pending, 0, 10*second, true)},
		{"credential lost, expired", call{Op: query, Standing: prepay.Unknown, ExpiresAtMillis: now}, pending, yes, next(query, prepay.Pending, 0, 10*second, true)},
		{"query pending, close wanted", call{Op: query, Standing: prepay.Pending, CloseWanted: true}, pending, yes, next(cls, prepay.Pending, 1, 2*second, false)},
		{"query unknown, close wanted", call{Op: query, Standing: prepay.Unknown, CloseWanted: true}, unknown, yes, next(cls, prepay.Unknown, 1, 2*second, false)},
		{"the wait stays at its bound", call{Op: query, Standing: prepay.Unknown, Asks: 1 << 30}, unknown, yes, next(query, prepay.Unknown, 1<<30+1, 6*3600*second, false)},

		{"close closed", call{Op: cls, Standing: prepay.Pending, CloseWanted: true}, closed, never, final(prepay.Closed)},
		{"close of what was paid", call{Op: cls, Standing: prepay.Pending, CloseWanted: true}, paid, never, final(prepay.Paid)},
		{"close finds nothing, repeatable, expired", call{Op: cls, Standing: prepay.Pending, CloseWanted: true, ExpiresAtMillis: now}, notFound, yes, next(pay, prepay.Pending, 0, second, false)},
		{"close finds nothing, not expired: nobody is asked again", call{Op: cls, Standing: prepay.Pending, CloseWanted: true, ExpiresAtMillis: now + 1}, notFound, yes, next(query, prepay.Pending, 1, 2*second, false)},
		{"query finds nothing, to be closed, not expired", call{Op: query, Standing: prepay.Unknown, CloseWanted: true, ExpiresAtMillis: now + 1}, notFound, yes, next(cls, prepay.Unknown, 1, 2*second, false)},
		{"close finds nothing, not repeatable", call{Op: cls, Standing: prepay.Pending, CloseWanted: true}, notFound, never, next(query, prepay.Pending, 1, 2*second, false)},
		{"close unknown", call{Op: cls, Standing: prepay.Pending, CloseWanted: true}, unknown, yes, next(query, prepay.Pending, 1, 2*second, false)},
		{"close not sent", call{Op: cls, Standing: prepay.Unknown, CloseWanted: true}, notSent, yes, next(query, prepay.Unknown, 1, 2*second, false)},
		{"a refused close", call{Op: cls, Standing: prepay.Pending, CloseWanted: true}, declined, yes, next(query, prepay.Pending, 1, 2*second, false)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if have := backoff.Decide(&c.call, &c.answer, c.repeatable, now); have != c.want {
				t.Errorf("have %+v\nwant %+v", have, c.want)
			}
		})
	}
}

// Whatever is known and whatever is answered, what money hangs on holds.
func TestDecideAlways(t *testing.T) {
	results := []channels.Result{channels.Done, channels.Declined, channels.NotSent, channels.Unknown, "nonsense"}
	states := []channels.State{"", channels.StatePending, channels.StatePaid, channels.StateDeclined, channels.StateClosed, channels.StateNotFound, "nonsense"}
	rapid.Check(t, func(t *rapid.T) {
		c := prepay.Call{
			Op:          rapid.SampledFrom([]event.Op{event.OpPay, event.OpQuery, event.OpClose}).Draw(t, "op"),
			Standing:    rapid.SampledFrom([]prepay.Standing{prepay.NeverSent, prepay.Unknown, prepay.Pending}).Draw(t, "standing"),
			CloseWanted: rapid.Bool().Draw(t, "close"), AskWanted: rapid.Bool().Draw(t, "ask"), HasCredential: rapid.Bool().Draw(t, "cred"),
			LastState: rapid.SampledFrom(states).Draw(t, "last"), Asks: rapid.IntRange(0, 100).Draw(t, "asks"),
			ExpiresAtMillis: rapid.Int64Range(0, 20).Draw(t, "expires"),
		}
		o := channels.Outcome{Result: rapid.SampledFrom(results).Draw(t, "result"), State: rapid.SampledFrom(states).Draw(t, "state")}
		repeatable := rapid.Bool().Draw(t, "repeatable")
		v := backoff.Decide(&c, &o, repeatable, 10)

		definite := o.Result == channels.Done && (o.State == channels.StatePaid || o.State == channels.StateClosed || o.State == channels.StateDeclined) ||
			o.Result == channels.Declined && c.Op == event.OpPay
		certain := o.Result == channels.NotSent && c.Op == event.OpPay && c.Standing == prepay.NeverSent
		switch {
		case v.Status == prepay.Answered && !definite && !certain:
			t.Fatalf("%+v ended a number in standing %s: %+v", o, c.Standing, v)
		case v.Standing == prepay.NeverSent && !certain:
			t.Fatalf("%+v left a number that may have been sent as never sent", o)
		case v.Standing == prepay.Closed && !certain && o.State != channels.StateClosed,
			v.Standing == prepay.Paid && o.State != channels.StatePaid:
			t.Fatalf("%+v made it %s", o, v.Standing)
		case v.Status == prepay.Due && (v.WaitMillis < 0 || v.WaitMillis > backoff.MaxMillis || v.WaitMillis == 0 && !c.AskWanted):
			t.Fatalf("wait of %d ms", v.WaitMillis)
		case v.Op == event.OpPay && !repeatable:
			t.Fatalf("pays again where that is not repeatable")
		case v.Op == event.OpPay && o.State != channels.StateNotFound && v.Standing != prepay.Pending:
			t.Fatalf("pays again after %+v in standing %s", o, v.Standing)
		}
	})
}
