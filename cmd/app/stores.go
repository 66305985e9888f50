package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	accountingstore "github.com/tallystick/tallystick/accounting/sqlstore"
	corestore "github.com/tallystick/tallystick/core/sqlstore"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
	prepaystore "github.com/tallystick/tallystick/prepay/sqlstore"
)

// Stores are areas' databases. In the embedded profile they are one SQLite file per
// area and one for the intake, in one folder that belongs to one process; in the
// cluster, schemas of one PostgreSQL database.
type Stores struct {
	Intake     *sqldb.DB
	Core       *corestore.Store
	Prepay     *prepaystore.Store
	Accounting *accountingstore.Store

	lock *os.File
}

// busStamp is the installation constant that says where the places of the stores
// are: a folder goes to one bus for good.
const busStamp = "bus"

// intakePageBytes is the page size of the intake, whose rows are whole batches.
const intakePageBytes = 16 << 10

// OpenStores opens or makes the stores of a data folder. Another process that has
// them open, another code secret or another number of groups is refused with
// fault.Conflict. With stores: postgres there are none.
func OpenStores(ctx context.Context, d Deps) (s *Stores, err error) {
	if d.Config.Stores == StoresPostgres {
		return &Stores{}, nil
	}
	dir := filepath.Join(d.Dir, StoresDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap("stores", err)
	}
	s = &Stores{}
	opened, done := s, false // a return sets s
	defer func() {
		if !done { // also when a crash point panics
			err = errors.Join(err, opened.Close())
		}
	}()
	if s.lock, err = lockFolder(dir); err != nil {
		return nil, err
	}
	if d.Config.Bus == BusEmbedded {
		o := d.storeOptions()
		o.Path, o.PageBytes = filepath.Join(dir, "intake.db"), intakePageBytes
		o.Area, o.Migrations = "intake", []string{embedded.IntakeSchema(bus.Intents, bus.Callbacks)}
		if s.Intake, err = sqldb.Open(ctx, o); err != nil {
			return nil, err
		}
	}
	for _, role := range d.Config.areas() {
		o := d.storeOptions()
		o.Path = filepath.Join(dir, string(role)+".db")
		if err = s.open(ctx, d, role, o); err != nil {
			return nil, err
		}
	}
	done = true
	return s, nil
}

// storeOptions are those of every store of this process.
func (d Deps) storeOptions() sqldb.Options {
	stamp := map[string]string{"code_secret": d.Secret.Fingerprint(), "groups": strconv.Itoa(d.Config.Groups)}
	if d.Config.Bus == BusEmbedded {
		stamp[busStamp] = BusEmbedded
	}
	return sqldb.Options{NoSync: d.NoSync, Points: d.Points, CommitFault: d.CommitFault, CacheKiBMax: d.Config.StoreCacheKiBMax, Stamp: stamp}
}

// open opens one area's store.
func (s *Stores) open(ctx context.Context, d Deps, role Role, o sqldb.Options) (err error) {
	switch role {
	case RoleCore:
		s.Core, err = corestore.Open(ctx, o, d.Config.Groups, d.Now)
	case RolePrepay:
		s.Prepay, err = prepaystore.Open(ctx, d.prepayStore(o))
	case RoleAccounting:
		s.Accounting, err = accountingstore.Open(ctx, d.accountingStore(o))
	}
	return err
}

func (d Deps) prepayStore(o sqldb.Options) prepaystore.Config {
	return prepaystore.Config{Options: o, Groups: d.Config.Groups, NowMillis: func() int64 { return d.Now().UnixMilli() }}
}

func (d Deps) accountingStore(o sqldb.Options) accountingstore.Options {
	return accountingstore.Options{Path: o.Path, Postgres: o.Postgres, Held: o.Held, Groups: d.Config.Groups, Stamp: o.Stamp, NoSync: o.NoSync,
		Points: o.Points, CommitFault: o.CommitFault, CacheKiBMax: o.CacheKiBMax}
}

// db is the database of the one area that is open.
func (s *Stores) db() *sqldb.DB {
	for _, db := range s.databases() {
		return db
	}
	return nil
}

// lockFolder makes sure that one process has the stores: SQLite would let two in,
// but each believes to know all heads.
func lockFolder(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator's own folder
	if err != nil {
		return nil, fault.Wrap("stores: lock", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a file descriptor fits
		_ = f.Close()
		return nil, &fault.Error{Kind: fault.Conflict, Op: "stores", Code: "folder_in_use", Fix: "stop the other process, or use another --data",
			Err: fmt.Errorf("%s is locked: %w", path, err)}
	}
	return f, nil
}

// Close closes what is open, and gives the folder free.
func (s *Stores) Close() error {
	var errs []error
	if s.Accounting != nil {
		errs = append(errs, s.Accounting.Close())
	}
	if s.Prepay != nil {
		errs = append(errs, s.Prepay.Close())
	}
	if s.Core != nil {
		errs = append(errs, s.Core.Close())
	}
	if s.Intake != nil {
		errs = append(errs, s.Intake.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// Owner are these, which have all groups. See Databases.Owner.
func (s *Stores) Owner(ids.Code) (*Stores, error) { return s, nil }

// Sources are the topics that the areas of this folder write.
func (s *Stores) Sources() (out []bus.Source) {
	if s.Core != nil {
		out = append(out, s.Core.Log().Source(bus.Dispatch), s.Core.Log().Source(bus.Payments))
	}
	if s.Prepay != nil {
		out = append(out, s.Prepay.Outcomes())
	}
	if s.Accounting != nil {
		out = append(out, s.Accounting.Source())
	}
	return out
}

// log is an area's.
func (s *Stores) log(role Role) *embedded.Log {
	switch role {
	case RoleCore:
		return s.Core.Log()
	case RolePrepay:
		return s.Prepay.Log()
	default:
		return s.Accounting.Log()
	}
}

// Parked are the messages that each area put aside, by area.
func (s *Stores) Parked() map[string]embedded.Places {
	out := map[string]embedded.Places{}
	if s.Core != nil {
		out["core"] = s.Core.Parked()
	}
	if s.Prepay != nil {
		out["prepay"] = s.Prepay.Places()
	}
	if s.Accounting != nil {
		out["accounting"] = s.Accounting.Places()
	}
	return out
}

// OpenParked opens only what areas put aside, beside the processes that work on
// them: to list it, and to ask those for a replay. They are named core, or core_1
// where there are databases, of which some may be unreachable.
func OpenParked(ctx context.Context, d Deps) (areas map[string]embedded.Places, unreachable []Unreachable, closeAll func(), err error) {
	areas = map[string]embedded.Places{}
	closeAll = func() {
		for _, p := range areas {
			_ = p.DB.Close()
		}
	}
	if d.Config.Stores == StoresPostgres {
		list, err := d.Config.Postgres.list()
		if err != nil {
			return nil, nil, nil, err
		}
		for _, at := range list {
			for _, role := range storedRoles() {
				s, err := d.storesFor(ctx, role, at, nil, nil)
				switch {
				case fault.Is(err, fault.Unavailable):
					unreachable = append(unreachable, Unreachable{at.number, role, err.Error()})
				case err != nil:
					closeAll()
					return nil, nil, nil, err
				default:
					areas[fmt.Sprintf("%s_%d", role, at.number)] = s.Parked()[string(role)]
				}
			}
		}
		return areas, unreachable, closeAll, nil
	}
	for _, area := range []string{"core", "prepay", "accounting"} {
		path := filepath.Join(d.Dir, StoresDir, area+".db")
		if _, err := os.Stat(path); err != nil {
			closeAll()
			return nil, nil, nil, &fault.Error{Kind: fault.Invalid, Op: "parked", Field: "--data", Code: "no_stores", Fix: "give a folder that was served", Err: err}
		}
		db, err := sqldb.Open(ctx, sqldb.Options{Area: area, Path: path})
		if err != nil {
			closeAll()
			return nil, nil, nil, err
		}
		areas[area] = embedded.Places{DB: db}
	}
	return areas, nil, closeAll, nil
}
