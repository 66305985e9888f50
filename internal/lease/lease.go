package lease

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Schema is the SQL of the two tables, in PostgreSQL, beside an area's own. A row of
// leases says that this database owns the group. frozen says that nobody may take
// it: it is being moved to another database.
const Schema = `
CREATE TABLE members (id TEXT PRIMARY KEY, name TEXT NOT NULL, until TIMESTAMPTZ NOT NULL);
CREATE TABLE leases (grp INTEGER NOT NULL PRIMARY KEY, member TEXT NOT NULL DEFAULT '', epoch INTEGER NOT NULL DEFAULT 0,
  frozen BOOLEAN NOT NULL DEFAULT FALSE);
`

// Own makes a database the owner of groups that it does not own yet.
func Own(tx *sqldb.Tx, groups []int) error {
	_, err := tx.Insert("leases", []string{"grp"}, len(groups), "ON CONFLICT DO NOTHING", func(dst []any, i int) []any {
		return append(dst, groups[i])
	})
	return fault.Wrap("own groups", err)
}

const ownedSQL = `SELECT grp FROM leases ORDER BY grp`

// Owned are the groups of a database, in order.
func Owned(ctx context.Context, db *sqldb.DB) (groups []int, err error) {
	err = db.Read(ctx, func(tx *sqldb.Tx) error {
		groups, err = OwnedIn(tx)
		return err
	})
	return groups, fault.Wrap("owned groups", err)
}

// OwnedIn is Owned as a transaction sees it.
func OwnedIn(tx *sqldb.Tx) ([]int, error) { return column(tx, ownedSQL) }

func column(tx *sqldb.Tx, query string, args ...any) (groups []int, err error) {
	err = tx.Query(query, args, func(scan sqldb.Scan) error {
		var g int
		err := scan(&g)
		groups = append(groups, g)
		return err
	})
	return groups, err
}

// Member is one process in one area of one database. Not safe for concurrent use.
//
// It has another id for each time that it holds something else: so the id is the epoch of
// what it holds, and who is guarded by it may write for that and nothing else.
type Member struct {
	db    *sqldb.DB // without the guard
	first string
	id    string // now
	turn  int    // how often it has had another one
	name  string
	ttl   time.Duration
	held  []int
}

// NewMember is not in the table until its first Renew. The id, and those that begin with
// it, are never used again; name tells operators which process it is. The ttl is at least a millisecond.
func NewMember(db *sqldb.DB, id, name string, ttl time.Duration) *Member {
	return &Member{db: db, first: id, id: id, name: name, ttl: ttl}
}

// Held are the groups that it holds.
func (m *Member) Held() []int { return slices.Clone(m.held) }

// Guard is for transactions that write for some groups, which the member holds now. It
// refuses one, with fault.Fenced, if the member is not one any more or holds something
// else, and keeps that so until the transaction ends. Renewing does not wait for it, taking
// the member out and another Hold do.
func (m *Member) Guard(groups []int) func(*sqldb.Tx) error {
	id := m.id
	if slices.ContainsFunc(groups, func(g int) bool { return !slices.Contains(m.held, g) }) {
		return func(*sqldb.Tx) error { return lost() }
	}
	return func(tx *sqldb.Tx) error {
		return tx.Expect(1, func(int64) error { return lost() }, `SELECT TRUE FROM members WHERE id = ? FOR KEY SHARE`, id)
	}
}

func lost() error {
	return &fault.Error{Kind: fault.Fenced, Op: "lease", Code: "lease_lost", Fix: "join again as another member"}
}

// alone writes while nobody else divides groups: each of its statements sees all
// that was divided before, members as well as leases. Those who are guarded do not
// wait for it. What first waits for, if it is there, keeps nobody else waiting.
func alone(ctx context.Context, db *sqldb.DB, first, fn func(*sqldb.Tx) error) error {
	return db.Write(ctx, func(tx *sqldb.Tx) error {
		if first != nil {
			if err := first(tx); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(`LOCK TABLE leases IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		return fn(tx)
	})
}

// unguarded waits for all that is guarded by the member as it is: its row is to be changed.
func (m *Member) unguarded(tx *sqldb.Tx) error {
	return tx.Do(`SELECT TRUE FROM members WHERE id = ? FOR UPDATE`, m.id)
}

// Share is what a member finds out when it renews.
type Share struct {
	// Members is how many are there, and Owned are the groups of the database.
	Members int
	Owned   []int
	// Fair is the most that a member should hold.
	Fair int
	// Free may be taken, Wanted are held by this member and frozen: it is to give
	// them up.
	Free, Wanted []int
}

// Renew renews the member's row, or makes it, and takes out members that have not
// renewed theirs. It fails with fault.Fenced if the row was there, and is not any
// more: the member is none, and all that it held may be others' by now.
func (m *Member) Renew(ctx context.Context, join bool) (s Share, err error) {
	err = alone(ctx, m.db, nil, func(tx *sqldb.Tx) error {
		s = Share{}
		millis := m.ttl.Milliseconds()
		if join {
			_, err = tx.Exec(`INSERT INTO members (id, name, until) VALUES (?, ?, clock_timestamp() + ? * interval '1 millisecond')`, m.id, m.name, millis)
		} else {
			var n int64
			n, err = tx.Exec(`UPDATE members SET until = clock_timestamp() + ? * interval '1 millisecond' WHERE id = ?`, millis, m.id)
			if err == nil && n != 1 {
				err = lost()
			}
		}
		if err != nil {
			return err
		}
		if err := m.takeOut(tx, millis); err != nil {
			return err
		}
		return m.look(tx, &s)
	})
	return s, fault.Wrap("renew lease", err)
}

// takeOut removes other members whose time is over, but not those that are just
// committing something, and frees what nobody holds. A server that has just started
// gives everybody time to renew.
func (m *Member) takeOut(tx *sqldb.Tx, ttlMillis int64) error {
	_, err := tx.Exec(`DELETE FROM members WHERE id IN (SELECT id FROM members WHERE id <> ? AND until < clock_timestamp()
		AND pg_postmaster_start_time() < clock_timestamp() - ? * interval '1 millisecond' FOR UPDATE SKIP LOCKED)`, m.id, ttlMillis)
	if err == nil {
		_, err = tx.Exec(`UPDATE leases SET member = '' WHERE member <> '' AND member NOT IN (SELECT id FROM members)`)
	}
	return err
}

func (m *Member) look(tx *sqldb.Tx, s *Share) (err error) {
	err = tx.Query(`SELECT count(*) FROM members`, nil, func(scan sqldb.Scan) error { return scan(&s.Members) })
	if err != nil {
		return err
	}
	if s.Owned, err = column(tx, ownedSQL); err != nil {
		return err
	}
	s.Fair = (len(s.Owned) + s.Members - 1) / max(1, s.Members)
	if s.Free, err = column(tx, `SELECT grp FROM leases WHERE member = '' AND frozen = FALSE ORDER BY grp`); err != nil {
		return err
	}
	s.Wanted, err = column(tx, `SELECT grp FROM leases WHERE member = ? AND frozen = TRUE ORDER BY grp`, m.id)
	return err
}

// Want is what a member should hold, as far as it knows: what it holds, without
// what is wanted elsewhere and what is more than its share, and up to it of what
// is free.
func (m *Member) Want(s Share) []int {
	var want []int
	for _, g := range m.held {
		if !slices.Contains(s.Wanted, g) && len(want) < s.Fair {
			want = append(want, g)
		}
	}
	for _, g := range s.Free {
		if len(want) < s.Fair {
			want = append(want, g)
		}
	}
	slices.Sort(want)
	return want
}

// Hold gives up what is not wanted any more, and takes what is, if it is still free. It
// waits for transactions that were guarded for what was held before; later ones are refused.
func (m *Member) Hold(ctx context.Context, want []int) (held []int, err error) {
	m.turn++
	next := fmt.Sprintf("%s.%d", m.first, m.turn)
	err = alone(ctx, m.db, m.unguarded, func(tx *sqldb.Tx) error {
		n, err := tx.Exec(`UPDATE members SET id = ? WHERE id = ?`, next, m.id)
		if err == nil && n != 1 {
			err = lost()
		}
		if err != nil {
			return err
		}
		held = nil
		_, err = tx.Exec(`UPDATE leases SET member = '' WHERE member = ?`+sqldb.NotAmong("grp", want), m.id)
		if err != nil {
			return err
		}
		if _, err = tx.Exec(`UPDATE leases SET member = ? WHERE member = ?`, next, m.id); err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE leases SET member = ?, epoch = epoch + 1 WHERE member = '' AND frozen = FALSE`+sqldb.Among("grp", emptyIfNil(want)), next)
		if err != nil {
			return err
		}
		held, err = column(tx, `SELECT grp FROM leases WHERE member = ? ORDER BY grp`, next)
		return err
	})
	if err == nil {
		m.id, m.held = next, held
	}
	return held, fault.Wrap("hold groups", err)
}

func emptyIfNil(list []int) []int {
	if list == nil {
		return []int{}
	}
	return list
}

// Leave gives up everything, so that others need not wait for the end of its time.
func (m *Member) Leave(ctx context.Context) error {
	err := alone(ctx, m.db, m.unguarded, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(`UPDATE leases SET member = '' WHERE member = ?`, m.id); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM members WHERE id = ?`, m.id)
		return err
	})
	m.held = nil
	return fault.Wrap("leave", err)
}
