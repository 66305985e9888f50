package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core"
	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/ids"
)

// database is the one in which everything is.
const database = "tallystick"

// standstill stops a process where it stands. When it goes on, all that it held is
// others', and what it still commits must be refused: by a line of its log that has a text.
func (b *bench) standstill(m *rig.Member, text string) trouble {
	logged := int64(0)
	return trouble{name: m.Name + " stands still", promise: unseen(),
		begin: func(context.Context) error {
			logged = m.Process().LogSize()
			return m.Process().Signal(syscall.SIGSTOP)
		},
		end: func(ctx context.Context) error {
			if err := b.takenOut(ctx, m); err != nil {
				return err
			}
			if err := b.unaware(ctx, m.Role); err != nil {
				return err
			}
			return m.Process().Signal(syscall.SIGCONT)
		},
		after: func(ctx context.Context) error {
			return await(ctx, m.Name+" stood still for longer than its lease, and no commit of its was refused", func() (bool, error) {
				return refusals(m.Process().LogSince(logged), text) > 0, nil
			})
		}}
}

// takenOut waits until others have taken a member out, as they do when it stands still for
// longer than its lease.
func (b *bench) takenOut(ctx context.Context, m *rig.Member) error {
	return await(ctx, m.Name+" stands still, and nobody has taken it out", func() (bool, error) {
		n, err := b.cluster.Postgres[0].Query(ctx, database, fmt.Sprintf("SELECT count(*) FROM %s.members WHERE name LIKE '%% pid %d'", m.Role, m.Process().Pid()))
		return n == "0", err
	})
}

// refusals counts the lines of a log, those with a text, that tell of a transaction that
// was refused because the process is no member any more. That it could not renew is another thing: then it has noticed,
// and shows nothing.
func refusals(log, text string) (n int) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "will retry") && strings.Contains(line, "lease_lost") && strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// unaware keeps the members of an area from renewing for a moment: so one that goes on
// tries to commit what it has at hand before it can notice that nothing is its own.
func (b *bench) unaware(ctx context.Context, role app.Role) error {
	const moment = 1500 * time.Millisecond
	server := b.cluster.Postgres[0]
	ended := make(chan error, 1)
	go func() {
		_, err := server.Query(ctx, database, fmt.Sprintf("BEGIN; LOCK TABLE %s.leases IN SHARE ROW EXCLUSIVE MODE; SELECT pg_sleep(%g); COMMIT", role, moment.Seconds()))
		ended <- err
	}()
	return await(ctx, "nobody could lock the leases", func() (bool, error) {
		select {
		case err := <-ended:
			return true, err // slower than the moment itself
		default:
		}
		n, err := server.Query(ctx, database, fmt.Sprintf(
			"SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE relation = '%s.leases'::regclass AND mode = 'ShareRowExclusiveLock' AND granted AND query LIKE '%%pg_sleep%%' AND pid <> pg_backend_pid()", role))
		return n != "0", err
	})
}

// await looks until something is so.
func await(ctx context.Context, or string, so func() (bool, error)) error {
	for begun := time.Now(); time.Since(begun) < drainMax; {
		if yes, err := so(); err != nil || yes {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New(or)
}

// lateCall is a call that was out when its process was stopped, and came to the PSP when
// another one had taken over.
type lateCall struct {
	sim.Key
	before int // pays that the PSP had had of it by then
}

// lateCalls is a standstill of prepay with calls that are out meanwhile. They come late to
// the PSP, and their answers to who asked.
func (b *bench) lateCalls(m *rig.Member) trouble {
	t := b.standstill(m, `"loop":"record"`)
	begin, end := t.begin, t.end
	var out []sim.Key
	t.begin = func(ctx context.Context) error {
		b.pspLink.Catch()
		err := await(ctx, m.Name+" calls nobody", func() (found bool, err error) {
			out, err = b.callsOut(ctx, m)
			return len(out) > 0, err
		})
		if err != nil {
			return err
		}
		err = begin(ctx)
		b.pspLink.Let()
		return err
	}
	t.end = func(ctx context.Context) error {
		var late []lateCall // that others have asked after, and made themselves
		err := await(ctx, "nobody made the calls of "+m.Name, func() (bool, error) {
			late = nil
			for _, k := range out {
				if r, _ := b.psp.Find(k.Account, k.OutTradeNo); r.Requests.Query > 0 && r.Requests.Pay > 0 {
					late = append(late, lateCall{k, r.Requests.Pay})
				}
			}
			return len(late) > 0, nil
		})
		b.pspLink.Mend()
		if err != nil {
			return errors.Join(err, end(ctx))
		}
		err = await(ctx, "no call of "+m.Name+" came late", func() (bool, error) {
			for _, l := range late {
				if r, _ := b.psp.Find(l.Account, l.OutTradeNo); r.Requests.Pay > l.before {
					b.late = append(b.late, l.Key)
				}
			}
			return len(b.late) > 0, nil
		})
		return errors.Join(err, end(ctx))
	}
	return t
}

// callsOut are pays of a process that are on their way, and caught there.
func (b *bench) callsOut(ctx context.Context, m *rig.Member) (out []sim.Key, err error) {
	rows, err := b.cluster.Postgres[0].Query(ctx, database, fmt.Sprintf(`SELECT p.account || ' ' || c.out_trade_no
		FROM prepay.progress p JOIN prepay.calls c USING (id) JOIN prepay.leases l USING (grp) JOIN prepay.members m ON m.id = l.member
		WHERE p.status = 'sending' AND p.op = 'pay' AND p.tries = 1 AND m.name LIKE '%% pid %d'`, m.Process().Pid()))
	for line := range strings.Lines(rows) {
		account, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if b.pspLink.Caught(number) {
			out = append(out, sim.Key{Account: account, OutTradeNo: number})
		}
	}
	return out, err
}

// linkPSP puts a link between prepay and the PSP, and lets calls wait for longer than a
// process stands still: what comes late is met, and not given up before.
func (b *bench) linkPSP(ctx context.Context) (unlink func() error, err error) {
	b.pspLink, err = rig.NewLink(ctx, b.psp.Addr())
	if err != nil {
		return nil, err
	}
	return b.pspLink.Close, b.cluster.Edit(func(s *merchant.Snapshot) {
		for i := range s.Accounts {
			s.Accounts[i].Endpoint = "http://" + b.pspLink.Addr()
			s.Accounts[i].Limits.DeadlineMillis = min(2*time.Minute, 2*b.hold+30*time.Second).Milliseconds()
		}
	})
}

// judgeLate wants of each call that came late that it was harmless: the payment was paid
// once, with the same number of the same account.
func (b *bench) judgeLate(ctx context.Context, all *app.Databases) error {
	for _, k := range b.late {
		y, _, err := ids.ParseOutTradeNo(k.OutTradeNo)
		if err != nil {
			return err
		}
		stores, err := all.Owner(y)
		if err != nil {
			return err
		}
		p, _, _, err := core.Queries{Store: stores.Core}.Payment(ctx, y)
		if err != nil {
			return err
		}
		r, _ := b.psp.Find(k.Account, k.OutTradeNo)
		if what := harmed(k, &p, &r); what != "" {
			b.fail("a call that came late, %s at %s: %s", k.OutTradeNo, k.Account, what)
		}
		b.print("late: %s at %s was asked for %d times, asked after %d times, and is %s; its payment has %d attempts, and %s", k.OutTradeNo, k.Account,
			r.Requests.Pay, r.Requests.Query, r.State, len(p.Attempts), p.Status)
	}
	return nil
}

// harmed says what a late call has done to its payment; empty if nothing.
func harmed(k sim.Key, p *event.Payment, r *sim.Record) string {
	switch {
	case r.State != channels.StatePaid || p.Status != event.Succeeded:
		return fmt.Sprintf("the PSP has it as %q, and its payment is %q", r.State, p.Status)
	case len(p.Attempts) != 1 || p.Attempts[0].OutTradeNo != k.OutTradeNo || p.Attempts[0].Account != k.Account:
		return fmt.Sprintf("its payment has other attempts: %+v", p.Attempts)
	case r.Taken.Minor != p.Amount.Minor:
		return fmt.Sprintf("the PSP took %d, and was to take %d", r.Taken.Minor, p.Amount.Minor)
	}
	return ""
}
