package sqlstore

import (
	"fmt"
	"strings"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
)

// fixed are the columns that never change once a row is there, mutable the others.
var (
	fixed = append(append([]string{"out_trade_no", "y", "account"}, ids.Columns...),
		"amount_minor", "currency", "method", "subject", "return_url", "expires_at_millis", "created_at_millis")
	mutable = []string{"notify_url", "status", "op", "standing", "next_at_millis", "asks", "tries", "close_wanted", "stop_wanted",
		"ask_wanted", "has_credential", "last_result", "last_state", "last_code", "owner", "sent_at_millis", "desk_at_millis"}
	columns    = append(append([]string{}, fixed...), append(append([]string{}, mutable...), "version")...)
	selectText = `SELECT id, ` + strings.Join(columns, ", ") + ` FROM calls `
)

func appendFixed(dst []any, c *prepay.Call) []any {
	dst = c.Context.AppendValues(append(dst, c.OutTradeNo, string(c.Y), c.Account))
	return append(dst, c.Amount.Minor, string(c.Amount.Currency), string(c.Method), c.Subject, c.ReturnURL,
		c.ExpiresAtMillis, c.CreatedAtMillis)
}

func appendMutable(dst []any, c *prepay.Call) []any {
	return append(dst, c.NotifyURL, string(c.Status), string(c.Op), string(c.Standing), c.NextAtMillis, c.Asks, c.Tries,
		c.CloseWanted, c.StopWanted, c.AskWanted, c.HasCredential, string(c.LastResult), string(c.LastState), c.LastCode,
		c.Owner, c.SentAtMillis, c.DeskAtMillis)
}

func scanCall(scan sqldb.Scan, c *prepay.Call) error {
	dst := append([]any{&c.ID, &c.OutTradeNo, &c.Y, &c.Account}, c.Context.Targets()...)
	return scan(append(dst, &c.Amount.Minor, &c.Amount.Currency, &c.Method, &c.Subject, &c.ReturnURL,
		&c.ExpiresAtMillis, &c.CreatedAtMillis, &c.NotifyURL, &c.Status, &c.Op, &c.Standing, &c.NextAtMillis, &c.Asks, &c.Tries,
		&c.CloseWanted, &c.StopWanted, &c.AskWanted, &c.HasCredential, &c.LastResult, &c.LastState, &c.LastCode,
		&c.Owner, &c.SentAtMillis, &c.DeskAtMillis, &c.Version)...)
}

func query(tx *sqldb.Tx, where string, args ...any) (calls []prepay.Call, err error) {
	err = tx.Query(selectText+where, args, func(scan sqldb.Scan) error {
		var c prepay.Call
		err := scanCall(scan, &c)
		calls = append(calls, c)
		return err
	})
	return calls, err
}

func pick(tx *sqldb.Tx, p prepay.Pick) (picked prepay.Picked, err error) {
	switch {
	case p.Due != nil:
		return pickDue(tx, p)
	case p.Expired:
		picked.Calls, err = query(tx, `WHERE status = 'due' AND standing = 'never_sent' AND expires_at_millis > 0
			AND expires_at_millis <= ? ORDER BY expires_at_millis, id LIMIT ?`, p.NowMillis, p.Limit)
	case p.Sending:
		picked.Calls, err = query(tx, `WHERE status = 'sending' ORDER BY id LIMIT ?`, p.Limit)
	case p.OldOpen:
		// The oldest open calls have the lowest ids: a call's id grows with its time.
		picked.Calls, err = query(tx, `WHERE status IN ('due', 'sending') AND desk_at_millis = 0 AND created_at_millis <= ?
			ORDER BY id LIMIT ?`, p.BeforeMillis, p.Limit)
	default:
		err = sqldb.QueryIn(tx, selectText+`WHERE out_trade_no IN (?*)`, p.Numbers, func(scan sqldb.Scan) error {
			var c prepay.Call
			err := scanCall(scan, &c)
			picked.Calls = append(picked.Calls, c)
			return err
		})
	}
	return picked, err
}

func pickDue(tx *sqldb.Tx, p prepay.Pick) (picked prepay.Picked, err error) {
	picked.NextAtMillis = make([]int64, len(p.Due))
	for i, d := range p.Due {
		calls, err := query(tx, `WHERE status = 'due' AND account = ? AND next_at_millis <= ? ORDER BY next_at_millis, id LIMIT ?`,
			d.Account, p.NowMillis, d.Limit)
		if err != nil {
			return picked, err
		}
		picked.Calls = append(picked.Calls, calls...)
		if len(calls) == d.Limit {
			continue // there may be more at once: nobody needs to know what comes after
		}
		err = tx.Query(`SELECT next_at_millis FROM calls WHERE status = 'due' AND account = ? AND next_at_millis > ?
			ORDER BY next_at_millis LIMIT 1`, []any{d.Account, p.NowMillis}, func(scan sqldb.Scan) error {
			return scan(&picked.NextAtMillis[i])
		})
		if err != nil {
			return picked, err
		}
	}
	return picked, nil
}

func insert(tx *sqldb.Tx, calls []prepay.Call) error {
	_, err := tx.Insert("calls", columns, len(calls), "", func(dst []any, i int) []any {
		return append(appendMutable(appendFixed(dst, &calls[i]), &calls[i]), int64(1))
	})
	return err
}

// updateRowsMax is how many calls one statement changes at most; sets are cut
// into powers of four of it, so that few texts are prepared.
const updateRowsMax = 64

// updateTexts are the statements that change 1, 4, 16 and 64 calls.
var updateTexts = func() map[int]string {
	var set, row strings.Builder
	for _, c := range mutable {
		set.WriteString(c + " = v." + c + ", ")
		row.WriteString(",?")
	}
	texts := map[int]string{}
	for n := 1; n <= updateRowsMax; n *= 4 {
		values := "(?,?" + row.String() + ")"
		texts[n] = `WITH v (id, version, ` + strings.Join(mutable, ", ") + `) AS (VALUES ` + values + strings.Repeat(","+values, n-1) + `)
			UPDATE calls SET ` + set.String() + `version = calls.version + 1 FROM v WHERE calls.id = v.id AND calls.version = v.version`
	}
	return texts
}()

// update writes what may change of calls, and only over the version that was read.
func update(tx *sqldb.Tx, calls []prepay.Call) error {
	var args []any
	for len(calls) > 0 {
		n := updateRowsMax
		for n > len(calls) {
			n /= 4
		}
		args = args[:0]
		for i := range calls[:n] {
			args = appendMutable(append(args, calls[i].ID, calls[i].Version), &calls[i])
		}
		changed, err := tx.Exec(updateTexts[n], args...)
		if err != nil {
			return err
		}
		if changed != int64(n) {
			return &fault.Error{Kind: fault.Fenced, Op: "prepay/sqlstore: update", Code: "stale_row",
				Err: fmt.Errorf("%d of %d calls are no longer what they were read as", int64(n)-changed, n)}
		}
		calls = calls[n:]
	}
	return nil
}
