package app

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	accountingstore "github.com/tallystick/tallystick/accounting/sqlstore"
	corestore "github.com/tallystick/tallystick/core/sqlstore"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/sqldb"
	prepaystore "github.com/tallystick/tallystick/prepay/sqlstore"
)

// Migrated is what was done for one area in one database.
type Migrated struct {
	Database int
	Area     Role
	User     string // that may now use it; empty for the one who migrated
	Owns     int    // groups that the database owns, of which Given are new
	Given    int
}

// Migrate makes the schemas of all areas in all databases of the configuration, or
// brings them up to date, as a user that may do so: as, or whoever the URLs name.
// Groups that no database owns are divided among them, which is all of them the
// first time. It may be repeated, and is not undone by half when it fails.
func Migrate(ctx context.Context, d Deps, as, password string) (done []Migrated, err error) {
	list, err := d.Config.Postgres.list()
	if err != nil {
		return nil, err
	}
	if d.Config.Stores != StoresPostgres {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "migrate", Field: "stores", Code: "config_invalid",
			Fix: "set stores: postgres; SQLite files are migrated when they are opened"}
	}
	for _, role := range storedRoles() {
		var dbs []*sqldb.DB
		defer func() {
			for _, db := range dbs {
				_ = db.Close()
			}
		}()
		from := len(done)
		for _, at := range list {
			m := Migrated{Database: at.number, Area: role}
			db, err := d.migrateArea(ctx, at, &m, as, password)
			if err != nil {
				return done, fault.Wrap(fmt.Sprintf("database %d, %s", at.number, role), err)
			}
			dbs, done = append(dbs, db), append(done, m)
		}
		if err := d.divide(ctx, dbs, done[from:]); err != nil {
			return done, fault.Wrap("divide groups of "+string(role), err)
		}
	}
	return done, nil
}

func (d Deps) migrateArea(ctx context.Context, at database, m *Migrated, as, password string) (*sqldb.DB, error) {
	o := d.storeOptions()
	o.NoSync = true // nothing of value is written; a server that forgets is refused by serve
	place := d.place(at, m.Area)
	m.User = place.User
	admin := *place
	admin.User, admin.Password = as, password
	if place.User != "" {
		if err := sqldb.MakeRole(ctx, admin, place.User, place.Password); err != nil {
			return nil, err
		}
	}
	o.Postgres = &admin
	var err error
	switch m.Area {
	case RoleCore:
		err = corestore.Migrate(ctx, o, place.User)
	case RolePrepay:
		err = prepaystore.Migrate(ctx, o, place.User)
	case RoleAccounting:
		err = accountingstore.Migrate(ctx, d.accountingStore(o), place.User)
	}
	if err != nil {
		return nil, err
	}
	s := &Stores{}
	if err := s.open(ctx, d, m.Area, o); err != nil {
		return nil, err
	}
	return s.db(), nil
}

// mayDivide marks all databases as those among which the groups are divided, before
// any group is given. When some are given already, it must have been these databases,
// and none of them may have lost the mark: a group that nobody owns may be in one
// that this configuration does not name, or may have been in one that was lost, and
// given away here it would begin anew, empty.
func mayDivide(ctx context.Context, dbs []*sqldb.DB, done []Migrated, begun bool) error {
	numbers := make([]string, len(dbs))
	for i := range dbs {
		numbers[i] = strconv.Itoa(done[i].Database)
	}
	among := strings.Join(numbers, " ")
	for i, db := range dbs {
		err := db.Write(ctx, func(tx *sqldb.Tx) error {
			have := ""
			err := tx.Query(`SELECT value FROM stamp WHERE name = 'divided_among'`, nil, func(scan sqldb.Scan) error { return scan(&have) })
			if err != nil || have == among {
				return err
			}
			if have != "" || begun {
				return &fault.Error{Kind: fault.Conflict, Op: "divide", Field: "postgres.databases", Code: "groups_without_owner",
					Fix: "name all databases of the installation, and bring back the one that had them",
					Err: fmt.Errorf("groups are owned by none of the databases %s, and database %d was divided among %q", among, done[i].Database, have)}
			}
			_, err = tx.Exec(`INSERT INTO stamp (name, value) VALUES ('divided_among', ?)`, among)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// divide gives each group that nobody owns to a database, in order: the first time,
// equal parts to all.
func (d Deps) divide(ctx context.Context, dbs []*sqldb.DB, done []Migrated) error {
	owned, away := map[int]int{}, map[int]bool{}
	for i, db := range dbs {
		groups, err := lease.Owned(ctx, db)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if other, twice := owned[g]; twice {
				return fault.New(fault.Conflict, "groups", "databases %d and %d both own group %d", done[other].Database, done[i].Database, g)
			}
			owned[g] = i
		}
		done[i].Owns = len(groups)
		moving, err := lease.Moving(ctx, db)
		if err != nil {
			return err
		}
		for _, g := range moving { // it is on its way: nobody may own it now
			if _, has := owned[g]; !has {
				away[g] = true
			}
		}
	}
	give := make([][]int, len(dbs))
	for g := range d.Config.Groups {
		if _, has := owned[g]; !has && !away[g] {
			i := g * len(dbs) / d.Config.Groups
			give[i] = append(give[i], g)
		}
	}
	if len(owned)+len(away) == d.Config.Groups {
		return nil
	}
	if err := mayDivide(ctx, dbs, done, len(owned)+len(away) > 0); err != nil {
		return err
	}
	for i, db := range dbs {
		if err := db.Write(ctx, func(tx *sqldb.Tx) error { return lease.Own(tx, give[i]) }); err != nil {
			return err
		}
		done[i].Given = len(give[i])
		done[i].Owns += len(give[i])
	}
	return nil
}
