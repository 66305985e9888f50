package embedded

import (
	"context"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Cut is where an area stands in one group, as of one snapshot of its tables:
// beside them it says which messages they are the result of.
type Cut struct {
	// Told is the last message of each topic that the area writes, Read the last one
	// that it has applied, or put aside, of each topic that it reads.
	Told, Read map[bus.Topic]bus.Place
	// Parked are the events that were put aside, and ParkedKeys their BizCodes.
	Parked     map[string]bool
	ParkedKeys map[ids.Code]bool
}

// CutIn reads a group's cut inside the snapshot that reads the tables.
func CutIn(tx *sqldb.Tx, group int) (Cut, error) {
	c := Cut{Told: map[bus.Topic]bus.Place{}, Read: map[bus.Topic]bus.Place{}, Parked: map[string]bool{}, ParkedKeys: map[ids.Code]bool{}}
	for query, into := range map[string]map[bus.Topic]bus.Place{
		`SELECT topic, epoch, seq FROM heads WHERE grp = ?`:  c.Told,
		`SELECT topic, epoch, seq FROM places WHERE grp = ?`: c.Read,
	} {
		err := tx.Query(query, []any{group}, func(scan sqldb.Scan) error {
			var t bus.Topic
			var p bus.Place
			err := scan(&t, &p.Epoch, &p.Seq)
			into[t] = p
			return err
		})
		if err != nil {
			return c, fault.Wrap("cut", err)
		}
	}
	err := tx.Query(`SELECT event_id, biz_code FROM parked WHERE grp = ?`, []any{group}, func(scan sqldb.Scan) error {
		var id string
		var x ids.Code
		err := scan(&id, &x)
		c.Parked[id], c.ParkedKeys[x] = true, true
		return err
	})
	return c, fault.Wrap("cut", err)
}

// IntakeHead is the last batch of a topic of the intake, for whoever looks at a
// folder that nobody serves.
func IntakeHead(ctx context.Context, db *sqldb.DB, topic bus.Topic) (p bus.Place, err error) {
	err = db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT seq FROM intake_`+string(topic)+` ORDER BY seq DESC LIMIT 1`, nil, func(scan sqldb.Scan) error {
			p.Epoch = 1
			return scan(&p.Seq)
		})
	})
	return p, fault.Wrap("intake head", err)
}
