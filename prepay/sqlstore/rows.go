package sqlstore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
)

// fixed are the columns of calls, and begun and mutable those of
// progress: what never changes once a row is there, and all that may.
var (
	fixed   = append(append([]string{"id", "out_trade_no", "y", "account"}, ids.Columns...), "amount_minor", "currency", "method", "subject", "return_url")
	begun   = []string{"traffic", "grp", "account", "expires_at_millis", "created_at_millis"}
	mutable = []string{"notify_url", "status", "op", "standing", "next_at_millis", "asks", "tries", "close_wanted", "stop_wanted",
		"ask_wanted", "has_credential", "last_result", "last_state", "last_code", "owner", "sent_at_millis", "desk_at_millis"}
	first      = slices.Concat([]string{"id"}, begun, []string{"open", "version"})
	selectText = `SELECT c.` + strings.Join(fixed, ", c.") + `, p.expires_at_millis, p.created_at_millis, p.version, p.` +
		strings.Join(mutable, ", p.") + ` FROM `
	// From progress, by the order of an index of it; and from calls, by a key.
	fromProgress = selectText + `progress p %s CROSS JOIN calls c ON c.id = p.id `
	fromCalls    = selectText + `calls c CROSS JOIN progress p ON p.id = c.id `
	selectUnsent = fmt.Sprintf(fromProgress, `INDEXED BY progress_unsent`) + `WHERE p.status = 'due' AND p.standing = 'never_sent' AND p.expires_at_millis > 0
		AND p.expires_at_millis <= ?`
	unsentOrder = ` ORDER BY p.expires_at_millis, p.id LIMIT ?`
	selectOpen  = fmt.Sprintf(fromProgress, `INDEXED BY progress_open`) + `WHERE p.open = TRUE AND `
)

// mine is a condition behind others: what is in the groups of this process.
func (s *Store) mine(column string) string { return sqldb.Among(column, s.groups) }

func isOpen(c *prepay.Call) bool { return c.Status == prepay.Due || c.Status == prepay.Sending }

func appendFixed(dst []any, c *prepay.Call) []any {
	dst = c.Context.AppendValues(append(dst, &c.ID, &c.OutTradeNo, (*string)(&c.Y), &c.Account))
	return append(dst, &c.Amount.Minor, (*string)(&c.Amount.Currency), (*string)(&c.Method), &c.Subject, &c.ReturnURL)
}

func scanCall(scan sqldb.Scan, c *prepay.Call) error {
	dst := append([]any{&c.ID, &c.OutTradeNo, &c.Y, &c.Account}, c.Context.Targets()...)
	return scan(append(dst, &c.Amount.Minor, &c.Amount.Currency, &c.Method, &c.Subject, &c.ReturnURL,
		&c.ExpiresAtMillis, &c.CreatedAtMillis, &c.Version, &c.NotifyURL, &c.Status, &c.Op, &c.Standing, &c.NextAtMillis, &c.Asks, &c.Tries,
		&c.CloseWanted, &c.StopWanted, &c.AskWanted, &c.HasCredential, &c.LastResult, &c.LastState, &c.LastCode,
		&c.Owner, &c.SentAtMillis, &c.DeskAtMillis)...)
}

// collect appends each row to calls, and takes it into held if there is one.
func collect(calls *[]prepay.Call, h *held) func(scan sqldb.Scan) error {
	return func(scan sqldb.Scan) error {
		var c prepay.Call
		err := scanCall(scan, &c)
		*calls = append(*calls, c)
		if h != nil && err == nil {
			h.read(&c)
		}
		return err
	}
}

func query(tx *sqldb.Tx, h *held, text string, args ...any) (calls []prepay.Call, err error) {
	err = tx.Query(text, args, collect(&calls, h))
	return calls, err
}

func (s *Store) pick(tx *sqldb.Tx, p prepay.Pick) (picked prepay.Picked, err error) {
	switch {
	case p.Due != nil:
		return s.pickDue(tx, p)
	case p.Expired:
		picked.Calls, err = query(tx, s.held, selectUnsent+s.mine("p.grp")+unsentOrder, p.NowMillis, p.Limit)
	case p.Sending:
		picked.Calls, err = query(tx, s.held, selectOpen+`p.status = 'sending'`+s.mine("p.grp")+` ORDER BY p.id LIMIT ?`, p.Limit)
	case p.OldOpen:
		// The oldest open calls have the lowest ids: a call's id grows with its time.
		picked.Calls, err = query(tx, s.held, selectOpen+`p.desk_at_millis = 0 AND p.created_at_millis <= ?`+s.mine("p.grp")+` ORDER BY p.id LIMIT ?`, p.BeforeMillis, p.Limit)
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
		err = sqldb.QueryIn(tx, fromCalls+`WHERE c.out_trade_no IN (?*)`, numbers, collect(&picked.Calls, s.held))
	}
	return picked, err
}

func (s *Store) pickDue(tx *sqldb.Tx, p prepay.Pick) (picked prepay.Picked, err error) {
	picked.NextAtMillis = make([]int64, len(p.Due))
	for i, d := range p.Due {
		var due []int64
		err := tx.Query(`SELECT id FROM progress INDEXED BY progress_due WHERE status = 'due' AND account = ? AND next_at_millis <= ?`+s.mine("grp")+
			` ORDER BY next_at_millis, id LIMIT ?`, []any{d.Account, p.NowMillis, d.Limit}, func(scan sqldb.Scan) error {
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
		err = tx.Query(`SELECT next_at_millis FROM progress INDEXED BY progress_due WHERE status = 'due' AND account = ? AND next_at_millis > ?`+s.mine("grp")+
			` ORDER BY next_at_millis LIMIT 1`, []any{d.Account, p.NowMillis}, func(scan sqldb.Scan) error {
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
		s.held.read(&c)
		return err
	})
	return dst, err
}

// insert adds calls, and gives them their ids and versions.
func insert(tx *sqldb.Tx, calls []prepay.Call, groups int) error {
	if len(calls) == 0 {
		return nil
	}
	if err := tx.NewIDs("calls", len(calls), func(i int, id int64) { calls[i].ID, calls[i].Version = id, 1 }); err != nil {
		return err
	}
	_, err := tx.Insert("calls", fixed, len(calls), "", func(dst []any, i int) []any { return appendFixed(dst, &calls[i]) })
	if err != nil {
		return err
	}
	written := set(0)
	for i := range calls {
		written |= changed(&prepay.Call{}, &calls[i])
	}
	written = smallest(births[:], written)
	_, err = tx.Insert("progress", append(slices.Clone(first), written.columns()...), len(calls), "", func(dst []any, i int) []any {
		c := &calls[i]
		dst = append(dst, &c.ID, (*string)(&c.Context.Traffic), c.Context.BizCode.Group(groups), &c.Account, &c.ExpiresAtMillis, &c.CreatedAtMillis, isOpen(c), &c.Version)
		return appendSet(dst, c, written)
	})
	return err
}
