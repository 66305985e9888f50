package lease_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/engines/pgtest"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/sqldb"
)

var server pgtest.Server

func TestMain(m *testing.M) { server.Main(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place is one database with groups to divide, and a table that is guarded.
type place struct {
	*testing.T
	options sqldb.Options
	db      *sqldb.DB
	members int
}

const groups = 16

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{T: t, options: sqldb.Options{Area: "core", Postgres: server.Schema(t), NoSync: true,
		Migrations: []string{lease.Schema + `CREATE TABLE things (id INTEGER PRIMARY KEY, what TEXT NOT NULL);`}}}
	must(t, sqldb.Migrate(t.Context(), p.options, ""))
	p.db = p.open(nil)
	must(t, p.db.Write(t.Context(), func(tx *sqldb.Tx) error {
		all := make([]int, groups)
		for g := range all {
			all[g] = g
		}
		return lease.Own(tx, all)
	}))
	return p
}

func (p *place) open(guard func(*sqldb.Tx) error) *sqldb.DB {
	p.Helper()
	o := p.options
	at := *o.Postgres
	at.Guard = guard
	o.Postgres = &at
	db, err := sqldb.Open(p.Context(), o)
	must(p, err)
	p.Cleanup(func() { _ = db.Close() })
	return db
}

// join makes a member, with connections of its own.
func (p *place) join() *lease.Member {
	p.Helper()
	p.members++
	m := lease.NewMember(p.open(nil), fmt.Sprint("member ", p.members), "test", time.Hour)
	_, err := m.Renew(p.Context(), true)
	must(p, err)
	return m
}

// divide lets each member renew and take what it wants, twice: what one gives up in
// the first round is taken in the second.
func (p *place) divide(members ...*lease.Member) (held [][]int) {
	p.Helper()
	for range 2 {
		held = nil
		for _, m := range members {
			s, err := m.Renew(p.Context(), false)
			must(p, err)
			h, err := m.Hold(p.Context(), m.Want(s))
			must(p, err)
			held = append(held, h)
		}
	}
	return held
}

func (p *place) exec(query string, args ...any) {
	p.Helper()
	must(p, p.db.Write(p.Context(), func(tx *sqldb.Tx) error { _, err := tx.Exec(query, args...); return err }))
}

func (p *place) texts(query string, args ...any) (out []string) {
	p.Helper()
	must(p, p.db.Read(p.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(query, args, func(scan sqldb.Scan) error {
			var s string
			err := scan(&s)
			out = append(out, s)
			return err
		})
	}))
	return out
}

// late makes a member one that has not renewed for long.
func (p *place) late(m *lease.Member) {
	p.Helper()
	p.exec(`UPDATE members SET until = clock_timestamp() - interval '1 day' WHERE id = ?`, m.ID())
}

func sizes(held [][]int) (out []int) {
	for _, h := range held {
		out = append(out, len(h))
	}
	return out
}

func TestGroupsAreDividedFairly(t *testing.T) {
	p := newPlace(t)
	a := p.join()
	if got := sizes(p.divide(a)); !slices.Equal(got, []int{16}) {
		t.Errorf("one member holds %v", got)
	}
	b, c := p.join(), p.join()
	held := p.divide(a, b, c)
	if got := sizes(held); got[0] > 6 || got[1] > 6 || got[2] > 6 || got[0]+got[1]+got[2] != groups {
		t.Errorf("three members hold %v", held)
	}
	seen := map[int]bool{}
	for _, g := range slices.Concat(held...) {
		if seen[g] {
			t.Errorf("group %d is held twice: %v", g, held)
		}
		seen[g] = true
	}
	before := held[0]
	if again := p.divide(a, b, c); !slices.Equal(again[0], before) {
		t.Errorf("what is divided fairly was divided again: %v, then %v", before, again[0])
	}
	must(t, b.Leave(t.Context()))
	if got := sizes(p.divide(a, c)); !slices.Equal(got, []int{8, 8}) {
		t.Errorf("two members hold %v", got)
	}
	for _, m := range []*lease.Member{a, c} {
		if _, err := b.Renew(t.Context(), false); !fault.Is(err, fault.Fenced) {
			t.Errorf("who has left is %v to %s", err, m.ID())
		}
	}
}

func TestAMemberThatDoesNotRenewIsTakenOut(t *testing.T) {
	p := newPlace(t)
	// The server of the tests runs for less than an hour: a short time to live.
	p.members = 100
	short := func(id string) *lease.Member {
		m := lease.NewMember(p.open(nil), id, "test", time.Millisecond)
		_, err := m.Renew(t.Context(), true)
		must(t, err)
		return m
	}
	a := short("a")
	p.exec(`UPDATE members SET until = clock_timestamp() + interval '1 hour'`)
	s, err := a.Renew(t.Context(), false)
	must(t, err)
	if _, err := a.Hold(t.Context(), a.Want(s)); err != nil {
		t.Fatal(err)
	}
	guarded := p.open(a.Guard(a.Held()))
	write := func() error {
		return guarded.Write(t.Context(), func(tx *sqldb.Tx) error {
			_, err := tx.Exec(`INSERT INTO things (what) VALUES ('written')`)
			return err
		})
	}
	must(t, write())
	p.late(a)
	must(t, write()) // late, but nobody has taken it out: what it holds is its own
	b := short("b")
	if held := p.divide(b); len(held[0]) != groups {
		t.Errorf("after the other's time is over, %v are held", held)
	}
	if err := write(); !fault.Is(err, fault.Fenced) {
		t.Errorf("a member that was taken out wrote: %v", err)
	}
	if n := len(p.texts(`SELECT what FROM things`)); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
	if _, err := a.Hold(t.Context(), []int{1}); !fault.Is(err, fault.Fenced) {
		t.Errorf("a member that was taken out holds: %v", err)
	}
	if epochs := p.texts(`SELECT DISTINCT CAST(epoch AS TEXT) FROM leases`); !slices.Equal(epochs, []string{"2"}) {
		t.Errorf("epochs %v after two holders", epochs)
	}
}

// A member in the middle of a transaction keeps its groups until that ends: its
// commit is before anybody else's first one.
func TestAMemberIsNotTakenOutWhileItCommits(t *testing.T) {
	p := newPlace(t)
	a := lease.NewMember(p.open(nil), "a", "test", time.Millisecond)
	s, err := a.Renew(t.Context(), true)
	must(t, err)
	_, err = a.Hold(t.Context(), a.Want(s))
	must(t, err)
	guarded := p.open(a.Guard(a.Held()))
	b := lease.NewMember(p.open(nil), "b", "test", time.Millisecond)
	must(t, guarded.Write(t.Context(), func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(`INSERT INTO things (what) VALUES ('first')`); err != nil { // the guard goes with it
			return err
		}
		p.late(a) // renewing does not wait for the transaction
		s, err := b.Renew(t.Context(), true)
		if err != nil {
			return err
		}
		if len(s.Free) != 0 || s.Members != 2 {
			t.Errorf("while a commits, b sees %+v", s)
		}
		_, err = tx.Exec(`INSERT INTO things (what) VALUES ('in time')`)
		return err
	}))
	s, err = b.Renew(t.Context(), false)
	must(t, err)
	if len(s.Free) != groups || s.Members != 1 {
		t.Errorf("afterwards b sees %+v", s)
	}
}

// A guard is for the groups that it was made for, and for the time in which they are held:
// nothing is written for a group before it is held, nor once the member holds something
// else, whoever has the groups by then.
func TestAGuardIsForWhatIsHeld(t *testing.T) {
	p := newPlace(t)
	a := p.join()
	writes := func(guard func(*sqldb.Tx) error) error {
		return p.open(guard).Write(t.Context(), func(tx *sqldb.Tx) error {
			_, err := tx.Exec(`INSERT INTO things (what) VALUES ('written')`)
			return err
		})
	}
	refused := func(when string, guard func(*sqldb.Tx) error) {
		t.Helper()
		if err := writes(guard); !fault.Is(err, fault.Fenced) {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused("a member wrote for a group that it did not hold yet", a.Guard([]int{3}))
	_, err := a.Hold(t.Context(), []int{3, 4})
	must(t, err)
	both := a.Guard([]int{3, 4})
	must(t, writes(both))
	refused("it wrote for one that it does not hold", a.Guard([]int{4, 5}))
	_, err = a.Hold(t.Context(), []int{4})
	must(t, err)
	refused("a duty that has ended wrote", both)
	refused("it wrote for one that it has given up", a.Guard([]int{3}))
	must(t, writes(a.Guard([]int{4})))
	if epoch := p.texts(`SELECT CAST(epoch AS TEXT) FROM leases WHERE grp = 4`); !slices.Equal(epoch, []string{"1"}) {
		t.Errorf("epoch %v of a group with one holder", epoch)
	}
	must(t, a.Leave(t.Context()))
	refused("who has left wrote", a.Guard(nil))
	if left := p.texts(`SELECT member FROM leases WHERE member <> '' UNION SELECT id FROM members`); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A transaction that began before another Hold ends before it, and one that begins while it
// is under way is refused: there is no moment in which what was given up can be written.
func TestHoldAndItsGuardExcludeEachOther(t *testing.T) {
	p := newPlace(t)
	a, b := p.join(), p.join()
	_, err := a.Hold(t.Context(), []int{3, 4})
	must(t, err)
	guarded := p.open(a.Guard([]int{3, 4}))
	waiting := func(what string) {
		t.Helper()
		for range 1000 {
			if n := p.texts(`SELECT pid::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE ?`, what); len(n) > 0 {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatalf("nobody waits with %s", what)
	}
	done := make(chan error, 1)
	must(t, guarded.Write(t.Context(), func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(`INSERT INTO things (what) VALUES ('first')`); err != nil { // the guard goes with it
			return err
		}
		go func() {
			_, err := a.Hold(t.Context(), []int{4})
			done <- err
		}()
		waiting("SELECT TRUE FROM members WHERE id = $1 FOR UPDATE")
		if _, err := b.Renew(t.Context(), false); err != nil { // nobody else has to wait
			return err
		}
		_, err := tx.Exec(`INSERT INTO things (what) VALUES ('in time')`)
		return err
	}))
	must(t, <-done)

	guarded, holds := p.open(a.Guard([]int{4})), p.open(nil)
	late := make(chan error, 1)
	must(t, holds.Write(t.Context(), func(tx *sqldb.Tx) error { // the next Hold comes as far as the lease
		if err := tx.Query(`SELECT grp FROM leases WHERE grp = 4 FOR UPDATE`, nil, func(scan sqldb.Scan) error { return scan(new(int)) }); err != nil {
			return err
		}
		go func() {
			_, err := a.Hold(t.Context(), nil)
			done <- err
		}()
		waiting("UPDATE leases SET member = ''%")
		go func() {
			late <- guarded.Write(t.Context(), func(tx *sqldb.Tx) error {
				_, err := tx.Exec(`INSERT INTO things (what) VALUES ('late')`)
				return err
			})
		}()
		waiting("SELECT TRUE FROM members%")
		return nil
	}))
	must(t, <-done)
	if err := <-late; !fault.Is(err, fault.Fenced) {
		t.Errorf("who began while something else was being held wrote: %v", err)
	}
}

// A server that has just come back gives everybody time to renew.
func TestNobodyIsTakenOutByAServerThatHasJustStarted(t *testing.T) {
	p := newPlace(t)
	a := p.join() // with an hour to live: longer than the server runs
	p.divide(a)
	p.late(a)
	b := p.join()
	if held := p.divide(b); len(held[0]) != 0 {
		t.Errorf("%v were taken from a member that had no time to renew", held[0])
	}
}

func TestFrozenGroupsAreGivenUpAndNotTaken(t *testing.T) {
	p := newPlace(t)
	a := p.join()
	p.divide(a)
	p.exec(`UPDATE leases SET frozen = TRUE WHERE grp IN (3, 4)`)
	s, err := a.Renew(t.Context(), false)
	must(t, err)
	if !slices.Equal(s.Wanted, []int{3, 4}) {
		t.Errorf("wanted %v", s.Wanted)
	}
	held := p.divide(a)
	if slices.Contains(held[0], 3) || slices.Contains(held[0], 4) || len(held[0]) != groups-2 {
		t.Errorf("held %v", held[0])
	}
	b := p.join()
	if all := slices.Concat(p.divide(a, b)...); slices.Contains(all, 3) || len(all) != groups-2 {
		t.Errorf("held %v", all)
	}
	p.exec(`UPDATE leases SET frozen = FALSE`)
	if all := slices.Concat(p.divide(a, b)...); len(all) != groups {
		t.Errorf("held %v", all)
	}
}

// Members that come, go, are late and divide groups at the same time: whoever is let
// write by its guard holds what it believes to hold.
func TestNobodyWritesForAnothersGroup(t *testing.T) {
	p := newPlace(t)
	var wg sync.WaitGroup
	for n := range 4 {
		db := p.open(nil)
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(n), 1))
			for life := range 12 {
				if err := oneLife(t.Context(), db, fmt.Sprintf("%d.%d", n, life), random); err != nil && !fault.Is(err, fault.Fenced) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// oneLife is one member's.
func oneLife(ctx context.Context, db *sqldb.DB, id string, random *rand.Rand) error {
	m := lease.NewMember(db, id, "test", time.Millisecond) // always late
	s, err := m.Renew(ctx, true)
	for step := 0; step < 6 && err == nil; step++ {
		if random.IntN(2) == 0 {
			_, err = m.Hold(ctx, m.Want(s))
		} else {
			s, err = m.Renew(ctx, false)
		}
		if err != nil {
			return err
		}
		held := m.Held()
		err = db.Write(ctx, func(tx *sqldb.Tx) error {
			if err := m.Guard(held)(tx); err != nil {
				return err
			}
			var have []int
			err := tx.Query(`SELECT grp FROM leases WHERE member = ? ORDER BY grp`, []any{m.ID()}, func(scan sqldb.Scan) error {
				var g int
				err := scan(&g)
				have = append(have, g)
				return err
			})
			if err == nil && !slices.Equal(have, held) {
				err = fmt.Errorf("%s may write, believes to hold %v, and holds %v", id, held, have)
			}
			return err
		})
	}
	if err == nil && random.IntN(2) == 0 {
		err = m.Leave(ctx)
	}
	return err
}

func TestGroupsOfADatabase(t *testing.T) {
	p := newPlace(t)
	must(t, p.db.Write(t.Context(), func(tx *sqldb.Tx) error { return lease.Own(tx, []int{3, 20, 21}) })) // some are its own already
	owned, err := lease.Owned(t.Context(), p.db)
	if err != nil || len(owned) != groups+2 || owned[groups+1] != 21 {
		t.Errorf("owned %v, %v", owned, err)
	}
	no := errors.New("no")
	if err := p.db.Write(t.Context(), func(tx *sqldb.Tx) error { return errors.Join(lease.Own(tx, []int{30}), no) }); !errors.Is(err, no) {
		t.Error(err)
	}
	if again, _ := lease.Owned(t.Context(), p.db); len(again) != groups+2 {
		t.Errorf("owned %v after a transaction that was rolled back", again)
	}
}
