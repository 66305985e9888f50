package move_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/engines/pgtest"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/move"
	"github.com/tallystick/tallystick/internal/sqldb"
)

var server pgtest.Server

func TestMain(m *testing.M) { server.Main(m) }

const ttl = 200 * time.Millisecond

// rig is a small area in so many databases.
type rig struct {
	t      *testing.T
	points fault.Points // of whoever moves
	places map[int]*sqldb.Postgres
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newRig(t *testing.T, n int) *rig {
	t.Helper()
	r := &rig{t: t, places: map[int]*sqldb.Postgres{}}
	for number := 1; number <= n; number++ {
		p := server.Schema(t)
		p.Number = number
		r.places[number] = p
		must(t, sqldb.Migrate(t.Context(), r.options(number), ""))
		db := r.open(number)
		must(t, db.Write(t.Context(), func(tx *sqldb.Tx) error {
			if number > 1 {
				return nil
			}
			return lease.Own(tx, []int{0, 1})
		}))
		must(t, db.Close())
	}
	return r
}

func (r *rig) options(number int) sqldb.Options {
	return sqldb.Options{Area: "small", NoSync: true, Postgres: r.places[number], Points: func(name string) { r.points.At(name) },
		Migrations: []string{lease.Schema + lease.MovesSchema + `CREATE TABLE things (id INTEGER PRIMARY KEY, grp INTEGER NOT NULL, body BLOB NOT NULL);`}}
}

func (r *rig) open(number int) *sqldb.DB {
	r.t.Helper()
	db, err := sqldb.Open(r.t.Context(), r.options(number))
	must(r.t, err)
	return db
}

// mover opens all databases but the missing ones.
func (r *rig) mover(missing ...int) (*move.Mover, func()) {
	r.t.Helper()
	portions := func(group int) []sqldb.Portion {
		return []sqldb.Portion{{Table: "things", Where: "t.grp = ?", Args: []any{group}}}
	}
	m := &move.Mover{Databases: map[int]*sqldb.DB{}, Missing: missing, TTL: ttl, WaitMax: 5 * time.Second, LookEvery: 10 * time.Millisecond, Points: r.points,
		Area: move.Area{Name: "small", Portions: portions,
			Check: func(*sqldb.Tx, int) error { return nil }}}
	for number := range r.places {
		if !slices.Contains(missing, number) {
			m.Databases[number] = r.open(number)
		}
	}
	return m, func() {
		for _, db := range m.Databases {
			_ = db.Close()
		}
	}
}

// add adds a thing, as a member of the database would, and gives its id.
func add(t *testing.T, db *sqldb.DB, group int) (id int64) {
	t.Helper()
	must(t, db.Write(t.Context(), func(tx *sqldb.Tx) error {
		if err := tx.NewIDs("things", 1, func(_ int, n int64) { id = n }); err != nil {
			return err
		}
		_, err := tx.Insert("things", []string{"id", "grp", "body"}, 1, "", func(dst []any, _ int) []any { return append(dst, id, group, []byte{0, 255, byte(id)}) })
		return err
	}))
	return id
}

// things are what a database has of a group, and owners who owns it.
func things(t *testing.T, m *move.Mover, number, group int) (rows []string) {
	t.Helper()
	must(t, m.Databases[number].Read(t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT t::text FROM things AS t WHERE grp = ? ORDER BY id`, []any{group}, func(scan sqldb.Scan) error {
			var row string
			err := scan(&row)
			rows = append(rows, row)
			return err
		})
	}))
	return rows
}

func owners(t *testing.T, m *move.Mover, group int) (out []int) {
	t.Helper()
	states, err := m.States(t.Context(), group)
	must(t, err)
	for _, n := range m.Numbers() {
		if states[n].Owned {
			out = append(out, n)
		}
	}
	return out
}

type abandoned struct{}

// A crash before or after any commit, or behind any step: the same call ends right,
// and on the way the group has one owner at most.
func TestEveryCrashIsResumed(t *testing.T) {
	r := newRig(t, 2)
	m, closeAll := r.mover()
	for group := range 2 {
		for range 5 {
			add(t, m.Databases[1], group)
		}
	}
	want, other := things(t, m, 1, 0), things(t, m, 1, 1)
	defer closeAll()
	attempt := func(at, to int) (crashed bool) {
		defer func() { r.points = nil }()
		defer func() {
			if p := recover(); p != nil {
				if _, crashed = p.(abandoned); !crashed {
					panic(p)
				}
			}
		}()
		passed := 0
		r.points = func(string) {
			if passed++; passed == at {
				panic(abandoned{})
			}
		}
		m, closeAll := r.mover()
		defer closeAll()
		_, err := m.Move(t.Context(), 0, to)
		must(t, err)
		return false
	}
	to, crashes := 2, 0
	for at := 1; ; at++ {
		crashed := attempt(at, to)
		if o := owners(t, m, 0); len(o) > 1 {
			t.Fatalf("point %d: databases %v own it", at, o)
		}
		if !slices.Equal(things(t, m, 1, 0), want) && !slices.Equal(things(t, m, 2, 0), want) {
			t.Fatalf("point %d: no database has all rows", at)
		}
		if crashed {
			crashes++
			attempt(0, to)
		}
		if o := owners(t, m, 0); !slices.Equal(o, []int{to}) {
			t.Fatalf("point %d: in the end databases %v own it, want %d", at, o, to)
		}
		if have, left := things(t, m, to, 0), things(t, m, 3-to, 0); !slices.Equal(have, want) || len(left) > 0 {
			t.Fatalf("point %d: in the end %q at the target and %q at the source", at, have, left)
		}
		if !crashed {
			break
		}
		to = 3 - to
	}
	if crashes < 20 {
		t.Errorf("%d points were passed", crashes)
	}
	if !slices.Equal(other, things(t, m, 1, 1)) {
		t.Error("another group's rows have changed")
	}
}

// A database gives only ids above those of what has come to it, and no two give the same.
func TestIDsGoOnAboveWhatHasCome(t *testing.T) {
	r := newRig(t, 3)
	m, closeAll := r.mover()
	defer closeAll()
	last := int64(0)
	seen := map[int64]bool{}
	for _, at := range []int{1, 3, 2, 1, 2, 3} {
		if _, err := m.Move(t.Context(), 0, at); err != nil {
			t.Fatal(err)
		}
		duty := r.open(at) // who takes a group opens its database anew
		defer duty.Close() //nolint:errcheck // a test
		for range 3 {
			id := add(t, duty, 0)
			if id <= last || seen[id] {
				t.Fatalf("database %d gives %d after %d", at, id, last)
			}
			last, seen[id] = id, true
			for _, n := range []int{1, 2, 3} { // what others give meanwhile is other ids
				if other := add(t, m.Databases[n], 1); seen[other] {
					t.Fatalf("id %d was given twice", other)
				} else {
					seen[other] = true
				}
			}
			last = max(last, id)
		}
	}
}

// A holder is waited for; one that is dead loses what it held; one that does not let
// go is named, and the move goes on later, or is taken back.
func TestHolders(t *testing.T) {
	r := newRig(t, 2)
	m, closeAll := r.mover()
	defer closeAll()
	db := r.open(1)
	defer db.Close() //nolint:errcheck // a test
	hold := func(ttl time.Duration) *lease.Member {
		t.Helper()
		member := lease.NewMember(db, fmt.Sprint("m", time.Now().UnixNano()), "somebody", ttl)
		share, err := member.Renew(t.Context(), true)
		must(t, err)
		held, err := member.Hold(t.Context(), share.Free)
		must(t, err)
		if !slices.Contains(held, 0) {
			t.Fatalf("it holds %v", held)
		}
		return member
	}
	// Alive, and deaf.
	deaf := hold(time.Minute)
	m.WaitMax = 50 * time.Millisecond
	_, err := m.Move(t.Context(), 0, 2)
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "somebody") {
		t.Errorf("a holder that does not let go: %v", err)
	}
	if share, err := deaf.Renew(t.Context(), false); err != nil || !slices.Equal(share.Wanted, []int{0}) {
		t.Errorf("it is wanted: %+v %v", share, err)
	}
	before := at(t, m, 1)
	if moved, err := m.Move(t.Context(), 0, 1); err != nil || !moved {
		t.Errorf("taken back: %t %v", moved, err)
	}
	if s := at(t, m, 1); s.Frozen || s.Epoch <= before.Epoch || s.Member == "" || s.Member != before.Member {
		t.Errorf("taken back it is %+v, was %+v", s, before)
	}
	// It lets go while the move waits.
	m.WaitMax = 30 * time.Second
	done := make(chan error, 1)
	go func() {
		_, err := m.Move(context.WithoutCancel(t.Context()), 0, 2)
		done <- err
	}()
	for {
		share, err := deaf.Renew(t.Context(), false)
		must(t, err)
		if len(share.Wanted) > 0 {
			_, err = deaf.Hold(t.Context(), deaf.Want(share))
			must(t, err)
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	must(t, <-done)
	must(t, deaf.Leave(t.Context()))
	// Dead.
	_, err = m.Move(t.Context(), 0, 1)
	must(t, err)
	dead := hold(time.Millisecond)
	_, err = m.Move(t.Context(), 0, 2)
	must(t, err)
	if err := db.Write(t.Context(), dead.Guard([]int{0})); !fault.Is(err, fault.Fenced) {
		t.Errorf("what the dead one writes: %v", err)
	}
	if share, err := hold2(t, db); err != nil || slices.Contains(share.Free, 0) {
		t.Errorf("the group is gone from there, and free are %v: %v", share.Free, err)
	}
}

func hold2(t *testing.T, db *sqldb.DB) (lease.Share, error) {
	t.Helper()
	return lease.NewMember(db, "last", "last", time.Minute).Renew(t.Context(), true)
}

func at(t *testing.T, m *move.Mover, number int) lease.State {
	t.Helper()
	states, err := m.States(t.Context(), 0)
	must(t, err)
	return states[number]
}

// crash moves group 0 until a point, and moves to the end; both without some databases.
func (r *rig) crash(point string, to int, missing ...int) {
	r.t.Helper()
	r.points = func(name string) {
		if name == point {
			panic(abandoned{})
		}
	}
	m, closeAll := r.mover(missing...)
	defer closeAll()
	defer func() {
		r.points = nil
		if p := recover(); p != (abandoned{}) {
			r.t.Fatalf("%s was not passed: %v", point, p)
		}
	}()
	_, err := m.Move(r.t.Context(), 0, to)
	r.t.Fatal(err)
}

func (r *rig) moves(to int, missing ...int) error {
	r.t.Helper()
	m, closeAll := r.mover(missing...)
	defer closeAll()
	_, err := m.Move(r.t.Context(), 0, to)
	return err
}

// A copy that is older than the group is never taken for it, whatever cannot be reached.
func TestAnOldCopyIsNeverTaken(t *testing.T) {
	r := newRig(t, 3)
	r.crash("move.small.copied", 2)
	// Database 2 has a copy, and is gone. The group is taken back, and lives on.
	must(t, r.moves(1, 2))
	m, closeAll := r.mover()
	defer closeAll()
	add(t, m.Databases[1], 0)
	r.crash("move.small.departed", 3, 2)
	if o := owners(t, m, 0); o != nil {
		t.Fatalf("databases %v own it", o)
	}
	if err := r.moves(2, 3); !fault.Is(err, fault.Unavailable) {
		t.Errorf("to the old copy, while the new one cannot be seen: %v", err)
	}
	if err := r.moves(3, 1); !fault.Is(err, fault.Unavailable) {
		t.Errorf("whether the source has given it up cannot be seen: %v", err)
	}
	if err := r.moves(2); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "move_unfinished") {
		t.Errorf("to the old copy: %v", err)
	}
	must(t, r.moves(3))
	if o := owners(t, m, 0); !slices.Equal(o, []int{3}) || len(things(t, m, 3, 0)) != 1 || len(things(t, m, 2, 0)) != 0 || len(things(t, m, 1, 0)) != 0 {
		t.Errorf("databases %v own it; rows: %d, %d, %d", o, len(things(t, m, 1, 0)), len(things(t, m, 2, 0)), len(things(t, m, 3, 0)))
	}
}

// The same, where the group is frozen again when the old copy is seen.
func TestAnOldCopyIsMadeAnew(t *testing.T) {
	r := newRig(t, 3)
	m, closeAll := r.mover()
	defer closeAll()
	r.crash("move.small.copied", 2)
	must(t, r.moves(1, 2))
	add(t, m.Databases[1], 0)
	r.crash("move.small.frozen", 3, 2)
	must(t, r.moves(2))
	if o := owners(t, m, 0); !slices.Equal(o, []int{2}) || len(things(t, m, 2, 0)) != 1 {
		t.Errorf("databases %v own it, with %d rows", o, len(things(t, m, 2, 0)))
	}
}

// What an earlier move left behind stands in no later one's way.
func TestRowsLeftBehind(t *testing.T) {
	r := newRig(t, 3)
	m, closeAll := r.mover()
	defer closeAll()
	add(t, m.Databases[1], 0)
	want := things(t, m, 1, 0)
	r.crash("move.small.settled", 2) // they are still at 1
	must(t, r.moves(3, 1))
	r.crash("move.small.departed", 2, 1)
	must(t, r.moves(2))
	r.crash("move.small.settled", 3)
	must(t, r.moves(2))
	if o := owners(t, m, 0); !slices.Equal(o, []int{2}) || !slices.Equal(things(t, m, 2, 0), want) || len(things(t, m, 1, 0))+len(things(t, m, 3, 0)) > 0 {
		t.Errorf("databases %v own it; rows: %d, %d, %d", o, len(things(t, m, 1, 0)), len(things(t, m, 2, 0)), len(things(t, m, 3, 0)))
	}
	if states, err := m.States(t.Context(), 0); err != nil || states[1].Way+states[2].Way+states[3].Way != "" {
		t.Errorf("rows of moves are left: %+v %v", states, err)
	}
}

// Each transaction of a mover is refused while another is the one, also where the
// connection by which it was the one is gone.
func TestOneMoverOfAGroup(t *testing.T) {
	r := newRig(t, 2)
	m, closeAll := r.mover()
	defer closeAll()
	other := r.open(1)
	claimed, err := lease.Claim(t.Context(), other, 0)
	must(t, err)
	if !claimed {
		t.Fatal("the group could not be claimed")
	}
	db := m.Databases[1]
	ctx := t.Context()
	for name, act := range map[string]func() error{
		"freeze": func() error { return lease.Freeze(ctx, db, 0) },
		"thaw":   func() error { return lease.Thaw(ctx, db, 0) },
		"expire": func() error { return lease.Expire(ctx, db, 0, ttl) },
		"depart": func() error { return lease.Depart(ctx, db, 0, 2, 1) },
		"settle": func() error { return lease.Settle(ctx, db, 0, 2, 1) },
		"arrive": func() error {
			return db.Write(ctx, func(tx *sqldb.Tx) error { return lease.Arrive(tx, 0, 2, 1) })
		},
		"forget": func() error {
			return lease.Forget(ctx, db, lease.State{Group: 0}, func(*sqldb.Tx) error { return nil })
		},
	} {
		if err := act(); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "move_under_way") {
			t.Errorf("%s: %v", name, err)
		}
	}
	m.WaitMax = 50 * time.Millisecond
	if _, err := m.Move(ctx, 0, 2); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "move_under_way") {
		t.Errorf("move: %v", err)
	}
	must(t, other.Close()) // its connections are gone, and with them the claim
	m.WaitMax = 10 * time.Second
	if moved, err := m.Move(ctx, 0, 2); err != nil || !moved {
		t.Errorf("afterwards: %t %v", moved, err)
	}
	// It owns the group, and forgets nothing of it; nor does one that owns it take a copy.
	if err := lease.Forget(ctx, m.Databases[2], lease.State{Group: 0}, func(*sqldb.Tx) error { return nil }); !fault.Is(err, fault.Conflict) {
		t.Errorf("the owner forgets: %v", err)
	}
	if err := m.Databases[2].Write(ctx, func(tx *sqldb.Tx) error { return lease.Arrive(tx, 0, 1, 9) }); !fault.Is(err, fault.Conflict) {
		t.Errorf("a copy arrives at the owner: %v", err)
	}
}
