package sqlstore

import (
	"context"

	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
)

// cleanable are calls that nobody asks for again, as two parameters tell: made by
// the first moment, expired by the second, and stopped or final.
const cleanable = `open = FALSE AND created_at_millis <= ?1 AND expires_at_millis BETWEEN 1 AND ?2
	AND (status = 'stopped' OR standing IN ('paid', 'declined', 'closed'))`

// Clean implements prepay.Store. What it deletes is looked for without the writer,
// as nothing about it changes any more.
func (s *Store) Clean(ctx context.Context, o prepay.Old) (prepay.Cleaned, error) {
	did := prepay.Cleaned{Last: o.After}
	var list []int64
	looked, young := 0, false
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT id, created_at_millis > ?1, `+cleanable+` FROM progress WHERE id > ?3`+s.mine("grp")+` ORDER BY id LIMIT ?4`,
			[]any{o.BeforeMillis, o.NowMillis, o.After, o.Limit}, func(scan sqldb.Scan) error {
				var id int64
				var isYoung, old bool
				err := scan(&id, &isYoung, &old)
				if young = young || isYoung; young {
					return err // within a duty a call's id grows with its time: behind the first young one all are
				}
				looked, did.Last = looked+1, id
				if old {
					list = append(list, id)
				}
				return err
			})
	})
	did.More = looked == o.Limit
	if err != nil || len(list) == 0 {
		return did, err
	}
	err = s.db.Write(ctx, func(tx *sqldb.Tx) error {
		s.held.begin(tx)
		for _, id := range list {
			s.held.byID(id) // is taken, and not put back
		}
		args := []any{o.BeforeMillis, o.NowMillis, list[0], list[len(list)-1]}
		_, err := tx.Exec(`DELETE FROM calls WHERE id IN (SELECT id FROM progress WHERE `+cleanable+s.mine("grp")+` AND id BETWEEN ?3 AND ?4)`, args...)
		if err != nil {
			return err
		}
		n, err := tx.Exec(`DELETE FROM progress WHERE `+cleanable+s.mine("grp")+` AND id BETWEEN ?3 AND ?4`, args...)
		did.Rows = int(n)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO cleaned (id, before_millis) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET before_millis = excluded.before_millis WHERE cleaned.before_millis < excluded.before_millis`,
			o.BeforeMillis)
		return err
	})
	return did, err
}
