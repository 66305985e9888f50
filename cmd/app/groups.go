package app

import (
	"context"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// GroupList is where all groups are, as far as could be seen.
type GroupList struct {
	Groups []GroupInfo `json:"groups"`
	// Unreachable are databases, or areas of them, that could not be asked.
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}

// Unreachable is what could not be asked, and why.
type Unreachable struct {
	Database int    `json:"database"`
	Area     Role   `json:"area"`
	Reason   string `json:"reason"`
}

func (u Unreachable) String() string {
	return fmt.Sprintf("%s in database %d cannot be reached: %s", u.Area, u.Database, u.Reason)
}

// GroupInfo is one group.
type GroupInfo struct {
	Group     int        `json:"group"`
	FirstSlot int        `json:"first_slot"`
	LastSlot  int        `json:"last_slot"`
	Areas     []AreaInfo `json:"areas"` // core, prepay, accounting
}

// AreaInfo is an area's part of a group.
type AreaInfo struct {
	Area Role `json:"area"`
	// Databases are those that own it: one, unless it is on its way, or cannot be seen.
	Databases []int `json:"databases"`
	// Holder is the process that works on it, by the name that it goes by; empty if
	// there is none. It renewed its lease RenewedMillis ago.
	Holder        string `json:"holder,omitempty"`
	RenewedMillis int64  `json:"renewed_millis,omitempty"`
	Epoch         int64  `json:"epoch"`
	// State is served, free, frozen, moving N to M, unknown.
	State string `json:"state"`
	// Lag is how many messages of other areas it has not read; -1 if that cannot be told.
	// What is in the topics of the intake is for the brokers to say.
	Lag int64 `json:"lag"`
	// Rows are payment orders of core, and open calls of prepay.
	Rows   int64 `json:"rows"`
	Parked int64 `json:"parked"`
}

// areaLook is what one area in one database says.
type areaLook struct {
	states         map[int]lease.State
	heads, places  map[bus.Topic]map[int]int64
	rows, parked   map[int]int64
	role           Role
	databaseNumber int
}

// ListGroups looks at all areas in all databases. What cannot be reached is said,
// and not waited for longer than postgres.connect_timeout each.
func ListGroups(ctx context.Context, d Deps) (*GroupList, error) {
	if d.Config.Stores != StoresPostgres {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "groups list", Field: "stores", Code: "config_invalid", Fix: "set stores: postgres; a data folder has all groups"}
	}
	list, err := d.Config.Postgres.list()
	if err != nil {
		return nil, err
	}
	out := &GroupList{}
	var looks []*areaLook
	for _, at := range list {
		for _, role := range storedRoles() {
			look, err := d.lookAt(ctx, at, role)
			if err != nil {
				out.Unreachable = append(out.Unreachable, Unreachable{at.number, role, err.Error()})
				continue
			}
			looks = append(looks, look)
		}
	}
	heads := map[bus.Topic]map[int]int64{}
	for _, l := range looks {
		for topic, of := range l.heads {
			if heads[topic] == nil {
				heads[topic] = map[int]int64{}
			}
			for g, seq := range of {
				heads[topic][g] = max(heads[topic][g], seq)
			}
		}
	}
	for g := range d.Config.Groups {
		first, last := ids.SlotsOf(g, d.Config.Groups)
		info := GroupInfo{Group: g, FirstSlot: first, LastSlot: last}
		for _, role := range storedRoles() {
			info.Areas = append(info.Areas, areaInfo(role, g, looks, heads, len(out.Unreachable) > 0))
		}
		out.Groups = append(out.Groups, info)
	}
	return out, nil
}

// lookAt reads what one area in one database says of all groups.
func (d Deps) lookAt(ctx context.Context, at database, role Role) (*areaLook, error) {
	s, err := d.storesFor(ctx, role, at, nil, nil)
	if err != nil {
		return nil, err
	}
	defer s.Close() //nolint:errcheck // it was read
	l := &areaLook{role: role, databaseNumber: at.number, heads: map[bus.Topic]map[int]int64{}, places: map[bus.Topic]map[int]int64{},
		rows: map[int]int64{}, parked: map[int]int64{}}
	err = s.db().Survey(ctx, func(tx *sqldb.Tx) error {
		if l.states, err = lease.States(tx, d.Config.Lease.TTL); err != nil {
			return err
		}
		for query, into := range map[string]map[bus.Topic]map[int]int64{`SELECT topic, grp, seq FROM heads`: l.heads, `SELECT topic, grp, seq FROM places`: l.places} {
			err := tx.Query(query, nil, func(scan sqldb.Scan) error {
				var t bus.Topic
				var g int
				var seq int64
				err := scan(&t, &g, &seq)
				if into[t] == nil {
					into[t] = map[int]int64{}
				}
				into[t][g] = seq
				return err
			})
			if err != nil {
				return err
			}
		}
		if err := countByGroup(tx, `SELECT grp, count(*) FROM parked GROUP BY grp`, l.parked); err != nil {
			return err
		}
		switch role {
		case RolePrepay:
			return countByGroup(tx, `SELECT grp, count(*) FROM progress WHERE open = TRUE GROUP BY grp`, l.rows)
		case RoleCore:
			return d.countPayments(tx, l)
		}
		return nil
	})
	return l, err
}

func countByGroup(tx *sqldb.Tx, query string, into map[int]int64) error {
	return tx.Query(query, nil, func(scan sqldb.Scan) error {
		var g int
		var n int64
		err := scan(&g, &n)
		into[g] = n
		return err
	})
}

// countPayments counts the payment orders of the groups that the database owns.
func (d Deps) countPayments(tx *sqldb.Tx, l *areaLook) error {
	for g, s := range l.states {
		if !s.Owned {
			continue
		}
		where, args := ids.InGroup("y", g, d.Config.Groups)
		err := tx.Query(`SELECT count(*) FROM payment_orders WHERE `+where, args, func(scan sqldb.Scan) error {
			var n int64
			err := scan(&n)
			l.rows[g] = n
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// areaInfo is an area's part of a group, of what the databases say.
func areaInfo(role Role, g int, looks []*areaLook, heads map[bus.Topic]map[int]int64, blind bool) AreaInfo {
	info := AreaInfo{Area: role, Databases: []int{}, State: "nobody's", Lag: -1}
	if blind {
		info.State = "unknown"
	}
	moving := ""
	for _, l := range looks {
		s := l.states[g]
		if l.role != role {
			continue
		}
		switch s.Way {
		case lease.In:
			moving = fmt.Sprintf("moving %d to %d", s.Other, l.databaseNumber)
		case lease.Out:
			moving = fmt.Sprintf("moving %d to %d", l.databaseNumber, s.Other)
		}
		if !s.Owned {
			continue
		}
		info.Databases = append(info.Databases, l.databaseNumber)
		info.Holder, info.RenewedMillis, info.Epoch = s.Name, s.RenewedMillis, s.Epoch
		info.Rows, info.Parked, info.Lag = l.rows[g], l.parked[g], lagOf(role, g, l, heads)
		switch {
		case s.Frozen:
			info.State = "frozen"
		case s.Member == "":
			info.State = "free"
		default:
			info.State = "served"
		}
	}
	if moving != "" {
		info.State = moving
	}
	return info
}

// lagOf is how many messages of other areas are not read.
func lagOf(role Role, g int, l *areaLook, heads map[bus.Topic]map[int]int64) (lag int64) {
	for _, topic := range reads()[role] {
		if topic == bus.Intents || topic == bus.Callbacks {
			continue
		}
		lag += max(0, heads[topic][g]-l.places[topic][g])
	}
	return lag
}

// Renewed is how long ago the holder renewed its lease.
func (i AreaInfo) Renewed() time.Duration { return time.Duration(i.RenewedMillis) * time.Millisecond }
