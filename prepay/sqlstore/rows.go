package sqlstore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
)

// fixed are the columns of calls behind the id, and begun and mutable those of
// progress: what never changes once a row is there, and all that may.
var (
	fixed   = append(append([]string{"out_trade_no", "y", "account"}, ids.Columns...), "amount_minor", "currency", "method", "subject", "return_url")
	begun   = []string{"traffic", "account", "expires_at_millis", "created_at_millis"}
	mutable = []string{"notify_url", "status", "op", "standing", "next_at_millis", "asks", "tries", "close_wanted", "stop_wanted",
		"ask_wanted", "has_credential", "last_result", "last_state", "last_code", "owner", "sent_at_millis", "desk_at_millis"}
	progress   = slices.Concat([]string{"id"}, begun, []string{"open", "version"}, mutable)
	selectText = `SELECT c.id, ` + "c." + strings.Join(fixed, ", c.") + `, p.expires_at_millis, p.created_at_millis, p.version, p.` +
		strings.Join(mutable, ", p.") + ` FROM `
	// From progress, by the order of an index of it; and from calls, by a key.
	fromProgress = selectText + `progress p %s CROSS JOIN calls c ON c.id = p.id `
	fromCalls    = selectText + `calls c CROSS JOIN progress p ON p.id = c.id `
	selectUnsent = fmt.Sprintf(fromProgress, `INDEXED BY progress_unsent`) + `WHERE p.status = 'due' AND p.standing = 'never_sent' AND p.expires_at_millis > 0
		AND p.expires_at_millis <= ? ORDER BY p.expires_at_millis, p.id LIMIT ?`
	selectOpen = fmt.Sprintf(fromProgress, `INDEXED BY progress_open`) + `WHERE p.open = 1 AND `
)

func isOpen(c *prepay.Call) bool { return c.Status == prepay.Due || c.Status == prepay.Sending }

func appendFixed(dst []any, c *prepay.Call) []any {
	dst = c.Context.AppendValues(append(dst, c.OutTradeNo, string(c.Y), c.Account))
	return append(dst, c.Amount.Minor, string(c.Amount.Currency), string(c.Method), c.Subject, c.ReturnURL)
}

func appendMutable(dst []any, c *prepay.Call) []any {
	return append(dst, c.NotifyURL, string(c.Status), string(c.Op), string(c.Standing), c.NextAtMillis, c.Asks, c.Tries,
		c.CloseWanted, c.StopWanted, c.AskWanted, c.HasCredential, string(c.LastResult), string(c.LastState), c.LastCode,
		c.Owner, c.SentAtMillis, c.DeskAtMillis)
}

func scanCall(scan sqldb.Scan, c *prepay.Call) error {
	dst := append([]any{&c.ID, &c.OutTradeNo, &c.Y, &c.Account}, c.Context.Targets()...)
	return scan(append(dst, &c.Amount.Minor, &c.Amount.Currency, &c.Method, &c.Subject, &c.ReturnURL,
		&c.ExpiresAtMillis, &c.CreatedAtMillis, &c.Version, &c.NotifyURL, &c.Status, &c.Op, &c.Standing, &c.NextAtMillis, &c.Asks, &c.Tries,
		&c.CloseWanted, &c.StopWanted, &c.AskWanted, &c.HasCredential, &c.LastResult, &c.LastState, &c.LastCode,
		&c.Owner, &c.SentAtMillis, &c.DeskAtMillis)...)
}

// collect appends each row to calls.
func collect(calls *[]prepay.Call) func(scan sqldb.Scan) error {
	return func(scan sqldb.Scan) error {
		var c prepay.Call
		err := scanCall(scan, &c)
		*calls = append(*calls, c)
		return err
	}
}

func query(tx *sqldb.Tx, text string, args ...any) (calls []prepay.Call, err error) {
	err = tx.Query(text, args, collect(&calls))
	return calls, err
}

func (s *Store) pick(tx *sqldb.Tx, p prepay.Pick) (picked prepay.Picked, err error) {
	switch {
	case p.Due != nil:
		return s.pickDue(tx, p)
	case p.Expired:
		picked.Calls, err = query(tx, selectUnsent, p.NowMillis, p.Limit)
	case p.Sending:
		picked.Calls, err = query(tx, selectOpen+`p.status = 'sending' ORDER BY p.id LIMIT ?`, p.Limit)
	case p.OldOpen:
		// The oldest open calls have the lowest ids: a call's id grows with its time.
		picked.Calls, err = query(tx, selectOpen+`p.desk_at_millis = 0 AND p.created_at_millis <= ? ORDER BY p.id LIMIT ?`, p.BeforeMillis, p.Limit)
	default:
		numbers := p.Numbers
		picked.Calls, numbers = s.held.byNumber(make([]prepay.Call, 0, len(numbers)), numbers)
		if len(p.New) > 0 {
			fresh := make(map[string]bool, len(p.New))
			for _, n := range p.New {
				fresh[n] = true
			}
			numbers = slices.DeleteFunc(numbers, func(n string) bool { return fresh[n] })
		}
		err = sqldb.QueryIn(tx, fromCalls+`WHERE c.out_trade_no IN (?*)`, numbers, collect(&picked.Calls))
	}
	return picked, err
}

func (s *Store) pickDue(tx *sqldb.Tx, p prepay.Pick) (picked prepay.Picked, err error) {
	picked.NextAtMillis = make([]int64, len(p.Due))
	for i, d := range p.Due {
		var due []int64
		err := tx.Query(`SELECT id FROM progress INDEXED BY progress_due WHERE status = 'due' AND account = ? AND next_at_millis <= ?
			ORDER BY next_at_millis, id LIMIT ?`, []any{d.Account, p.NowMillis, d.Limit}, func(scan sqldb.Scan) error {
			var id int64
			err := scan(&id)
			due = append(due, id)
			return err
		})
		if err != nil {
			return picked, err
		}
		if picked.Calls, err = s.byID(tx, picked.Calls, due); err != nil {
			return picked, err
		}
		if len(due) == d.Limit {
			continue // there may be more at once: nobody needs to know what comes after
		}
		err = tx.Query(`SELECT next_at_millis FROM progress INDEXED BY progress_due WHERE status = 'due' AND account = ? AND next_at_millis > ?
			ORDER BY next_at_millis LIMIT 1`, []any{d.Account, p.NowMillis}, func(scan sqldb.Scan) error {
			return scan(&picked.NextAtMillis[i])
		})
		if err != nil {
			return picked, err
		}
	}
	return picked, nil
}

// byID appends the calls of the ids to dst, in their order.
func (s *Store) byID(tx *sqldb.Tx, dst []prepay.Call, list []int64) ([]prepay.Call, error) {
	at := make(map[int64]int, len(list)) // of those that are to be read
	var rest []int64
	dst = slices.Grow(dst, len(list))
	for _, id := range list {
		c, ok := s.held.byID(id)
		if !ok {
			at[id] = len(dst)
			rest = append(rest, id)
		}
		dst = append(dst, c)
	}
	err := sqldb.QueryIn(tx, fmt.Sprintf(fromProgress, "")+`WHERE p.id IN (?*)`, rest, func(scan sqldb.Scan) error {
		var c prepay.Call
		err := scanCall(scan, &c)
		dst[at[c.ID]] = c
		return err
	})
	return dst, err
}

// insert adds calls, and gives them their ids and versions.
func insert(tx *sqldb.Tx, calls []prepay.Call) error {
	if len(calls) == 0 {
		return nil
	}
	_, err := tx.Insert("calls", fixed, len(calls), "", func(dst []any, i int) []any { return appendFixed(dst, &calls[i]) })
	if err != nil {
		return err
	}
	// One connection writes, and rows that are added have the next ids, in order.
	last := tx.LastRowID()
	_, err = tx.Insert("progress", progress, len(calls), "", func(dst []any, i int) []any {
		c := &calls[i]
		c.ID, c.Version = last-int64(len(calls)-1-i), 1
		return appendMutable(append(dst, c.ID, string(c.Context.Traffic), c.Account, c.ExpiresAtMillis, c.CreatedAtMillis, isOpen(c), c.Version), c)
	})
	return err
}

// updateRowsMax is how many calls one statement changes at most; sets are cut
// into powers of four of it, so that few texts are prepared.
const updateRowsMax = 64

// updateText is the statement that changes n calls whose column open is was, and
// becomes is.
func updateText(n int, was, is bool) string {
	var set, row strings.Builder
	for _, c := range mutable {
		set.WriteString(c + " = v." + c + ", ")
		row.WriteString(",?")
	}
	if was != is {
		fmt.Fprintf(&set, "open = %t, ", is)
	}
	values := "(?,?" + row.String() + ")"
	return `WITH v (id, version, ` + strings.Join(mutable, ", ") + `) AS (VALUES ` + values + strings.Repeat(","+values, n-1) + `)
		UPDATE progress AS p SET ` + set.String() + `version = p.version + 1 FROM v
		WHERE p.id = v.id AND p.version = v.version AND p.open = ` + fmt.Sprint(was)
}

// updateTexts are the statements that change 1, 4, 16 and 64 calls: which stay
// open, are closed, stay closed or are opened again.
type updateTexts map[updateKind]string

type updateKind struct {
	n       int
	was, is bool
}

func newUpdateTexts() updateTexts {
	texts := updateTexts{}
	for n := 1; n <= updateRowsMax; n *= 4 {
		for _, was := range []bool{true, false} {
			for _, is := range []bool{true, false} {
				texts[updateKind{n, was, is}] = updateText(n, was, is)
			}
		}
	}
	return texts
}

// update writes what may change of calls, and only over the version that was read.
func (s *Store) update(tx *sqldb.Tx, calls []prepay.Call) error {
	var open, closed []*prepay.Call
	for i := range calls {
		if c := &calls[i]; isOpen(c) {
			open = append(open, c)
		} else {
			closed = append(closed, c)
		}
	}
	if err := s.updateTo(tx, open, true); err != nil {
		return err
	}
	return s.updateTo(tx, closed, false)
}

// updateTo updates calls that are open, or closed, from now on. Nearly all were
// open before: the others are looked for only if some are missing.
func (s *Store) updateTo(tx *sqldb.Tx, calls []*prepay.Call, is bool) error {
	var args []any
	for len(calls) > 0 {
		n := updateRowsMax
		for n > len(calls) {
			n /= 4
		}
		args = args[:0]
		for _, c := range calls[:n] {
			args = appendMutable(append(args, c.ID, c.Version), c)
		}
		var changed int64
		for _, was := range []bool{true, false} {
			if changed == int64(n) {
				break
			}
			more, err := tx.Exec(s.texts[updateKind{n, was, is}], args...)
			if err != nil {
				return err
			}
			changed += more
		}
		if changed != int64(n) {
			return &fault.Error{Kind: fault.Fenced, Op: "prepay/sqlstore: update", Code: "stale_row",
				Err: fmt.Errorf("%d of %d calls are no longer what they were read as", int64(n)-changed, n)}
		}
		for _, c := range calls[:n] {
			c.Version++
		}
		calls = calls[n:]
	}
	return nil
}
