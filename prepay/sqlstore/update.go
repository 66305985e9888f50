package sqlstore

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
)

// set is a set of mutable columns: bit i is mutable[i].
type set uint32

const (
	notifyURL set = 1 << iota
	status
	op
	standing
	nextAtMillis
	asks
	tries
	closeWanted
	stopWanted
	askWanted
	hasCredential
	lastResult
	lastState
	lastCode
	owner
	sentAtMillis
	deskAtMillis
	end
)

// sets are those that steps write: of a call that is stopped or expires, is drawn,
// is answered, and all. A statement costs by its columns, so that each call is
// written with the smallest set that has all that changed of it.
var sets = [...]set{
	status | nextAtMillis,
	notifyURL | status | nextAtMillis | tries | askWanted | owner | sentAtMillis,
	status | op | standing | nextAtMillis | asks | hasCredential | lastResult | lastState | owner,
	end - 1,
}

// births are those of a new call: of one that is due, that is sent at once, and all.
var births = [...]set{
	status | op | standing | nextAtMillis,
	status | op | standing | nextAtMillis | notifyURL | tries | owner | sentAtMillis,
	end - 1,
}

// smallest is the first of sets that has all of s.
func smallest(sets []set, s set) set {
	return sets[slices.IndexFunc(sets, func(has set) bool { return s&^has == 0 })]
}

// columns are the names of a set's columns.
func (s set) columns() (names []string) {
	for ; s != 0; s &= s - 1 {
		names = append(names, mutable[bits.TrailingZeros32(uint32(s))])
	}
	return names
}

// changed is what differs between two states of a call.
func changed(a, b *prepay.Call) (s set) {
	mark := func(differs bool, column set) {
		if differs {
			s |= column
		}
	}
	mark(a.NotifyURL != b.NotifyURL, notifyURL)
	mark(a.Status != b.Status, status)
	mark(a.Op != b.Op, op)
	mark(a.Standing != b.Standing, standing)
	mark(a.NextAtMillis != b.NextAtMillis, nextAtMillis)
	mark(a.Asks != b.Asks, asks)
	mark(a.Tries != b.Tries, tries)
	mark(a.CloseWanted != b.CloseWanted, closeWanted)
	mark(a.StopWanted != b.StopWanted, stopWanted)
	mark(a.AskWanted != b.AskWanted, askWanted)
	mark(a.HasCredential != b.HasCredential, hasCredential)
	mark(a.LastResult != b.LastResult, lastResult)
	mark(a.LastState != b.LastState, lastState)
	mark(a.LastCode != b.LastCode, lastCode)
	mark(a.Owner != b.Owner, owner)
	mark(a.SentAtMillis != b.SentAtMillis, sentAtMillis)
	mark(a.DeskAtMillis != b.DeskAtMillis, deskAtMillis)
	return s
}

// appendSet appends pointers to the values of a set's columns, in their order.
func appendSet(dst []any, c *prepay.Call, s set) []any {
	for ; s != 0; s &= s - 1 {
		switch s & -s {
		case notifyURL:
			dst = append(dst, &c.NotifyURL)
		case status:
			dst = append(dst, (*string)(&c.Status))
		case op:
			dst = append(dst, (*string)(&c.Op))
		case standing:
			dst = append(dst, (*string)(&c.Standing))
		case nextAtMillis:
			dst = append(dst, &c.NextAtMillis)
		case asks:
			dst = append(dst, &c.Asks)
		case tries:
			dst = append(dst, &c.Tries)
		case closeWanted:
			dst = append(dst, &c.CloseWanted)
		case stopWanted:
			dst = append(dst, &c.StopWanted)
		case askWanted:
			dst = append(dst, &c.AskWanted)
		case hasCredential:
			dst = append(dst, &c.HasCredential)
		case lastResult:
			dst = append(dst, (*string)(&c.LastResult))
		case lastState:
			dst = append(dst, (*string)(&c.LastState))
		case lastCode:
			dst = append(dst, &c.LastCode)
		case owner:
			dst = append(dst, &c.Owner)
		case sentAtMillis:
			dst = append(dst, &c.SentAtMillis)
		case deskAtMillis:
			dst = append(dst, &c.DeskAtMillis)
		}
	}
	return dst
}

// typeOf is the SQL type of a column.
func typeOf(column set) string {
	switch column {
	case nextAtMillis, asks, tries, sentAtMillis, deskAtMillis:
		return "BIGINT"
	case closeWanted, stopWanted, askWanted, hasCredential:
		return "BOOLEAN"
	}
	return "TEXT"
}

// updateKind says which columns a statement writes, and what column open was, if that is
// known, and becomes.
type updateKind struct {
	set     set
	blind   bool
	was, is bool
}

// updateOf is a kind of statement for a number of rows.
type updateOf struct {
	updateKind
	rows int
}

// text is the statement. Its parameters are id, version and the set's columns of
// each row.
func (u updateOf) text() string {
	columns := append([]string{"id", "version"}, u.set.columns()...)
	from, where := ", version = version + 1", ""
	if !u.blind {
		where = fmt.Sprintf(" AND open = %t", u.was)
	}
	if u.blind || u.was != u.is {
		from += fmt.Sprintf(", open = %t", u.is)
	}
	var to []string
	if u.rows == 1 {
		for i, c := range columns[2:] {
			to = append(to, fmt.Sprintf("%s = ?%d", c, i+3))
		}
		return `UPDATE progress SET ` + strings.Join(to, ", ") + from + ` WHERE id = ?1 AND version = ?2` + where
	}
	for _, c := range columns[2:] {
		to = append(to, c+" = v."+c)
	}
	types := []string{"BIGINT", "BIGINT"}
	for s := u.set; s != 0; s &= s - 1 {
		types = append(types, typeOf(s&-s))
	}
	row := "(?" + strings.Repeat(",?", len(columns)-1) + ")"
	return `WITH v (` + strings.Join(columns, ", ") + `) AS (VALUES ` + sqldb.TypedRow(types...) + strings.Repeat(","+row, u.rows-1) + `)
		UPDATE progress AS p SET ` + strings.Join(to, ", ") + strings.Replace(from, "= version", "= p.version", 1) + ` FROM v
		WHERE p.id = v.id AND p.version = v.version` + strings.Replace(where, "open", "p.open", 1)
}

// work is the calls that one kind of statement is for.
type work struct {
	updateKind
	calls []*prepay.Call
}

// update writes what changed of calls, and only over the version that was read.
func (s *Store) update(tx *sqldb.Tx, calls []prepay.Call) error {
	var all []work
	for i := range calls {
		c := &calls[i]
		k := updateKind{set: end - 1, blind: true, is: isOpen(c)}
		if was := s.held.taken[c.ID]; was != nil && was.Version == c.Version {
			k = updateKind{set: smallest(sets[:], changed(was, c)), was: isOpen(was), is: isOpen(c)}
		}
		j := slices.IndexFunc(all, func(w work) bool { return w.updateKind == k })
		if j < 0 {
			j = len(all)
			all = append(all, work{updateKind: k})
		}
		all[j].calls = append(all[j].calls, c)
	}
	for _, w := range all {
		if err := s.write(tx, w); err != nil {
			return err
		}
	}
	return nil
}

// updateRows are the numbers of calls that one statement changes in SQLite. One for many
// has a table of its own for what it is given, which is dear for a few; one that is
// nearly full is padded.
var updateRows = [...]int{64, 16, 1}

// rowsFor is how many calls the next statement for n of them has room for.
func rowsFor(tx *sqldb.Tx, n int) int {
	if tx.Postgres() {
		return tx.Cut(n)
	}
	for _, rows := range updateRows {
		if n >= rows*3/4 {
			return rows
		}
	}
	return 1
}

func (s *Store) write(tx *sqldb.Tx, w work) error {
	var args []any
	for calls := w.calls; len(calls) > 0; {
		u := updateOf{updateKind: w.updateKind}
		u.rows = rowsFor(tx, len(calls))
		n := min(u.rows, len(calls))
		args = args[:0]
		for _, c := range calls[:n] {
			args = appendSet(append(args, &c.ID, &c.Version), c, u.set)
		}
		for range (u.rows - n) * (2 + bits.OnesCount32(uint32(u.set))) {
			args = append(args, nil) // no row has this id
		}
		text, made := s.texts[u]
		if !made {
			text = u.text()
			s.texts[u] = text
		}
		err := tx.Expect(int64(n), func(changed int64) error {
			return &fault.Error{Kind: fault.Fenced, Op: "prepay/sqlstore: update", Code: "stale_row",
				Err: fmt.Errorf("%d of %d calls are no longer what they were read as", int64(n)-changed, n)}
		}, text, args...)
		if err != nil {
			return err
		}
		for _, c := range calls[:n] {
			c.Version++
		}
		calls = calls[n:]
	}
	return nil
}
